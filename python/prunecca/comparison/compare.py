"""compare(): models x layers x metrics -> a table, in one pass over the data and in memory that does not grow with it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import pandas as pd
import torch
from torch import nn

from ..activations.batch_axis import BatchAxis
from ..activations.evaluation_mode import evaluating
from ..activations.inputs import Forward, input_batches, total_inputs
from ..activations.layers import LayerChoice
from ..activations.outputs import Output
from ..activations.wrappers import eager, unwrapped
from ..covariance.covariance import Covariance, Layout, Precision
from ..covariance.distributed import rank_and_size
from ..errors import FewRows
from ..machine.memory import keeping_freed_memory
from ..progress import Progress, reporting
from ..similarity.registry import MetricChoice, Score, find_metrics, needs_norms
from .forward import ForwardPasses
from .points import Points
from .ranks import Ranks
from .reading import Reading
from .result import Comparison
from .rows import Rows, check_whole
from .scores import score

Distributed = Literal["shard", "sharded", "off"]

_COLUMNS = ["candidate", "layer", "kind", "depth", "metric", "value", "count", "channels", "kept_x", "kept_y"]
_COLUMNS += ["layout", "points", "channels_x", "channels_y"]
_ROWS_PER_DIRECTION = 10  # below, correlations between noise alone are still far from 0


def compare(
    reference: nn.Module,
    candidates: nn.Module | Mapping[str, nn.Module] | Sequence[nn.Module],
    loader: Iterable[Any],
    layers: Iterable[LayerChoice] | LayerChoice | Mapping[str, str] | None = None,
    metrics: MetricChoice = ("svcca",),
    *,
    max_datapoints: int | None = None,
    precision: Precision = "float32",
    layout: Layout | Mapping[str, str] = "infer",
    forward: Forward | None = None,
    output: Output = None,
    rows: Rows | None = None,
    points: Points = "position",
    device: torch.device | str | None = None,
    distributed: Distributed = "shard",
    keep_covariances: bool = False,
    progress: Progress = False,
) -> Comparison:
    """Score every layer of every candidate against the same layer of the reference.

    Every model makes one forward pass per batch, in eval mode without gradients; the modes are restored. The
    reference's activations live for one batch, those of a candidate are consumed as they are produced. The forward passes
    have the precision of ``torch.autocast`` around the call, and activations are read in the memory order they have
    (channels_last, say). On a CUDA device nothing waits for the device between batches.

    Args:
        reference: the network that the others are compared with.
        candidates: a module (called "candidate"), modules by name, or a list (called "0", "1", ...).
        loader: gives batches as the models take them. A mapping is passed as keywords, without those that the forward does
            not take. Of a tuple or list, as many elements are passed as the forward has parameters without defaults, and
            otherwise the first alone, so that labels are left out; the second too where it is the padding mask of the first
            and the forward takes an ``attention_mask``. A tensor, a mapping of tensors, or inputs and labels of a whole data
            set are cut into batches, a Dataset is put into a DataLoader. Models write to copies: the tensors of the loader
            stay as they are.
        layers: as in ``find_layers``; or a mapping of the reference's layer names to the candidates', where they differ.
        metrics: names of ``METRICS``, functions of a ``Covariance`` that give a number, or a mapping of names to options,
            such as ``{"svcca": {"variance": 0.99, "trim": 0.98}}``; a name of your own stands for a function or for a pair,
            as in ``{"svcca 95": ("svcca", {"variance": 0.95}), "mine": function}``.
        max_datapoints: stop after that many inputs.
        precision: of the products; "float64" for the smallest directions of cca, pwcca and linear_regression.
        layout: which dimension of an activation holds the channels. "infer" follows every layer's output from what fixes it
            (convolutions, normalisations, linear layers, attention) through everything that moves it. Where that does not
            tell, or to overrule it: a word such as "nlc" or "nchw" for all outputs of as many dimensions, or words by
            names or globs of layers, ``{"blocks.*": "nlc", "features.*": "nhwc"}``.
        forward: ``lambda model, batch: model.encode(batch["ids"])``, say, for anything else; ``model`` comes without the
            wrappers of DataParallel and torch.compile.
        output: of layers that give several tensors, which one: a name, an index, a function of what the layer gives, or
            these by globs of layer names. None takes the first, ``last_hidden_state`` of a ModelOutput, the data of a
            PackedSequence.
        rows: which rows count, so that padding is left out of every statistic: a key of the batches, ``"attention_mask"`` (also
            of a tuple whose second element is the mask of the first; where a key names padding, as
            ``"src_key_padding_mask"`` does, what it marks is left out); a boolean tensor of the whole data set, cut along with
            it; or a function of the batch that gives one. (N,) holds for all positions of a datapoint; (N, L) or (N, H, W)
            for the layers that have these positions, in any order, while outputs without positions, (N, C), take all their
            rows.
        points: what a row is: every ``"position"`` of a datapoint (or ``"token"``, another word for it); one row for each
            datapoint, which is the ``"mean"`` over its positions, the first of them, ``"cls"``, or the ``"last"``, in each
            case of those that count by ``rows``; or a function of a layer's output and name that gives (rows, channels).
        device: where the models are moved for the comparison; None takes the device they are on. A model that is spread
            over several stays there, and its inputs go to the device of its first parameter.
        distributed: where torch.distributed is in use, "shard" lets every rank take its share of the batches of a loader
            that gives all of them the same, "sharded" takes each rank's loader as its share (``max_datapoints`` is then
            that of one rank); both give every rank the same table. "off" compares on this process alone.
        keep_covariances: keep them in the result.
        progress: True for a bar, or a function called with the inputs done and their total (None if unknown).

    Returns:
        The table of all values, which can be saved and drawn.

    Raises:
        ValueError: an empty loader, models on different devices, layers that do not match, run several times or never,
            activations that are not finite (naming layer, model and batch), metrics or options that do not exist; on
            several ranks, models or layers that differ, or, with "shard", first batches that do.
        TypeError: batches that do not have the inputs of a model, scripted and exported models, and layers whose output
            is not of floating point numbers.

    Warns:
        UserWarning: a forward pass is random, and differs from itself; or batches have a mask of padding that ``rows`` does
            not name.

    Example:
        >>> import torch
        >>> from prunecca import compare
        >>> def network():
        ...     return torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
        >>> reference = network()
        >>> result = compare(reference, {"same": reference, "other": network()}, torch.randn(400, 8))
        >>> result.table[["candidate", "layer", "metric", "channels"]].values.tolist()
        [['same', '1', 'svcca', 16], ['other', '1', 'svcca', 16]]
        >>> round(float(result.table["value"][0]), 4)
        1.0
    """
    if distributed not in ("shard", "sharded", "off"):
        raise ValueError(f"distributed is {distributed!r}; expected 'shard', 'sharded' or 'off'")
    rank, ranks = (0, 1) if distributed == "off" else rank_and_size()
    share = (rank, ranks) if distributed == "shard" else (0, 1)
    others = Ranks(rank, ranks, same_data=distributed == "shard")
    chosen: Mapping[str, Score] = {}
    run, failure, target = None, None, torch.device("cpu")
    try:
        chosen = find_metrics(metrics)
        if max_datapoints is not None and max_datapoints < 1:
            raise ValueError(f"max_datapoints is {max_datapoints}; expected at least 1, or None for all")
        model = unwrapped(reference, "the reference")
        reading, axis_of = Reading(layout, rows, points), BatchAxis(model, forward)
        run = ForwardPasses(model, _by_name(candidates), layers, precision, needs_norms(chosen), reading)
        with (
            evaluating(run.models(), device) as target,
            torch.no_grad(),
            eager(run.models().values()),
            reporting(progress, total_inputs(loader, max_datapoints, axis_of)) as report,
            keeping_freed_memory(target),
        ):
            check_whole(rows, loader, total_inputs(loader, None, axis_of))
            for number, batch, done in input_batches(loader, max_datapoints, share, forward, axis_of):
                run.batch(number, batch, target, output)
                others.meet(run, batch)
                if number % share[1] != share[0]:
                    run.forget()
                report(done)
    except Exception as error:  # raised on every rank, once all have come together
        failure = error
    with torch.inference_mode(False), torch.no_grad():
        merged = others.bring_together(run, failure, target)
    if not merged.layers:
        raise ValueError("the loader gave no inputs; expected at least one batch")
    with torch.inference_mode(False):
        return _result(merged, chosen, keep_covariances)


def _result(run: ForwardPasses, metrics: Mapping[str, Score], keep: bool) -> Comparison:
    rows: list[dict[str, Any]] = []
    kept: dict[tuple[str, str], Covariance] = {}
    for layer in run.layers:
        try:
            accumulator = run.accumulators.pop(layer.name)
            covariances = accumulator.finalize(rescale=True)
            shown = accumulator.finalize() if keep else covariances
        except ValueError as error:
            raise ValueError(f"layer {layer.name!r}: {error}") from error
        fixed = {"layer": layer.name, "kind": layer.kind, "depth": layer.depth, "layout": run.layouts[layer.name]}
        fixed["points"] = run.reading.points
        for name, cov, scores in zip(run.candidates, shown, score(covariances, metrics), strict=True):
            channels = {"channels": cov.xx.shape[-1], "channels_x": cov.xx.shape[-1], "channels_y": cov.yy.shape[-1]}
            sizes = {"count": cov.count, **channels}
            rows += [{"candidate": name, **fixed, **scored, **sizes} for scored in scores]
            if keep:
                kept[name, layer.name] = cov
    table = pd.DataFrame(rows, columns=_COLUMNS).astype({"kept_x": "Int64", "kept_y": "Int64"})
    order = {name: position for position, name in enumerate(run.candidates)}
    directions = table["kept_x"].fillna(0) + table["kept_y"].fillna(0)
    # With no more rows than directions, any two representations correlate perfectly.
    table["reliable"] = (table["count"] > directions).astype(bool)
    _warn_of_few_rows(table, directions)
    table = table.sort_values("candidate", key=lambda names: names.map(order), kind="stable", ignore_index=True)
    return Comparison(table, tuple(run.layers), kept)


def _warn_of_few_rows(table: pd.DataFrame, directions: pd.Series) -> None:
    meaningless, few = table[~table["reliable"]], table[table["count"] < _ROWS_PER_DIRECTION * directions]
    for rows, words in (
        (meaningless, "no more rows than directions, so that the value means nothing (any two networks get about 1)"),
        (few, f"fewer than {_ROWS_PER_DIRECTION} rows a direction, so that part of the value is chance"),
    ):
        if len(rows):
            layers = list(dict.fromkeys(rows["layer"]))
            shown = ", ".join(map(repr, layers[:3])) + (f" and {len(layers) - 3} more" if len(layers) > 3 else "")
            first = rows.iloc[0]
            kept = " + ".join(f"{first[side]}" for side in ("kept_x", "kept_y") if first[side] is not pd.NA)
            warnings.warn(
                f"{', '.join(dict.fromkeys(rows['metric']))} of {shown}: {words}; {first['layer']!r} has {first['count']} "
                f"rows for {kept} directions. Give more datapoints, or use a metric that keeps no directions (linear_cka)",
                FewRows,
                stacklevel=4,
            )
            return


def _by_name(candidates: Any) -> dict[str, nn.Module]:
    if isinstance(candidates, nn.Module):
        named = {"candidate": candidates}
    elif isinstance(candidates, Mapping):
        named = {str(name): model for name, model in candidates.items()}
    elif isinstance(candidates, Sequence):
        named = {str(position): model for position, model in enumerate(candidates)}
    else:
        raise TypeError(
            f"candidates is a {type(candidates).__name__}; expected a module, a list of modules or modules by name"
        )
    if not named:
        raise ValueError("there are no candidates; expected at least one module")
    return {name: unwrapped(model, f"candidate {name!r}") for name, model in named.items()}
