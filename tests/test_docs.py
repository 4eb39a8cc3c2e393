"""What the pages show runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[1] / "python" / "docs"
BLOCKS = [
    pytest.param(block, id=f"{page.stem}-{number}")
    for page in sorted(PAGES.glob("*.md"))
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
]


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
