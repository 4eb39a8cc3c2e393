"""Which pictures a report has, and what each says: in its caption, and in words for those who cannot see it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from ..figures.chance import chance_figure
from ..figures.problem import control_figure, density_figure, dimension_figure, heat_map, metrics_figure, pruned_modules
from ..figures.study import accuracy_figure, similarity_figure
from ..similarity.registry import METRIC_NAMES
from .claims.chance import adjusted, known_chance
from .run import ReportedRun

_LINES = "Lines are medians over replicates, darker with every pruning iteration"
_MARKS = "circles are convolutions, squares poolings, diamonds fully connected layers"


@dataclass(frozen=True)
class Picture:
    """A figure that can be drawn.

    Args:
        name: of its files.
        title, caption: what stands under it.
        alt: the same numbers in words, for those who cannot see it.
        draw: makes the figure.
        problem: which it is about; None: all of them.
        wide: it needs the whole width of the page.
    """

    name: str
    title: str
    caption: str
    alt: str
    draw: Callable[[], Figure]
    problem: str | None = None
    wide: bool = False


def choose(run: ReportedRun, metric: str) -> list[Picture]:
    """Every picture for which the run has data: figures 1 and 2 of all problems, then those of each problem."""
    levels, similarity = run.tables["levels"], run.tables["similarity"]
    pictures = [
        Picture(
            "accuracy",
            "Accuracy against sparsity",
            "Test accuracy against the parameters left, on a logarithmic axis. Lines are medians over replicates, bands reach "
            f"from the least to the greatest replicate.{_dashed(levels)}",
            _accuracy_in_words(run),
            lambda: accuracy_figure(levels),
        )
    ]
    problems = [name for name in run.with_pruned() if not run.rows("similarity", name, metric=metric).empty]
    if problems:
        shown = similarity[similarity["problem"].isin(problems)]
        pictures.append(
            Picture(
                f"similarity-{metric}",
                "Similarity of each layer with the unpruned network",
                f"{_LINES}; {_MARKS}. Iteration 0 is the unpruned network with itself.{_dashed(shown)}",
                " ".join(
                    _lines_in_words(run.rows("similarity", name, metric=metric), name, metric) for name in problems
                ),
                lambda: similarity_figure(shown, metric),
                wide=len(problems) > 1,
            )
        )
    for problem in problems:
        pictures += _problem_pictures(run, problem, metric)
    return pictures


def _problem_pictures(run: ReportedRun, problem: str, metric: str) -> list[Picture]:
    everything = run.rows("similarity", problem)
    similarity = everything[everything["metric"] == metric]
    dimension, layers = run.rows("dimension", problem), run.rows("layers", problem)
    others = everything[everything["metric"] != metric]
    words = _lines_in_words(similarity, problem, metric)
    pictures = [
        Picture(
            f"heat-map-{problem}",
            "Layers and iterations at a glance",
            "Median similarity with the unpruned network, layers down and pruning iterations across.",
            f"Heat map. {words}",
            lambda: heat_map(similarity, metric),
            problem,
        )
    ]
    if not layers.empty and (names := pruned_modules(layers)):
        pictures.append(
            Picture(
                f"density-{problem}",
                "Density left per layer",
                "Parameters left in every module that pruning reaches, weights and biases together; medians over replicates, "
                "darker with every iteration.",
                _density_in_words(layers, names, problem),
                lambda: density_figure(layers),
                problem,
            )
        )
    if not dimension.empty and dimension.loc[~dimension["control"], "dimension"].notna().any():
        pictures.append(
            Picture(
                f"dimension-{problem}",
                "Intrinsic dimension beside similarity",
                f"{_LINES}. Below, the dimension that TwoNN finds in the activations of each layer, with its standard error at the "
                "first and the last iteration.",
                f"{words} {_lines_in_words(dimension.rename(columns={'dimension': 'value'}), problem, 'intrinsic dimension')}",
                lambda: dimension_figure(similarity, dimension, metric),
                problem,
            )
        )
    if similarity["control"].any() and (~similarity["control"] & (similarity["level"] > 0)).any():
        pictures.append(
            Picture(
                f"control-{problem}",
                "The control",
                "The last pruning iteration beside networks retrained from the same epoch without pruning: what lies between them is "
                "what pruning adds to retraining. Points are medians, bars reach from the least to the greatest network.",
                _control_in_words(similarity, problem),
                lambda: control_figure(similarity, metric),
                problem,
            )
        )
    if not (shuffled := known_chance(similarity)).empty:
        shown = shuffled.assign(adjusted=adjusted(shuffled))
        pictures.append(
            Picture(
                f"chance-{problem}",
                "Similarity and chance",
                f"{_LINES}. Dotted is what the same activations give when the rows of one network are shuffled, with bars from the least "
                "to the greatest network. Below, the similarity left above that: 0 is chance, 1 is equal.",
                f"{_lines_in_words(shuffled.assign(value=shuffled['chance']), problem, 'similarity of shuffled rows')} "
                f"{_lines_in_words(shown.assign(value=shown['adjusted']), problem, 'adjusted similarity')}",
                lambda: chance_figure(shown, metric),
                problem,
            )
        )
    if not others.empty:
        names = [METRIC_NAMES.get(name, name) for name in others["metric"].unique()]
        pictures.append(
            Picture(
                f"metrics-{problem}",
                "The other metrics",
                f"The same layers and networks by {', '.join(names)}. {_LINES}.",
                " ".join(
                    _lines_in_words(rows, problem, str(name)) for name, rows in others.groupby("metric", sort=False)
                ),
                lambda: metrics_figure(others),
                problem,
                wide=True,
            )
        )
    return pictures


def _dashed(table: pd.DataFrame) -> str:
    return " Dashed is the control, the same retraining without pruning." if table["control"].any() else ""


def _accuracy_in_words(run: ReportedRun) -> str:
    parts = []
    for problem in run.problems:
        rows = run.rows("levels", problem)
        rows = rows[~rows["control"]]
        if rows.empty:
            continue
        medians = rows.groupby("level")[["test_accuracy", "density"]].median()
        text = f"{problem}: {_percent(medians['test_accuracy'].iloc[0])} with {_percent(medians['density'].iloc[0])} of the parameters"
        if len(medians) > 1:
            text += f", {_percent(medians['test_accuracy'].iloc[-1])} with {_percent(medians['density'].iloc[-1])} left"
        parts.append(text)
    return f"Lines of test accuracy against parameters left. {'; '.join(parts)}."


def _lines_in_words(table: pd.DataFrame, problem: str, value: str) -> str:
    """The first and the last layer, and the least value, of the last level; ``value`` says what it is a value of."""
    pruned = table[~table["control"] & table["value"].notna()]
    if pruned.empty:
        return f"{problem}, {value}: only the control is finished."
    last = int(pruned["level"].max())
    medians = pruned[pruned["level"] == last].sort_values("depth").groupby("layer", sort=False)["value"].median()
    first, end = medians.index[0], medians.index[-1]
    return (
        f"{problem}, {value} per layer at iteration {last}: {medians.iloc[0]:.2f} at {first}, least {medians.min():.2f} at "
        f"{medians.idxmin()}, {medians.iloc[-1]:.2f} at {end}."
    )


def _density_in_words(layers: pd.DataFrame, names: list[str], problem: str) -> str:
    last = int(layers.loc[~layers["control"], "level"].max())
    rows = layers[~layers["control"] & (layers["level"] == last)].groupby("layer")["density"].median()
    shown = ", ".join(f"{name} {_percent(rows[name])}" for name in names)
    return f"Lines of the parameters left per module of {problem}. At iteration {last}: {shown}."


def _control_in_words(similarity: pd.DataFrame, problem: str) -> str:
    last = int(similarity.loc[~similarity["control"], "level"].max())
    pruned = similarity[~similarity["control"] & (similarity["level"] == last)]
    means = [rows.groupby("layer")["value"].median().mean() for rows in (similarity[similarity["control"]], pruned)]
    return f"Similarity per layer of {problem}: on average {means[0]:.2f} retrained without pruning, {means[1]:.2f} at iteration {last}."


def _percent(value: float) -> str:
    return f"{100 * value:.3g} %"
