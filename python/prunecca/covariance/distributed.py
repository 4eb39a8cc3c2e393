"""Shares of one comparison on several processes (torch.distributed), brought together without a copy of any state."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .moments import Gram, Representation
from .streaming import StreamingCovariance


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


def forget_rows(accumulator: StreamingCovariance) -> None:
    """Keep the shifts that the rows so far have set, but none of the rows.

    Accumulators with the same shifts turn a batch into the same bits, so that shares of a comparison add up to the
    whole to float64 rounding even with float32 products.
    """
    members = [*([accumulator._reference] if accumulator._reference else []), *accumulator._candidates]
    for member in members:
        member.count = 0
        member.sum.zero_()
    for gram in (*(member.gram for member in members), *accumulator._cross):
        gram.gram.zero_()
        if gram.norms is not None:
            gram.norms.zero_()


def merge_over_ranks(accumulator: StreamingCovariance, device: torch.device) -> None:
    """Make ``accumulator`` the merge of those of all ranks, on every rank; a collective call.

    Every rank moves its sums to the shifts of the first rank that has any, then the sums are all-reduced. A rank
    whose accumulator is empty takes part, with ``device`` for where its tensors shall be.
    """
    mine = accumulator._reference
    members = [] if mine is None else [mine, *accumulator._candidates]
    described = gather(([m.channels for m in members], [m.exact for m in members], [m.count for m in members]))
    source = next((rank for rank, (channels, _, _) in enumerate(described) if channels), None)
    if source is None:
        return
    channels = described[source][0]
    if any(other and other != channels for other, _, _ in described):
        raise ValueError(
            f"ranks have different channels: {[other for other, _, _ in described]}; expected the same models"
        )
    shifts = [torch.zeros(c, dtype=torch.float64, device=device) for c in channels]
    if mine is None:
        members = [Representation(0, shift, shift.clone(), Gram(shift), exact=True) for shift in shifts]
        for member in members:
            member.gram = Gram.zeros(member, member, accumulator.norms)
        cross = [Gram.zeros(members[0], member, accumulator.norms) for member in members[1:]]
    else:
        cross = accumulator._cross
    shifts = [_broadcast(member.shift, source) for member in members]
    moved = [member.moved_to(shift) for member, shift in zip(members, shifts, strict=True)]
    pairs = [
        gram.moved(members[0], member, shifts[0], shift)
        for gram, member, shift in zip(cross, members[1:], shifts[1:], strict=True)
    ]
    for k, member in enumerate(moved):
        member.count = sum(counts[k] for _, _, counts in described if counts)
        member.exact = all(exact[k] for _, exact, _ in described if exact)
        _sum(member.sum)
    for gram in (*(member.gram for member in moved), *pairs):
        _sum(gram.gram)
        if gram.norms is not None:
            _sum(gram.norms)
    accumulator._reference, accumulator._candidates, accumulator._cross = moved[0], moved[1:], pairs
    accumulator._as_list = True


def _broadcast(tensor: Tensor, source: int) -> Tensor:
    copy = tensor.clone()
    dist.broadcast(copy, src=source)
    return copy


def _sum(tensor: Tensor) -> None:
    dist.all_reduce(tensor)
