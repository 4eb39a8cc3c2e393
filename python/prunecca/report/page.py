"""The text of a report: one HTML page from a run, the findings and the pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..machine.info import build_info
from ..study.options import Options
from . import report_claims, report_summary, wording
from .claims import Finding
from .markup import Html, document, join, picture, table, tag
from .pictures import Picture
from .run import ReportedRun

_STARTS = ["time", "device", "gpus", "workers", "threads_per_worker", "version", "torch", "torch_cuda", "python"]
_STARTS += ["compiler", "cpu_level", "machine"]
_SIMILARITIES = ["similarity: first layer", "least layer", "last layer"]


def compose(
    run: ReportedRun,
    metric: str,
    margin: float,
    findings: Sequence[Finding],
    pictures: Sequence[tuple[Picture, bytes]],
) -> str:
    """The page.

    Args:
        metric, margin: those the findings were made with.
        pictures: each with its SVG.
    """
    numbered = [(number, *item) for number, item in enumerate(pictures, 1)]
    figures = {
        (problem, wide): [
            _figure(*item)
            for item in numbered
            if (item[1].problem, item[1].wide and problem is not None) == (problem, wide)
        ]
        for problem in [None, *run.problems]
        for wide in (False, True)
    }
    title = f"prunecca: {', '.join(run.problems)}"
    return document(
        title,
        tag(
            "header",
            tag("h1", wording.count(len(run.problems), "problem"), ": ", ", ".join(run.problems)),
            report_summary.headline(run),
            report_claims.tally(findings),
            report_summary.unfinished(run),
            _contents(run),
        ),
        tag(
            "main",
            _overview(run, metric, figures[None, False]),
            report_claims.section(findings, metric, margin),
            [
                _problem(run, problem, metric, figures[problem, False], figures[problem, True])
                for problem in run.problems
            ],
            _making(run),
        ),
        tag(
            "footer",
            tag(
                "p",
                f"Made by prunecca {build_info()['version']} from the run directory ",
                tag("code", run.name),
                ". The figures are beside this page as PNG and PDF, in the folder ",
                tag("code", "figures"),
                ".",
            ),
            tag(
                "p",
                "The study is that of Ansuini, Medvet, Pellegrino and Zullich, ICPRAM 2020, doi:10.5220/0008960300520059.",
            ),
        ),
    )


def _contents(run: ReportedRun) -> Html:
    problems = [(f"problem-{problem}", problem) for problem in run.problems]
    places = [("overview", "Overview"), ("claims", "Claims"), *problems, ("making", "How it was made")]
    links = [tag("li", tag("a", name, href=f"#{place}")) for place, name in places]
    return tag("nav", tag("ul", links), aria_label="Sections")


def _overview(run: ReportedRun, metric: str, figures: Sequence[Html]) -> Html:
    rows = []
    for problem in run.problems:
        levels = run.of("levels", problem)
        pruned = levels[~levels["control"]]
        unfinished, size = run.unfinished(problem), run.size(problem)
        asked = sum(piece.problem == problem for piece in run.pieces)
        last = int(pruned["level"].max()) if len(pruned) else 0
        ends = [pruned[pruned["level"] == level] for level in (0, last)]
        similarity = _similarities(run, problem, metric, last, control=False)
        rows.append(
            (
                tag("a", problem, href=f"#problem-{problem}"),
                f"{asked - len(unfinished)} of {asked}",
                f"{last} of {size.levels}",
                f"{ends[0]['parameters_left'].max():,.0f}" if len(ends[0]) else "–",
                wording.percent(ends[1]["density"].median(), 1),
                wording.percent(ends[0]["test_accuracy"].median(), 2),
                wording.percent(ends[1]["test_accuracy"].median(), 2),
                *similarity,
            )
        )
    head = [
        "problem",
        "networks",
        "last level",
        "parameters",
        "left at last",
        "accuracy unpruned",
        "at last level",
        *_SIMILARITIES,
    ]
    compared = len(figures) > 1
    return tag(
        "section",
        tag("h2", "Overview", id="overview"),
        table(f"Medians over replicates; similarity by {wording.metric(metric)} at the last level.", head, rows),
        figures,
        None
        if compared
        else tag("p", "No pruned network is finished yet, so there is nothing to compare.", class_="notice"),
    )


def _problem(
    run: ReportedRun, problem: str, metric: str, figures: Sequence[Html], wide_figures: Sequence[Html]
) -> Html:
    levels = run.of("levels", problem)
    its = run.configuration["problems"][problem]["settings"]
    network = its["network"] or f"convolutions {its['conv']}, fully connected {its['fc']}"
    about = (
        f"{its['classes']} classes of {its['dataset']}; {network}; {its['epochs']} epochs, batches of {its['batch']}; per iteration "
        f"{wording.percent(its['rates']['conv'])} of the convolutions’ and {wording.percent(its['rates']['fc'])} of the linear layers’ entries are pruned."
    )
    return tag(
        "section",
        tag("h2", problem, id=f"problem-{problem}"),
        tag("p", about),
        tag("p", absent, class_="faint") if (absent := _absent(run, problem)) else None,
        tag("div", figures, class_="pair") if figures else None,
        wide_figures,
        tag("details", tag("summary", "Numbers of every level"), _levels(run, problem, metric))
        if len(levels)
        else None,
    )


def _absent(run: ReportedRun, problem: str) -> str:
    """What the section of a problem lacks, and why."""
    if run.of("levels", problem).empty:
        return "No network of this problem is finished yet."
    if problem not in run.with_pruned():
        return "Only the unpruned network of this problem is finished."
    parts = []
    if not run.of("levels", problem)["control"].any():
        parts.append(
            "No control is finished yet."
            if run.size(problem).controls
            else "No network was retrained without pruning; --controls 3 would tell what pruning adds to retraining."
        )
    if run.of("dimension", problem).empty:
        parts.append("Intrinsic dimensions were not estimated in this run.")
    return " ".join(parts)


def _levels(run: ReportedRun, problem: str, metric: str) -> Html:
    rows = []
    for (control, level), its in run.of("levels", problem).groupby(["control", "level"]):
        accuracy = its["test_accuracy"]
        ends = [wording.percent(end, 2) for end in (accuracy.min(), accuracy.max())]
        rows.append(
            (
                f"control {level}" if control else "unpruned" if level == 0 else f"level {level}",
                1 if level == 0 or control else len(its),
                wording.percent(its["density"].median(), 2),
                f"{its['parameters_left'].median():,.0f}",
                wording.percent(accuracy.median(), 2),
                "–" if level == 0 or len(its) == 1 else " to ".join(ends),
                *_similarities(run, problem, metric, int(str(level)), control=bool(control)),
            )
        )
    head = [
        "network",
        "replicates",
        "left",
        "parameters",
        "accuracy",
        "from least to greatest",
        *_SIMILARITIES,
    ]
    return table(f"Medians over replicates; similarity by {wording.metric(metric)}.", head, rows)


def _making(run: ReportedRun) -> Html:
    defaults = Options().as_json()
    options = run.configuration["options"]
    shown = [
        (
            name.replace("_", "-"),
            wording.plain(value),
            "" if value == defaults.get(name) else wording.plain(defaults.get(name)),
        )
        for name, value in options.items()
    ]
    names = [name for name in _STARTS if any(start.get(name) not in (None, "", []) for start in run.starts)]
    starts = [[wording.plain(start.get(name)) for name in names] for start in run.starts]
    return tag(
        "section",
        tag("h2", "How it was made", id="making"),
        tag(
            "p",
            "These commands make the numbers again in an empty folder; for images that are not built in, with --data.",
        ),
        tag("pre", tag("code", "\n".join(run.commands()))),
        table(
            "Every start of the run, with its machine and versions.",
            [name.replace("_", " ") for name in names],
            starts,
            text=range(len(names)),
        )
        if starts
        else tag("p", "Machine and versions were not recorded in this folder."),
        tag(
            "details",
            tag("summary", "All options"),
            table("The options of the run.", ["option", "value", "default, where it differs"], shown, text=(0, 1, 2)),
        ),
        tag(
            "details",
            tag("summary", "The configuration as it is stored"),
            tag("pre", tag("code", json.dumps(run.configuration, indent=1))),
        ),
    )


def _figure(number: int, its: Picture, svg: bytes) -> Html:
    caption = join(tag("b", f"Figure {number}. {its.title}. "), its.caption)
    whole = picture(svg, its.alt, caption, wide=its.wide)
    return whole if its.problem or its.wide else tag("div", whole, class_="single")


def _similarities(run: ReportedRun, problem: str, metric: str, level: int, *, control: bool) -> list[str]:
    """Median similarity of the first layer, of the least similar and of the last."""
    rows = run.of("similarity", problem, metric=metric)
    if rows.empty or (level == 0 and not control):
        return ["–"] * 3
    rows = rows[(rows["control"] == control) & (rows["level"] == level)]
    medians = rows.groupby("depth")["value"].median()
    if medians.empty:
        return ["–"] * 3
    return [wording.number(float(value)) for value in (medians.iloc[0], medians.min(), medians.iloc[-1])]
