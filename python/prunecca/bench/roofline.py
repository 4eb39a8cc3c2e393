"""The roofline picture: what each kernel reaches, under what memory and arithmetic would allow (Williams et al. 2009)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..figures.output import picture_form
from ..storage.atomic import write_atomic


def draw_roofline(results: dict[str, Any], path: str | Path) -> None:
    """Draw the results of ``prunecca bench``: operations per byte against GFLOP/s, with the measured peaks as roofs.

    Raises ``ValueError`` for a file name whose ending stands for no picture.
    """
    from matplotlib.figure import Figure

    form = picture_form(path)
    peaks, machine = results["peaks"], results["machine"]
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.add_subplot()
    kinds = {"SVCCA": ("o", "C0"), "covariance": ("s", "C1")}
    placed: list[tuple[float, float]] = []
    intensities = []
    for title, rows in results["contests"].items():
        for rival, row in rows.items():
            if "operations" not in row or "bytes" not in row:
                continue
            intensity, rate = row["operations"] / row["bytes"], row["gflops"]
            intensities.append(intensity)
            marker, colour = kinds[title.split()[0]]
            if rival == "prunecca":
                axes.plot(intensity, rate, marker, color=colour, markersize=7, zorder=3)
                below = any(abs(np.log(intensity / x)) < 0.5 and abs(np.log(rate / y)) < 0.3 for x, y in placed)
                place = (6, -14) if below else (-6, 7)
                axes.annotate(
                    title.split(" of ", 1)[-1],
                    (intensity, rate),
                    xytext=place,
                    textcoords="offset points",
                    ha="left" if below else "right",
                    fontsize="x-small",
                )
                placed.append((intensity, rate))
            else:
                axes.plot(intensity, rate, marker, markerfacecolor="none", color="0.6", markersize=6, zorder=2)
    low, high = min(intensities, default=1.0) / 8, max(intensities, default=100.0) * 3
    x = np.geomspace(low, high, 200)
    axes.plot(x, np.minimum(peaks["read"] * x, peaks["float32"]), color="0.2", linewidth=1.5)
    axes.set(xscale="log", yscale="log", xlim=(low, high), xlabel="operations per byte of input", ylabel="GFLOP/s")
    axes.set_ylim(top=1.6 * peaks["float32"])
    axes.annotate(
        f"multiply-adds, float32: {peaks['float32']:.0f} GFLOP/s",
        (high, peaks["float32"]),
        xytext=(-4, 4),
        textcoords="offset points",
        ha="right",
        fontsize="small",
    )
    axes.annotate(
        f"memory: {peaks['read']:.0f} GB/s",
        (low, peaks["read"] * low),
        xytext=(14, 2),
        textcoords="offset points",
        fontsize="small",
    )
    for label, marker, colour in (("SVCCA", "o", "C0"), ("covariance", "s", "C1")):
        axes.plot([], [], marker, color=colour, label=f"prunecca, {label}")
    axes.plot([], [], "s", markerfacecolor="none", color="0.6", label="other ways, same operations counted")
    axes.legend(loc="lower right", frameon=False, fontsize="small")
    busy = "" if results.get("busy") is None else " (the machine is busy)"
    title = f"{machine['processor']}, {peaks['threads']} threads, {machine['cpu_level']}{busy}"
    axes.set_title(title, fontsize="medium", parse_math=False)
    axes.grid(alpha=0.25, which="major")
    axes.spines[["top", "right"]].set_visible(False)
    write_atomic(path, lambda stream: figure.savefig(stream, format=form, dpi=150))
