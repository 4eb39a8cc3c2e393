"""Memory maps, and what is made of them, in pieces: the same rows as the array, whatever it is a view of."""

from __future__ import annotations

import numpy as np
import pytest

import prunecca as pc
from prunecca.storage import memory_map
from prunecca.storage.memory_map import chunks

ROWS = 1000


class Labelled(np.ndarray):
    """A class of arrays with more to it than numbers."""


VIEWS = {
    "the map": lambda m: m,
    "a copy": lambda m: m.copy(),
    "a plain view": np.asarray,
    "a view of another class": lambda m: m.view(Labelled),
    "the map of a slice": lambda m: m[: ROWS // 2],
    "a plain view of a slice": lambda m: np.asarray(m[10 : ROWS // 2]),
    "every second row": lambda m: m[::2],
    "flipped": lambda m: m[::-1],
    "flipped both ways": lambda m: m[::-1, ::-1],
    "transposed": lambda m: m.reshape(8, ROWS).T,
    "an expression": lambda m: m + 1,
    "repeated": lambda m: np.broadcast_to(m[0], (ROWS, 8)),
}


@pytest.fixture
def values() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((ROWS, 8))


@pytest.fixture
def folder(tmp_path, values, monkeypatch):
    np.save(tmp_path / "x.npy", values)
    monkeypatch.setattr(memory_map, "_CHUNK_BYTES", 8192)
    return tmp_path


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_pieces_are_the_rows_of_the_array(folder, values, view, mode):
    expected = np.array(view(values))
    other = np.arange(len(expected), dtype=np.float64)
    parts = list(chunks(view(np.load(folder / "x.npy", mmap_mode=mode)), other))
    assert np.array_equal(np.concatenate([a for a, _ in parts]), expected)
    assert np.array_equal(np.concatenate([b for _, b in parts]), other)


def test_a_copy_is_read_whole_and_a_view_in_pieces(folder):
    x = np.load(folder / "x.npy", mmap_mode="r")
    assert len(list(chunks(x.copy()))) == 1
    assert len(list(chunks(x))) == len(list(chunks(np.asarray(x)))) == 8


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS.keys())
def test_metrics_take_any_of_them_beside_a_map(folder, values, view):
    x, y = np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "x.npy", mmap_mode="r")
    rows = len(view(x))
    own, reference = np.array(view(values)), values[:rows, :5]
    a, b = own - own.mean(0), reference - reference.mean(0)
    right = (
        np.linalg.norm(a.T @ b) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
        if np.ptp(own, 0).any()
        else np.nan
    )
    assert pc.linear_cka(view(x), y[:rows, :5]) == pytest.approx(right, rel=1e-9, nan_ok=True)


def test_a_number_beside_a_map_is_refused_for_its_shape(folder):
    x = np.load(folder / "x.npy", mmap_mode="r")
    with pytest.raises(ValueError, match="shape"):
        pc.linear_cka(x, np.array(1.0))
