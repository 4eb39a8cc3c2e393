"""Masked optimizer steps, the exact-count selection and the mask operator, beside torch's."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

import prunecca as pc
from prunecca.bench.timing import ratio
from prunecca.ops import masked_weight
from prunecca.pruning import threshold

from .clock import Bench, Case
from .table import OURS, Aim, Row

TENSORS = 10  # that a model's weights are cut into
PRUNED = 0.2
RATE, DECAY, BETAS, MOMENTUM = 1e-3, 5e-4, (0.9, 0.999), 0.9


def cases() -> list[Case]:
    chosen: list[Case] = []
    for millions in (7, 68):
        for kind in ("Adam", "SGD"):
            what = f"masked {kind} step, {millions} million float32"
            chosen.append((what, partial(step, kind=kind, parameters=millions * 10**6)))
    for millions in (4.7, 68):
        count = int(millions * 10**6)
        chosen.append((f"exact-count selection of {count / 1e6:g} million", partial(selection, count=count)))
    for backward in (False, True):
        chosen.append((_operator(backward, 68 * 10**6), partial(operator, count=68 * 10**6, backward=backward)))
    return chosen


def step(bench: Bench, kind: str, parameters: int) -> Row:
    """One step of all weights; every byte that must move is counted once: 29 a weight for Adam, 21 for SGD."""
    start, gradients, masks = _weights(bench, parameters)
    models: dict[str, dict[str, Tensor]] = {}
    for name in (OURS, "torch fused, no masks"):
        models[name] = {key: torch.nn.Parameter(value.clone()) for key, value in start.items()}
        for key, weight in models[name].items():
            weight.grad = gradients[key]
    options: dict[str, Any] = {"lr": RATE, "weight_decay": DECAY}
    if kind == "Adam":
        ours: Any = pc.pruning.MaskedAdam(models[OURS].items(), masks, **options)
        theirs: Any = torch.optim.Adam(models["torch fused, no masks"].values(), fused=True, **options)
    else:
        options["momentum"] = MOMENTUM
        ours = pc.pruning.MaskedSGD(models[OURS].items(), masks, **options)
        theirs = torch.optim.SGD(models["torch fused, no masks"].values(), fused=True, **options)
    ours.step()
    error = max(_error_of_step(kind, start[key], gradients[key], masks[key], models[OURS][key]) for key in start)
    if not error <= 1e-6:
        raise AssertionError(f"a weight is off by {error} after one step; at most 1e-6 was expected")
    seconds = bench.race({OURS: ours.step, "torch fused, no masks": theirs.step})
    size = parameters * (29 if kind == "Adam" else 21)
    row = Row(f"masked {kind} step, {parameters / 1e6:g} million float32", seconds, size, 0, bench.copy, error)
    return Row(**{**vars(row), "aims": (Aim("of copy bandwidth", row.of_copy, 0.85),)})


def _error_of_step(kind: str, weight: Tensor, gradient: Tensor, mask: Tensor, got: Tensor) -> float:
    w = weight.double() * mask
    g = gradient.double() + DECAY * w
    # Of a first step the corrections of the moments' start leave g and g squared.
    moved = w - RATE * (g / (g.square().sqrt() + 1e-8) if kind == "Adam" else g)
    if got.detach()[~mask].any():
        raise AssertionError("a pruned weight is not zero after a step")
    return float((torch.where(mask, moved, 0.0) - got.detach().double()).abs().max())


def selection(bench: Bench, count: int) -> Row:
    """A fifth of the survivors of one pool loses its masks, from scores to masks; the host reads two numbers between."""
    weights, _, alive = _weights(bench, count)
    scores, before = list(weights.values()), list(alive.values())
    after = [torch.empty_like(mask) for mask in before]
    pool = threshold.RankedGroup(scores, before, after)

    def wanted(_: int, survivors: int) -> int:
        return math.floor(PRUNED * survivors)

    def select() -> list[int]:
        return threshold.prune_lowest([pool], False, wanted)

    select()
    flat = torch.where(torch.cat(before), torch.cat(scores).abs(), torch.inf)
    k = wanted(0, int(torch.cat(before).sum()))
    expected = torch.ones_like(flat, dtype=torch.bool)
    expected[flat.sort(stable=True).indices[:k]] = False  # ties by position
    if not torch.equal(torch.cat(after), expected & torch.cat(before)):
        raise AssertionError("the masks are not those of a stable sort")
    rivals: dict[str, Callable[[], Any]] = {
        OURS: select,
        "torch.topk": lambda: torch.topk(flat, k, largest=False, sorted=False),
        "torch.kthvalue": lambda: torch.kthvalue(flat, k),
    }
    seconds = bench.race(rivals)
    aim = Aim("times faster than torch.topk", ratio(seconds, "torch.topk", OURS), 10.0)
    # The survey and the cut read scores and masks; one byte is written.
    what = f"exact-count selection of {count / 1e6:g} million"
    return Row(what, seconds, count * 11.0, 0, bench.copy, 0.0, (aim,))


def operator(bench: Bench, count: int, backward: bool) -> Row:
    """``masked_weight`` of one tensor: 9 bytes an entry, forward or backward."""
    weight = torch.randn(count, device=bench.device, requires_grad=backward)
    mask = torch.rand(count, device=bench.device) > PRUNED
    out = masked_weight(weight, mask)
    if not torch.equal(out.detach(), torch.where(mask, weight.detach(), 0.0)):
        raise AssertionError("masked_weight is not torch.where")
    rivals: dict[str, Callable[[], Any]] = {
        OURS: lambda: masked_weight(weight, mask),
        "torch.where": lambda: torch.where(mask, weight, 0.0),
        "multiplication": lambda: weight * mask,
    }
    if backward:
        gradient, tensors = torch.randn_like(out), {OURS: out}
        tensors |= {"torch.where": torch.where(mask, weight, 0.0), "multiplication": weight * mask}
        rivals = {
            name: partial(torch.autograd.grad, tensor, weight, gradient, retain_graph=True)
            for name, tensor in tensors.items()
        }
    row = Row(_operator(backward, count), bench.race(rivals), count * 9.0, 0, bench.copy, 0.0)
    return Row(**{**vars(row), "aims": (Aim("of copy bandwidth", row.of_copy, 0.85),)})


def _operator(backward: bool, count: int) -> str:
    return f"masked_weight {'backward' if backward else 'forward'}, {count / 1e6:g} million float32"


def _weights(bench: Bench, count: int) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """Weights, gradients and masks in equal tensors."""
    size = count // TENSORS
    names = [f"w{k}" for k in range(TENSORS)]
    generator = torch.Generator(bench.device).manual_seed(0)

    def normal() -> Tensor:
        return torch.randn(size, generator=generator, device=bench.device)

    weights, gradients = ({name: normal() for name in names} for _ in range(2))
    masks = {name: torch.rand(size, generator=generator, device=bench.device) > PRUNED for name in names}
    return weights, gradients, masks
