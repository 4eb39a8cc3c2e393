"""Steps of the masked optimizers, against the formulas in float64 NumPy."""

from __future__ import annotations

import numpy as np
import torch
from fuzzing import DTYPES, SIZES, as_given, fill, fuzz, put
from hypothesis import strategies as st
from torch import nn

import prunecca.pruning as P

LAYOUTS = ("plain", "transposed")  # weights without gaps; gradients may lie anyhow
GRADIENTS = (*LAYOUTS, "sliced", "expanded", "negative bit")
SPECIAL = (0.0, -0.0, 1e-30, -1e-42, 300.0)
# Relative to the largest number of a step: the step is computed in float32, and rounded once to the weight's dtype.
ERRORS = {torch.float64: 1e-12, torch.float32: 3e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
BETAS = ((0.9, 0.999), (0.0, 0.999), (0.5, 0.9), (0.0, 0.0), (0.3, 0.99))
shapes = st.lists(st.sampled_from(SIZES), max_size=3).map(tuple)


@st.composite
def steps(draw):
    """A weight, gradients of some steps, and a mask or none."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shape, dtype = draw(shapes), draw(st.sampled_from(DTYPES))
    weight = as_given(random.standard_normal(shape), dtype, draw(st.sampled_from(LAYOUTS)))
    gradients = []
    for _ in range(draw(st.integers(1, 3))):
        values = fill(random, shape, draw(st.sampled_from(("normal", "sparse"))), draw(st.sampled_from((1.0, 1e-3))))
        values = put(random, values, tuple(draw(st.lists(st.sampled_from(SPECIAL), max_size=2))))
        gradients.append(as_given(values, dtype, draw(st.sampled_from(GRADIENTS))))
    mask = random.random(shape) < 0.7 if draw(st.booleans()) else None
    return weight, gradients, mask


def run(optimizer, parameter, gradients):
    for gradient in gradients:
        parameter.grad = gradient.array
        optimizer.step()


def masks_of(mask):
    return {} if mask is None else {"w": torch.from_numpy(np.ascontiguousarray(mask)).reshape(mask.shape)}


def check(parameter, mask, weight, right, largest):
    got = parameter.detach().double().numpy()
    if mask is not None:
        assert not got[~mask].any()
        assert not np.signbit(got[~mask]).any()
        right = np.where(mask, right, 0.0)
    if got.size:
        largest = np.maximum(np.abs(weight.values).max(), largest)
        assert (np.abs(got - right) <= ERRORS[parameter.dtype] * largest).all()


@fuzz(
    drawn=steps(),
    lr=st.sampled_from((0.0, 1e-3, 0.1)),
    momentum=st.sampled_from((0.0, 0.9)),
    dampening=st.sampled_from((0.0, 0.5)),
    decay=st.sampled_from((0.0, 0.01)),
    nesterov=st.booleans(),
)
def test_sgd(drawn, lr, momentum, dampening, decay, nesterov):
    weight, gradients, mask = drawn
    nesterov = nesterov and momentum > 0
    dampening = 0.0 if nesterov else dampening
    parameter = nn.Parameter(weight.array)
    run(P.MaskedSGD([("w", parameter)], masks_of(mask), lr, momentum, dampening, decay, nesterov), parameter, gradients)
    # Masked entries have a weight of 0 from the start: their gradient moves nothing that is kept.
    w, buffer, largest = weight.values.copy(), None, 1.0
    for gradient in gradients:
        g = gradient.values + decay * w
        if momentum:
            buffer = g if buffer is None else momentum * buffer + (1 - dampening) * g
            g = g + momentum * buffer if nesterov else buffer
        w = w - lr * g
        largest = max(largest, np.abs(lr * g).max(initial=0), np.abs(w).max(initial=0))
        if parameter.dtype in (torch.float16, torch.bfloat16):
            w = torch.from_numpy(np.ascontiguousarray(w)).reshape(w.shape).to(parameter.dtype).double().numpy()
    check(parameter, mask, weight, w, largest)


@fuzz(
    drawn=steps(),
    lr=st.sampled_from((0.0, 1e-3, 0.1)),
    betas=st.sampled_from(BETAS),
    decay=st.sampled_from((0.0, 0.01)),
    decoupled=st.booleans(),
)
def test_adam(drawn, lr, betas, decay, decoupled):
    weight, gradients, mask = drawn
    # An epsilon that keeps the step smooth where gradients are tiny: rounding must not decide its sign.
    epsilon = 1e-2
    parameter = nn.Parameter(weight.array)
    optimizer = P.MaskedAdam(
        [("w", parameter)], masks_of(mask), lr, betas, epsilon, decay, decoupled_weight_decay=decoupled
    )
    run(optimizer, parameter, gradients)
    w = weight.values.copy()
    mean, square = np.zeros_like(w), np.zeros_like(w)
    for step, gradient in enumerate(gradients, 1):
        g = gradient.values if decoupled else gradient.values + decay * w
        w = w * (1 - lr * decay) if decoupled else w
        mean = betas[0] * mean + (1 - betas[0]) * g
        square = betas[1] * square + (1 - betas[1]) * g * g
        w = w - lr * (mean / (1 - betas[0] ** step)) / (np.sqrt(square / (1 - betas[1] ** step)) + epsilon)
        if parameter.dtype in (torch.float16, torch.bfloat16):
            w = torch.from_numpy(np.ascontiguousarray(w)).reshape(w.shape).to(parameter.dtype).double().numpy()
    check(parameter, mask, weight, w, 1.0)
