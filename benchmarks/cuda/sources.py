"""Digests of sources: what was built of the same ones need not be built again.

    python benchmarks/cuda/sources.py

prints that of the package.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PACKAGE = ("csrc", "CMakeLists.txt", "pyproject.toml", "python/prunecca")


def digest_of(root: Path, parts: Sequence[str]) -> str:
    """The same for the same names and bytes of the files in these folders: twelve hexadecimal digits."""
    found = hashlib.sha256()
    for part in parts:
        for path in sorted([root / part, *(root / part).rglob("*")]):
            if path.is_file() and path.suffix != ".so" and "__pycache__" not in path.parts:
                content = path.read_bytes()
                found.update(f"{path.relative_to(root)} {len(content)}\n".encode() + content)
    return found.hexdigest()[:12]


def digest_of_sources(root: Path = ROOT) -> str:
    """Of all that the built package is made of."""
    return digest_of(root, _PACKAGE)


if __name__ == "__main__":
    print(digest_of_sources())
