"""Every CPU benchmark, one after the other, as one JSON file and one Markdown table.

    python benchmarks/cpu/run.py benchmarks/results

Takes about 20 minutes and 8 GB of memory; nothing else should run meanwhile. Each machine has files of its own in the
folder, such as cpu-amd-epyc-avx2.json and .md. Given --readme README.md it renews the table there.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from prunecca.machine.info import describe_machine
from prunecca.machine.peaks import measure_peaks

HERE = Path(__file__).parent
NOUNS = ("covariance", "masks", "training", "compare", "pairs")
_PRUNERS = {
    "numpy.partition": "`numpy.partition`, the threshold alone",
    "global_unstructured": "`global_unstructured`",
}
BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"


def measure(nouns: Iterable[str]) -> list[dict[str, Any]]:
    """The benchmarks' names, groups, parameters and extra information; each file in a process of its own."""
    rows: list[dict[str, Any]] = []
    for noun in nouns:
        file = HERE / f"bench_{noun}.py"
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.json"
            options = ["-q", "-rs", "-p", "no:cacheprovider", f"--benchmark-json={out}"]
            command = [sys.executable, "-m", "pytest", *options, str(file)]
            code = subprocess.run(command, cwd=HERE, check=False).returncode
            if not out.exists():
                raise SystemExit(f"{file.name} measured nothing (exit status {code})")
            for bench in json.loads(out.read_text())["benchmarks"]:
                kept = {key: bench[key] for key in ("group", "name", "params", "extra_info")}
                rows.append({"noun": noun, **kept, "median_seconds": bench["stats"]["median"]})
            if code:
                raise SystemExit(f"{file.name} failed with exit status {code}; no result was written")
    return rows


def as_markdown(results: dict[str, Any]) -> str:
    """Machine, then a list of every benchmark's figures by group."""
    lines = [f"# {_machine(results)}", ""]
    group = None
    for row in results["benchmarks"]:
        if row["group"] != group:
            group = row["group"]
            lines += ["", f"## {group}", ""]
        name = row["name"].partition("[")[2].rstrip("]")
        lines.append(f"- {name or row['name']}: {_figures(row)}")
    return "\n".join(lines) + "\n"


def readme_table(results: dict[str, Any]) -> str:
    """The rows of the README: what, beside what, how many times faster, relative error."""
    rows = []
    for row in results["benchmarks"]:
        info = row["extra_info"]
        ours = info.get("prunecca")
        name = row["name"].partition("[")[2].rstrip("]")
        if row["group"].startswith("SVCCA"):
            n, c = name.split("-")
            rows.append(
                (
                    f"SVCCA of two {int(n):,} × {c} arrays",
                    "NumPy, float64: SVD of each, then `numpy.cov`",
                    info["NumPy, float64, SVD"],
                    f"{1e3 * ours['seconds']:.0f} ms, difference {ours['difference']:.0e}",
                )
            )
        elif row["group"].startswith("covariance of (N, C),"):
            what = f"covariance of (N, {name})"
            rows.append((what, *_beside_strongest(info), _part_of_peak(ours)))
        elif row["group"].startswith("covariance of (N, C, H, W)"):
            what = f"covariance of {name.strip('()').replace(', ', ' × ')} activations"
            rows.append((what, *_beside_strongest(info), _part_of_peak(ours)))
        elif row["name"].startswith("test_prune["):
            times, rival = min((info[f"times faster than {rival}"], rival) for rival in _PRUNERS)
            rows.append(
                (
                    f"prune a fifth of {name} million weights, exactly",
                    _PRUNERS[rival],
                    times,
                    f"{info['ours, ms']:.1f} ms",
                )
            )
        elif row["name"].startswith("test_step[adam-7]") or row["name"].startswith("test_step[7-adam]"):
            rows.append(
                (
                    "masked Adam step, 7 million weights",
                    "`Adam(fused=True)`, then masks",
                    info["times faster than torch, then masks"],
                    f"{info['ours, ms']:.1f} ms",
                )
            )
        elif row["name"].startswith("test_compare_beside"):
            rows.append(
                (
                    "`compare`, 6 cifar10 networks, 512 images, 13 layers",
                    "their forward passes alone",
                    f"{info['times the forward passes']:.2f} times as long",
                    f"{info['ours, s']:.1f} s",
                )
            )
        elif "torchvision, 0 workers" in name:
            rows.append(
                (
                    "augmented batches of 128 images",
                    "torchvision, one image at a time",
                    info["times_faster"],
                    f"{info['ours_ms']:.1f} ms",
                )
            )
    rows.sort(key=lambda row: not row[0].startswith("SVCCA"))
    lines = ["| what | beside | prunecca is | |", "|---|---|---:|---|"]
    for what, beside, faster, more in rows:
        times = faster["ours_times_faster"] if isinstance(faster, dict) else faster
        said = times if isinstance(times, str) else _said(times)
        lines.append(f"| {what} | {beside} | {said} | {more} |")
    return "\n".join(
        [*lines, "", f"Medians of ratios, rivals in turns, on an {_machine(results)}; float32, all threads."]
    )


