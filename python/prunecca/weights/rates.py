"""The rate of each pool, exactly as it was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from numbers import Rational
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..methods.scopes import pattern_of


def rate_as_written(rate: Any, pool: str) -> Fraction:
    """The exact rate: the double nearest to 0.29 lies below it, and rounding down would then lose one entry.

    Args:
        rate: a Python or NumPy number, a fraction, a decimal, a tensor of one number, or one of these as text.
        pool: for errors.

    Raises:
        ValueError: it does not lie in [0, 1].
        TypeError: it is no number.
    """
    given = rate
    if isinstance(rate, Tensor | np.ndarray) and rate.ndim == 0:
        rate = _shortest(rate) if isinstance(rate, Tensor) else rate[()]
    try:
        if isinstance(rate, bool | np.bool_ | complex | np.complexfloating):
            raise TypeError
        if isinstance(rate, Rational | Decimal):  # Python's integers too
            exact = Fraction(rate)
        elif isinstance(rate, float) and type(rate) is not np.float64:
            exact = Fraction(float.__repr__(rate))
        elif isinstance(rate, str | np.integer | np.floating):
            exact = Fraction(str(rate).strip())
        else:
            raise TypeError
    except (TypeError, ZeroDivisionError) as error:
        raise TypeError(
            f"pruning rate of pool '{pool}' is {given!r}; expected a number in [0, 1], such as 0.2 or Fraction(1, 3)"
        ) from error
    except (ValueError, OverflowError) as error:  # nan, inf, other text
        raise ValueError(f"pruning rate of pool '{pool}' is {given}; expected a fraction in [0, 1]") from error
    if not 0 <= exact <= 1:
        raise ValueError(f"pruning rate of pool '{pool}' is {given}; expected a fraction in [0, 1]")
    return exact


def rates_by_pool(rates: Any, pools: Mapping[str, Any]) -> dict[str, Any]:
    """The rate of each pool, as given: one for all, or a mapping.

    Raises:
        ValueError: a pool has no rate, or a rate no pool.
    """
    by_pool = dict(rates) if isinstance(rates, Mapping) else dict.fromkeys(pools, rates)
    for pool in by_pool.keys() ^ pools.keys():
        what = "no rate" if pool in pools else "a rate, but does not exist"
        shown = ", ".join(map(str, pools))
        raise ValueError(f"pool '{pool}' has {what}; expected one rate for each of the pools {shown}")
    return by_pool


def density_of_pools(
    rates: Any, pools: Mapping[str, Sequence[str]], previous: Mapping[str, Tensor], scope: str, times: int
) -> dict[str, float]:
    """The density that each pool will have, up to the rounding of counts.

    Args:
        rates: as in ``prune``.
        pools: names by pool.
        previous: the masks so far.
        scope: as in ``prune``; N:M has a density of its own.
        times: how often the rate is applied.
    """
    pattern = pattern_of(scope)
    found = {}
    for pool, rate in rates_by_pool(rates, pools).items():
        masks = [previous[name] for name in pools[pool] if name in previous]
        total = sum(mask.numel() for mask in masks)
        alive = sum(int(mask.sum()) for mask in masks) / total if total else 1.0
        gone = float(rate_as_written(rate, pool))
        found[pool] = min(alive, pattern[0] / pattern[1]) if pattern and gone else alive * (1 - gone) ** times
    return found


def _shortest(rate: Tensor) -> Any:
    """The number of a tensor, with no more digits than tell it from its neighbours in that dtype."""
    number = rate.detach().cpu()
    if not number.is_floating_point() or number.dtype == torch.float64:
        return number.item()
    value = number.item()
    for digits in range(1, 10):
        text = f"{value:.{digits}g}"
        if bool(torch.tensor(float(text), dtype=number.dtype) == number):
            return text
    return value
