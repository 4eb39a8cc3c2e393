"""Shares of one comparison on several processes (torch.distributed), brought together without a copy of any state."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .accumulator import CovarianceAccumulator
from .moments import CrossMoments, Moments
from .state import State, common_exponent

_COLUMNS = 1009  # a prime: rows of a matrix that have changed places fall into other columns


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


def digests(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Dtype, shape and a digest of the bits of each tensor: sums of integers, so that it costs one pass over memory."""
    summed = {name: _sums(tensor.detach()) for name, tensor in tensors.items()}
    places: dict[torch.device, list[str]] = {}
    for name, sums in summed.items():
        places.setdefault(sums.device, []).append(name)
    found: dict[str, str] = {}
    for names in places.values():  # one transfer from each device
        parts = torch.split(torch.cat([summed[name] for name in names]).cpu(), [len(summed[name]) for name in names])
        found |= {name: hashlib.sha256(part.numpy().data).hexdigest() for name, part in zip(names, parts, strict=True)}
    return {name: f"{t.dtype} {tuple(t.shape)} {found[name]}" for name, t in tensors.items()}


def _sums(tensor: Tensor) -> Tensor:
    if tensor.is_meta:
        return torch.zeros(0, dtype=torch.int64)
    values = tensor.dequantize() if tensor.is_quantized else tensor.to_dense()
    data = values.resolve_conj().resolve_neg().contiguous().reshape(-1)
    if data.storage_offset() * data.element_size() % 8:
        data = data.clone()
    data = data.view(torch.uint8)
    whole = data[: len(data) // 8 * 8].view(torch.int64)
    columns = whole[: len(whole) // _COLUMNS * _COLUMNS].view(-1, _COLUMNS).sum(0)
    rest = torch.cat([whole[len(whole) // _COLUMNS * _COLUMNS :], data[8 * len(whole) :].to(torch.int64)])
    return torch.cat([columns, rest])


def merge_over_ranks(accumulator: CovarianceAccumulator, device: torch.device) -> None:
    """Make ``accumulator`` the merge of those of all ranks, on every rank; a collective call.

    Every rank moves its sums to the shifts of the first rank that has any, then the sums are all-reduced. A rank
    whose accumulator is empty takes part, with ``device`` for where its tensors shall be.
    """
    state = State(accumulator.members, accumulator.cross)
    own = [(m.channels, m.count, m.exact, m.fitting_exponent(), m.wide) for m in state.members]
    reports: list[tuple[list[tuple[int, int, bool, int | None, bool]], list[tuple[int, int]]]]
    reports = gather((own, list(state.cross)))
    described, pairs = [members for members, _ in reports], [cross for _, cross in reports]
    source = next((rank for rank, members in enumerate(described) if members), None)
    if source is None:
        return
    channels = [[member[0] for member in members] for members in described]
    if any(other and other != channels[source] for other in channels):
        raise ValueError(f"ranks have different channels: {channels}; expected the same models")
    if not state.members:
        shifts = [torch.zeros(c, dtype=torch.float64, device=device) for c in channels[source]]
        members = [Moments.empty(shift, accumulator.precision, accumulator.norms) for shift in shifts]
        cross = {(i, j): CrossMoments.zeros(members[i], members[j], accumulator.norms) for i, j in pairs[source]}
        state = State(members, cross)
    ranks = [members for members in described if members]
    for k in range(len(state.members)):
        exponent = common_exponent([members[k][3] for members in ranks])
        if state.members[k].exponent != exponent:
            state = state.rescaled(k, exponent)
    wide = [member[4] for member in described[source]]
    state = state.moved({k: (_broadcast(m.shift, source), wide[k]) for k, m in enumerate(state.members)})
    for k, member in enumerate(state.members):
        member.count = sum(members[k][1] for members in ranks)
        member.exact = all(members[k][2] for members in ranks)
        dist.all_reduce(member.sum)
    for products in (*(member.scatter for member in state.members), *state.cross.values()):
        dist.all_reduce(products.products)
        if products.norms is not None:
            dist.all_reduce(products.norms)
    accumulator.members, accumulator.cross = state.members, state.cross


def _broadcast(tensor: Tensor, source: int) -> Tensor:
    copy = tensor.clone()
    dist.broadcast(copy, src=source)
    return copy
