"""How the output of a layer is read as a matrix of rows by channels."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import filter as filter_names
from fnmatch import fnmatchcase
from typing import Literal

import torch
from torch import Tensor, nn

from ..activations.hooks import capturing
from ..activations.inputs import Batch
from ..activations.layers import Layer
from ..activations.layouts import check_layout, chosen_layout
from ..activations.outputs import Output
from ..covariance.covariance import Layout
from ..covariance.view import View, channel_axis
from ..errors import UnusedMask
from ..sizes.pooling import pooled
from .points import Points, one_row_each, own_rows, points_name
from .rows import (
    BatchRows,
    Rows,
    by_globs,
    datapoint_axis,
    few_unlike,
    is_sequence_of,
    rows_of,
    unused_mask,
    without_channels,
)

Resize = Literal["pool"] | None
Size = tuple[int, ...]


class Reading:
    """What a comparison takes for channels and for rows, the same for all its networks.

    Args:
        layout: as ``compare`` takes it.
        rows: as ``compare`` takes it.
        points: as ``compare`` takes it.
        resize: as ``compare`` takes it.

    Attributes:
        points: what a row is, as the table has it.
        resize: whether positions are brought to the size of another layer.
    """

    def __init__(
        self,
        layout: Layout | Mapping[str, str] = "infer",
        rows: Rows | Mapping[str, Rows] | None = None,
        points: Points = "position",
        resize: Resize = None,
    ) -> None:
        if resize not in (None, "pool"):
            raise ValueError(f"resize is {resize!r}; expected 'pool', or None for sizes that are the same")
        self.points, self.resize = points_name(points), resize
        if self.points == "flatten" and (rows is not None or resize is not None):
            raise ValueError(
                "points='flatten' takes all numbers of a datapoint for channels, which rows= and resize= would change; "
                "expected neither"
            )
        check_layout(layout)
        self._layout, self._rows, self._points = layout, rows, points
        self._warned = False
        self._batch: Batch | None = None
        self._counting: dict[str, BatchRows] = {}  # by globs of layers
        self._unused: tuple[str, Tensor] | None = None
        self._first: dict[tuple[str, str], int] = {}  # where datapoints lie, by name of the model and of the layer

    def word(self, layer: Layer, ndim: int | None = None) -> str:
        """Which dimension of a layer's output holds the channels, as a layout."""
        return chosen_layout(self._layout, layer.source, layer.ndim if ndim is None else ndim, layer.layout)

    def size(self, layer: Layer, x: Tensor, name: str, datapoints: int) -> Size:
        """The positions of each datapoint: the dimensions of an output but for datapoints and channels.

        Args:
            layer: of the model that gave ``x``.
            x: what the layer gave.
            name: of the model.
            datapoints: that the model was given.
        """
        if self.points != "position":
            return ()
        x, word = self.datapoints_first(layer, x, name, datapoints)
        return tuple(length for letter, length in zip(word, x.shape, strict=True) if letter not in "nc")

    @property
    def datapoints(self) -> int:
        """How many the batch has."""
        return 0 if self._batch is None else self._batch.count

    @property
    def has_rows(self) -> bool:
        """Whether some rows do not count."""
        return self._rows is not None

    def whole(self, layer: Layer, x: Tensor, name: str, where: str) -> Tensor:
        """A layer's output with its datapoints in the first dimension; all else of it are features.

        Args:
            layer: of the model that gave ``x``.
            x: what the layer gave.
            name: of the model.
            where: what error messages begin with.

        Raises:
            ValueError: other rows than datapoints.
        """
        x, _ = self.datapoints_first(layer, x, name, self.datapoints)
        if self._batch is not None and len(x) != self._batch.count:
            raise ValueError(
                f"{where}: this output has {len(x)} in place of {self._batch.count} datapoints, so that it has no features "
                "of each; leave the layer out, or take points='position'"
            )
        return x

    def start(self, batch: Batch) -> None:
        """Look at the batch of which views will be asked for.

        Raises:
            TypeError: ``rows`` gives no mask.
            ValueError: ``rows`` gives a mask that does not fit the batch.
        """
        self._batch = batch
        self._counting = {glob: rows_of(each, batch) for glob, each in by_globs(self._rows).items()}
        self._unused = unused_mask(batch) if self._rows is None and not self._warned else None

    def check_globs(self, layers: Iterable[Layer], others: Iterable[str]) -> None:
        """Every glob of ``rows`` must be that of a compared layer, every glob of ``layout`` that of a layer.

        Args:
            layers: that are compared.
            others: names of all layers that run.

        Raises:
            ValueError: one is not.
        """
        names = list(dict.fromkeys(layer.source for layer in layers))
        every = [*names, *others]
        layouts = self._layout if isinstance(self._layout, Mapping) else {}
        for what, globs, known in (("rows are", by_globs(self._rows), names), ("a layout is", layouts, every)):
            for glob in globs:
                if not filter_names(known, glob):
                    which = "compared layer" if known is names else "layer that runs"
                    raise ValueError(
                        f"{what} given for {glob!r}, which no {which} matches; expected names or globs of layers: "
                        f"{', '.join(map(repr, names[:5]))}"
                    )

    def learn(self, name: str, model: nn.Module, layers: Sequence[Layer], batch: Batch, output: Output = None) -> None:
        """Find out which dimension of each layer's output holds the datapoints: the one as long as a batch of few.

        Where a batch has as many datapoints as positions, its shapes do not tell.

        Args:
            name: of the model, as ``view`` is given it.
            model: in eval mode.
            layers: of it.
            batch: the first.
            output: which tensor of a layer's output, where it has several.
        """
        if callable(self._points):
            return

        def note(layer: Layer, x: Tensor) -> None:
            own = without_channels(tuple(x.shape), channel_axis(tuple(x.shape), self.word(layer, x.ndim)))
            long = [dimension for dimension in range(min(2, len(own))) if own[dimension] == few.count]
            if len(long) == 1:
                self._first[name, layer.name] = long[0]

        few = batch.cut(few_unlike(batch)).private(None)
        with capturing(model, layers, note, name, output):
            few.call(model)

    def view(self, layer: Layer, x: Tensor, name: str, where: str, size: Size | None = None) -> View:
        """The rows of one batch.

        Args:
            layer: of the model that gave ``x``.
            x: what the layer gave.
            name: what error messages call it.
            where: what error messages begin with.
            size: what its positions are brought to; None for as they are.

        Raises:
            TypeError: a function for ``points`` that gives no tensor.
            ValueError: a shape that does not fit the layout, the rows, the points or the size.
        """
        word = "nc" if callable(self._points) else self.word(layer, x.ndim)
        given = x
        if not callable(self._points) and self.points == "position":
            x, word = self.datapoints_first(layer, x, name, self.datapoints)
        turned = x is not given
        counting = next((rows for glob, rows in self._counting.items() if fnmatchcase(layer.source, glob)), None)
        if callable(self._points):
            x = own_rows(self._points, x, layer.name, where)
        elif size is not None and self.size(layer, x, name, self.datapoints) != size:
            if counting is not None:
                raise ValueError(
                    f"{where}: rows= marks positions of an output that resize='pool' brings to another size; expected "
                    "points='mean', which averages those that count"
                )
            x, word = resized(x, word, size, where)
        batch = self._batch
        if batch is None or (self.points == "position" and counting is None and self._unused is None):
            return View.of(x, name, word, where)
        axis = channel_axis(tuple(x.shape), word, f"{where}: ")
        own = without_channels(tuple(x.shape), axis)
        first = self._first.get((name, layer.source), -1)
        first = first if 0 <= first < len(own) else datapoint_axis(own, word, batch)
        first = 0 if turned else first
        self._warn_of_mask(layer, own)
        kept = None if counting is None else counting.fitted(own, first, where)
        kept = None if kept is None else kept.to(x.device)
        if self.points == "position" or callable(self._points):
            return View.of(x, name, word, where, kept)
        own, first = self._unfolded(own, first, kept, counting, where)
        x = x.movedim(axis, -1).reshape(*own, x.shape[axis]).movedim(first, 0)
        mask = None if kept is None else kept.reshape(own).movedim(first, 0)
        return View.of(one_row_each(x, self.points, mask, where), name, "nc", where)

    def datapoints_first(self, layer: Layer, x: Tensor, name: str, datapoints: int) -> tuple[Tensor, str]:
        """An output and its layout, turned where its datapoints lie in another than its first dimension.

        Args:
            layer: of the model that gave ``x``.
            x: what the layer gave.
            name: of the model.
            datapoints: that the model was given.
        """
        word = self.word(layer, x.ndim)
        axis = self._first.get((name, layer.source), 0)
        axis += axis >= channel_axis(tuple(x.shape), word)
        if self._first.get((name, layer.source)) and word[0] == "n" and x.shape[axis] == datapoints:
            letters = list(word)  # a layout that is inferred says where the channels are
            letters[0], letters[axis] = letters[axis], letters[0]
            word = "".join(letters)
        if "n" not in word[1:]:
            return x, word
        return x.movedim(word.index("n"), 0), "n" + word.replace("n", "")

    def _unfolded(
        self, own: tuple[int, ...], first: int, kept: Tensor | None, counting: BatchRows | None, where: str
    ) -> tuple[tuple[int, ...], int]:
        """The positions of each datapoint, also where an output has them one after another."""
        batch = self._batch
        if batch is None or own[first] == batch.count:
            return own, first
        mask = None if counting is None else counting.mask
        if len(own) == 1 and kept is not None and mask is not None and mask.numel() == own[0]:
            return (mask.shape[1], len(mask)) if batch.axis else tuple(mask.shape), batch.axis
        raise ValueError(
            f"{where}: this output has {own[first]} in place of {batch.count} datapoints, so that points={self.points!r} is "
            "not defined; leave the layer out, or take points='position' or a function"
        )

    def _warn_of_mask(self, layer: Layer, own: tuple[int, ...]) -> None:
        if self._unused is None or self.points == "cls" or not is_sequence_of(self._unused[1], own):
            return
        name, mask = self._unused
        self._unused, self._warned = None, True
        padding = float((~mask).double().mean())
        warnings.warn(
            f"the batches have {name!r}, which marks {padding:.0%} of the positions of the first that is padded as padding, "
            f"and layer {layer.name!r} has such positions, all of which count; leave the padding out with rows={name!r}",
            UnusedMask,
            stacklevel=2,
        )


def resized(x: Tensor, word: str, size: Size, where: str) -> tuple[Tensor, str]:
    """An output averaged to a smaller size, and its layout; no size is one row for each datapoint.

    Args:
        x: the output.
        word: its layout.
        size: what is wanted.
        where: what error messages begin with.
    """
    if size:
        return pooled(x, word, size, where=where), word
    axes = [word.index("n"), word.index("c"), *(d for d, letter in enumerate(word) if letter not in "nc")]
    flat = x.permute(axes).flatten(2)
    return (flat.float() if flat.dtype in (torch.float16, torch.bfloat16) else flat).mean(2), "nc"