def _beside_strongest(info: dict[str, Any]) -> tuple[str, float]:
    """Of the rivals of a covariance the fastest, with its error, and how many times faster than it ours is."""
    rivals = {name: row for name, row in info.items() if isinstance(row, dict) and name.partition(",")[0] != "prunecca"}
    name = min(rivals, key=lambda rival: rivals[rival]["ours_times_faster"])
    error = rivals[name].get("relative_error")
    return name + (f", error {error:.0e}" if error is not None else ""), rivals[name]["ours_times_faster"]


def _part_of_peak(ours: dict[str, Any]) -> str:
    return f"{100 * ours['fraction_of_peak']:.0f} % of FMA peak, error {ours['relative_error']:.0e}"


def _said(times: float) -> str:
    return f"{times:.3g} times faster" if times >= 1 else f"{1 / times:.3g} times slower"


def _machine(results: dict[str, Any]) -> str:
    machine, peaks = results["machine"], results["peaks"]
    return (
        f"{machine['processor']} ({machine['cpu_level']}, {peaks['threads']} threads, peak {peaks['float32']:.0f} GFLOP/s float32, "
        f"memory {peaks['read']:.0f} GB/s; torch {machine['torch']})"
    )


def file_stem(machine: dict[str, Any]) -> str:
    """What the files of a machine are called, by its processor and the SIMD level in use."""
    words = re.findall(r"[a-z0-9]+", str(machine["processor"]).lower())
    return "-".join(["cpu", *words, machine["cpu_level"]])


def _figures(row: dict[str, Any]) -> str:
    shown = [] if row["extra_info"] else [f"{row['median_seconds']:.3g} s"]
    for name, value in row["extra_info"].items():
        if isinstance(value, dict):
            parts = [f"{1e3 * value['seconds']:.3g} ms"]
            parts += [f"{100 * value['fraction_of_peak']:.0f} % of peak"] if "fraction_of_peak" in value else []
            parts += [f"ours {value['ours_times_faster']:.2f} times faster"] if name != "prunecca" else []
            parts += [f"error {value['relative_error']:.1e}"] if "relative_error" in value else []
            shown.append(f"{name} {', '.join(parts)}")
        else:
            shown.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return "; ".join(shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="where the files of this machine go")
    parser.add_argument("--readme", type=Path, help="a README whose measured table is renewed")
    parser.add_argument(
        "--only", nargs="+", choices=NOUNS, help="measure these anew and keep the others of this machine"
    )
    parser.add_argument("--from-json", type=Path, metavar="FILE", help="do not measure: take the figures of this file")
    given = parser.parse_args()
    if given.from_json:
        results = json.loads(given.from_json.read_text())
        path = given.folder / f"{file_stem(results['machine'])}.json"
    else:
        machine = describe_machine()
        path = given.folder / f"{file_stem(machine)}.json"
        nouns = given.only or NOUNS
        kept = json.loads(path.read_text())["benchmarks"] if given.only else []
        rows = [row for row in kept if row["noun"] not in nouns] + measure(nouns)
        rows.sort(key=lambda row: NOUNS.index(row["noun"]))
        results = {"machine": machine, "peaks": asdict(measure_peaks()), "benchmarks": rows}
        given.folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(results, indent=1) + "\n")
    path.with_suffix(".md").write_text(as_markdown(results))
    if given.readme:
        before, rest = given.readme.read_text().split(BEGIN)
        given.readme.write_text(f"{before}{BEGIN}\n{readme_table(results)}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
