"""Scopes: which weights are ranked together. Rows and groups of N:M are cut here, all rows of a tensor at once."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from fractions import Fraction

import torch
from torch import Tensor

from .channels import channel_groups

SCOPES = ("pool", "layer", "global", "row", "channel")
EXPECTED = f"{', '.join(SCOPES)}, or N:M such as 2:4"

_PIECE = 1 << 22  # entries that are ranked at once: the indices of sorting take eight bytes each
_LARGEST_GROUP = 1024


def is_scope(scope: object) -> bool:
    """Whether it has the form of a scope."""
    return isinstance(scope, str) and (scope in SCOPES or re.fullmatch(r"[0-9]{1,6}:[0-9]{1,6}", scope) is not None)


def check_scope(scope: str) -> None:
    """Refuse what is no scope.

    Args:
        scope: a name of ``SCOPES``, or N:M with 0 < N < M.

    Raises:
        ValueError: it is neither; the sentence says what there is.
    """
    if not is_scope(scope):
        raise ValueError(f"scope '{scope}' is unknown; expected one of {EXPECTED}")
    pattern = pattern_of(scope)
    if pattern and not 0 < pattern[0] < pattern[1] <= _LARGEST_GROUP:
        raise ValueError(
            f"scope '{scope}' keeps {pattern[0]} of every {pattern[1]}; expected N:M with N from 1 to M - 1 "
            f"and M of at most {_LARGEST_GROUP}, such as 2:4"
        )


def pattern_of(scope: str) -> tuple[int, int] | None:
    """N and M of an N:M scope; None of others."""
    kept, colon, group = scope.partition(":")
    return (int(kept), int(group)) if colon else None


def by_rows(scope: str) -> bool:
    """Whether each tensor is ranked row by row, in ``cut_rows``."""
    return scope == "row" or ":" in scope


def groups(
    pools: Mapping[str, Sequence[str]], rates: Mapping[str, Fraction], scope: str
) -> list[tuple[list[str], Fraction]]:
    """The parameters that are ranked together, row by row, or channel by channel, each set with its rate.

    Raises:
        ValueError: the scope is unknown, or global with several rates.
    """
    check_scope(scope)
    if scope == "pool":
        return [(list(names), rates[pool]) for pool, names in pools.items()]
    if scope == "global":
        if len(set(rates.values())) > 1:
            shown = {pool: float(rate) for pool, rate in rates.items()}
            raise ValueError(f"global scope was given the rates {shown}; expected one rate for all pools")
        return [([n for names in pools.values() for n in names], rate) for rate in set(rates.values())]
    if by_rows(scope):
        return [([name], rates[pool]) for pool, names in pools.items() for name in names]
    if scope == "channel":
        return [(group, rates[pool]) for pool, names in pools.items() for group in channel_groups(names)]
    modules: dict[tuple[str, str], list[str]] = {}
    for pool, names in pools.items():
        for name in names:
            modules.setdefault((pool, name.rpartition(".")[0] or name), []).append(name)
    return [(names, rates[pool]) for (pool, _), names in modules.items()]


def cut_rows(scores: Tensor, alive: Tensor, mask: Tensor, scope: str, rate: Fraction) -> bool:
    """Write the mask of one tensor: in each of its rows, the survivors without those of lowest score.

    ``"row"``: ``floor(rate * survivors)`` of each row go. A row is what one index of the first dimension holds; a tensor of
    one dimension is a single row. N:M: of every M neighbours along the second dimension (the input channels), at most N
    stay, also of the fewer than M at the end of a line; a tensor of one dimension stays, as does all where the rate is 0.

    Args:
        scores: to be compared as they are (magnitudes where the sign does not count).
        alive: the survivors so far.
        mask: written; contiguous, as ``alive``.
        scope: ``"row"`` or N:M.
        rate: of the pool.

    Returns:
        Whether a survivor's score is NaN; the mask then means nothing.
    """
    pattern = pattern_of(scope)
    if not scores.numel() or (pattern and (scores.dim() < 2 or not rate)):
        mask.copy_(alive)
        return bool((scores.isnan() & alive).any())
    if pattern is None:
        shape = (len(scores), -1) if scores.dim() > 1 else (1, -1)
        rows, living, written = scores.reshape(shape), alive.reshape(shape), mask.view(shape)
    else:
        kept, size = pattern
        rows, living, written = (tensor.movedim(1, -1) for tensor in (scores, alive, mask))
        lines = rows.shape
        short = -lines[-1] % size  # the last group is filled up with entries that are pruned already
        rows, living = (torch.nn.functional.pad(t, (0, short)).reshape(-1, size) for t in (rows, living))
    nan = False
    pieces = []
    step = max(1, _PIECE // rows.shape[1])
    for row, live in zip(torch.split(rows, step), torch.split(living, step), strict=True):
        survivors = live.sum(1)
        gone = (survivors - kept).clamp(min=0) if pattern else _floors(survivors, rate)
        nan = nan or bool((row.isnan() & live).any())
        pieces.append(_without_lowest(row, live, gone))
    result = torch.cat(pieces)
    written.copy_(result if pattern is None else result.view(*lines[:-1], -1)[..., : lines[-1]])
    return nan


def _floors(survivors: Tensor, rate: Fraction) -> Tensor:
    """``floor(rate * n)`` of each n, in exact arithmetic."""
    different, which = torch.unique(survivors, return_inverse=True)
    floors = [math.floor(rate * n) for n in different.tolist()]
    return torch.tensor(floors, dtype=torch.int64, device=survivors.device)[which]


def _ordered(scores: Tensor) -> Tensor:
    """Integers in the order of the scores: the same for both zeros, and for denormals also where a processor takes them for 0."""
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[scores.element_size()]
    bits = scores.contiguous().view(integer)
    return torch.where(bits < 0, -(bits & torch.iinfo(integer).max), bits)


def _without_lowest(scores: Tensor, alive: Tensor, gone: Tensor) -> Tensor:
    """Each row's survivors without its ``gone`` lowest; ties go by position, and -0 equals 0."""
    order = _ordered(scores).argsort(dim=1, stable=True)
    survivors_first = (~alive).gather(1, order).to(torch.uint8).argsort(dim=1, stable=True)
    order = order.gather(1, survivors_first)
    kept = torch.arange(scores.shape[1], device=scores.device) >= gone[:, None]
    return torch.empty_like(alive, memory_format=torch.contiguous_format).scatter_(1, order, kept) & alive
