"""The benchmarks of a CUDA device, as far as they go without one: every contest in miniature on the host, and the words."""

from __future__ import annotations

import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
import types
from collections import Counter
from pathlib import Path

import pytest
import torch

from prunecca import _native, models

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module", autouse=True)
def benchmarks():
    """The modules of the folder, importable as its scripts see them."""
    sys.path.insert(0, str(FOLDER))
    yield
    sys.path.remove(str(FOLDER))


@pytest.fixture
def bench():
    """The host in place of a device."""
    clock = importlib.import_module("device.clock").HostClock()
    return importlib.import_module("device.bench").Bench(torch.device("cpu"), clock, clock, copy=1e10, seconds=0.0)


def _row(**changes):
    table = importlib.import_module("device.table")
    seconds = {"prunecca": [2e-4, 1e-4, 9e-4], "torch": [8e-4, 4e-4, 2e-4]}
    return table.Row(**{"what": "it", "seconds": seconds, "bytes": 1e6, "copy": 1e10, **changes})


def test_figures_are_medians_and_ratios_of_medians():
    row = _row(operations=4e8)
    assert row.ours == 2e-4
    assert row.of_copy == pytest.approx(0.5)
    numbers = row.numbers()
    assert numbers["rivals"]["torch"] == {
        "median_seconds": 4e-4,
        "least_seconds": 2e-4,
        "rounds": 3,
        "ours_times_faster": pytest.approx(2.0),
    }
    assert numbers["bytes_per_second"] == pytest.approx(5e9)
    assert numbers["operations_per_second"] == pytest.approx(2e12)
    json.dumps(numbers, allow_nan=False)


def test_a_table_names_what_was_missed_and_what_failed():
    table = importlib.import_module("device.table")
    rows = [
        _row(aims=(table.Aim("of copy", 0.5, 0.8), table.Aim("times", 3.5, 3.0))),
        table.NotMeasured("that", "AssertionError: off", failed=True),
        table.NotMeasured("those", "the time was over", failed=False),
    ]
    lines = table.as_table(rows).splitlines()
    assert lines[2] == (
        "| it | 200 us | 5 GB/s = 50 % of copy | torch 2.00x | MISSED: of copy 0.50 (at least 0.8), met: times 3.50 (at least 3) |"
    )
    assert lines[3].startswith("| that | FAILED | | AssertionError: off |")
    assert lines[4].startswith("| those | not run | | the time was over |")
    assert not table.Aim("x", math.nan, 0.0).met


def test_rivals_take_turns_and_warm_up_once():
    clock = importlib.import_module("device.clock")
    order = []

    class Steps:
        def sample(self, call):
            call()
            return 1.0

    rivals = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    taken = clock.race(Steps(), rivals, 0.0, (3, 9))
    assert "".join(order) == "ab" + "ab" * 3
    assert taken == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_a_wrong_result_and_lost_time_do_not_stop_the_others(bench):
    measure = importlib.import_module("device.bench").measure

    def wrong(_):
        raise AssertionError("the covariance is off")

    rows = measure([("a", wrong), ("b", lambda _: _row())], bench, time.monotonic() + 60)
    assert (rows[0].failed, rows[0].why) == (True, "AssertionError: the covariance is off")
    assert rows[1].what == "it"
    (late,) = measure([("a", wrong)], bench, time.monotonic() - 1)
    assert (late.failed, late.why) == (False, "the time was over")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "order"), [((6, 16, 5, 5), "NCHW"), ((6, 16, 5, 5), "channels_last"), ((900, 9), "NCHW")]
)
def test_covariance_contests(bench, shape, order, dtype):
    contest = importlib.import_module("device.covariance")
    row = contest.update(bench, shape, order, dtype)
    assert row.error <= contest.ERROR
    assert row.bytes == math.prod(shape) * dtype.itemsize
    assert len(row.aims) == (0 if dtype != torch.float32 else 1 if order != "NCHW" else 2)


def test_wide_layers_are_held_against_tensor_cores(bench):
    row = importlib.import_module("device.covariance").update(bench, (300, 256))
    assert [aim.least for aim in row.aims] == [0.4, 3.0]


def test_layers_are_those_of_the_papers_networks():
    listed = set(importlib.import_module("device.covariance").LAYERS)
    found = set()
    for problem in ("cifar2", "cifar4", "cifar6", "cifar8", "cifar10"):
        model = models.build(problem, seed=0).eval()
        shapes: list[torch.Size] = []
        for name in model.representation_layers:
            model.get_submodule(name).register_forward_hook(lambda m, a, out, to=shapes: to.append(out.shape))
        with torch.no_grad():
            model(torch.zeros(1, 3, 32, 32))
        found |= {(s[1], s[2] if len(s) == 4 else 1) for s in shapes}
        if problem == "cifar10":
            assert [(s[1], s[2] if len(s) == 4 else 1) for s in shapes] == importlib.import_module(
                "device.linalg"
            ).LAYERS
    assert listed == found


