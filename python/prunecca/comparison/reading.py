"""How the output of a layer is read as a matrix of rows by channels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from ..activations.layers import Layer
from ..activations.layouts import chosen_layout
from ..covariance.covariance import Layout
from ..covariance.view import View


@dataclass(frozen=True)
class Reading:
    """What a comparison takes for channels and for rows, the same for all its networks.

    Attributes:
        layout: as ``compare`` takes it.
    """

    layout: Layout | Mapping[str, str] = "infer"

    def word(self, layer: Layer, ndim: int | None = None) -> str:
        """Which dimension of a layer's output holds the channels, as a layout."""
        return chosen_layout(self.layout, layer.name, layer.ndim if ndim is None else ndim, layer.layout)

    def view(self, layer: Layer, x: Tensor, name: str, where: str) -> View:
        """The rows of one batch.

        Args:
            layer: of the model that gave ``x``.
            x: what the layer gave.
            name: what error messages call it.
            where: what error messages begin with.

        Raises:
            ValueError: a shape that does not fit the layout.
        """
        return View.of(x, name, self.word(layer, x.ndim), where)
