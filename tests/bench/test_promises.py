"""A test that was promised its hardware is kept, and fails without it."""

import importlib
import types
from collections import Counter

import pytest


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
