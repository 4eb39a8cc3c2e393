"""Files of weights of every kind, and advice about those that are none."""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import pickle
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prunecca.errors import CorruptFile
from prunecca.storage.states import save_state
from prunecca.storage.weights import read_checkpoint

STATE = {"0.weight": torch.arange(6.0).reshape(2, 3), "0.bias": torch.tensor([1.0, -1.0]), "1.weight": torch.ones(2)}


def read(path):
    return read_checkpoint(path).state().tensors


def same(tensors):
    return tensors.keys() == STATE.keys() and all(torch.equal(tensors[name], STATE[name]) for name in STATE)


def sharded(folder, stem, ending, save):
    """The weights in two files and their index."""
    folder.mkdir(exist_ok=True)
    places = {}
    for number, names in enumerate((("0.weight",), ("0.bias", "1.weight")), 1):
        name = f"{stem}-{number:05d}-of-00002.{ending}"
        save({key: STATE[key] for key in names}, folder / name)
        places.update(dict.fromkeys(names, name))
    index = folder / f"{stem}.{ending}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 44}, "weight_map": places}))
    return index


def test_whole_files(tmp_path):
    save_file(STATE, tmp_path / "x.safetensors")
    save_file(STATE, tmp_path / "safetensors.pt")
    torch.save(STATE, tmp_path / "x.pth")
    torch.save(STATE, tmp_path / "torch.safetensors")
    torch.save(STATE, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    torch.save(STATE, tmp_path / os.fsdecode(b"\xff.pt"))
    save_file(STATE, tmp_path / "y.safetensors")
    (tmp_path / "y.safetensors").rename(tmp_path / os.fsdecode(b"\xff.safetensors"))
    for path in list(tmp_path.iterdir()):
        assert same(read(path)), path
    save_state(tmp_path / "ours.safetensors", STATE, {"problem": "digits2"})
    assert read_checkpoint(tmp_path / "ours.safetensors").metadata == {"problem": "digits2"}


@pytest.mark.parametrize(
    ("stem", "ending", "save"), [("model", "safetensors", save_file), ("pytorch_model", "bin", torch.save)]
)
def test_shards_are_read_by_their_index_their_folder_or_one_of_them(tmp_path, stem, ending, save):
    index = sharded(tmp_path, stem, ending, save)
    for path in (index, tmp_path, tmp_path / f"{stem}-00002-of-00002.{ending}"):
        assert same(read(path))
    (tmp_path / f"{stem}-00002-of-00002.{ending}").unlink()
    with pytest.raises(FileNotFoundError) as caught:
        read(index)
    shard = tmp_path / f"{stem}-00002-of-00002.{ending}"
    assert str(caught.value) == f"{shard} is missing; {index.name} names it as one of 2 shards"
    save({"0.bias": STATE["0.bias"]}, shard)
    with pytest.raises(CorruptFile, match=f"lacks 1.weight, which {index.name} promises; copy it again"):
        read(index)


@pytest.mark.parametrize("name", ["../x.bin", "/etc/passwd", "a/b.bin", "..", "x.index.json", 3])
def test_an_index_leads_nowhere_else(tmp_path, name):
    (tmp_path / "x.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    with pytest.raises(CorruptFile, match=r"(expected files of weights in its own folder|no index of shards)"):
        read(tmp_path / "x.index.json")


def test_plain_values_beside_the_tensors_are_no_obstacle(tmp_path):
    extra = {
        "args": argparse.Namespace(lr=0.1),
        "path": pathlib.Path("runs"),
        "best": np.float64(0.9),
        "n": np.int32(3),
    }
    torch.save({"model": STATE, **extra, "rng": np.random.default_rng(0).integers(9, size=5)}, tmp_path / "x.pth")
    assert same(read(tmp_path / "x.pth"))


def test_one_of_several_networks_is_named_with_the_file(tmp_path):
    other = {name: value + 1 for name, value in STATE.items()}
    torch.save({"state_dict": other, "state_dict_ema": STATE}, tmp_path / "x.pth")
    assert same(read(f"{tmp_path}/x.pth:state_dict_ema"))
    with pytest.raises(ValueError) as caught:
        read(tmp_path / "x.pth")
    assert str(caught.value) == (
        f"{tmp_path}/x.pth holds several networks: state_dict, state_dict_ema; name one as {tmp_path}/x.pth:state_dict_ema"
    )


def archive(names):
    def save(path):
        with zipfile.ZipFile(path, "w") as made:
            for name in names:
                made.writestr(name, "x")

    return save


class Harmful:
    def __reduce__(self):
        return os.system, ("touch harmed",)


TORCH = "expected a safetensors file, or a state_dict saved by torch.save"
FILES = {
    "text": (lambda p: p.write_text("hello"), f"is a text file; {TORCH}"),
    "binary": (lambda p: p.write_bytes(bytes(range(200))), f"is no file of weights, or its beginning is lost; {TORCH}"),
    "empty": (lambda p: p.write_bytes(b""), "is empty; copy or download it again"),
    "page": (
        lambda p: p.write_text("\n<!DOCTYPE html>\n<html>Sign in"),
        "is a web page, which a failed download leaves; download the file itself again",
    ),
    "pointer": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"),
        "is a pointer of Git LFS, not the weights; fetch them with `git lfs pull`",
    ),
    "zip": (
        archive(["readme.txt"]),
        "is a zip archive without weights of torch; unpack it, and give the file of weights",
    ),
    "numpy": (
        lambda p: np.savez(p.open("wb"), a=np.ones(2)),
        "is a NumPy archive without weights of torch; unpack it, and give the file of weights",
    ),
    "json": (
        lambda p: p.write_text('{"a": 1}'),
        "is JSON, but no index of shards (weight_map); expected a file of weights",
    ),
    "pickle": (
        lambda p: p.write_bytes(pickle.dumps({"a": 1}, protocol=2)),
        "is a pickle, and none of torch; expected a state_dict saved by torch.save",
    ),
    "module": (
        lambda p: torch.save(nn.Linear(2, 2), p),
        "holds an object of torch.nn.modules.linear.Linear, not weights alone, and loading it can run any code; where you "
        "trust it, load it with torch.load(FILE, weights_only=False), save its weights with "
        "torch.save(model.state_dict(), 'weights.pt'), and give that file",
    ),
}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.parametrize("kind", FILES)
def test_what_is_no_file_of_weights_gets_advice_that_deletes_nothing(tmp_path, kind):
    make, sentence = FILES[kind]
    path = tmp_path / "x.pt"
    make(path)
    with pytest.raises(CorruptFile) as caught:
        read(path)
    assert str(caught.value) == f"{path} {sentence}"
    assert "remove" not in str(caught.value)


@pytest.mark.parametrize("old", [False, True])
def test_nothing_harmful_is_run(tmp_path, monkeypatch, old):
    monkeypatch.chdir(tmp_path)
    torch.save({"a": Harmful()}, "x.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(CorruptFile, match=r"x.pt holds an object of \w+.system, not weights alone"):
        read("x.pt")
    assert not os.path.exists("harmed")


@pytest.mark.parametrize("save", [torch.save, save_file, lambda s, p: save_state(p, s)])
def test_a_file_that_was_cut_says_so(tmp_path, save):
    path = tmp_path / "x.pt"
    save(STATE, path)
    whole = path.read_bytes()
    for length in (len(whole) // 3, len(whole) - 3):
        path.write_bytes(whole[:length])
        with pytest.raises(CorruptFile, match=r"(cut|damaged|not a whole).*copy (it|or download it) again") as caught:
            read(path)
        assert "remove" not in str(caught.value)


def test_bombs_pipes_and_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as made:
        made.writestr("x/data.pkl", bytes(10**7))
    with pytest.raises(CorruptFile, match="would unpack to more than 16 times its size"):
        read(tmp_path / "x.pt")
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(CorruptFile, match=r"pipe.pt is a pipe or device; expected a file of weights"):
        read(tmp_path / "pipe.pt")
    with pytest.raises(
        FileNotFoundError, match=r"is a folder without model.safetensors, model.safetensors.index.json, "
    ):
        read(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none.pt does not exist; expected a file of weights"):
        read(tmp_path / "none.pt")
