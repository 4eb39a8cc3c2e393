"""Shares of one comparison on several processes (torch.distributed), brought together without a copy of any state."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .accumulator import CovarianceAccumulator
from .moments import CrossMoments, Moments


def rank_and_size() -> tuple[int, int]:
    """This process's rank and the number of processes; (0, 1) when torch.distributed is not in use."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(value: Any) -> list[Any]:
    """``value`` of every rank, in order of rank; a collective call."""
    values: list[Any] = [None] * rank_and_size()[1]
    dist.all_gather_object(values, value)
    return values


def merge_over_ranks(accumulator: CovarianceAccumulator, device: torch.device) -> None:
    """Make ``accumulator`` the merge of those of all ranks, on every rank; a collective call.

    Every rank moves its sums to the shifts of the first rank that has any, then the sums are all-reduced. A rank
    whose accumulator is empty takes part, with ``device`` for where its tensors shall be.
    """
    members, cross = accumulator.members, accumulator.cross
    described = gather(([m.channels for m in members], [m.exact for m in members], [m.count for m in members]))
    source = next((rank for rank, (channels, _, _) in enumerate(described) if channels), None)
    if source is None:
        return
    channels = described[source][0]
    if any(other and other != channels for other, _, _ in described):
        raise ValueError(
            f"ranks have different channels: {[other for other, _, _ in described]}; expected the same models"
        )
    if not members:
        shifts = [torch.zeros(c, dtype=torch.float64, device=device) for c in channels]
        members = [Moments.empty(shift, accumulator.precision, accumulator.norms) for shift in shifts]
        cross = [CrossMoments.zeros(members[0], member, accumulator.norms) for member in members[1:]]
    shifts = [_broadcast(member.shift, source) for member in members]
    moved = [member.moved_to(shift) for member, shift in zip(members, shifts, strict=True)]
    pairs = [
        products.moved(members[0], member, shifts[0], shift)
        for products, member, shift in zip(cross, members[1:], shifts[1:], strict=True)
    ]
    for k, member in enumerate(moved):
        member.count = sum(counts[k] for _, _, counts in described if counts)
        member.exact = all(exact[k] for _, exact, _ in described if exact)
        dist.all_reduce(member.sum)
    for products in (*(member.scatter for member in moved), *pairs):
        dist.all_reduce(products.products)
        if products.norms is not None:
            dist.all_reduce(products.norms)
    accumulator.members, accumulator.cross = moved, pairs


def _broadcast(tensor: Tensor, source: int) -> Tensor:
    copy = tensor.clone()
    dist.broadcast(copy, src=source)
    return copy
