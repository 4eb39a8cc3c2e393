"""``prunecca bench``: what this machine does with the main kernels, beside the usual ways, in about two minutes."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from ..machine.info import describe_machine
from ..machine.peaks import RATES, Peaks, best_of, measure_peaks
from . import workloads
from .timing import Contest, run

Results = dict[str, Any]
Selection = list[tuple[str, Callable[[], Contest]]]

_SECONDS = 5.0  # of each contest, besides its checks
_REPEATS = 3  # of each rate after a contest
_BUSY = 0.15  # by which probes of one rate may differ on a machine that does nothing else


def selection() -> Selection:
    """Titles and contests, the headline first: SVCCA from arrays to value."""
    svcca: Selection = [
        (f"SVCCA of 2 x ({n}, {c})", partial(workloads.svcca_of_rows, n, c, numpy=numpy))
        for n, c, numpy in ((500_000, 16, False), (200_000, 64, True), (100_000, 256, False), (50_000, 512, False))
    ]
    covariance: Selection = [
        (f"covariance of ({workloads.rows_for(c)}, {c})", partial(workloads.covariance_of_rows, c))
        for c in (16, 64, 256, 1024)
    ]
    images: Selection = [
        (f"covariance of {shape}", partial(workloads.covariance_of_images, shape))
        for shape in ((128, 64, 32, 32), (128, 512, 2, 2))
    ]
    return [*svcca, *covariance, *images, ("Adam step, 7 million weights", partial(workloads.masked_adam, 7_000_000))]


def measure(chosen: Selection | None = None, seconds: float = _SECONDS) -> Iterator[tuple[str, Results]]:
    """Run contest after contest; yields each title with its rows by rival (see ``Outcome.row``)."""
    for title, make in chosen or selection():
        outcome = run(make(), seconds=seconds, rounds=(3, 40))
        yield title, {rival: outcome.row(rival) for rival in outcome.seconds}
        gc.collect()


def machine_and_peaks() -> Results:
    """The machine, and the first of the probes that are spread over a run."""
    peaks = measure_peaks(torch.get_num_threads())
    return {"machine": describe_machine(), "peaks": asdict(peaks), "probes": [asdict(peaks)]}


def probe_again(results: Results) -> None:
    """Measure the peaks once more, after a contest; then all results are held against the best so far."""
    results["probes"].append(asdict(measure_peaks(results["peaks"]["threads"], _REPEATS)))
    settle(results)


def settle(results: Results) -> None:
    """Take the best of all probes for the peaks, hold every rate against it, and say by how much the probes differ.

    Args:
        results: with ``machine``, ``probes`` and ``contests``; ``peaks``, ``busy`` (None on a machine that does nothing
            else) and the fractions of the rows are set.
    """
    rows = [row for rivals in results["contests"].values() for row in rivals.values() if "peak_gflops" in row]
    kinds = {"float32": [r for r in rows if not r["float64"]], "float64": [r for r in rows if r["float64"]]}
    best = asdict(best_of([Peaks(**probe) for probe in results["probes"]]))
    lowest = {rate: min(probe[rate] for probe in results["probes"]) for rate in RATES}
    for rate, measured in kinds.items():
        best[rate] = max([best[rate], *(row["peak_gflops"] for row in measured)])
        lowest[rate] = min([lowest[rate], *(row["lowest_peak_gflops"] for row in measured)])
        for row in measured:
            row["fraction_of_peak"] = row["gflops"] / best[rate]
    differ = max(1 - lowest[rate] / best[rate] for rate in RATES)
    above = any(row["fraction_of_peak"] > 1 for row in rows)
    results["peaks"], results["busy"] = best, differ if differ > _BUSY or above else None


def as_table(results: Results) -> str:
    """A Markdown table of the machine and of every contest, to be pasted."""
    machine, peaks = results["machine"], results["peaks"]
    lines = [
        f"{machine['processor']}, {peaks['threads']} threads, {machine['cpu_level']}; "
        f"peak {peaks['float32']:.0f} GFLOP/s float32, memory {peaks['read']:.0f} GB/s read; "
        f"prunecca {machine['prunecca']}, torch {machine['torch']}",
        "",
        "| what | how | time | rate | of FMA peak | error | prunecca is |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for title, rows in results["contests"].items():
        for rival, row in rows.items():
            ours = rival == "prunecca"
            lines.append(
                f"| {title if ours else ''} | {rival} | {_time(row['seconds'])} | {_rate(row, title)} "
                f"| {_percent(row) if ours or 'fraction_of_peak' in row else ''} "
                f"| {format(row['relative_error'], '.0e') if 'relative_error' in row else ''} "
                f"| {'' if ours else format(row['ours_times_faster'], '.2f') + ' times faster'} |"
            )
    if results.get("busy") is not None:
        lines += [
            "",
            f"The machine is busy: probes of one rate differed by {100 * results['busy']:.0f} % over the run. Peaks are the best "
            "of them; run it again beside nothing else before you compare.",
        ]
    return "\n".join(lines)


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1e3 * seconds:.3g} ms"


def _rate(row: Results, title: str) -> str:
    if title.startswith("SVCCA"):
        return f"{row['rows_per_second'] / 1e6:.3g} M rows/s"
    return f"{row['gflops']:.0f} GFLOP/s" if "gflops" in row else f"{row['gbytes_per_second']:.1f} GB/s"


def _percent(row: Results) -> str:
    if "fraction_of_peak" not in row:
        return ""
    percent = f"{100 * row['fraction_of_peak']:.0f} %"
    return f"{percent} (the machine is busy)" if row["fraction_of_peak"] > 1 else percent
