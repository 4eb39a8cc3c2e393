"""The long fuzz runs with ``-m fuzz`` only; either way the summary says with which seed."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzzing import LONG, SEED, SHORT


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if "fuzz" in config.getoption("markexpr"):
        return
    dropped = [item for item in items if item.get_closest_marker("fuzz")]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    here = Path(__file__).parent.name
    reports = [r for key in ("passed", "failed") for r in terminalreporter.stats.get(key, []) if r.when == "call"]
    for name, examples in (("short", SHORT), ("long", LONG)):
        count = sum(f"{here}/" in r.nodeid and r.nodeid.endswith(f"[{name}]") for r in reports)
        if count:
            terminalreporter.write_line(f"FUZZ: {count} entry points, {examples} inputs each, seed {SEED}")