def test_pruning_contests(bench):
    contest = importlib.import_module("device.pruning")
    for kind in ("Adam", "SGD"):
        assert contest.step(bench, kind, 5000).error <= 1e-6
    assert contest.selection(bench, 5000).aims[0].least == 10
    for backward in (False, True):
        assert contest.operator(bench, 3000, backward).bytes == 27000


def test_linalg_contests(bench, monkeypatch):
    contest = importlib.import_module("device.linalg")
    monkeypatch.setattr(contest, "BATCH", 50)
    row = contest.study(bench, [(8, 4), (20, 1)], 3)
    assert row.error <= 1e-6
    assert set(row.seconds) == {"prunecca", "torch, one by one", "accumulating"}
    assert contest.one_size(bench, 12, 3).error < 1e-12


def test_whole_jobs(bench):
    contest = importlib.import_module("device.networks")
    assert contest.comparison(bench, "cifar2", 40, 2).error <= 1e-6
    row = contest.epoch(bench, "cifar2", 60)
    assert set(row.seconds) == {"prunecca", "contiguous", "bfloat16", "torch Adam, no masks"}


def test_every_section_has_titles_of_its_own():
    gpu = importlib.import_module("gpu")
    titles = [title for section in gpu.SECTIONS.values() for title, _ in section.contests()]
    assert len(set(titles)) == len(titles) > 40
    assert sum(gpu.SHARES.values()) == pytest.approx(1.0)
    assert set(gpu.SHARES) == set(gpu.SECTIONS)


def test_arguments(tmp_path, capsys):
    gpu = importlib.import_module("gpu")
    assert gpu.arguments([str(tmp_path), "--only", "linalg"]).only == ["linalg"]
    for wrong in ([], [str(tmp_path), "--seconds", "0"], [str(tmp_path), "--only", "dust"]):
        with pytest.raises(SystemExit):
            gpu.arguments(wrong)
    assert "--seconds is 0; expected more than 0" in capsys.readouterr().err


def test_results_become_json(bench):
    gpu = importlib.import_module("gpu")
    numbers = gpu.as_numbers({"device": "none"}, 1e10, {"linalg": [_row()]})
    assert json.loads(json.dumps(numbers, allow_nan=False))["contests"]["linalg"][0]["what"] == "it"


