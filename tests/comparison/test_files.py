"""Stored activations: the same values as in memory, little memory, and one sentence for every bad file."""

from __future__ import annotations

import errno
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import prunecca as pc
from prunecca import _native
from prunecca._arrays import native
from prunecca.comparison import files as stored_files
from prunecca.comparison.files import compare_files
from prunecca.storage import memory_map
from prunecca.storage.array_files import stored_activations
from prunecca.storage.read_ahead import Piece, read_ahead

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
METRICS = ("svcca", "linear_cka", "debiased_cka")


@pytest.fixture
def pair() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6000, 12)) + 3
    return x, x @ rng.standard_normal((12, 9)) + rng.standard_normal((6000, 9))


def in_memory(x: Any, y: Any, layout: str = "infer") -> dict[str, float]:
    return {
        "svcca": pc.svcca(x, y, layout=layout).mean,
        "linear_cka": pc.linear_cka(x, y, layout=layout),
        "debiased_cka": pc.linear_cka(x, y, debiased=True, layout=layout),
    }


def save(path: Path, array: torch.Tensor) -> str:
    if path.suffix == ".npy":
        np.save(path, array.numpy())
    else:
        save_file({"x": array}, path)
    return str(path)


@pytest.mark.parametrize(
    ("suffix", "dtype"),
    [(".npy", d) for d in (torch.float16, torch.float32, torch.float64)] + [(".safetensors", d) for d in DTYPES],
)
@pytest.mark.parametrize("shape", [(6000, -1), (1000, -1, 6), (500, -1, 4, 3)])
@pytest.mark.parametrize("chunk", [30_000, 1 << 20])
def test_files_score_as_arrays(tmp_path, monkeypatch, pair, suffix, dtype, shape, chunk):
    monkeypatch.setattr(
        stored_files._covariances, "__kwdefaults__", {**stored_files._covariances.__kwdefaults__, "chunk_bytes": chunk}
    )
    x, y = (torch.from_numpy(a).reshape(shape).to(dtype) for a in pair)
    files = [save(tmp_path / f"{name}{suffix}", a) for name, a in (("a", x), ("b", y))]
    layout = {2: "nc", 3: "ncl", 4: "nchw"}[x.ndim]
    table = compare_files(files[0], files[1:], METRICS, layout=layout)
    expected = in_memory(x, y, layout)
    assert list(table["metric"]) == list(METRICS)
    assert set(table["count"]) == {x.numel() // x.shape[1]}
    for metric, value in zip(table["metric"], table["value"], strict=True):
        assert value == pytest.approx(expected[metric], abs=1e-6)


def test_several_candidates_and_their_names(tmp_path, pair):
    x, y = (torch.from_numpy(a) for a in pair)
    reference = save(tmp_path / "a.npy", x)
    save_file({"one": y, "two": x[:, :5].contiguous()}, tmp_path / "b.safetensors")
    candidates = [f"{tmp_path}/b.safetensors:one", f"{tmp_path}/b.safetensors:two"]
    table = compare_files(reference, candidates, "linear_cka")
    assert list(table["candidate"]) == candidates
    assert table["value"].tolist() == pytest.approx([pc.linear_cka(x, y), pc.linear_cka(x, x[:, :5])], abs=1e-9)


def test_bytes_are_told(tmp_path, pair):
    files = [save(tmp_path / f"{k}.npy", torch.from_numpy(a)) for k, a in enumerate(pair)]
    told: list[tuple[int, int]] = []
    compare_files(files[0], files[1:], progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] == 6000 * 21 * 8


def test_two_threads_give_what_one_gives(tmp_path, monkeypatch, pair):
    files = [save(tmp_path / f"{k}.npy", torch.from_numpy(a).float()) for k, a in enumerate(pair)]
    monkeypatch.setattr(
        stored_files._covariances, "__kwdefaults__", {**stored_files._covariances.__kwdefaults__, "chunk_bytes": 50_000}
    )
    threads = torch.get_num_threads()
    tables = []
    try:
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            tables.append(compare_files(files[0], files[1:], METRICS))
            assert torch.get_num_threads() == count
    finally:
        torch.set_num_threads(threads)
    assert tables[1]["value"].tolist() == pytest.approx(tables[0]["value"].tolist(), abs=1e-7)
    assert tables[1].equals(tables[2])


def header_of(path: Path, header: bytes) -> None:
    path.write_bytes(len(header).to_bytes(8, "little") + header)


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("gone.npy", lambda p: None, r"gone\.npy does not exist; expected a \.npy or \.safetensors"),
        ("a.npy", lambda p: p.mkdir(), r"is not a file but a folder without \.npy or \.safetensors files"),
        ("a.npy", lambda p: os.mkfifo(p), "is not a file"),
        ("a.txt", lambda p: p.write_text("1 2"), r"ends in '\.txt'"),
        ("a.npy", lambda p: p.write_text("1 2 3 4 5 6 7 8"), "is not a .npy file of numbers"),
        ("a.npy", lambda p: p.write_bytes(b""), "is not a .npy file of numbers"),
        ("a.npy", lambda p: np.save(p, np.ones((4, 3), np.int64)), "holds int64; expected float16, bfloat16, float32"),
        ("a.npy", lambda p: np.save(p, np.ones((4, 3), ">f4")), "holds >f4; .* in native byte order"),
        ("a.npy", lambda p: np.save(p, np.asfortranarray(np.ones((4, 3)))), "is in Fortran order; expected C order"),
        ("a.npy", lambda p: np.save(p, np.ones(4)), r"has shape \(4,\); expected \(N, C\)"),
        ("a.npy", lambda p: np.save(p, np.ones((0, 3))), r"has shape \(0, 3\), which holds nothing"),
        ("a.npy", lambda p: p.write_bytes(pickle.dumps([1, 2, 3])), "is not a .npy file of numbers"),
        ("a.safetensors", lambda p: save_file({"x": torch.ones(4, 3, dtype=torch.int8)}, p), "holds I8; expected"),
        ("a.safetensors", lambda p: save_file({"x": torch.ones(2, 2), "y": torch.ones(2, 2)}, p), "holds 2 tensors; name one as .*:NAME, of x, y"),
        ("a.safetensors", lambda p: p.write_bytes(b"abc"), "is truncated, or no safetensors file"),
        ("a.safetensors", lambda p: header_of(p, b"[1, 2]"), "its header does not describe tensors"),
        ("a.safetensors", lambda p: header_of(p, b'{"x": {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 3]}}'), "is corrupt"),
    ],
)  # fmt: skip
def test_bad_files_are_named_in_one_sentence(tmp_path, name, make, message):
    path = tmp_path / name
    make(path)
    with pytest.raises((ValueError, FileNotFoundError), match=message) as caught:
        stored_activations(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_objects_are_never_unpickled(tmp_path):
    class Trap:
        def __reduce__(self) -> Any:
            return (pytest.fail, ("unpickled",))

    np.save(tmp_path / "a.npy", np.array([[Trap()]], object), allow_pickle=True)
    with pytest.raises(ValueError, match="holds Python objects, which are never loaded"):
        compare_files(tmp_path / "a.npy", [tmp_path / "a.npy"])


def test_unknown_name_of_a_tensor(tmp_path):
    save_file({"x": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"has no tensor 'z'; name one as .*:NAME, of x"):
        stored_activations(f"{tmp_path}/a.safetensors:z")


@pytest.mark.parametrize("suffix", [".npy", ".safetensors"])
def test_truncated_file(tmp_path, suffix):
    path = Path(save(tmp_path / f"a{suffix}", torch.ones(100, 3)))
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=f"is truncated: it holds {whole - 5} bytes, but its header promises {whole}"):
        compare_files(path, [path])


def test_row_counts_that_differ(tmp_path):
    a, b = (save(tmp_path / f"{n}.npy", torch.rand(n, 3)) for n in (5, 6))
    with pytest.raises(
        ValueError, match=r"5\.npy has shape \(5, 3\) but .*6\.npy has \(6, 3\); both must have the same"
    ):
        compare_files(a, [b])


def test_nan_names_the_files_and_the_rows(tmp_path, pair):
    x, y = (torch.from_numpy(a) for a in pair)
    y[5000, 2] = torch.nan
    files = [save(tmp_path / f"{k}.npy", a) for k, a in enumerate((x, y))]
    with pytest.raises(ValueError, match=r"0\.npy, .*1\.npy, datapoints 0 to 5999: candidate 0 holds NaN.*channel 2"):
        compare_files(files[0], files[1:])


@pytest.fixture(params=["direct", "refused when opened", "refused when read", "cached"])
def reading(request, monkeypatch) -> None:
    """A file system that reads past the page cache, two that do not, and files that lie in the page cache."""
    opened, read, direct = os.open, os.preadv, set()

    def open_(path: Any, flags: int, *rest: Any) -> int:
        if flags & os.O_DIRECT and request.param == "refused when opened":
            raise OSError(errno.EINVAL, "no direct reading here")
        file = opened(path, flags, *rest)
        if flags & os.O_DIRECT:
            direct.add(file)
        return file

    def preadv(file: int, buffers: Any, offset: int, flags: int = 0) -> int:
        if file in direct and request.param == "refused when read":
            raise OSError(errno.EINVAL, "no direct reading here")
        if flags & os.RWF_NOWAIT and request.param != "cached":
            raise OSError(errno.EAGAIN, "not cached")
        return read(file, buffers, offset, flags)

    monkeypatch.setattr(os, "open", open_)
    monkeypatch.setattr(os, "preadv", preadv)


@pytest.mark.parametrize(("first", "step"), [(0, 700), (3, 700), (4096, 8192), (100, 20_000)])
def test_read_ahead_gives_every_byte_in_order(tmp_path, reading, first, step):
    size = 50_000
    data = [np.random.default_rng(k).integers(0, 256, size + k, np.uint8) for k in range(2)]
    for k, bytes_ in enumerate(data):
        (tmp_path / str(k)).write_bytes(bytes_.tobytes())
    plan = [
        [Piece(tmp_path / str(k), at, min(step, size - at), alignment=4) for k in range(2)]
        for at in range(first, size, step)
    ]
    got: list[list[np.ndarray[Any, Any]]] = [[], []]
    with read_ahead(plan) as chunks:
        for chunk in chunks:
            for k, piece in enumerate(chunk.pieces):
                assert plan[0][0].offset % 4 or piece.ctypes.data % 4 == 0
                got[k].append(piece.copy())
            chunk.release()
    for k in range(2):
        np.testing.assert_array_equal(np.concatenate(got[k]), data[k][first:size])


def fail_after(chunk: Any) -> None:
    raise RuntimeError(f"no use for {len(chunk.pieces)} pieces")


def test_read_ahead_ends_its_thread_when_the_work_fails(tmp_path):
    (tmp_path / "a").write_bytes(bytes(10_000))
    plan = [[Piece(tmp_path / "a", at, 100)] for at in range(0, 10_000, 100)]
    with pytest.raises(RuntimeError, match="no use"), read_ahead(plan) as chunks:
        fail_after(next(chunks))
    assert not [t for t in threading.enumerate() if t.name == "prunecca-read-ahead"]


def test_file_that_shrinks_while_it_is_read(tmp_path, reading):
    (tmp_path / "a").write_bytes(bytes(150))
    plan = [[Piece(tmp_path / "a", at, 100)] for at in (0, 100)]
    with pytest.raises(ValueError, match="ended at byte 150 while it was read"), read_ahead(plan) as chunks:
        list(chunks)


@pytest.mark.parametrize("mode", ["r", "r+", "c"])
def test_memory_maps_are_read_in_chunks(tmp_path, monkeypatch, pair, mode):
    monkeypatch.setattr(memory_map, "_CHUNK_BYTES", 100_000)
    x, y = pair
    np.save(tmp_path / "x.npy", x)
    view = np.load(tmp_path / "x.npy", mmap_mode=mode)
    if mode == "c":
        view[4000:] *= 2  # must not be lost with the page
        x[4000:] *= 2
    parts = list(memory_map.chunks(view, y))
    assert len(parts) == (1 if mode == "c" else 6)
    assert pc.svcca(view[10:], y[10:]).mean == pytest.approx(pc.svcca(x[10:], y[10:]).mean, abs=1e-12)
    np.testing.assert_array_equal(view, x)


def test_small_data_is_taken_in_float64():
    x, y = torch.randn(4096, 4), torch.randn(4096, 4)
    assert max(pc.cca(x[1:], y[1:]).tol) < 1e-12
    assert min(pc.cca(x, y).tol) > 1e-8


def test_probes_do_what_they_count():
    data = torch.arange(1000, dtype=torch.float64)
    words = data.numpy().view(np.uint64)
    before = pc.cpu_level()
    try:
        for level in dict.fromkeys(["baseline", before]):
            pc.set_cpu_level(level)
            assert _native.probe_read(native(data), 2) == np.bitwise_xor.reduce(words)
            assert _native.probe_fma(False, 10, 2) == 2 * _native.probe_fma(True, 20, 1)
    finally:
        pc.set_cpu_level(before)
    copy = torch.empty_like(data)
    _native.probe_copy(native(copy), native(data), 2)
    assert torch.equal(copy, data)
    with pytest.raises(ValueError, match="expected the same size"):
        _native.probe_copy(native(copy[:500]), native(data), 2)


def test_arrays_in_memory_are_no_files(tmp_path):
    x = np.ones((5, 3))
    np.save(tmp_path / "a.npy", x)
    for given in ((x, "b.npy"), (tmp_path / "a.npy", [x]), (tmp_path / "a.npy", x)):
        with pytest.raises(
            TypeError, match=r"compare_files was given a ndarray; expected paths of files: of arrays in"
        ):
            compare_files(*given)
