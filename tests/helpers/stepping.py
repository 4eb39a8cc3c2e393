"""Optimizers beside those of torch, and weights, masks and gradients for them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

import prunecca as pc

P = pc.pruning
Make = Callable[[list[tuple[str, Tensor]], dict[str, Tensor]], torch.optim.Optimizer]
SHAPES = {"a": (7, 5, 3, 3), "b": (), "c": (65,), "d": (129, 257), "e": (0, 4)}
# Ours, and the optimizer of torch that it must equal on the entries that are kept.
PAIRS: dict[str, tuple[Make, Callable[[list[Tensor]], torch.optim.Optimizer]]] = {
    "adam": (lambda p, m: P.MaskedAdam(p, m, lr=1e-2), lambda p: torch.optim.Adam(p, lr=1e-2)),
    "adam-l2": (
        lambda p, m: P.MaskedAdam(p, m, lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, lr=1e-2, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.1),
    ),
    "adamw": (
        lambda p, m: P.MaskedAdam(p, m, lr=1e-2, weight_decay=0.1, decoupled_weight_decay=True),
        lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    ),
    "sgd": (lambda p, m: P.MaskedSGD(p, m, lr=0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "sgd-momentum-l2": (
        lambda p, m: P.MaskedSGD(p, m, lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.05),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, dampening=0.2, weight_decay=0.05),
    ),
    "sgd-nesterov": (
        lambda p, m: P.MaskedSGD(p, m, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.05),
    ),
}


def parameters(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {name: torch.randn(shape).to(dtype).requires_grad_() for name, shape in SHAPES.items()}


def random_masks() -> dict[str, Tensor]:
    return {name: torch.rand(shape) > 0.4 for name, shape in SHAPES.items() if name != "c"}  # c: trained unmasked


def set_gradients(weights: dict[str, Tensor], seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    for p in weights.values():
        p.grad = torch.randn(p.shape, generator=g).to(p.dtype)


def assert_pruned_are_zero(optimizer: torch.optim.Optimizer, weights: dict[str, Tensor]) -> None:
    for name, mask in optimizer.masks.items():
        for tensor in [weights[name], *optimizer.state[weights[name]].values()]:
            if tensor.shape == mask.shape and tensor is not optimizer.state[weights[name]].get("step"):
                gone = tensor.detach()[~mask]
                assert (gone == 0).all()
                assert not gone.signbit().any()
