"""The built package: outside the folder that is carried away, and kept while its sources are the same."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

from .machine import Machine, tool
from .session import NOT_RUN, Command, Session
from .sources import digest_of_sources

_PIP = ("-m", "pip", "install", "--no-index", "--no-deps", "--no-build-isolation", "--no-compile")
_IMPORT = """
import re, sys
import prunecca
info = prunecca.build_info()
assert info["cuda"], "built without CUDA"
made, here = str(info["cuda_architectures"]), int(re.match("[0-9]+", sys.argv[1])[0])

def runs(number, specific, kind):  # machine code on devices of its major version, of one alone where it is specific
    number = int(number)
    if kind == "virtual" or specific:
        return number <= here if kind == "virtual" else number == here
    return number // 10 == here // 10 and number <= here

known = re.findall("([0-9]+)([af]?)(?:-(real|virtual))?", made)
assert any(runs(*one) for one in known), f"built for {made}, and this device is of {here}"
print(prunecca.__file__, info)
"""


def ensure_package(session: Session, machine: Machine, wheel: Path | None) -> bool:
    """Build, install or find the package of these sources; whether it is there and can be imported."""
    package, stamp = session.work / "package", session.work / "package.json"
    digest = digest_of_sources()
    made = {"sources": digest, "architecture": machine.architecture, "python": machine.version}
    if stamp.is_file() and json.loads(stamp.read_text()) == made and package.is_dir():
        if "build" not in {step.stage for step in session.steps}:
            session.note("build", "package, as it was", "good")
        return True
    if any(step.stage == "build" for step in session.steps):
        return False  # tried in this call
    if not machine.has_device and not session.dry:
        return False
    environment = {}
    if wheel:
        if (reason := _why_not(wheel, machine, digest)) is not None:
            return session.note("build", "wheel", reason)
        source = str(wheel)
    else:
        if tool("nvcc") is None:
            return session.note("build", "package", f"{NOT_RUN}nvcc is not there")
        source, environment = ".", _environment(machine)
    if session.dry:
        return session.note("build", "wheel" if wheel else "package", f"{NOT_RUN}this is a dry run")
    shutil.rmtree(package, ignore_errors=True)
    stamp.unlink(missing_ok=True)
    words = [machine.python, *_PIP, "--disable-pip-version-check", "--target", str(package)]
    if not wheel:
        words.append(f"--config-settings=build-dir={session.work / 'cmake'}")
    if not session.run("build", "wheel" if wheel else "package", Command([*words, source], 500.0, environment)):
        return False
    if not session.run(
        "build", "import", Command([machine.python, "-c", _IMPORT, machine.architecture], 90.0, machine.environment)
    ):
        return False
    stamp.write_text(json.dumps(made))
    return True


def _environment(machine: Machine) -> dict[str, str]:
    cores = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count())
    return {"PRUNECCA_CUDA": "ON", "PRUNECCA_CUDA_ARCHS": machine.architecture, "CMAKE_BUILD_PARALLEL_LEVEL": cores}


def _why_not(wheel: Path, machine: Machine, digest: str) -> str | None:
    """What is wrong with a wheel: other sources (the digest is its build number), or another Python."""
    name = re.fullmatch(r"prunecca-[^-]+(?:-0(?P<digest>[0-9a-f]+))?-cp(?P<python>\d+)-.*\.whl", wheel.name)
    if name is None:
        return f"FAILED ({wheel.name} is no wheel of prunecca)"
    python = "".join(machine.version.split(".")[:2])
    if python and name["python"] != python:
        return f"FAILED (the wheel is for cp{name['python']}, this is cp{python})"
    if name["digest"] and name["digest"] != digest:
        return "FAILED (the wheel was made of other sources; make it anew with benchmarks/cuda/make_wheel.sh)"
    return None
