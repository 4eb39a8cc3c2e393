"""How much each layer of one model changes what it is given: block influence and angular distance."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from ..activations.evaluation_mode import evaluating
from ..activations.first_pass import ModelCall, SharedBatch
from ..activations.hooks import capturing
from ..activations.inputs import Forward, input_batches
from ..activations.layers import Layer, LayerChoice, find_layers
from ..activations.layouts import chosen_layout
from ..activations.outputs import Output
from ..activations.wrappers import eager, unwrapped
from ..covariance.covariance import Layout
from ..covariance.view import View

_BLOCK_BYTES = 1 << 24  # of float64 rows at a time


def consecutive_layers(
    model: nn.Module,
    loader: Iterable[Any],
    layers: Iterable[LayerChoice] | LayerChoice | None = None,
    *,
    apart: int = 1,
    max_datapoints: int | None = None,
    layout: Layout | Mapping[str, str] = "infer",
    forward: Forward | None = None,
    output: Output = None,
    device: torch.device | str | None = None,
) -> pd.DataFrame:
    """Block influence and angular distance of layers that follow each other, such as the blocks of a transformer.

    With c the cosine of a row's activations in both layers, block influence is ``1 - mean(c)`` (Men et al. 2024, ShortGPT) and
    the angular distance is ``mean(arccos(c)) / pi`` (Gromov et al. 2024). Both are 0 where the layers between change nothing but
    the length of the rows. Every row counts, that is every position of every datapoint; Gromov et al. take the last token of
    each sequence alone. Sums are in float64, in one pass, and activations live for one batch.

    Args:
        model, loader, layers, layout, forward, output, device: as in ``compare``; the layers must have the same channels.
        apart: how many layers on the next one is: 1 compares each with its successor.
        max_datapoints: stop after that many inputs; None takes all.

    Returns:
        A table with a row per pair, in order of execution, and the columns layer, next_layer, block_influence, angular_distance,
        count (rows that were compared) and left_out (rows of zeros in either layer, which have no angle). Both measures
        are NaN where no row is left.

    Raises:
        ValueError: an empty loader, fewer layers than ``apart + 1``, layers that do not exist or whose outputs differ in
            shape, activations that are not finite.

    Example:
        >>> import torch, prunecca as pc
        >>> model = torch.nn.Sequential(*(torch.nn.Linear(8, 8) for _ in range(3)))
        >>> table = pc.consecutive_layers(model, torch.randn(40, 8), ["0", "1", "2"])
        >>> list(zip(table["layer"], table["next_layer"], table["count"]))
        [('0', '1', 40), ('1', '2', 40)]
    """
    if apart < 1:
        raise ValueError(f"apart is {apart}; expected 1 or more")
    model = unwrapped(model, "the model")
    passes: _Passes | None = None
    with evaluating({"the model": model}, device) as target, torch.no_grad(), eager([model]):
        for number, batch, _ in input_batches(loader, max_datapoints, (0, 1), forward):
            inputs = SharedBatch(batch, target)
            if passes is None:
                call = ModelCall(model, "the model", inputs.copy)
                found = find_layers(model, inputs.copy, layers)
                if len(found) <= apart:
                    raise ValueError(
                        f"{len(found)} layers were chosen; expected at least {apart + 1}, to compare two of them"
                    )
                call.outputs(found, inputs.copy, output)
                passes = _Passes(call, found, apart, layout, output)
            passes.batch(number, inputs)
    if passes is None:
        raise ValueError("the loader gave no inputs; expected at least one batch")
    return pd.DataFrame([pair.row() for pair in passes.pairs])


@dataclass
class _Pair:
    """The sums of one pair of layers, over rows."""

    layer: str
    next_layer: str
    changes: float = 0.0
    angles: float = 0.0
    count: int = 0
    left_out: int = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows of float64, (N, C) both."""
        (x, zero_x), (y, zero_y) = _unit(x), _unit(y)
        kept = ~(zero_x | zero_y)
        # Of unit vectors, |x - y|**2 = 2 - 2 cos, which keeps its digits where the angle is small.
        near, far = (torch.linalg.vector_norm(z[kept], dim=1) for z in (x - y, x + y))
        self.changes += float(near.square().sum()) / 2.0
        self.angles += float(2.0 * torch.atan2(near, far).sum())
        self.count += len(near)
        self.left_out += len(x) - len(near)

    def row(self) -> dict[str, Any]:
        return {
            "layer": self.layer,
            "next_layer": self.next_layer,
            "block_influence": self.changes / self.count if self.count else math.nan,
            "angular_distance": self.angles / self.count / math.pi if self.count else math.nan,
            "count": self.count,
            "left_out": self.left_out,
        }


class _Passes:
    """Forward passes, and the sums of each pair of layers."""

    def __init__(
        self, call: ModelCall, layers: list[Layer], apart: int, layout: Layout | Mapping[str, str], output: Output
    ) -> None:
        self.pairs = [_Pair(a.name, b.name) for a, b in zip(layers, layers[apart:], strict=False)]
        self._call, self._layers, self._output, self._layout = call, layers, output, layout
        self._ends = {pair.next_layer: pair for pair in self.pairs}
        self._begins = {pair.layer for pair in self.pairs}

    def batch(self, number: int, inputs: SharedBatch) -> None:
        waiting: dict[str, View] = {}

        def consume(layer: Layer, x: Tensor) -> None:
            where = f"layer {layer.name!r}, batch {number}"
            view = View.of(x, "its output", chosen_layout(self._layout, layer.name, x.ndim, layer.layout), where)
            pair = self._ends.get(layer.name)
            if pair is not None:
                self._add(pair, waiting.pop(pair.layer), view)
            if layer.name in self._begins:
                waiting[layer.name] = view.with_tensor(view.tensor.clone()) if layer.overwritten else view

        with capturing(self._call.model, self._layers, consume, output=self._output):
            self._call(inputs)

    def _add(self, pair: _Pair, x: View, y: View) -> None:
        shapes = [(view.positions(), view.channels) for view in (x, y)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"layer {pair.layer!r} has shape {tuple(x.tensor.shape)} but layer {pair.next_layer!r} has "
                f"{tuple(y.tensor.shape)}; expected layers of one shape, such as the blocks of a transformer: choose them by layers="
            )
        first, second = (view.tensor.movedim(view.channel_axis, -1) for view in (x, y))
        second = second.to(first.device)
        step = max(1, _BLOCK_BYTES // max(1, 8 * first[:1].numel()))
        for part_x, part_y in zip(torch.split(first, step), torch.split(second, step), strict=True):
            rows = [part.reshape(-1, x.channels).double() for part in (part_x, part_y)]
            for view, part in zip((x, y), rows, strict=True):
                if not bool(torch.isfinite(part).all()):
                    raise ValueError(f"{view.where}{view.name} holds NaN or infinity; expected finite activations")
            pair.add(*rows)


def _unit(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The rows scaled to unit length, and which of them are zero."""
    largest = rows.abs().amax(1, keepdim=True)
    zero = largest == 0
    rows = rows / torch.where(zero, 1.0, largest)  # whose squares neither overflow nor vanish
    return rows / torch.where(zero, 1.0, torch.linalg.vector_norm(rows, dim=1, keepdim=True)), zero.squeeze(1)
