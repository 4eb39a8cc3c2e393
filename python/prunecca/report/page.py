"""The page of a report: the numbers of a run, put into the template ``page.html.jinja``."""

from __future__ import annotations

import base64
import dataclasses
import functools
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import jinja2
import pandas as pd

from ..machine.info import build_info
from ..similarity.registry import METRIC_NAMES
from ..study.options import Options, Size
from .claims import FAILS, HOLDS, LEAST, UNDECIDED, Claim
from .claims.claim import NOT_THE_PAPERS
from .claims.robustness import Measure, Robustness
from .claims.sentences import five_sentences
from .levels import LevelSummary, summarise
from .pictures import Picture
from .run import ReportedRun
from .statistics import CONFIDENCE, RESAMPLES

_STARTS = ["time", "device", "gpus", "workers", "threads_per_worker", "version", "torch", "torch_cuda", "python"]
_STARTS += ["compiler", "cpu_level", "machine"]
_DASH = "–"


@dataclass(frozen=True)
class DrawnPicture:
    """A picture with its number in the page and its SVG, which the page holds."""

    number: int
    picture: Picture
    svg: bytes

    @property
    def source(self) -> str:
        """The address of an image that needs no file."""
        return "data:image/svg+xml;base64," + base64.b64encode(self.svg).decode()


@dataclass(frozen=True)
class _ProblemSection:
    """What the page says of one problem."""

    name: str
    settings: Mapping[str, Any]
    size: Size
    levels: list[LevelSummary]
    asked: int
    missing: list[str]
    has_pruned: bool
    has_dimension: bool
    narrow: list[DrawnPicture]
    wide: list[DrawnPicture]

    @property
    def pruned(self) -> list[LevelSummary]:
        """The levels, without the controls."""
        return [summary for summary in self.levels if not summary.control]

    @property
    def has_control(self) -> bool:
        """Whether a control is finished."""
        return any(summary.control for summary in self.levels)

    @property
    def unpruned(self) -> LevelSummary | None:
        """The network that was pruned, once it is finished."""
        return next((summary for summary in self.pruned if summary.level == 0), None)

    @property
    def last(self) -> LevelSummary | None:
        """The last level that is finished."""
        return self.pruned[-1] if self.pruned else None


def compose(
    run: ReportedRun,
    judged: tuple[Sequence[Claim], Robustness],
    drawn: Sequence[DrawnPicture],
    metric: str,
    margin: float,
) -> str:
    """The page.

    Args:
        run: what is reported.
        judged: the claims, with this metric and margin, and the same under other measures.
        drawn: all pictures, in the order of their numbers.
        metric: the similarity of the tables and claims.
        margin: the loss of accuracy that still counts as comparable.
    """
    sections = [_section(run, problem, metric, drawn) for problem in run.problems]
    claims, again = judged
    verdicts = [claim.verdict for claim in claims if claim.claim not in NOT_THE_PAPERS]
    page = template("page.html.jinja").render(
        run=run,
        style=style_sheet(),
        version=build_info()["version"],
        metric=METRIC_NAMES.get(metric, metric),
        margin=margin,
        sections=sections,
        finished=sum(section.asked - len(section.missing) for section in sections),
        devices=list(dict.fromkeys(map(_device, run.starts))),
        seconds=run.seconds(),
        tally=[(verdict, verdicts.count(verdict)) for verdict in (HOLDS, FAILS, UNDECIDED)],
        sentences=five_sentences(claims, again, margin),
        again=again,
        measures=[(measure, _measure(measure)) for measure in again.measures],
        claims=[(code, list(group)) for code, group in itertools.groupby(claims, key=lambda claim: claim.claim)],
        overview=[picture for picture in drawn if picture.picture.problem is None],
        starts=_starts(run),
        options=_options(run),
        configuration=json.dumps(run.configuration, indent=1),
    )
    return page.encode(errors="backslashreplace").decode()  # a folder may have a name that is no UTF-8


