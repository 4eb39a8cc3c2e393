"""Names of layers along an axis: shortened, shrunk and thinned until they can be read beside each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes

from .style import named

_LONG = 24  # characters, from which a name loses its beginning
_LARGEST, _SMALLEST = 9.0, 5.5  # points of the letters
_POINTS = 72  # of an inch
_HEIGHT, _WIDTH = 1.15, 0.62  # of a letter with its space, by its size


def shortened(names: Sequence[str]) -> tuple[str, list[str]]:
    """The beginning that all names have, up to a dot, and what follows; long ones keep their ends, as far as these differ.

    Example:
        >>> from prunecca.figures.layer_labels import shortened
        >>> shortened(["encoder.layer.0.output", "encoder.layer.1.output"])
        ('encoder.layer.', ['0.output', '1.output'])
    """
    parts = [name.split(".") for name in names]
    common = 0
    while len(set(names)) > 1 and all(len(p) > common + 1 and p[common] == parts[0][common] for p in parts):
        common += 1
    prefix = "".join(f"{part}." for part in (parts[0][:common] if common else ()))
    rest = [name.removeprefix(prefix) for name in names]
    longest = max(map(len, rest), default=0)
    for room in range(_LONG, longest, 4):
        short = [_end_of(name, room) for name in rest]
        if len(set(short)) == len(set(rest)):
            return prefix, short
    return prefix, rest


def _end_of(name: str, room: int) -> str:
    if len(name) <= room:
        return name
    start = name.find(".", len(name) - room)
    return f"…{name[start + 1 :] if start >= 0 else name[-room:]}"


def label_inches(names: Sequence[str], inches: float) -> float:
    """How far the names reach away from a vertical axis of that length, or upright from a horizontal one."""
    longest = max(map(len, shortened(names)[1]), default=0)
    return longest * _WIDTH * _size(len(names), inches) / _POINTS


def _size(count: int, inches: float) -> float:
    return min(_LARGEST, max(_SMALLEST, inches * _POINTS / max(count, 1) / _HEIGHT))


def label_layers(axes: Axes, which: Literal["x", "y"], names: Sequence[str], inches: float, title: str) -> None:
    """Put names of layers along an axis.

    Args:
        axes: whose cells or points have whole numbers.
        which: the axis.
        names: of the layers.
        inches: that the axis is long.
        title: of the axis; the beginning that all names share is added.
    """
    prefix, short = shortened(names)
    shown = [named(name) for name in short]
    room = inches * _POINTS / max(len(shown), 1)  # points that each name has
    flat = which == "x" and max(map(len, shown), default=0) * _WIDTH * _LARGEST < room
    size = _LARGEST if flat else _size(len(shown), inches)
    step = 1 if flat else max(1, math.ceil(size * _HEIGHT / room - 1e-6))
    ticks = range(0, len(shown), step)
    axis = axes.xaxis if which == "x" else axes.yaxis
    rotation = 90 if which == "x" and not flat else 0
    axis.set_ticks(list(ticks), [shown[k] for k in ticks], fontsize=size, rotation=rotation)
    axis.get_ticklabels()  # made now, where text is drawn as it is, and not when the picture is shown
    axis.set_label_text(f"{title} ({named(prefix)}…)" if prefix else title)
