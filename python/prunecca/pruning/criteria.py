"""What makes a weight worth keeping: the mask criteria of Zhou et al. 2019, "Deconstructing Lottery Tickets".

A criterion scores every weight from its final value ``f`` and its initial value ``i``; the lowest scores are pruned.
``score`` is for scores made elsewhere and given in the place of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .._arrays import resolved


@dataclass(frozen=True)
class Criterion:
    """``score(f, i, alpha)`` and whether it reads ``i``; without a score the order is random."""

    name: str
    score: Callable[[Tensor, Tensor, float], Tensor] | None
    reads_initial: bool = False
    signed: bool = True  # compare the score itself; otherwise its magnitude


CRITERIA: dict[str, Criterion] = {
    c.name: c
    for c in (
        Criterion("large_final", lambda f, i, a: f, signed=False),
        Criterion("small_final", lambda f, i, a: -f.abs()),
        Criterion("large_init", lambda f, i, a: i, True, signed=False),
        Criterion("small_init", lambda f, i, a: -i.abs(), True),
        Criterion("large_init_large_final", lambda f, i, a: torch.minimum(a * f.abs(), i.abs()), True),
        Criterion("small_init_small_final", lambda f, i, a: -torch.maximum(a * f.abs(), i.abs()), True),
        Criterion("magnitude_increase", lambda f, i, a: f.abs() - i.abs(), True),
        Criterion("movement", lambda f, i, a: f - i, True, signed=False),
        Criterion("large_final_same_sign", lambda f, i, a: f * i.sign(), True),
        Criterion("score", lambda f, i, a: f),
        Criterion("random", None),
    )
}

# Criteria of a recipe whose scores are no function of the weights alone: somebody makes them, and ``score`` ranks them.
SCORED = {
    "wanda": "magnitude times the root mean square of the input (Sun et al. 2023)",
    "fisher": "what the loss would rise by without the channel (Theis et al. 2018; Crowley et al. 2018)",
    "supermask": "a learned score; the weights are those of the initialisation (Zhou et al. 2019)",
}


def find_criterion(name: str) -> Criterion:
    """The criterion of that name; ``ValueError`` lists the names there are."""
    if name not in CRITERIA:
        raise ValueError(f"criterion '{name}' is unknown; expected one of {', '.join(CRITERIA)}")
    return CRITERIA[name]


def scores(
    criterion: Criterion,
    names: Sequence[str],
    final: Mapping[str, Tensor],
    initial: Mapping[str, Tensor] | None,
    alpha: float,
    generator: torch.Generator,
) -> list[Tensor]:
    """Scores of the named weights, contiguous, all of one dtype; ``large_final`` itself copies nothing."""
    found = [_score(criterion, name, final, initial, alpha, generator) for name in names]
    dtypes = {s.dtype for s in found}
    if len(dtypes) > 1:  # one pool, one order: widening is exact
        common = torch.float64 if torch.float64 in dtypes else torch.float32
        found = [s.to(common) for s in found]
    return [s.contiguous() for s in found]


def _score(
    criterion: Criterion,
    name: str,
    final: Mapping[str, Tensor],
    initial: Mapping[str, Tensor] | None,
    alpha: float,
    generator: torch.Generator,
) -> Tensor:
    f = final[name].detach()
    if f.dtype not in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        raise TypeError(f"parameter '{name}' has dtype {f.dtype}; expected float16, bfloat16, float32 or float64")
    if criterion.score is None:
        # Drawn on the host, so that every device and rank draws the same; 53 bits make ties unlikely.
        return torch.rand(f.shape, generator=generator, dtype=torch.float64).to(f.device)
    if not criterion.reads_initial:
        return criterion.score(f, f, alpha)
    if initial is None or name not in initial:
        raise ValueError(
            f"criterion '{criterion.name}' needs the initial value of '{name}'; pass initial= with all pooled parameters"
        )
    i = resolved(initial[name], f"initial value of '{name}'").detach().to(f.device)
    if i.shape != f.shape:
        raise ValueError(
            f"initial value of '{name}' has shape {tuple(i.shape)}; expected that of the parameter, {tuple(f.shape)}"
        )
    wide = torch.promote_types(torch.promote_types(f.dtype, i.dtype), torch.float32)
    return criterion.score(f.to(wide), i.to(wide), alpha)
