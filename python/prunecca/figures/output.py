"""Figures for a notebook or a script, and pictures in files."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.figure import Figure

from ..storage.atomic import write_atomic
from .style import literal

Target = str | Path | io.BytesIO


def new_figure(width: float, height: float, *, shown: bool) -> Figure:
    """A figure of so many inches, of pyplot where it is ``shown``: what a cell of a notebook ends with, and ``plt.show()``."""
    if shown:
        from matplotlib import pyplot

        return pyplot.figure(figsize=(width, height), layout="constrained")
    return Figure(figsize=(width, height), layout="constrained")


def picture_form(path: Target) -> str:
    """The format that the ending of a path stands for; a stream takes PNG.

    Raises:
        ValueError: it stands for none.
    """
    if isinstance(path, io.BytesIO):
        return "png"
    form = Path(path).suffix[1:].lower()
    if form not in Figure().canvas.get_supported_filetypes():
        raise ValueError(f"{path} ends in {Path(path).suffix!r}; expected a picture such as .png, .pdf or .svg")
    return form


@literal
def write_picture(figure: Figure, path: Target) -> None:
    """Write a figure to a file, whole or not at all, or into a page."""
    form = picture_form(path)
    if isinstance(path, io.BytesIO):
        figure.savefig(path, format=form, dpi=80)
    else:
        write_atomic(path, lambda stream: figure.savefig(stream, format=form, dpi=150))
