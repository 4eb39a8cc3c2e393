"""The stages of a run on a CUDA device, with stand-ins for the device and its tools, and as a dry run without any."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from benchmarks.cuda.device_run import checkers, package, stages
from benchmarks.cuda.device_run.sources import ROOT, digest_of, digest_of_sources

RUN = ROOT / "benchmarks" / "cuda" / "run.sh"
# Notes what it was asked; "installs" a package, and leaves the records that tests of the emulation's programs leave.
PYTHON = """
words="$*"
echo "$PRUNECCA_CUDA_ARCHS $PRUNECCA_REQUIRE_CUDA $PYTHONUNBUFFERED $*" >> {calls}
while [ $# -gt 0 ]; do
  case $1 in --target) mkdir -p "$2" ;; esac
  shift
done
[ -z "$PRUNECCA_RECORD" ] || echo request > "$PRUNECCA_RECORD"
"""
NVCC = 'while [ "$1" != -o ]; do shift; done; echo > "$2"; chmod +x "$2"'
SANITIZER = 'echo "$* $PRUNECCA_UNWRITTEN $PYTORCH_NO_CUDA_MEMORY_CACHING"'


@pytest.fixture
def tools(tmp_path):
    """Writes stand-ins by name, and gives the environment in which they are found first."""

    def make(**scripts):
        folder = tmp_path / "tools"
        folder.mkdir(exist_ok=True)
        for name, text in scripts.items():
            path = folder / name.replace("_", "-")
            path.write_text(f"#!/bin/bash\n{text}\n")
            path.chmod(0o755)
        (folder / "python3").unlink(missing_ok=True)
        (folder / "python3").symlink_to(sys.executable)
        return {
            **os.environ,
            "PATH": f"{folder}:/usr/bin:/bin",
            "PYTHON": str(folder / "python-fake"),
            "PRUNECCA_WORK": str(tmp_path / "work"),
        }

    return make


@pytest.fixture
def programs(monkeypatch, tmp_path):
    """Two programs of the emulation, in a root of their own beside what the stages need of ours."""
    root = tmp_path / "root"
    for part in ("benchmarks/cuda", "csrc"):
        shutil.copytree(ROOT / part, root / part, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "CMakeLists.txt"):
        shutil.copy(ROOT / file, root / file)
    emulated = root / checkers.EMULATED
    emulated.mkdir(parents=True)
    for name in ("masks", "linalg", "planted"):
        (emulated / f"{name}.cpp").write_text("int main() {}")
    (root / "tests" / "test_device.py").write_text("pytestmark = pytest.mark.cuda")
    return root


def call(out, environment, *words, root=ROOT):
    done = subprocess.run(
        [str(shutil.which("bash")), str(root / "benchmarks/cuda/run.sh"), str(out), *words],
        env=environment,
        capture_output=True,
        text=True,
    )
    file = out / "stages.json"
    steps = json.loads(file.read_text()) if file.exists() else []
    return done.returncode, done.stdout + done.stderr, {f"{s['stage']} {s['step']}": s["state"] for s in steps}


def test_every_stage_runs_and_the_one_that_fails_is_named(tools, programs, tmp_path):
    calls = tmp_path / "calls"
    environment = tools(
        nvidia_smi="echo 9.0",
        nvcc=NVCC,
        python_fake=PYTHON.format(calls=calls) + 'case "$words" in *test_device*) exit 1;; esac',
        compute_sanitizer=SANITIZER + '; case "$*" in *racecheck*masks*) exit 9;; esac',
    )
    code, said, states = call(tmp_path / "out", environment, root=programs)
    assert code == 1, said
    wrong = {name: state for name, state in states.items() if state != "good"}
    assert wrong == {"tests test_device": "FAILED (1)", "checkers racecheck masks": "FAILED (9)"}
    assert [name for name in states if name.startswith("checkers")] == [
        "checkers programs",
        "checkers tests of linalg",
        "checkers tests of masks",
        *(f"checkers {tool} {name}" for tool in checkers.TOOLS for name in ("linalg", "masks")),
        "checkers torch",
    ]
    assert list(states)[:2] == ["build package", "build import"]
    assert [name for name in states if name.startswith("benchmarks")] == [f"benchmarks {s}" for s in stages.SECTIONS]
    asked = calls.read_text().splitlines()
    build = next(line for line in asked if "pip install" in line)
    assert build.startswith("90a-real  1 -m pip install --no-index --no-deps --no-build-isolation")
    assert any(" 1 1 -m pytest -q -m cuda" in line and "--timeout=90" in line for line in asked)
    assert sum("-m benchmarks.cuda.run" in line for line in asked) == 4
    assert (
        said.rstrip().splitlines()[-1] == "Wrong: tests test_device: FAILED (1), checkers racecheck masks: FAILED (9)."
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["logs.tgz", "stages.json"]
    with tarfile.open(tmp_path / "out" / "logs.tgz") as archive:
        names = archive.getnames()
        memory = archive.extractfile("logs/checkers-initcheck-masks.log").read().decode()
        through_torch = archive.extractfile("logs/checkers-torch.log").read().decode()
    assert len(names) == len(states)
    assert memory.endswith("masks 1 \n")
    assert through_torch.endswith("exercise.py  1\n")


def test_the_package_is_kept_until_a_source_changes_and_earlier_stages_stay(tools, programs, tmp_path):
    calls = tmp_path / "calls"
    environment = tools(nvidia_smi="echo 9.0", nvcc=NVCC, python_fake=PYTHON.format(calls=calls))

    def built():
        return sum("pip install" in line for line in calls.read_text().splitlines())

    code, said, _ = call(tmp_path / "out", environment, "build", root=programs)
    assert (code, built()) == (0, 1), said
    assert said.rstrip().splitlines()[-1] == "All that was asked for ran and was good."
    code, _, states = call(tmp_path / "out", environment, "tests", root=programs)
    assert (code, built()) == (0, 1)
    assert states["build package"] == states["tests test_device"] == "good"
    (programs / "csrc" / "module.cpp").write_text("changed")
    call(tmp_path / "out", environment, "benchmarks", root=programs)
    assert built() == 2


def test_a_tool_that_is_not_there_or_refuses_is_named(tools, programs, tmp_path):
    refusing = tools(
        nvidia_smi="echo 8.6",
        nvcc=NVCC,
        python_fake=PYTHON.format(calls=tmp_path / "calls"),
        compute_sanitizer="echo Error: Device not supported; exit 1",
    )
    code, said, states = call(tmp_path / "out", refusing, "checkers", root=programs)
    assert code == 0, said
    refused = "not run: compute-sanitizer refuses this machine's device"
    assert {states[f"checkers {tool} masks"] for tool in checkers.TOOLS} == {refused}
    assert states["checkers torch"] == refused
    (tmp_path / "tools" / "compute-sanitizer").unlink()
    if checkers.tool("compute-sanitizer") is None:
        _, said, _ = call(tmp_path / "out", refusing, "checkers", root=programs)
        assert "compute-sanitizer is not there" in said.rstrip().splitlines()[-1]


def test_without_a_device(tools, programs, tmp_path):
    code, said, states = call(tmp_path / "out", tools(nvidia_smi="exit 9", python_fake="exit 1"), root=programs)
    assert code == 1
    assert "no CUDA device was found" in said
    assert list(states) == ["device found"]
    code, said, states = call(
        tmp_path / "out", tools(nvidia_smi="echo 9.0", nvcc=NVCC, python_fake="exit 3"), root=programs
    )
    assert code == 1
    assert states["build package"] == "FAILED (3)"
    assert states["checkers torch"] == "not run: the package was not built"
    assert (
        "tests 1 files, benchmarks covariance, pruning, networks, linalg, checkers torch: the package was not" in said
    )


def test_a_stage_is_over_at_its_limit_and_the_next_begins(tools, programs, tmp_path):
    hanging = 'case "$*" in *"-m pytest"*) sleep 60 & sleep 60;; esac' + PYTHON.format(calls=tmp_path / "calls")
    environment = tools(nvidia_smi="echo 9.0", nvcc=NVCC, python_fake=hanging)
    code, _, states = call(tmp_path / "out", environment, "tests", "--seconds", "8", root=programs)
    assert code == 1
    assert states["tests test_device"].startswith("over its ")


def test_a_wheel_of_other_sources_or_another_python_is_refused(tools, tmp_path):
    environment = tools(
        nvidia_smi="echo 9.0",
        python_fake='case "$*" in *find_spec*) echo \'["3.12.3", []]\' ;; esac'
        + PYTHON.format(calls=tmp_path / "calls"),
    )
    for name, words in (
        ("prunecca-0.1.0-0123456789abc-cp312-cp312-linux_x86_64.whl", "made of other sources"),
        ("prunecca-0.1.0-cp311-cp311-linux_x86_64.whl", "for cp311, this is cp312"),
        ("another.whl", "no wheel of prunecca"),
    ):
        wheel = tmp_path / name
        wheel.write_text("")
        code, said, states = call(tmp_path / "out", environment, "build", "--wheel", str(wheel))
        assert code == 1
        assert words in states["build wheel"], said
    wheel = tmp_path / f"prunecca-0.1.0-0{digest_of_sources()}-cp312-cp312-linux_x86_64.whl"
    wheel.write_text("")
    code, _, states = call(tmp_path / "out", environment, "build", "--wheel", str(wheel))
    assert code == 0
    assert states == {"build wheel": "good", "build import": "good"}


def test_a_dry_run_enters_every_stage_and_says_what_could_not_run(tools, tmp_path):
    """The benchmarks make their cases by the interpreter of this test; that the tests can be collected, CI shows."""
    python = f'case "$*" in *"-m pytest"*) echo "$*" >> {tmp_path}/collected; exit 5;; esac; exec {sys.executable} "$@"'
    environment = tools(python_fake=python)
    code, said, states = call(tmp_path / "out", environment, "--dry-run")
    assert code == 0, said
    assert states["tests collect"] == states["benchmarks cases"] == "good"
    assert "--collect-only" in (tmp_path / "collected").read_text()
    assert {name.split()[0] for name in states} == set(stages.STAGES)
    last = said.rstrip().splitlines()[-1]
    assert last.startswith("Not run: build package: ")
    assert len(list((tmp_path / "out").iterdir())) <= 4
    assert not (tmp_path / "work" / "package").exists()


def test_wrong_arguments_are_one_sentence(capsys, tmp_path):
    for given, words in (
        ([str(tmp_path), "dust"], "'dust' is no stage; expected build, tests, benchmarks, checkers"),
        ([str(tmp_path), "--wheel", "none.whl"], "none.whl is not there; benchmarks/cuda/make_wheel.sh makes a wheel"),
    ):
        with pytest.raises(SystemExit):
            stages.arguments(given)
        assert words in capsys.readouterr().err


def test_a_digest_is_of_names_and_contents(tmp_path):
    (tmp_path / "csrc").mkdir()
    file = tmp_path / "csrc" / "a.cu"
    digests = set()
    for name, text in (("a.cu", "1"), ("a.cu", "2"), ("b.cu", "2")):
        file = file.rename(file.with_name(name)) if file.exists() else file
        file.write_text(text)
        digests.add(digest_of(tmp_path, ["csrc"]))
    (tmp_path / "csrc" / "__pycache__").mkdir()
    (tmp_path / "csrc" / "__pycache__" / "a.pyc").write_text("3")
    digests.add(digest_of(tmp_path, ["csrc"]))
    assert len(digests) == 3


def test_files_with_tests_for_a_device_are_found():
    names = {file.name for file in stages.files_of_tests()}
    assert names
    assert Path(__file__).name not in names  # it speaks of the mark, and has none


def test_the_checkers_run_every_test_of_a_program():
    found = {program: [file.name for file in checkers.tests_of(program)] for program in checkers.programs()}
    assert found["optimizers"] == ["test_optimizers.py", "test_penalties.py"]
    assert found["covariance"] == ["test_covariance.py", "test_covariance_sizes.py"]
    assert all(found.values()), found


@pytest.mark.parametrize(
    ("made", "device", "good"),
    [
        ("90a-real", "90a-real", True),
        ("80-real;90a-real;100-real;90-virtual", "90a-real", True),
        ("80-real;90-virtual", "100-real", True),
        ("80-real", "86-real", True),
        ("80-real", "90a-real", False),
        ("90a-real", "100-real", False),
        ("86-real", "80-real", False),
        ("", "90a-real", False),
    ],
)
def test_a_package_for_other_devices_is_not_good(made, device, good):
    info = {"cuda": "13.0", "cuda_architectures": made}
    fake = f"import sys, types; found = types.ModuleType('prunecca'); found.build_info = lambda: {info}; "
    fake += "found.__file__ = ''; sys.modules['prunecca'] = found"
    words = [sys.executable, "-c", fake + "\n" + package._IMPORT, device]
    done = subprocess.run(words, capture_output=True, text=True)
    assert (done.returncode == 0) == good, done.stderr
    assert good or f"built for {made}" in done.stderr
