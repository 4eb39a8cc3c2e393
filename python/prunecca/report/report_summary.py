"""The first lines of a report: how large the study is, where it ran, and what of it is not there yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..study.plan import Network
from . import wording
from .markup import Html, tag
from .run import ReportedRun

_SHOWN = 6  # unfinished networks that are named


def headline(run: ReportedRun) -> Html:
    """One sentence: levels, replicates, controls, networks finished, devices, time."""
    sizes = [run.size(problem) for problem in run.problems]
    asked = ", ".join(
        (
            _numbered([size.levels for size in sizes], "level"),
            _numbered([size.replicates for size in sizes], "replicate"),
            _numbered([size.controls for size in sizes], "control"),
        )
    )
    finished = run.finished
    done = sum(piece in finished for piece in run.pieces)
    devices = ", ".join(dict.fromkeys(map(_device, run.starts))) or "a machine that was not recorded"
    seconds = run.seconds()
    time = f", {wording.duration(seconds)} of training" if seconds else ""
    each = " per problem" if len(run.problems) > 1 else ""
    text = f"{asked}{each}; {done} of {len(run.pieces)} networks finished, on {devices}{time}."
    return tag("p", text, class_="lead")


def unfinished(run: ReportedRun) -> Html | None:
    """Which networks are still to come; None when all are finished."""
    notes = []
    for problem in run.problems:
        missing = run.unfinished(problem)
        asked = sum(piece.problem == problem for piece in run.pieces)
        if missing:
            text = f"{problem}: {asked - len(missing)} of {asked} networks finished. "
            notes.append(tag("p", tag("b", text), _named(missing)))
    return tag("div", notes, class_="notice", role="note") if notes else None


def _named(pieces: Sequence[Network]) -> str:
    names = [str(piece).removeprefix(f"{piece.problem} ") for piece in pieces]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"Still to come: {', '.join(names[:_SHOWN])}{more}."


def _numbered(values: Sequence[int], noun: str) -> str:
    """3 replicates; 1 to 3 replicates; no control."""
    low, high = min(values), max(values)
    if high == 0:
        return f"no {noun}"
    return wording.count(high, noun) if low == high else f"{low} to {high} {noun}s"


def _device(start: Mapping[str, Any]) -> str:
    """The device of one start, with the name of the GPU or of the architecture."""
    device = str(start.get("device", "an unknown device"))
    gpus = ", ".join(map(str, start.get("gpus") or []))
    what = gpus if gpus and device != "cpu" else str(start.get("machine", ""))
    return f"{device} ({what})" if what else device
