"""How the output of a layer is read as a matrix of rows by channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor
from torch.nn import functional

from ..activations.layers import Layer
from ..activations.layouts import chosen_layout
from ..covariance.covariance import Layout
from ..covariance.view import View

Resize = Literal["pool"] | None


@dataclass(frozen=True)
class Reading:
    """What a comparison takes for channels and for rows, the same for all its networks.

    Attributes:
        layout: as ``compare`` takes it.
        resize: as ``compare`` takes it.
    """

    layout: Layout | Mapping[str, str] = "infer"
    resize: Resize = None

    def __post_init__(self) -> None:
        if self.resize not in (None, "pool"):
            raise ValueError(f"resize is {self.resize!r}; expected 'pool', or None for sizes that are the same")

    def word(self, layer: Layer, ndim: int | None = None) -> str:
        """Which dimension of a layer's output holds the channels, as a layout."""
        return chosen_layout(self.layout, layer.name, layer.ndim if ndim is None else ndim, layer.layout)

    def view(self, layer: Layer, x: Tensor, name: str, where: str, size: tuple[int, ...] | None = None) -> View:
        """The rows of one batch.

        Args:
            layer: of the model that gave ``x``.
            x: what the layer gave.
            name: what error messages call it.
            where: what error messages begin with.
            size: what its positions are pooled to.

        Raises:
            ValueError: a shape that does not fit the layout.
        """
        word = self.word(layer, x.ndim)
        if size is not None:
            x, word = pooled(x, word, size)
        return View.of(x, name, word, where)

    def size(self, layer: Layer, x: Tensor) -> tuple[int, ...]:
        """The positions of a layer's output: its dimensions but for datapoints and channels."""
        word = self.word(layer, x.ndim)
        return tuple(length for letter, length in zip(word, x.shape, strict=True) if letter not in "nc")


def pooled(x: Tensor, word: str, size: tuple[int, ...]) -> tuple[Tensor, str]:
    """Averages over equal parts of the positions, adaptively where the sizes do not divide, and their layout.

    Channels stay where they are in memory. No size is one row a datapoint, the average of all of its positions.
    """
    axes = [word.index("n"), word.index("c"), *(d for d, letter in enumerate(word) if letter not in "nc")]
    if tuple(x.shape[d] for d in axes[2:]) == size:
        return x, word
    ordered = x.permute(axes)
    if not size:
        return ordered.flatten(2).mean(2), "nc"
    pool: Any = (functional.adaptive_avg_pool1d, functional.adaptive_avg_pool2d, functional.adaptive_avg_pool3d)
    small: Tensor = pool[len(size) - 1](ordered, size)
    return small.permute([axes.index(d) for d in range(x.ndim)]), word
