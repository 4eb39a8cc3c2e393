"""Headers of activations from someone else: shapes and places that cannot be are one sentence, before anything is read."""

import json

import numpy as np
import pytest
from hostile import PLANTS, plant, soon

from prunecca.comparison.files import compare_files
from prunecca.storage.array_files import stored_activations


def safetensors_file(path, **changes):
    entry = {"dtype": "F32", "shape": [4, 2], "data_offsets": [0, 32], **changes}
    header = json.dumps({"x": entry}).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(32))
    return path


def npy_file(path, shape):
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode()
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(32))
    return path


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"shape": [-4, -2]}, "its header does not say where"),
        ({"shape": [4.0, 2]}, "its header does not say where"),
        ({"shape": "42"}, "its header does not say where"),
        ({"shape": [True, 8]}, "its header does not say where"),
        ({"shape": [10**30, 10**30]}, "cannot have 32 bytes"),
        ({"shape": [1] * 1000 + [8]}, "has shape"),
        ({"data_offsets": [-32, 0]}, "its header does not say where"),
        ({"data_offsets": [0]}, "its header does not say where"),
        ({"data_offsets": [10**30, 10**30 + 32]}, "is truncated"),
        ({"data_offsets": None}, "its header does not say where"),
        ({"dtype": ["F32"]}, r"holds \['F32'\]; expected"),
    ],
)
def test_headers_that_cannot_be_are_refused(tmp_path, changes, words):
    assert stored_activations(safetensors_file(tmp_path / "a.safetensors")).shape == (4, 2)
    with soon(), pytest.raises(ValueError, match=words):
        stored_activations(safetensors_file(tmp_path / "a.safetensors", **changes))


@pytest.mark.parametrize(
    "shape", ["(-4, -2)", "(4, 10**9)", "(10000000000000000000000, 2)", "(" * 3000, "-" * 9000 + "1", "(4.0, 2)"]
)
def test_shapes_of_npy_files_that_cannot_be_are_refused(tmp_path, shape):
    assert stored_activations(npy_file(tmp_path / "a.npy", "(4, 2)")).shape == (4, 2)
    with soon(), pytest.raises(ValueError, match=r"a\.npy"):
        stored_activations(npy_file(tmp_path / "a.npy", shape))


@pytest.mark.parametrize("kind", [kind for kind in PLANTS if kind not in ("link", "dangling", "loop")])
@pytest.mark.parametrize("name", ["a.npy", "a.safetensors"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind, name):
    np.save(tmp_path / "x.npy", np.ones((4, 2), np.float32))
    plant(kind, tmp_path / name, tmp_path)
    with soon(), pytest.raises(ValueError, match="is not a file"):
        compare_files(tmp_path / "x.npy", [tmp_path / name])
