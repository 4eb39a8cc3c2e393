"""The exact-count selection: which survivors of a pool have the lowest scores, on whatever device the scores are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import _native
from .._arrays import native, stream_of


@dataclass(frozen=True)
class RankedGroup:
    """What is ranked together: contiguous scores of one dtype, survivors so far, and the masks to be written."""

    scores: list[Tensor]
    alive: list[Tensor]
    masks: list[Tensor]


def prune_lowest(pools: Sequence[RankedGroup], by_value: bool, wanted: Callable[[int, int], int]) -> list[int]:
    """Write each pool's masks: its survivors without the ``wanted(pool number, survivors)`` of lowest score.

    Ties go by position in the concatenation of the pool's tensors. ``by_value``: compare signed scores, otherwise
    magnitudes. Returns per pool the index of its first tensor with a NaN at a survivor, whose masks then mean nothing,
    or -1. On a CUDA device all pools share the launches, and the host waits once: for the numbers of survivors.
    """
    nans = [-1] * len(pools)
    together: dict[tuple[torch.device, torch.dtype], list[int]] = {}
    for p, pool in enumerate(pools):
        if pool.scores and pool.scores[0].is_cuda:
            together.setdefault((pool.scores[0].device, pool.scores[0].dtype), []).append(p)
        else:
            nans[p] = _native.prune_lowest(
                _all(pool.scores),
                _all(pool.alive),
                _all(pool.masks),
                by_value=by_value,
                count=wanted(p, sum(count_kept(pool.alive))),
                threads=torch.get_num_threads(),
                stream=0,
            )
    for (device, _), numbers in together.items():
        found = _prune_on(device, [pools[p] for p in numbers], by_value, [(p, wanted) for p in numbers])
        for p, nan in zip(numbers, found, strict=True):
            nans[p] = nan
    return nans


def count_kept(masks: Sequence[Tensor]) -> list[int]:
    """How many entries of each mask are set."""
    dense = [mask.contiguous() for mask in masks]
    counts = [0] * len(dense)
    together: dict[torch.device, list[int]] = {}
    for i, mask in enumerate(dense):
        together.setdefault(mask.device, []).append(i)
    for device, numbers in together.items():
        arrays = _all(dense[i] for i in numbers)
        if device.type == "cuda":
            kept = torch.empty(len(numbers), dtype=torch.int64, device=device)
            _native.count_kept_into(arrays, native(kept), stream=stream_of(kept))
            found = kept.tolist()
        else:
            found = _native.count_kept(arrays, threads=torch.get_num_threads(), stream=0)
        for i, count in zip(numbers, found, strict=True):
            counts[i] = count
    return counts


def _prune_on(
    device: torch.device,
    pools: list[RankedGroup],
    by_value: bool,
    wanted: list[tuple[int, Callable[[int, int], int]]],
) -> list[int]:
    scores, alive, masks = ([t for pool in pools for t in getattr(pool, part)] for part in ("scores", "alive", "masks"))
    numbers = [p for p, pool in enumerate(pools) for _ in pool.scores]
    words = _native.threshold_workspace([t.numel() for t in scores], len(pools))
    workspace = torch.empty(words, dtype=torch.int64, device=device)
    survey = torch.empty(2 * len(pools), dtype=torch.int64, device=device)
    stream = stream_of(survey)
    given = (_all(scores), _all(alive), _all(masks), numbers, by_value, native(workspace))
    _native.survey_scores(*given, survey=native(survey), stream=stream)
    found = survey.view(-1, 2).tolist()  # the host waits here, and only here
    counts = torch.tensor(
        [ask(p, survivors) for (p, ask), (survivors, _) in zip(wanted, found, strict=True)], dtype=torch.int64
    ).to(device)
    _native.cut_scores(*given, wanted=native(counts), stream=stream)
    first = [numbers.index(p) for p in range(len(pools))]
    return [nan if nan < 0 else nan - first[p] for p, (_, nan) in enumerate(found)]


def _all(tensors: Iterable[Tensor]) -> list[_native.Array]:
    return [native(t) for t in tensors]
