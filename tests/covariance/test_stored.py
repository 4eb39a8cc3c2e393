"""Files of covariances: a flipped byte, or numbers that do not fit each other, are one sentence."""

import json

import numpy as np
import pytest
import safetensors.torch
import torch
from hostile import soon

import prunecca as pc
from prunecca.errors import CorruptFile
from prunecca.storage import states


def accumulated(norms=False):
    acc = pc.StreamingCovariance(norms=norms)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(50, channels, generator=generator) for channels in (3, 2))
    acc.update(x, [y, x])
    return acc


@pytest.fixture
def files(tmp_path):
    """A file of each kind with what reads it."""
    accumulated(norms=True).save(tmp_path / "acc")
    accumulated(norms=True).finalize()[0].save(tmp_path / "cov")
    return {"acc": (tmp_path / "acc", pc.StreamingCovariance.load), "cov": (tmp_path / "cov", pc.Covariance.load)}


@pytest.mark.parametrize("kind", ["acc", "cov"])
def test_every_flipped_byte_is_one_sentence_or_changes_nothing(files, kind):
    path, load = files[kind]
    whole = path.read_bytes()
    load(path)
    tensors, metadata = states.read_tensors(path, load.__self__.__name__)
    expected = states.digest(tensors), metadata
    unseen = []
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            load(path)
        except ValueError as error:
            unseen += [place] if "\n" in str(error) else []
        else:  # a padding, which reaches no value
            found, metadata = states.read_tensors(path, load.__self__.__name__)
            unseen += [place] if (states.digest(found), metadata) != expected else []
    assert unseen == []


def test_files_without_a_checksum_are_loaded(files, tmp_path):
    for path, load in files.values():
        tensors = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as stream:
            metadata = json.loads(stream.metadata()["prunecca"])
        assert len(metadata.pop("sha256")) == 64
        states.write_tensors(tmp_path / "old", tensors, metadata)
        assert load(tmp_path / "old").count == 50


def change(path, name, new):
    """The file with one tensor or value changed, and a checksum that fits."""
    kind = {"acc": "StreamingCovariance", "cov": "Covariance"}[path.name]
    tensors, metadata = states.read_tensors(path, kind)
    target = tensors if isinstance(new, torch.Tensor) or name in tensors else metadata
    if new is None:
        del target[name]
    else:
        target[name] = new(tensors[name]) if callable(new) else new
    states.write_tensors(path, tensors, states.with_checksum(tensors, {"kind": kind, **metadata}))


@pytest.mark.parametrize(
    ("kind", "name", "new", "words"),
    [
        ("cov", "count", -1, "has -1 as count; expected a whole number from 0 on"),
        ("cov", "count", 1.5, "has 1.5 as count"),
        ("cov", "count", None, "lacks metadata 'count'"),
        ("cov", "precision", "float16", "has 'float16' as precision; expected 'float32' or 'float64'"),
        ("cov", "more", 1, "has the unknown metadata 'more'"),
        ("cov", "xx", None, "lacks tensors 'xx'"),
        ("cov", "zz", torch.zeros(2), "has the unknown tensors 'zz'"),
        ("cov", "xx", torch.zeros(2, 2, dtype=torch.float64), r"tensor xx of shape \(2, 2\) .*expected \(3, 3\)"),
        ("cov", "xy", lambda t: t.mT.contiguous(), r"tensor xy of shape \(2, 3\) .*; expected \(3, 2\)"),
        ("cov", "xx", lambda t: t.float(), "of torch.float32; expected"),
        ("cov", "xx", lambda t: t.triu(), "matrix xx that is not symmetric"),
        ("cov", "yy", lambda t: t * np.nan, "NaN or infinity in its tensor yy"),
        ("cov", "mean_x", torch.zeros((), dtype=torch.float64), "has a single number as mean_x"),
        ("cov", "norms", lambda t: t[:2].clone(), r"tensor norms of shape \(2,\)"),
        ("acc", "counts", [50, 50], "has .* as exact; expected true or false for each of counts"),
        ("acc", "counts", [50, -1, 50], "as counts; expected whole numbers from 0 on"),
        ("acc", "counts", 3, "has 3 as counts"),
        ("acc", "norms", "yes", "has 'yes' as norms; expected true or false"),
        ("acc", "as_list", None, "lacks metadata 'as_list'"),
        ("acc", "0.gram", None, "lacks tensors '0.gram'"),
        ("acc", "9.gram", torch.zeros(2, 2), "has the unknown tensors '9.gram'"),
        ("acc", "0.shift", torch.zeros(4, dtype=torch.float64), "has a tensor 0.gram of shape"),
        ("acc", "3.gram", lambda t: t + np.inf, "NaN or infinity in its tensor 3.gram"),
    ],
)
def test_numbers_that_do_not_fit_each_other_are_one_sentence(files, kind, name, new, words):
    path, load = files[kind]
    change(path, name, new)
    with pytest.raises(CorruptFile, match=words):
        load(path)


def test_what_is_no_file_is_said_and_never_waited_for(tmp_path):
    (tmp_path / "zero").symlink_to("/dev/zero")
    for load in (pc.Covariance.load, pc.StreamingCovariance.load):
        with soon(), pytest.raises(ValueError, match="is a device, where a file is expected"):
            load(tmp_path / "zero")
