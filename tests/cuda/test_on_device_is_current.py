"""The tests that wait for a device are up to date with the package: their own lines run here, the device played by the host."""

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
# What the host cannot play: graphs, other devices, arrays of other frameworks, and errors that a device tells later.
NOT_PLAYED = (
    "in_a_graph repeat_wrongly last_device another_device mixed_devices frameworks after_the_stream finite_names"
)


def test_tests_for_a_device_run_on_a_stand_in():
    words = [sys.executable, "-m", "pytest", "-q", "-p", "device_stand_in", "-p", "no:cacheprovider", "-m", "cuda"]
    words += ["-W", "default", "-o", "filterwarnings=", "-k", f"not ({' or '.join(NOT_PLAYED.split())})"]
    environment = os.environ | {"PYTHONPATH": str(TESTS / "cuda"), "OMP_NUM_THREADS": "1"}
    command = [*words, str(TESTS / "cuda" / "on_device")]
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 100
