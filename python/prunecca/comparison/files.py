"""Stored activations that need not fit in memory, read once while they are compared.

Arrays are of shape (N, C), (N, C, H, W) or (N, C, L), datapoints first, of float16, bfloat16 (safetensors), float32 or
float64. Nothing is unpickled: headers are parsed, and the numbers are read as numbers.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..covariance.accumulator import CovarianceAccumulator
from ..covariance.covariance import Covariance, Layout, Precision
from ..covariance.view import View, channel_axis, flattened
from ..geometry.reservoir import Reservoir, rows_at
from ..progress import Progress, reporting
from ..similarity.operands import default_precision, few_rows, in_range, warn_of_few_rows
from ..similarity.registry import MetricChoice, find_metrics, needs_norms, needs_rows
from ..storage.array_files import StoredActivations, stored_activations
from ..storage.read_ahead import Chunk, read_ahead
from ..text import printable
from .columns import are_wide, read_columns
from .scores import score

if TYPE_CHECKING:
    import pandas as pd

_CHUNK_BYTES = 16 << 20  # of all files together; two or three of these are held, and a disk reads it in one sweep
_MOST_GRAINS = 16  # chunks that what a library unpacks at once may fill
_STATE_BYTES = 32 << 20  # of a second accumulator
_DRAWN = 1 << 20  # rows that random numbers are drawn for at a time


def compare_files(
    reference: str | Path,
    candidates: Sequence[str | Path] | str | Path,
    metrics: MetricChoice = ("svcca",),
    *,
    precision: Precision | None = None,
    layout: Layout = "infer",
    progress: Progress = False,
    subsample: int = 5000,
) -> pd.DataFrame:
    """Score stored activations against those of a reference, in one pass over all files and in little memory.

    Resident memory grows by about 50 MB and a few C x C float64 matrices, whatever the size of the files, which leave
    the page cache as it was. Metrics that need rows are computed from a uniform subsample of them, the same for all files
    and in every call.

    Args:
        reference: a file that holds a (N, C), (N, C, H, W) or, by ``layout``, other array: ``.npy``, ``.safetensors``,
            ``.npz``, ``.h5`` (HDF5) or ``.zarr``; one of several arrays in it is named as ``"file.safetensors:name"``. A
            folder holds shards that follow each other in the order of their names, all ``.npy`` or all ``.safetensors``.
        candidates: such a file, or several, with the same datapoints in the same order.
        metrics: as in ``compare``.
        precision: of the products; None takes float64 for a few thousand rows or float64 files, and float32 otherwise.
        layout: which dimension holds the channels, such as ``"nlc"``; needed for arrays of 3 dimensions. ``"flat"`` makes
            channels of all dimensions but the first. Where there are more channels than datapoints in (N, C) files, and all
            metrics are unchanged by rotations, the dual form is taken: N x N matrices, in place of C x C.
        progress: True for a bar, or a function called with the bytes done and their total.
        subsample: rows that metrics such as ``"mutual_knn"`` and ``"rbf_cka"`` are computed from; all where there are fewer.

    Returns:
        A table with the columns candidate, metric, value, count, channels, kept_x, kept_y, sampled (the rows that a metric
        was computed from; missing for metrics that are exact).

    Raises:
        ValueError: a file that holds no such array, files that do not share their datapoints, NaN or infinity.
        OSError: a file that is not there or cannot be read.

    Warns:
        FewRows: as ``cca``, once for all files.

    Example:
        >>> import tempfile, numpy
        >>> from prunecca import compare_files
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     numpy.save(f"{folder}/x.npy", numpy.random.default_rng(0).random((500, 8)))
        ...     table = compare_files(f"{folder}/x.npy", [f"{folder}/x.npy"], ["svcca", "nbs"])
        >>> table[["metric", "count"]].values.tolist(), table["value"].round(6).tolist()
        ([['svcca', 500], ['nbs', 500]], [1.0, 1.0])
    """
    import pandas as pd

    chosen = find_metrics(metrics)
    candidates = [candidates] if isinstance(candidates, str | Path) else candidates
    for given in (reference, *candidates):
        if not isinstance(given, str | Path):
            raise TypeError(
                f"compare_files was given a {type(given).__name__}; expected paths of files: of arrays in memory take "
                "linear_cka(x, y), say, or StreamingCovariance"
            )
    if not candidates:
        raise ValueError(f"only {reference} was given; expected a reference and at least one candidate")
    files = [stored_activations(path) for path in (reference, *candidates)]
    sample = _Sample(files, layout, subsample) if needs_rows(chosen) else None
    if are_wide(files, layout) and all(score.metric.dual for score in chosen.values()):
        covariances = read_columns(files, precision or default_precision(files[0].shape[0]), progress)
        covariances = [in_range(cov) for cov in covariances]
    else:
        covariances = _covariances(
            files, precision=precision, norms=needs_norms(chosen), layout=layout, progress=progress, sample=sample
        )
    scores = score(covariances, chosen, sample.pairs() if sample else ())
    rows = [
        {"candidate": printable(name), **scored, "count": cov.count, "channels": cov.channels[0]}
        for name, cov, own in zip(candidates, covariances, scores, strict=True)
        for scored in own
    ]
    _warn_of_few_rows(rows)
    columns = ["candidate", "metric", "value", "count", "channels", "kept_x", "kept_y", "sampled"]
    return pd.DataFrame(rows, columns=columns).astype(dict.fromkeys(columns[-3:], "Int64"))


class _Sample:
    """The same rows of every file: chosen beforehand, taken by the threads as the rows come by."""

    def __init__(self, files: Sequence[StoredActivations], layout: Layout, size: int) -> None:
        _check_datapoints(files, layout)
        reservoir = Reservoir(size)
        left = math.prod(_datapoints(files[0], layout))
        while left:
            left -= reservoir.choose(min(left, _DRAWN)).rows
        self._positions = np.sort(reservoir.positions)
        shapes = [flattened(f.shape, layout) for f in files]
        channels = [shape[channel_axis(shape, layout)] for shape in shapes]
        self._rows = [torch.empty(len(self._positions), c, dtype=f.dtype) for f, c in zip(files, channels, strict=True)]

    def take(self, start: int, views: Sequence[View]) -> None:
        """Keep what is chosen of the rows of all files from ``start`` on."""
        first, last = np.searchsorted(self._positions, [start, start + views[0].rows])
        for rows, view in zip(self._rows, views, strict=True):
            rows[first:last] = rows_at(view, self._positions[first:last] - start)

    def pairs(self) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [(self._rows[0], other) for other in self._rows[1:]]


def _warn_of_few_rows(rows: list[dict[str, Any]]) -> None:
    """One warning for all metrics that have too few rows, with the worst of them."""
    directions = {
        id(row): sum(int(row[side]) for side in ("kept_x", "kept_y") if row[side] is not None) for row in rows
    }
    few = [row for row in rows if few_rows(row["count"], directions[id(row)])]
    if few:
        most = max(directions[id(row)] for row in few)
        warn_of_few_rows(", ".join(dict.fromkeys(row["metric"] for row in few)), few[0]["count"], most, stacklevel=4)


def _covariances(
    files: Sequence[StoredActivations],
    *,
    precision: Precision | None = None,
    norms: bool = False,
    layout: Layout = "infer",
    progress: Progress = False,
    chunk_bytes: int = _CHUNK_BYTES,
    sample: _Sample | None = None,
) -> list[Covariance]:
    """Covariances of the first file with each of the others, read in chunks of about ``chunk_bytes`` for all of them."""
    _check_datapoints(files, layout)
    first = files[0]
    rows = math.prod(_datapoints(first, layout))
    step = max(1, chunk_bytes // sum(f.row_bytes for f in files))
    if channel_axis(first.shape, layout) == 0:  # an unbatched activation is read whole
        step = first.shape[0]
        for f in files:
            if len(f.parts) > 1:
                raise ValueError(f"{f.path} holds shards of datapoints; expected a layout with the datapoints first")
    # A chunk lies in one shard of each file, and holds whole blocks of what libraries unpack.
    grain = max(f.grain for f in files)
    if grain * sum(f.row_bytes for f in files) <= _MOST_GRAINS * chunk_bytes:
        step = max(step // grain, 1) * grain
    starts = sorted({*range(0, first.shape[0], step), *(begin for f in files for begin in f.begins)})
    ranges = list(itertools.pairwise([*starts, first.shape[0]]))
    plan = [[f.piece(start, stop) for f in files] for start, stop in ranges]
    team = [
        CovarianceAccumulator(precision=precision or default_precision(rows), norms=norms)
        for _ in range(_team_size(files, layout, len(plan)))
    ]
    names = ", ".join(str(f.path) for f in files)

    def add(number: int, chunk: Chunk) -> int:
        arrays = [_activation(raw, f) for raw, f in zip(chunk.pieces, files, strict=True)]
        where = f"{names}, datapoints {ranges[number][0]} to {ranges[number][1] - 1}"
        called = ["x", *(f"candidate {k}" for k in range(len(arrays) - 1))]
        views = [View.of(x, name, layout, where) for x, name in zip(arrays, called, strict=True)]
        team[number % len(team)].add(views[0], views[1:])
        if sample is not None:
            sample.take(ranges[number][0] * (rows // first.shape[0]), views)
        chunk.release()
        return sum(raw.nbytes for raw in chunk.pieces)

    with (
        reporting(progress, sum(f.nbytes for f in files), "bytes") as report,
        read_ahead(plan, len(team) + 1) as chunks,
        teamwork(len(team)) as members,
    ):
        done = 0
        running: deque[Future[int]] = deque()
        for number, chunk in enumerate(chunks):
            running.append(members[number % len(team)].submit(add, number, chunk))
            while len(running) >= len(team) or (running and number == len(plan) - 1):
                done += running.popleft().result()
                report(done)
    for member in team[1:]:
        team[0].merge(member)
    return team[0].finalize(rescale=True)


def _team_size(files: Sequence[StoredActivations], layout: Layout, chunks: int) -> int:
    """How many take the chunks in turns, each with an accumulator: two, while those are small and there are chunks for both.

    Threads that share a chunk wait for each other several times in it, and the reading often holds up one of them.
    """
    shapes = [flattened(f.shape, layout) for f in files]
    channels = [shape[channel_axis(shape, layout)] for shape in shapes]
    state = 8 * sum(c * (c + channels[0]) for c in channels)
    return min(2, torch.get_num_threads(), chunks) if state <= _STATE_BYTES else 1


def _activation(raw: np.ndarray[Any, Any], file: StoredActivations) -> torch.Tensor:
    return torch.from_numpy(raw).view(file.dtype).reshape(-1, *file.shape[1:])


def _check_datapoints(files: Sequence[StoredActivations], layout: Layout) -> None:
    first = files[0]
    for other in files[1:]:
        if _datapoints(other, layout) != _datapoints(first, layout):
            raise ValueError(
                f"{first.path} has shape {first.shape} but {other.path} has {other.shape}; "
                "both must have the same datapoints and positions"
            )


def _datapoints(file: StoredActivations, layout: Layout) -> tuple[int, ...]:
    shape = flattened(file.shape, layout)
    axis = channel_axis(shape, layout, f"{file.path}: ")
    return shape[:axis] + shape[axis + 1 :]


@contextmanager
def teamwork(members: int) -> Iterator[list[ThreadPoolExecutor]]:
    """Executors of one thread each, which share ``torch.get_num_threads()``; what a member is given it does in order."""
    threads = torch.get_num_threads()
    each = -(-threads // members)
    # OpenMP counts threads per thread that asks: the members have to be told.
    team = [ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(each,)) for _ in range(members)]
    try:
        yield team
    finally:
        for member in team:
            member.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)
