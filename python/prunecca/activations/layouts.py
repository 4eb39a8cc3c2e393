"""Which axis of a tensor holds the channels: followed through a forward pass, function by function."""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

_LAST = {"linear", "bilinear", "layer_norm", "rms_norm", "embedding", "embedding_bag", "multi_head_attention_forward"}
_LAST |= {"_native_multi_head_attention", "_transformer_encoder_layer_fwd"}
_LAST |= {"lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"}
_FIRST = {"batch_norm", "instance_norm", "group_norm", "local_response_norm", "interpolate", "upsample", "grid_sample"}
# The digit is the number of dimensions behind the channels.
_SPATIAL = re.compile(r".*(conv|conv_transpose|max_pool|avg_pool|lp_pool)([123])d(_with_indices)?$")
_MOVES = {
    *("view", "reshape", "permute", "transpose", "t", "T", "mT", "adjoint", "movedim", "moveaxis", "swapaxes"),
    *("swapdims", "flatten", "unflatten", "squeeze", "unsqueeze", "expand", "expand_as", "broadcast_to", "view_as"),
    *("reshape_as", "__getitem__", "select", "narrow", "index_select", "chunk", "split", "tensor_split", "unbind"),
    *("split_with_sizes", "repeat", "tile", "ravel", "rot90", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle"),
    *("mean", "sum", "amax", "amin", "max", "min", "unsafe_chunk", "unsafe_split", "take_along_dim"),
}
_LAST_MODULES = (
    nn.Linear,
    nn.LayerNorm,
    nn.Embedding,
    nn.EmbeddingBag,
    nn.MultiheadAttention,
    nn.RNNBase,
    nn.RNNCellBase,
)
_TENSOR_WORDS = {(2, 1): "nc", (3, 1): "ncl", (3, 2): "nlc", (4, 1): "nchw", (4, 3): "nhwc"}
_TENSOR_WORDS |= {(5, 1): "ncdhw", (5, 4): "ndhwc", (3, 0): "chw", (4, 0): "cdhw"}

Axes = frozenset[int]


class ChannelAxes:
    """Follows the axes that hold channels from layers that fix them through everything that moves them.

    Several axes hold channels where they are split, as into attention heads. What is moved (reshaped, permuted, sliced) is
    found by moving labels, which say the channel of every element, in the same way.
    """

    def __init__(self) -> None:
        self._axes: dict[int, Axes] = {}  # of a tensor, by its id
        self._moved: dict[
            int, Tensor
        ] = {}  # labels of what was moved, by the same: an axis may hold more than channels
        self._kept: list[Tensor] = []  # alive, so that ids stay theirs

    def of(self, tensor: Tensor) -> Axes:
        """The axes known to hold channels; empty where none is known."""
        return self._axes.get(id(tensor), frozenset())

    def word(self, tensor: Tensor) -> str | None:
        """The layout of a tensor, such as ``"nlc"``; None where it is not known to have one axis of channels."""
        axes = self.of(tensor)
        if len(axes) != 1:
            return "nc" if tensor.ndim == 2 else None
        (axis,) = axes
        return layout_word(tensor.ndim, axis)

    def module_returned(self, module: nn.Module, output: Tensor) -> None:
        """Some modules run as one function that is not seen; what they return is known."""
        if not self.of(output) and isinstance(module, _LAST_MODULES) and output.ndim:
            self._set(output, {output.ndim - 1})

    def function_returned(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Note the axes of what a torch function gave."""
        outputs = list(_floating(result))
        if not outputs:
            return
        name = name_of(func)
        spatial = _SPATIAL.match(name)
        if name in _LAST:
            for output in outputs:
                self._set(output, {output.ndim - 1} if output.ndim else set())
        elif spatial or name in _FIRST:
            for output in outputs:
                axis = output.ndim - int(spatial[2]) - 1 if spatial else 1
                self._set(output, {axis} if 0 <= axis < output.ndim else set())
        elif name in _MOVES:
            self._move(func, args, kwargs, result)
        elif name in ("cat", "concat", "concatenate", "stack", "hstack", "vstack"):
            self._join(name, args, kwargs, outputs[0])
        elif name in ("matmul", "__matmul__", "mm", "bmm", "__rmatmul__"):
            first, second = args[:2] if name != "__rmatmul__" else (args[1], args[0])
            self._multiply(first, second, outputs[0])
        elif name in ("addmm", "baddbmm", "addbmm"):
            self._multiply(args[1], args[2], outputs[0])
        elif name == "einsum":
            self._einsum(args, outputs[0])
        elif name == "scaled_dot_product_attention":
            self._set(outputs[0], self.of(args[2] if len(args) > 2 else kwargs["value"]))
        else:
            for output in outputs:
                self._elementwise(args, kwargs, output)

    def _set(self, tensor: Tensor, axes: set[int] | Axes, labels: Tensor | None = None) -> None:
        self._axes[id(tensor)] = frozenset(axes)
        self._kept.append(tensor)
        if labels is None:
            self._moved.pop(id(tensor), None)
        else:
            self._moved[id(tensor)] = labels

    def _elementwise(self, args: Any, kwargs: Any, output: Tensor) -> None:
        # Broadcasting aligns axes at the end; the operand with the most dimensions decides.
        operands = [t for t in _floating((args, list(kwargs.values()))) if self.of(t) and _broadcasts(t, output)]
        if operands:
            # Of those alike, one whose channels are in one axis: a sum of what is known and what is split.
            widest = max(operands, key=lambda t: (t.ndim, t.numel(), len(self.of(t)) == 1))
            behind = output.ndim - widest.ndim
            labels = self._moved.get(id(widest)) if widest.shape == output.shape else None
            self._set(output, {axis + behind for axis in self.of(widest)}, labels)
        elif any(t is output for t in _floating(args)):
            return
        else:
            self._set(output, set())

    def _move(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        known = [t for t in _floating((args, list(kwargs.values()))) if self.of(t)]
        outputs = list(_floating(result))
        if not known:
            for output in outputs:
                self._set(output, set())
            return

        def label(value: Any) -> Any:
            if isinstance(value, Tensor):
                return self._labels(value) if self.of(value) else value
            if isinstance(value, tuple | list):
                return type(value)(label(item) for item in value) if type(value) in (tuple, list) else value
            return value

        try:
            with torch._C.DisableTorchFunction():
                moved = func(*label(args), **{name: label(value) for name, value in kwargs.items()})
        except (RuntimeError, TypeError, ValueError, IndexError):  # labels have strides of their own
            moved = None
        labels = [None] * len(outputs) if moved is None else list(_floating(moved))
        for output, found in zip(outputs, labels, strict=True):
            self._set(output, set() if found is None else _varying(found), found)

    def _labels(self, tensor: Tensor) -> Tensor:
        """A tensor of the same shape and strides whose elements are the numbers of their channels, from 1."""
        known = self._moved.get(id(tensor))
        if known is not None:
            return torch.empty_like(tensor, dtype=torch.float64).copy_(known)
        axes = sorted(self.of(tensor))
        sizes = [tensor.shape[axis] for axis in axes]
        numbers = torch.arange(1, math.prod(sizes) + 1, dtype=torch.float64, device=tensor.device)
        shape = [size if axis in axes else 1 for axis, size in enumerate(tensor.shape)]
        labels = torch.empty_like(tensor, dtype=torch.float64)
        return labels.copy_(numbers.reshape(sizes).reshape(shape).expand(tensor.shape))

    def _join(self, name: str, args: Any, kwargs: Any, output: Tensor) -> None:
        parts = args[0] if args else kwargs["tensors"]
        axes = next((self.of(t) for t in parts if self.of(t)), frozenset[int]())
        if name == "stack":
            dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            dim = dim + output.ndim if dim < 0 else dim
            axes = frozenset(axis + (axis >= dim) for axis in axes)
        self._set(output, axes)

    def _multiply(self, a: Tensor, b: Tensor, output: Tensor) -> None:
        """Of (..., m, k) @ (..., k, n): the axes that are not summed over, or that of the weights where one is."""
        left, right = ({axis - t.ndim for axis in self.of(t)} for t in (a, b))  # counted from the end
        axes = {axis for axis in left if axis != -1 or a.ndim == 1} | {axis for axis in right if axis != -2}
        if left & {-1} and not right:
            axes.add(-1)  # channels times weights
        if right & {-2} and not left:
            axes.add(-2)
        self._set(output, {axis + output.ndim for axis in axes if axis + output.ndim >= 0})

    def _einsum(self, args: Any, output: Tensor) -> None:
        equation, *operands = args
        operands = list(operands[0]) if len(operands) == 1 and isinstance(operands[0], tuple | list) else operands
        if not isinstance(equation, str) or "->" not in equation or "." in equation:
            self._set(output, set())
            return
        inputs, letters = equation.replace(" ", "").split("->")
        terms = inputs.split(",")
        channels = {term[axis] for term, t in zip(terms, operands, strict=True) for axis in self.of(t)}
        weights = [set(term) for term, t in zip(terms, operands, strict=True) if not self.of(t)]
        others = set().union(*(set(term) for term, t in zip(terms, operands, strict=True) if self.of(t)))
        if channels - set(letters):  # summed over: the weights' own letters are the new channels
            channels |= {letter for term in weights for letter in term if letter not in others}
        self._set(output, {axis for axis, letter in enumerate(letters) if letter in channels})


def chosen_layout(layout: str | Mapping[str, str], name: str, ndim: int, inferred: str | None) -> str:
    """The layout of a layer's output, by what the user says, or else by what the forward pass tells.

    Args:
        layout: ``"infer"``; a word, which holds for outputs of as many dimensions; or words by the names or globs of layers.
        name: of the layer.
        ndim: dimensions of its output.
        inferred: what the trace found.

    Raises:
        ValueError: nothing is known, or a word that does not fit.
    """
    if isinstance(layout, Mapping):
        pattern = next((p for p in layout if fnmatch.fnmatchcase(name, p)), None)
        word = "infer" if pattern is None else layout[pattern]
        if word not in ("infer", "auto") and len(word) != ndim:
            raise ValueError(
                f"layer {name!r} gives {ndim} dimensions, but layout {word!r} was given for {pattern!r}; expected a letter "
                "for each dimension, such as 'nlc'"
            )
    else:
        word = layout if layout in ("infer", "auto") or len(layout) == ndim else "infer"
    if word == "auto":
        return layout_word(ndim, 1)
    if word != "infer":
        return word
    if inferred is not None:
        return inferred
    first, last = layout_word(ndim, 1), layout_word(ndim, ndim - 1)
    raise ValueError(
        f"layer {name!r} gives {ndim} dimensions, and its forward pass does not tell which holds the channels: dimension 1 "
        f"({first!r}) or the last ({last!r}); say which, such as layout={{{name!r}: {last!r}}}"
    )


def check_layout(layout: object) -> None:
    """Refuse what is no layout, also where no output has as many dimensions.

    Raises:
        ValueError: a word without its letter for the channels, with one twice, or with what is no letter.
    """
    for word in layout.values() if isinstance(layout, Mapping) else (layout,):
        if word in ("infer", "auto"):
            continue
        letters = isinstance(word, str) and word.isalpha() and len(set(word)) == len(word)
        if not letters or "c" not in str(word):
            raise ValueError(
                f"layout is {word!r}; expected 'infer', a letter for each dimension with c for the channels, such as 'nlc' or "
                "'nchw', or these by names or globs of layers"
            )


def layout_word(ndim: int, axis: int) -> str:
    """The word for a tensor with its channels in one axis, such as ``"nhwc"``."""
    if (ndim, axis) in _TENSOR_WORDS:
        return _TENSOR_WORDS[ndim, axis]
    spatial = iter("hwuv" if ndim > 3 else "luv")
    return "".join("c" if d == axis else "n" if d == 0 else next(spatial) for d in range(ndim))


def name_of(func: Any) -> str:
    """The name of a torch function, method or property, without the underscore of those that write in place."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        name = getattr(func.__self__, "__name__", "")
    return name[:-1] if name.endswith("_") and not name.endswith("__") else name


def _floating(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        if value.is_floating_point():
            yield value
    elif isinstance(value, tuple | list):
        for item in value:
            yield from _floating(item)


def _broadcasts(small: Tensor, large: Tensor) -> bool:
    if small.ndim > large.ndim:
        return False
    return all(a in (1, b) for a, b in zip(small.shape[::-1], large.shape[::-1], strict=False))


def _varying(labels: Tensor) -> set[int]:
    return {
        axis
        for axis in range(labels.ndim)
        if labels.shape[axis] > 1 and bool((labels != labels.narrow(axis, 0, 1)).any())
    }
