"""How a report writes numbers, times and names."""

from __future__ import annotations

import math

import pandas as pd

from ..similarity.registry import METRIC_NAMES


def count(number: int, noun: str) -> str:
    """1 problem, 2 problems."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def duration(seconds: float) -> str:
    """In seconds, minutes or hours, whichever is short."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def metric(name: str) -> str:
    """The name of a metric in words."""
    return METRIC_NAMES.get(name, name)


def number(value: float) -> str:
    """Three decimals, with a minus sign; a dash for NaN."""
    return "–" if math.isnan(value) else f"{value:.3f}".replace("-", "−")


def percent(value: float, digits: int = 0) -> str:
    """A fraction as a percentage; a dash for NaN."""
    return "–" if pd.isna(value) else f"{100 * value:.{digits}f} %"


def plain(value: object) -> str:
    """A value of the configuration or environment."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
