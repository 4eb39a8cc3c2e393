"""What the machine of a run has: the device, the interpreter, the packages that are missing."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .sources import ROOT

ASSUMED = "90a-real"  # where no device is found
_MODULES = {"scikit-learn": "sklearn", "pytest-timeout": "pytest_timeout", "scikit-build-core": "scikit_build_core"}
_TOOLS = ("pytest", "pytest-timeout", "scikit-build-core", "pybind11")


@dataclass(frozen=True)
class Machine:
    """Found once per call.

    Args:
        python: the interpreter that has torch.
        version: of that interpreter.
        architecture: of the device, as CMake writes it.
        has_device: whether there is one; else the architecture is assumed.
        missing: modules that prunecca or its tests use and that are not installed.
        environment: variables of everything that uses the package.
    """

    python: str
    version: str
    architecture: str
    has_device: bool
    missing: frozenset[str]
    environment: Mapping[str, str]

    @classmethod
    def found(cls, python: str, package: Path) -> Machine:
        version, missing = _interpreter(python, [*dependencies(), *_TOOLS])
        architecture = _architecture(python)
        # A folder of packages in front of the interpreter's own, not a virtual environment: one made from within
        # another would not see what that has installed.
        path = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
        return cls(
            python, version, architecture or ASSUMED, architecture is not None, frozenset(missing), {"PYTHONPATH": path}
        )

    def sentence(self) -> str:
        device = f"architecture {self.architecture}{'' if self.has_device else ' assumed: no CUDA device was found'}"
        needed = [name for name in dependencies() if _MODULES.get(name, name) in self.missing]
        rest = f"; not installed, so what needs them fails: {', '.join(needed)}" if needed else ""
        return f"{device}, Python {self.version or 'unknown'}, {os.cpu_count()} cores{rest}"


def dependencies() -> list[str]:
    """The distributions that prunecca needs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [re.split(r"[^\w.-]", each, maxsplit=1)[0] for each in project["dependencies"]]


def tool(name: str) -> str | None:
    """A program of the CUDA toolkit: on the PATH, or where toolkits are installed."""
    beside = sorted(Path("/usr/local").glob(f"cuda*/bin/{name}"), reverse=True)
    return shutil.which(name) or next(map(str, beside), None)


def _interpreter(python: str, distributions: Sequence[str]) -> tuple[str, list[str]]:
    """Its version, and the modules that it does not find; nothing is imported."""
    modules = [_MODULES.get(name, name) for name in distributions]
    code = (
        "import importlib.util, json, platform, sys; print(json.dumps([platform.python_version(), "
        "[name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]]))"
    )
    try:
        version, missing = json.loads(_output([python, "-c", code, *modules]))
    except ValueError:
        return "", []
    return version, missing


def _architecture(python: str) -> str | None:
    found = _output(["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]).split("\n")[0]
    if not re.fullmatch(r"\s*\d+\.?\d+\s*", found):
        code = "import torch; print(*torch.cuda.get_device_capability(), sep='')"
        found = _output([python, "-c", code])
    digits = found.replace(".", "").strip()
    if not digits.isdigit():
        return None
    return "90a-real" if digits == "90" else f"{digits}-real"


def _output(words: Sequence[str]) -> str:
    """What a program prints; nothing where it fails or is not there."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""
