"""The paper's claims as a section of a report: what was tested, what came out, and the verdict in words and colour."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby

from . import wording
from .claims import FAILS, HOLDS, LEAST, UNDECIDED, Finding
from .markup import Content, Html, tag
from .statistics import CONFIDENCE, RESAMPLES

_CLASSES = {HOLDS: ("holds", "✓"), FAILS: ("fails", "✗"), UNDECIDED: ("open", "?")}
_MANY = {HOLDS: "hold", FAILS: "do not hold"}


def tally(findings: Sequence[Finding]) -> Html:
    """How many claims hold, do not hold, and are open."""
    verdicts = [finding.verdict for finding in findings]
    counts = [(verdict, verdicts.count(verdict)) for verdict in _CLASSES]
    shown = [_pill(v, f"{many} {v if many == 1 else _MANY.get(v, v)}") for v, many in counts]
    return tag("ul", tag("li", "The paper’s claims here:"), [tag("li", pill) for pill in shown], class_="tally")


def section(findings: Sequence[Finding], metric: str, margin: float) -> Html:
    """The table of the claims, under its heading."""
    numbers = ["median", f"{100 * CONFIDENCE:.0f} % interval", "expected", "replicates"]
    head = ["problem", "statistic", *numbers, "verdict", "why"]
    bodies = []
    for claim, group in groupby(findings, key=lambda finding: finding.claim):
        its = list(group)
        name = "The control. " if claim == "control" else f"({claim}) "
        first = tag(
            "tr",
            tag("th", name, its[0].statement, scope="rowgroup", colspan=len(head), role="rowheader"),
            class_="group",
            role="row",
        )
        bodies.append(tag("tbody", first, map(_finding, its), role="rowgroup"))
    columns = [
        tag("th", name, scope="col", role="columnheader", class_="number" if name in numbers else None) for name in head
    ]
    return tag(
        "section",
        tag("h2", "The paper’s claims on this data", id="claims"),
        tag(
            "p",
            f"Each claim is a statistic of the medians over replicates and the range in which it should lie. Its interval comes from {RESAMPLES} "
            "bootstrap samples of the replicates. The claim holds when the whole interval is in that range, does not hold when all of it "
            f"is outside, and otherwise there is not enough data; fewer than {LEAST} replicates are never enough. Similarity is "
            f"{wording.metric(metric)}; accuracy within {wording.number(margin)} counts as comparable.",
        ),
        tag(
            "table",
            tag("caption", "Claims, statistics and verdicts."),
            tag("thead", tag("tr", columns, role="row"), role="rowgroup"),
            bodies,
            class_="claims",
            role="table",
        ),
    )


def _finding(finding: Finding) -> Html:
    known = not math.isnan(finding.low)
    interval = f"{wording.number(finding.low)} to {wording.number(finding.high)}" if known else "–"
    cells: list[tuple[str, Content, str | None]] = [
        ("statistic", finding.statistic, None),
        ("median", wording.number(finding.value), "number"),
        ("interval", interval, "number"),
        ("expected", finding.expected.replace("-", "−"), "number"),
        ("replicates", finding.replicates, "number"),
        ("verdict", _pill(finding.verdict, finding.verdict), None),
        ("why", finding.reason, "reason"),
    ]
    data = [tag("td", cell, class_=kind, data_label=name, role="cell") for name, cell, kind in cells]
    return tag("tr", tag("th", finding.problem, scope="row", role="rowheader"), data, role="row")


def _pill(verdict: str, words: str) -> Html:
    kind, sign = _CLASSES[verdict]
    return tag("span", tag("span", sign, aria_hidden="true"), " ", words, class_=f"verdict {kind}")
