"""Torch functions that are layers when a model calls them itself: what each does to a representation."""

from __future__ import annotations

import re
from typing import Literal

Kind = Literal["conv", "pool", "fc"]

_CONVOLUTION = re.compile(r"conv(_transpose)?[123]d$|conv_tbc$|convolution$")
_POOLING = re.compile(r"(adaptive_|fractional_)?(max|avg|lp)_pool[123]d(_with_indices)?$")

ACTIVATIONS = {
    *("relu", "relu6", "gelu", "silu", "mish", "elu", "selu", "celu", "leaky_relu", "prelu", "rrelu", "hardswish"),
    *(
        "hardtanh",
        "hardsigmoid",
        "hardshrink",
        "softplus",
        "softsign",
        "softshrink",
        "tanhshrink",
        "threshold",
        "tanh",
        "glu",
    ),
}
NORMALISATIONS = {"batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm", "local_response_norm"}
SUMS = {"add", "__add__", "__radd__", "__iadd__"}
# What gives the same values, or some of them.
PASSES_ON = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
PASSES_ON |= {"contiguous", "clone", "to", "float", "half", "bfloat16", "double", "type", "detach"}
# What mixes the elements of a tensor: a module that calls one of these is no activation.
MIXES = {
    "softmax",
    "log_softmax",
    "softmin",
    "sigmoid",
    "logsigmoid",
    "matmul",
    "__matmul__",
    "bmm",
    "einsum",
    "linear",
}
MIXES |= {
    "mean",
    "sum",
    "max",
    "min",
    "amax",
    "amin",
    "cumsum",
    "sort",
    "pad",
    "roll",
    "flip",
    "cat",
    "stack",
    "norm",
    "var",
}


def kind_of_function(name: str) -> Kind | None:
    """What a function of that name is as a layer; None for one that is none."""
    if _CONVOLUTION.match(name):
        return "conv"
    if _POOLING.match(name):
        return "pool"
    return "fc" if name in ("linear", "addmm") else None
