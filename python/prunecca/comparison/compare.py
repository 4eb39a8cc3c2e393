"""compare(): models x layers x metrics -> a table, in one pass over the data and in memory that does not grow with it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, Literal

import torch
from torch import nn

from ..activations.batch_axis import BatchAxis
from ..activations.evaluation_mode import evaluating
from ..activations.inputs import Forward, input_batches, total_inputs
from ..activations.outputs import Output
from ..activations.wrappers import eager, unwrapped
from ..covariance.covariance import Covariance, Layout, Precision
from ..covariance.distributed import rank_and_size
from ..machine.memory import keeping_freed_memory
from ..passes.flattened import SEVERAL_RANKS
from ..passes.forward import ForwardPasses, Request
from ..passes.heads import HeadCounts, Heads
from ..passes.plan import Layers, Pairs
from ..passes.points import Points
from ..passes.ranks import Ranks
from ..passes.reading import Reading, Resize
from ..passes.rows import Rows, check_whole
from ..passes.team import Settings
from ..progress import Progress, reporting
from ..similarity.registry import MetricChoice, Score, are_of_batches, find_metrics, needs_norms, needs_rows
from .intervals import bootstrap
from .result import Comparison
from .table import portions, rows_of, table_of

Distributed = Literal["shard", "sharded", "off"]

_BUDGET = 2 << 30  # bytes of the products of pairs
_GROUPS = 20  # of batches, of which intervals are made


def compare(
    reference: nn.Module,
    candidates: nn.Module | Mapping[str, nn.Module] | Sequence[nn.Module],
    loader: Iterable[Any],
    layers: Layers = None,
    metrics: MetricChoice = ("svcca",),
    *,
    pairs: Pairs = None,
    resize: Resize = None,
    budget: int = _BUDGET,
    chance: Literal["permutation"] | None = None,
    intervals: float | None = None,
    subsample: int = 5000,
    max_datapoints: int | None = None,
    precision: Precision = "float32",
    layout: Layout | Mapping[str, str] = "infer",
    forward: Forward | None = None,
    output: Output = None,
    rows: Rows | Mapping[str, Rows] | None = None,
    points: Points = "position",
    heads: HeadCounts = None,
    device: torch.device | str | None = None,
    distributed: Distributed = "shard",
    keep_covariances: bool = False,
    progress: Progress = False,
) -> Comparison:
    """Score every layer of every candidate against the same layer of the reference, or against all of its layers.

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
        layers: as in ``find_layers``. Where the candidates' names differ, a mapping of the reference's to theirs, or pairs of
            them: globs and types on both sides are compared in order, ``{"blocks.*": "encoder.*"}``, and a list stands for
            several partners of one layer. By the names of the candidates, each may have a mapping of its own.
        metrics: names of ``METRICS``, functions of a ``Covariance`` that give a number, or a mapping of names to options,
            such as ``{"svcca": {"variance": 0.99, "trim": 0.98}}``; a name of your own stands for a function or for a pair,
            as in ``{"svcca 95": ("svcca", {"variance": 0.95}), "mine": function}``.
        pairs: "same" (None) compares layers with their namesakes, "all" every layer of the reference with every layer of each
            candidate; a list of (layer of the reference, layer of the candidate), each a name or a glob, all that match with
            all that match; or any of these by the names of the candidates. All pairs are made in one pass over the data,
            each representation's own covariance once.
        resize: "pool" averages the positions of the larger of two layers to the size of the smaller, where they differ.
        budget: bytes of the products of pairs (8 times the channels of both), or with points="flatten" of activations, that
            are held at a time; where all need more,
            the data are passed over again for the others, and the loader must give the same each time.
        chance: "permutation" adds a column ``chance``: what the metric gives for the reference's rows beside the rows of other
            datapoints of the same batch, which have nothing to do with them; twice the products of pairs.
        intervals: 0.95 adds columns ``low`` and ``high``: bounds of 95 % of 200 bootstrap resamples of 20 groups of batches,
            whose states are kept apart (20 times the memory of the products, 200 times the work of the metrics).
        subsample: rows, drawn uniformly from all, that metrics of rows such as "mutual_knn" are computed from (the column
            ``sampled``); all where there are fewer.
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
            rows. Different ones by globs of layers, ``{"encoder.*": "attention_mask", "decoder.*": "decoder_attention_mask"}``,
            where a layer that none matches takes all.
        points: what a row is: every ``"position"`` of a datapoint (or ``"token"``, another word for it); one row for each
            datapoint, which is the ``"mean"`` over its positions, the first of them, ``"cls"``, or the ``"last"``, in each
            case of those that count by ``rows``; or a function of a layer's output and name that gives (rows, channels).
            "flatten" takes all numbers of a datapoint for its channels, through matrices of datapoints by datapoints, exact,
            for metrics that rotations leave as they are; where the activations of all datapoints are above ``budget``, the
            data are passed over several times. Of more than 20,000 datapoints the metric "minibatch_cka", asked for alone,
            estimates the same (the column ``batch`` says from what batches).
        heads: splits the channels of layers into heads of an attention, each a representation of its own: their number, or
            numbers by globs of layers, ``{"*.attention.self": 12}``. Of a linear layer, which mixes heads, what it is given is
            split: the output projection, ``{"h.*.attn.c_proj": 12}``. Rows of the table are named ``layer.head0``, ...; heads
            are compared in order, or with ``pairs="all"`` each with each.
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
    run, axis_of, failure, target = None, None, None, torch.device("cpu")
    found: list[dict[str, Any]] = []
    kept: dict[tuple[str, ...], Covariance] = {}
    while True:
        try:
            if run is None:
                chosen = find_metrics(metrics)
                _check_options(max_datapoints, chance, intervals)
                _check_number("budget", budget)
                _check_number("subsample", subsample)
                model = unwrapped(reference, "the reference")
                reading, axis_of, parts = Reading(layout, rows, points, resize), BatchAxis(model, forward), Heads(heads)
                settings = Settings(
                    precision,
                    norms=needs_norms(chosen),
                    chance=chance is not None,
                    sample=subsample if needs_rows(chosen) else 0,
                    groups=0 if intervals is None else _GROUPS,
                    rank=rank,
                )
                if ranks > 1 and reading.points == "flatten" and not are_of_batches(chosen):
                    raise ValueError(SEVERAL_RANKS)
                if keep_covariances and are_of_batches(chosen):
                    raise ValueError("'minibatch_cka' has no covariances to keep; expected keep_covariances=False")
                request = Request(layers, pairs, reading, output, settings, budget, are_of_batches(chosen), parts)
                run = ForwardPasses(model, _by_name(candidates), request)
            with (
                evaluating(run.models(), device) as target,
                torch.no_grad(),
                eager(run.models().values()),
                reporting(progress, total_inputs(loader, max_datapoints, axis_of)) as report,
                keeping_freed_memory(target),
            ):
                run.datapoints = total_inputs(loader, max_datapoints, axis_of)
                check_whole(rows, loader, total_inputs(loader, None, axis_of))
                for number, batch, done in input_batches(loader, max_datapoints, share, forward, axis_of):
                    run.batch(number, batch, target)
                    _check_passes(run, loader, intervals)
                    others.meet(run, batch)
                    if number % share[1] != share[0]:
                        run.forget()
                    report(done)
        except Exception as error:  # raised on every rank, once all have come together
            failure = error
        with torch.inference_mode(False), torch.no_grad():
            merged = others.bring_together(run, failure, target)
        if merged.setup is None:
            raise ValueError("the loader gave no inputs; expected at least one batch")
        with torch.inference_mode(False):
            found += _rows(merged, chosen, kept if keep_covariances else None)
            if intervals is not None:
                bounds = bootstrap(merged.products.teams.values(), chosen, intervals, progress)
                for row, (low, high) in zip(found, (pair for own in bounds for pair in own), strict=True):
                    row |= {"low": low, "high": high}
        if not merged.another_round():
            break
    with torch.inference_mode(False):
        return Comparison(table_of(found, list(merged.candidates)), tuple(merged.setup.plan.layers), kept)


