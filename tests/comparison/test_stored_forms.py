"""Every form in which activations are stored gives the values of one .npy file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import save_file

from prunecca.comparison import files as stored_files
from prunecca.comparison.files import compare_files
from prunecca.storage.array_files import stored_activations

RNG = np.random.default_rng(0)
X = RNG.standard_normal((700, 6)).astype(np.float32) + 3
Y = (X @ RNG.standard_normal((6, 5)) + RNG.standard_normal((700, 5))).astype(np.float32)
CUTS = [1, 90, 91, 400]


def shards(folder: Path, array: Any) -> str:
    folder.mkdir()
    for number, part in enumerate(np.split(array, CUTS)):
        np.save(folder / f"part-{number + 8}.npy", part)  # 10 comes after 9
    (folder / "README.md").write_text("what this is")
    (folder / ".hidden").write_text("")
    return str(folder)


def tensors(folder: Path, array: Any, name: str = "x") -> str:
    folder.mkdir()
    for number, part in enumerate(np.split(array, CUTS)):
        save_file({"x": part, "other": part[:0]}, folder / f"{number:03}.safetensors")
    return f"{folder}:{name}"


def npz(file: Path, array: Any) -> str:
    np.savez(f"{file}.npz", x=array, other=array[:0])
    return f"{file}.npz:x"


def npz_compressed(file: Path, array: Any) -> str:
    np.savez_compressed(f"{file}.npz", x=array)
    return f"{file}.npz"


def hdf5(file: Path, array: Any) -> str:
    h5py = pytest.importorskip("h5py")
    with h5py.File(f"{file}.h5", "w") as stored:
        stored.create_dataset("group/x", data=array, chunks=(64, 2), compression="gzip")
        stored["other"] = array[:0]
    return f"{file}.h5:group/x"


def hdf5_of_other_order(file: Path, array: Any) -> str:
    h5py = pytest.importorskip("h5py")
    with h5py.File(f"{file}.hdf5", "w") as stored:
        stored["x"] = array.astype(">f4")
    return f"{file}.hdf5"


def zarr(file: Path, array: Any, form: int = 3) -> str:
    library = pytest.importorskip("zarr")
    stored = library.create_array(
        f"{file}.zarr", shape=array.shape, dtype=array.dtype, chunks=(64, 2), zarr_format=form
    )
    stored[...] = array
    return f"{file}.zarr"


def zarr_2(file: Path, array: Any) -> str:
    return zarr(file, array, form=2)


FORMS = [shards, tensors, npz, npz_compressed, hdf5, hdf5_of_other_order, zarr, zarr_2]


@pytest.fixture
def small_chunks(monkeypatch):
    """As large files are read: in many chunks."""
    settings = stored_files._covariances.__kwdefaults__
    monkeypatch.setattr(stored_files._covariances, "__kwdefaults__", {**settings, "chunk_bytes": 2000})


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_values_of_npy(tmp_path, small_chunks, form):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    metrics = ("svcca", "linear_cka", "debiased_cka")
    expected = compare_files(tmp_path / "x.npy", tmp_path / "y.npy", metrics, precision="float64")
    told: list[tuple[int, int | None]] = []
    got = compare_files(
        tmp_path / "x.npy",
        [form(tmp_path / "stored", Y)],
        metrics,
        precision="float64",
        progress=lambda done, total: told.append((done, total)),
    )
    assert told[-1] == (X.nbytes + Y.nbytes, X.nbytes + Y.nbytes)
    assert got["value"].tolist() == pytest.approx(expected["value"].tolist(), abs=1e-12)
    pd.testing.assert_frame_equal(
        got.drop(columns=["candidate", "value"]), expected.drop(columns=["candidate", "value"])
    )
    # The reference may be stored so as well, in other pieces than the candidate.
    swapped = compare_files(
        f"{form(tmp_path / 'again', X)}", shards(tmp_path / "pieces", Y), metrics, precision="float64"
    )
    assert swapped["value"].tolist() == pytest.approx(expected["value"].tolist(), abs=1e-12)


def test_shards_of_images(tmp_path, small_chunks):
    images = RNG.standard_normal((300, 4, 3, 2))
    np.save(tmp_path / "x.npy", images)
    folder = shards_of(tmp_path / "s", np.split(images, [3, 290]))
    assert stored_activations(folder).shape == images.shape
    assert compare_files(tmp_path / "x.npy", folder, "cca")["value"][0] == pytest.approx(1, abs=1e-9)


def shards_of(folder: Path, parts: list[Any]) -> str:
    folder.mkdir()
    for number, part in enumerate(parts):
        np.save(folder / f"{number}.npy", part)
    return str(folder)


def test_one_path_is_one_candidate(tmp_path):
    np.save(tmp_path / "x.npy", X)
    for candidate in (str(tmp_path / "x.npy"), tmp_path / "x.npy"):
        table = compare_files(tmp_path / "x.npy", candidate, "cca")
        assert table["candidate"].tolist() == [str(candidate)]


def test_a_tensor_of_shards_has_one_name(tmp_path):
    path = tensors(tmp_path / "s", Y, "z")
    with pytest.raises(ValueError, match=r"000\.safetensors has no tensor 'z'; name one as .*:NAME, of other, x"):
        stored_activations(path)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            [X, Y],
            r"0\.npy holds float32 of shape \(700, 6\) but .*1\.npy holds float32 of shape \(700, 5\); shards must",
        ),
        ([X, X.astype(np.float16)], "holds float32 of shape .* but .* holds float16"),
        ([X, X[:0]], r"1\.npy has shape \(0, 6\), which holds nothing"),
        ([X, np.array([[{}]], object)], "1.npy holds Python objects, which are never loaded"),
    ],
)
def test_shards_that_do_not_belong_together(tmp_path, parts, message):
    with pytest.raises(ValueError, match=message):
        stored_activations(shards_of(tmp_path / "s", parts))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], r"s is not a file but a folder without \.npy or \.safetensors files; expected"),
        (["index.json"], r"s is not a file but a folder without \.npy or \.safetensors files; expected"),
        (["a.npy", "b.safetensors"], r"s holds \.npy and \.safetensors files; expected shards that are all"),
        (["a.npy", "b.pt"], r"s holds b\.pt; expected shards that are all \.npy or all \.safetensors files"),
    ],
)
def test_folders_that_hold_no_shards(tmp_path, names, message):
    (tmp_path / "s").mkdir()
    for name in names:
        (tmp_path / "s" / name).write_bytes(b"")
    with pytest.raises(ValueError, match=message):
        stored_activations(tmp_path / "s")


def test_shards_hold_datapoints_and_not_channels(tmp_path):
    folder = shards_of(tmp_path / "s", [np.ones((4, 5, 6)), np.ones((4, 5, 6))])
    with pytest.raises(ValueError, match="s holds shards of datapoints; expected a layout with the datapoints first"):
        compare_files(folder, folder, layout="chw")


def test_members_of_an_archive_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    with pytest.raises(ValueError, match=r"a\.npz holds 2 arrays; name one as .*a\.npz:NAME, of x, y$"):
        stored_activations(tmp_path / "a.npz")
    with pytest.raises(ValueError, match=r"a\.npz has no array 'z'; name one as .*a\.npz:NAME, of x, y$"):
        stored_activations(f"{tmp_path}/a.npz:z")
    assert stored_activations(f"{tmp_path}/a.npz:y.npy").shape == Y.shape


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([[{}]], object), "a.npz:x holds Python objects, which are never loaded"),
        (np.asfortranarray(X), "a.npz:x is in Fortran order; expected C order"),
        (X.astype(np.int64), "a.npz:x holds int64; expected float16"),
        (X[:0], r"has shape \(0, 6\), which holds nothing"),
        (X[0], r"has shape \(6,\); expected \(N, C\)"),
    ],
)
def test_members_that_are_no_activations(tmp_path, save, array, message):
    save(tmp_path / "a.npz", x=array)
    with pytest.raises(ValueError, match=message):
        stored_activations(tmp_path / "a.npz")


def test_archives_that_are_damaged(tmp_path):
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match=r"text\.npz is no \.npz file, or cut short"):
        stored_activations(tmp_path / "text.npz")
    header = Path(shards_of(tmp_path / "s", [np.ones((2, 3))]), "0.npy").read_bytes()
    with zipfile.ZipFile(tmp_path / "short.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", header[:-8])
    with pytest.raises(ValueError, match=r"short\.npz:x is corrupt: it cannot hold the 176 bytes"):
        stored_activations(tmp_path / "short.npz")


def test_data_sets_are_named(tmp_path):
    path = hdf5(tmp_path / "a", X).removesuffix(":group/x")
    with pytest.raises(ValueError, match=r"a\.h5 holds 2 data sets; name one as .*a\.h5:NAME, of group/x, other$"):
        stored_activations(path)
    with pytest.raises(
        ValueError, match=r"a\.h5 has no data set 'group'; name one as .*a\.h5:NAME, of group/x, other$"
    ):
        stored_activations(f"{path}:group")
    assert stored_activations(f"{path}:/group/x").dtype == torch.float32


def test_data_sets_that_are_no_activations(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as stored:
        stored["whole"] = np.ones((3, 4), np.int32)
        stored["flat"] = np.ones(3)
        stored.create_dataset("texts", data=["a", "b"], dtype=h5py.string_dtype())
    for name, message in (
        ("whole", r"a\.h5:whole holds int32; expected float16"),
        ("flat", r"a\.h5:flat has shape \(3,\); expected \(N, C\)"),
        ("texts", r"a\.h5:texts holds Python objects, which are never loaded"),
    ):
        with pytest.raises(ValueError, match=message):
            stored_activations(f"{tmp_path}/a.h5:{name}")
    (tmp_path / "text.h5").write_text("no data")
    with pytest.raises(ValueError, match=r"text\.h5 cannot be read as an HDF5 file"):
        stored_activations(tmp_path / "text.h5")


def test_zarr_groups_name_their_arrays(tmp_path):
    library = pytest.importorskip("zarr")
    group = library.open_group(str(tmp_path / "g.zarr"), mode="w")
    group.create_array("x", shape=X.shape, dtype=X.dtype)[...] = X
    with pytest.raises(ValueError, match=r"g\.zarr is a zarr group; name an array in it as .*g\.zarr/NAME, of x$"):
        stored_activations(tmp_path / "g.zarr")
    assert stored_activations(tmp_path / "g.zarr" / "x").shape == X.shape
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(ValueError, match=r"empty\.zarr is a folder without a zarr array"):
        stored_activations(tmp_path / "empty.zarr")


def test_nothing_in_zarr_is_unpickled(tmp_path):
    path = Path(zarr_2(tmp_path / "a", X), ".zarray")
    description = json.loads(path.read_text())
    path.write_text(json.dumps({**description, "filters": [{"id": "pickle"}]}))
    with pytest.raises(ValueError, match="holds pickled Python objects, which are never loaded"):
        stored_activations(path.parent)
    path.write_text(json.dumps({**description, "dtype": "<i8"}))
    with pytest.raises(ValueError, match=r"a\.zarr holds int64; expected float16"):
        stored_activations(path.parent)
    path.write_text("{")
    with pytest.raises(ValueError, match="is damaged: it is no JSON"):
        stored_activations(path.parent)


@pytest.mark.parametrize(("library", "name", "extra"), [("h5py", "a.h5", "hdf5"), ("zarr", "a.zarr", "zarr")])
def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch, library, name, extra):
    monkeypatch.setitem(__import__("sys").modules, library, None)
    path = tmp_path / name
    if extra == "zarr":
        path.mkdir()
        (path / "zarr.json").write_text("{}")
    else:
        path.write_bytes(b"\x89HDF")
    with pytest.raises(ValueError, match=rf"{name} is read with {library}, which is not installed; install it with pip install 'prunecca\[{extra}\]'"):  # fmt: skip
        stored_activations(path)