def test_without_a_device_it_is_one_sentence(tmp_path, capsys, monkeypatch):
    gpu = importlib.import_module("gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "torch finds no CUDA device" in said or "built without CUDA" in said
    assert not (tmp_path / "out").exists()


def _fake_tools(folder: Path, **tools: str) -> dict[str, str]:
    for name, text in tools.items():
        path = folder / name.replace("_", "-")
        path.write_text(f"#!/bin/bash\n{text}\n")
        path.chmod(0o755)
    return {**os.environ, "PATH": f"{folder}:/usr/bin:/bin", "PYTHON": str(folder / "python-fake")}


def _gpu_sh(out: Path, environment: dict[str, str]) -> tuple[int, str, list[dict[str, object]]]:
    done = subprocess.run(
        [str(shutil.which("bash")), str(FOLDER / "gpu.sh"), str(out)], env=environment, capture_output=True, text=True
    )
    stages = out / "stages.json"
    return done.returncode, done.stdout + done.stderr, json.loads(stages.read_text()) if stages.exists() else []


def test_gpu_sh_runs_every_stage_and_names_the_one_that_fails(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    python = f'echo "$PRUNECCA_CUDA_ARCHS $PRUNECCA_REQUIRE_CUDA $*" >> {tmp_path}/calls; case "$*" in *"-m pytest"*) exit 1;; esac'
    environment = _fake_tools(
        tools,
        nvidia_smi="echo 9.0",
        python_fake=python,
        compute_sanitizer='echo "$*"; case "$*" in *racecheck*) exit 9;; esac',
    )
    code, said, stages = _gpu_sh(tmp_path / "out", environment)
    assert code == 1
    assert [(s["stage"], s["state"]) for s in stages] == [
        ("build", "good"),
        ("tests", "FAILED (1)"),
        ("benchmarks", "good"),
        ("memcheck", "good"),
        ("racecheck", "FAILED (9)"),
        ("synccheck", "good"),
    ]
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[0].startswith("90a-real  -m pip install --no-index --no-deps --no-build-isolation")
    assert calls[1].startswith("90a-real 1 -m pytest -q -m cuda")
    assert said.rstrip().splitlines()[-1] == "| synccheck | good | 0 s |"


def test_gpu_sh_says_when_a_tool_is_not_there_or_refuses(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    environment = _fake_tools(
        tools, nvidia_smi="echo 8.6", python_fake="true", compute_sanitizer="echo Error: Device not supported; exit 1"
    )
    code, _, stages = _gpu_sh(tmp_path / "out", environment)
    assert code == 0
    assert {s["state"] for s in stages[3:]} == {"not run: compute-sanitizer refuses this machine's device"}
    assert len(stages) == 6


def test_gpu_sh_without_a_device(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    code, said, stages = _gpu_sh(tmp_path / "out", _fake_tools(tools, nvidia_smi="exit 9", python_fake="exit 1"))
    assert code == 1
    assert "no CUDA device was found" in said
    assert stages == [{"stage": "device", "state": "FAILED (none was found)", "seconds": 0}]
    code, said, _ = _gpu_sh(tmp_path / "out", _fake_tools(tools, nvidia_smi="echo 9.0", python_fake="exit 3"))
    assert code == 1
    assert said.rstrip().splitlines()[-1] == "| synccheck | not built | 0 s |"


def test_a_prediction_is_the_larger_of_bytes_and_operations():
    predict = importlib.import_module("predict_gpu")
    work = predict.Work("f", "size", 4.3e6, {"TF32": 495e6, "float64": 0})
    assert work.seconds()[0] == pytest.approx(1e-6)
    slow = predict.Work("f", "size", 1.0, {"TF32": 495e6}, busy=0.5)
    assert slow.seconds() == (pytest.approx(2e-6), "TF32")


def test_every_predicted_kernel_is_one_that_is_reported():
    predict = importlib.import_module("predict_gpu")
    works = predict.everything()
    kernels = [predict.resources.Kernel(w.kernel + "(int)", "f.cu", "sm_90a", 64, 1024, 0, 0) for w in works]
    text = predict.report(kernels)
    assert text.count("| 64 |") == len(works)
    assert "has run on a device" in text
    with pytest.raises(ValueError, match="reports no kernel that begins with"):
        predict.as_row(works[0], kernels[1:2])
    # Every kind of kernel of csrc/cuda has a row.
    sources = "".join(f.read_text() for f in (FOLDER.parent / "csrc" / "cuda").glob("*.cu"))
    declared = set(re.findall(r"__global__ void (?:__launch_bounds__\(.*\)\s*)?(\w+)\(", sources))
    assert len(declared) > 15
    assert declared == {re.sub(r"^void |<.*", "", w.kernel) for w in works}


if hasattr(_native, "covariance_workspace_cuda"):

    @pytest.mark.parametrize(
        ("channels", "side"), [(16, 32), (32, 16), (64, 32), (128, 16), (256, 8), (512, 2), (1024, 1)]
    )
    def test_the_rows_are_cut_as_the_kernels_cut_them(channels, side):
        predict = importlib.import_module("predict_gpu")
        rows = (1 << 16) if side == 1 else predict.IMAGES
        shape = (rows, channels) if side == 1 else (rows, channels, side, side)
        strides = tuple(math.prod(shape[d + 1 :]) for d in range(len(shape)))
        x = (1 << 20, shape, strides, 0, 0)  # nothing is read
        size = _native.covariance_workspace_cuda([x], [1], [(0, 0)], [True], False, False)
        assert list(predict.products(channels, side))[1].bytes == size


@pytest.mark.parametrize(("there", "promise", "kept"), [(0, "", 1), (0, "0", 1), (0, "1", 2), (1, "", 2), (1, "1", 2)])
def test_a_test_that_was_promised_its_device_is_kept_and_fails_without(monkeypatch, there, promise, kept):
    conftest = importlib.import_module("conftest")
    dropped = []
    hooks = types.SimpleNamespace(pytest_deselected=lambda items: dropped.extend(items))
    items = [types.SimpleNamespace(iter_markers=lambda names=names: names) for names in ([], [pytest.mark.cuda.mark])]
    every = list(items)
    monkeypatch.setattr(conftest, "_has", lambda need: bool(there))
    monkeypatch.setattr(conftest, "_not_run", Counter())
    monkeypatch.setenv("PRUNECCA_REQUIRE_CUDA", promise)
    conftest.pytest_collection_modifyitems(types.SimpleNamespace(hook=hooks), items)
    assert items == every[:kept]
    assert dropped == every[kept:]