def _rows(
    run: ForwardPasses, metrics: Mapping[str, Score], kept: dict[tuple[str, ...], Covariance] | None
) -> list[dict[str, Any]]:
    """Rows of the table for the pairs of one pass; their covariances are kept where ``kept`` is given."""
    rows: list[dict[str, Any]] = []
    setup = run.setup
    if setup is None:
        return rows
    layouts = dict(zip((layer.name for layer in setup.plan.layers), setup.layouts, strict=True))
    one_to_one = setup.plan.one_to_one
    for pairs in portions(run.products.pairs(plain=kept is not None)):
        rows += [{**row, "points": run.points} for row in rows_of(pairs, layouts, metrics)]
        for pair in pairs:
            cov = pair.finding.plain
            if kept is not None and cov is not None:
                names = (pair.x.name,) if one_to_one else (pair.x.name, pair.y.name)
                kept[pair.candidate, *names] = cov
    return rows


def _check_number(option: str, number: Any) -> None:
    if isinstance(number, bool) or not isinstance(number, Integral) or number < 1:
        raise ValueError(f"{option} is {number!r}; expected a whole number of at least 1")


def _check_options(max_datapoints: int | None, chance: str | None, intervals: float | None) -> None:
    if max_datapoints is not None and max_datapoints < 1:
        raise ValueError(f"max_datapoints is {max_datapoints}; expected at least 1, or None for all")
    if chance not in (None, "permutation"):
        raise ValueError(f"chance is {chance!r}; expected 'permutation', or None for none")
    if intervals is not None and not 0 < intervals < 1:
        raise ValueError(f"intervals is {intervals!r}; expected a level between 0 and 1, such as 0.95")


def _check_passes(run: ForwardPasses, loader: Iterable[Any], intervals: float | None) -> None:
    products = run.products
    if intervals is not None and not products.teams:
        raise ValueError(
            "intervals need rows that are seen once; expected other points than 'flatten', and other metrics"
        )
    if products.rounds > 1 and intervals is not None:
        raise ValueError(
            f"the pairs need {products.rounds} passes over the data within the budget, and intervals need one; expected a "
            "larger budget=, or fewer pairs"
        )
    if products.rounds > 1 and iter(loader) is loader:
        raise ValueError(
            f"the pairs need {products.rounds} passes over the data within the budget, but the loader is an iterator, "
            "which gives its batches once; expected a DataLoader, a list or a tensor, or a larger budget="
        )


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
    if "" in named:
        raise ValueError("a candidate is named ''; expected a name of at least one letter, which the table can show")
    return {name: unwrapped(model, f"candidate {name!r}") for name, model in named.items()}
