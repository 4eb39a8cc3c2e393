"""What the pages show runs, and every public name says in Google's form what it takes and gives."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import prunecca as pc

PAGES = Path(__file__).parents[1] / "python" / "docs"
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in sorted(PAGES.glob("*.md"))
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]
MODEL_NAMES = ("build", "find_problem", "Problem")
PUBLIC = {
    f"{package.__name__}.{name}": getattr(package, name)
    for package, names in (
        (pc, pc.__all__),
        (pc.pruning, pc.pruning.__all__),
        (pc.data, pc.data.__all__),
        (pc.training, pc.training.__all__),
        (pc.models, MODEL_NAMES),
        (pc.ops, ("masked_weight",)),
    )
    for name in names
    if callable(getattr(package, name))
}
HEADINGS = ("Args", "Attributes", "Returns", "Yields", "Raises", "Warns", "Example")
_ENTRY = re.compile(r"    (\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: \([^)]*\))?: \S")


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("block", BLOCKS)
def test_code_of_a_page_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "page", "exec"), {})


def test_every_page_is_in_the_table_of_contents() -> None:
    listed = re.search(r"```\{toctree\}\n:hidden:\n\n(.*?)```", (PAGES / "index.md").read_text(), re.DOTALL)
    assert listed is not None
    pages = {str(page.relative_to(PAGES).with_suffix("")) for page in PAGES.rglob("*.md")}
    assert set(listed[1].split()) == pages - {"index"}


def sections(docstring: str) -> dict[str, list[str]]:
    """The lines under each heading, in the order of the docstring."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in inspect.cleandoc(docstring).splitlines():
        if re.fullmatch(r"[A-Z]\w+:", line):
            lines = found.setdefault(line[:-1], [])
        elif line and not line.startswith(" "):
            lines = []  # text outside of any section
        else:
            lines.append(line)
    return found


def entries(lines: list[str]) -> set[str]:
    """The names that a section describes: ``a, b: text`` describes both."""
    matches = (_ENTRY.match(line) for line in lines)
    return {name.strip(" *") for match in matches if match for name in match[1].split(",")}


def parameters(thing: Any) -> set[str]:
    """What a caller gives it."""
    return {name for name in inspect.signature(thing).parameters if name not in ("self", "cls")}


def complaints(thing: Any) -> Iterator[str]:
    """What is missing or wrong in the docstring of a public function or class."""
    docstring = inspect.getdoc(thing) or ""
    summary, *rest = docstring.splitlines() or [""]
    if not re.match(r"\S.*[.:]$", summary) or (rest and rest[0]):
        yield "its docstring does not begin with a sentence on a line of its own"
    found = sections(docstring)
    known = [heading for heading in HEADINGS if heading in found]
    if list(found) != known:
        yield f"its sections are {', '.join(found)}; expected some of {', '.join(HEADINGS)}, in this order"
    if isinstance(thing, type) and issubclass(thing, Exception):
        return  # raised for the user, not by the user
    described = entries(found.get("Args", []))
    wanted = parameters(thing)
    if extra := described - wanted:
        yield f"Args describes {', '.join(sorted(extra))}, which it does not take"
    if isinstance(thing, type):
        described |= entries(found.get("Attributes", []))
    if missing := wanted - described:
        yield f"Args does not describe {', '.join(sorted(missing))}"
    if not any(line.strip().startswith(">>>") for line in found.get("Example", [])):
        yield "it has no Example that runs"


def test_sections_and_entries_are_read_as_they_are_written() -> None:
    docstring = """Say it.

    More: of it.

    Args:
        x, y: (N, C) float32; two
            lines: of text.
        options: the rest.

    Returns:
        A number.
    """
    found = sections(docstring)
    assert list(found) == ["Args", "Returns"]
    assert entries(found["Args"]) == {"x", "y", "options"}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_public_name_is_described(name: str) -> None:
    wrong = list(complaints(PUBLIC[name]))
    assert not wrong, "\n".join([name, *wrong])
