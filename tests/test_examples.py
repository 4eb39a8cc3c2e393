"""The examples run as a user would run them, and what they print means what their text says."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

EXAMPLES = Path(__file__).parents[1] / "python" / "examples"
TESTED = {
    "compare_two_networks",
    "prune_and_retrain",
    "stored_activations",
    "stream_your_own",
    "study_on_ray",
    "transformer",
}


def run(name: str, folder: Path, *arguments: str) -> str:
    """What the example prints, run by itself in ``folder``."""
    # Small problems on one thread: on a busy machine, threads that wait for each other take most of the time.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / f"{name}.py"), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_run_here() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} == TESTED


@pytest.mark.parametrize("name", sorted(TESTED))
def test_an_example_is_short_and_begins_with_what_it_shows(name: str) -> None:
    lines = (EXAMPLES / f"{name}.py").read_text().splitlines()
    assert len(lines) <= 60
    assert re.match('"""[A-Z]', lines[0])
    assert any(f"python {name}.py" in line for line in lines[:8])


def test_compare_two_networks(tmp_path: Path) -> None:
    printed = run("compare_two_networks", tmp_path)
    accuracies = [float(text) for text in re.findall(r"test accuracy (\S+)", printed)]
    assert len(accuracies) == 2
    assert min(accuracies) > 0.5  # of four classes
    table = pd.read_csv(tmp_path / "similarity.csv")
    assert set(table["candidate"]) == {"other seed", "untrained"}
    assert set(table["metric"]) == {"svcca", "linear_cka"}
    assert table["value"].between(0, 1).all()
    printed_layers = re.findall(r"(\w+) +[01]\.\d+ +[01]\.\d+$", printed, re.MULTILINE)
    assert printed_layers == 2 * list(table["layer"].unique())
    # The first convolution is hardly trained, the later ones are.
    untrained = table[(table["candidate"] == "untrained") & (table["metric"] == "linear_cka")].set_index("layer")
    assert untrained.loc["conv1", "value"] > untrained.loc["conv6", "value"]
    assert (tmp_path / "similarity.png").read_bytes().startswith(b"\x89PNG")


def test_transformer(tmp_path: Path) -> None:
    printed = run("transformer", tmp_path)
    losses = [float(text) for text in re.findall(r"loss of the last batch: (\S+)", printed)]
    assert len(losses) == 2
    assert max(losses) < 0.3  # chance is 0.69
    values = re.findall(r"encoder\.layers\.(\d)\s+(\S+)\s+(\S+)", printed)
    assert [int(layer) for layer, *_ in values] == [0, 1, 2, 0, 1, 2]  # of the other seed, then of the untrained one
    cka = [float(value) for _, value, _ in values]
    assert cka[2] > cka[5]  # two trained networks agree on the answer, the untrained one has none


def test_stream_your_own(tmp_path: Path) -> None:
    printed = run("stream_your_own", tmp_path)
    assert "datapoints: 20000" in printed  # of both workers
    assert "directions: 12 and 12, shared: 8" in printed  # what the data was made of
    assert {path.name for path in tmp_path.iterdir()} == {
        "worker-0.safetensors",
        "worker-1.safetensors",
        "covariance.safetensors",
    }
    # 8 of 12 directions are shared and 4 are independent of each other.
    mean = re.search(r"mean CCA (\S+),", printed)
    assert mean is not None
    assert float(mean[1]) == pytest.approx(8 / 12, abs=0.01)


def test_stored_activations(tmp_path: Path) -> None:
    printed = run("stored_activations", tmp_path)
    values = {
        (file, metric): float(value)
        for file, metric, value in re.findall(r"(near\.npy|far\.safetensors:layer)\s+(\w+)\s+(\S+)", printed)
    }
    # The signal has the fraction 1 / (1 + noise^2) of a candidate's variance: its correlation is the root of that, and
    # linear CKA, of equal variances in all channels, the fraction itself.
    for file, noise in (("near.npy", 0.5), ("far.safetensors:layer", 2.0)):
        fraction = 1 / (1 + noise**2)
        assert values[file, "svcca"] == pytest.approx(fraction**0.5, abs=0.01)
        assert values[file, "linear_cka"] == pytest.approx(fraction, abs=0.01)


def test_prune_and_retrain(tmp_path: Path) -> None:
    printed = run("prune_and_retrain", tmp_path)
    levels = re.findall(r"level (\d): (\S+) kept, (\d+) zeros, test accuracy (\S+)", printed)
    assert [int(number) for number, *_ in levels] == [0, 1, 2, 3]
    densities = [float(density) for _, density, *_ in levels]
    assert densities[0] == 1.0
    assert all(0.5 < later / earlier < 0.7 for earlier, later in itertools.pairwise(densities))
    zeros = [int(count) for *_, count, _ in levels]
    assert zeros[0] == 0
    total = zeros[1] / (1 - densities[1])
    assert zeros[3] == pytest.approx(total * (1 - densities[3]), rel=0.01)
    assert min(float(accuracy) for *_, accuracy in levels) > 0.9


@pytest.mark.slow
def test_study_on_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed (extra prunecca[ray])")
    printed = run("study_on_ray", tmp_path)
    assert printed.splitlines()[-1] == "4 rows, 3 networks"
    densities = [float(density) for density in re.findall(r"[01]\s+1\s+(\S+)\s+\S+$", printed, re.MULTILINE)]
    assert densities == [0.836] * 2