def _section(run: ReportedRun, problem: str, metric: str, drawn: Sequence[DrawnPicture]) -> _ProblemSection:
    own = [picture for picture in drawn if picture.picture.problem == problem]
    return _ProblemSection(
        name=problem,
        settings=run.configuration["problems"][problem]["settings"],
        size=run.size(problem),
        levels=[_without_itself(summary) for summary in summarise(run.tables, problem, metric)],
        asked=sum(piece.problem == problem for piece in run.pieces),
        missing=[str(piece).removeprefix(f"{problem} ") for piece in run.unfinished(problem)],
        has_pruned=problem in run.with_pruned(),
        has_dimension=not run.rows("dimension", problem).empty,
        narrow=[picture for picture in own if not picture.picture.wide],
        wide=[picture for picture in own if picture.picture.wide],
    )


def _without_itself(summary: LevelSummary) -> LevelSummary:
    """The similarity of the unpruned network with itself is 1, and tells nothing."""
    if summary.control or summary.level:
        return summary
    return dataclasses.replace(summary, first=math.nan, least=math.nan, last=math.nan)


def _measure(measure: Measure) -> str:
    """What the page calls a measure."""
    words = METRIC_NAMES.get(measure.metric, measure.metric)
    return f"{words}, less chance" if measure.adjusted else words


def _device(start: Mapping[str, Any]) -> str:
    """The device of one start, with the name of the GPU or of the architecture."""
    device = str(start.get("device", "an unknown device"))
    gpus = ", ".join(map(str, start.get("gpus") or []))
    name = gpus if gpus and device != "cpu" else str(start.get("machine", ""))
    return f"{device} ({name})" if name else device


def _starts(run: ReportedRun) -> list[dict[str, Any]]:
    """Every start, by the columns that any of them has something in."""
    names = [name for name in _STARTS if any(start.get(name) not in (None, "", []) for start in run.starts)]
    return [{name: start.get(name) for name in names} for start in run.starts]


def _options(run: ReportedRun) -> list[tuple[str, object, object]]:
    """Name, value and default of every option; the default is empty where it is the value."""
    defaults, given = Options().flags(), Options.from_json(run.configuration["options"]).flags()
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}
    return [(name, value, "" if given[name] == defaults[name] else defaults[name]) for name, value in plain.items()]


def style_sheet() -> str:
    """The styles that every page holds."""
    return resources.files("prunecca.report").joinpath("report.css").read_text("utf-8")


@functools.cache
def template(name: str) -> jinja2.Template:
    """One of the pages, by the name of its file, with the filters and words that all of them use."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda file: resources.files("prunecca.report").joinpath(file).read_text("utf-8")),
        autoescape=True,  # no text from data becomes markup
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "counted": _counted,
        "counted_from_to": _counted_from_to,
        "duration": _duration,
        "number": _number,
        "percent": _percent,
        "plain": _plain,
    }
    environment.globals |= {
        "holds": HOLDS,
        "fails": FAILS,
        "undecided": UNDECIDED,
        "least_replicates": LEAST,
        "confidence": CONFIDENCE,
        "resamples": RESAMPLES,
    }
    return environment.get_template(name)


def _counted(number: int, noun: str) -> str:
    """1 problem, 2 problems."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _counted_from_to(numbers: Sequence[int], noun: str) -> str:
    """3 replicates; 1 to 3 replicates; no control."""
    low, high = min(numbers), max(numbers)
    if high == 0:
        return f"no {noun}"
    return _counted(high, noun) if low == high else f"{low} to {high} {noun}s"


def _duration(seconds: float) -> str:
    """In seconds, minutes or hours, whichever is short."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _number(value: float) -> str:
    """Three decimals, with a minus sign; a dash for NaN, and in words what never happened."""
    if math.isinf(value):
        return "never"
    return _DASH if math.isnan(value) else f"{value:.3f}".replace("-", "−")


def _percent(value: float, digits: int = 0) -> str:
    """A fraction as a percentage; a dash for NaN."""
    return _DASH if pd.isna(value) else f"{100 * value:.{digits}f} %"


def _plain(value: object) -> str:
    """A value of the configuration or environment."""
    if value is None:
        return "not set"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
