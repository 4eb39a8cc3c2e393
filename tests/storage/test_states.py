"""Tensors and records that prove on loading that nothing changed."""

import json

import pytest
import safetensors.torch
import torch

from prunecca import errors
from prunecca.storage import states


def some_state():
    return {
        "weight": torch.randn(3, 4),
        "half": torch.randn(5).to(torch.bfloat16),
        "step": torch.tensor(7),
        "mask": torch.tensor([True, False]),
        "empty": torch.zeros(0, 3),
        "strided": torch.arange(6.0).reshape(2, 3).T,
    }


def test_state_round_trip(tmp_path):
    state, metadata = some_state(), {"epoch": 3, "history": [{"loss": 0.1}]}
    written = states.save_state(tmp_path / "state.safetensors", state, metadata)
    tensors, read = states.load_state(tmp_path / "state.safetensors")
    assert read == metadata
    assert written == states.digest(state) == states.digest(tensors)
    assert all(torch.equal(tensors[name], state[name]) and tensors[name].dtype == state[name].dtype for name in state)


def test_same_state_gives_the_same_bytes(tmp_path):
    state = {name: torch.ones(3) for name in "zyxabc"}
    for name in ("one", "two", "three"):
        states.save_state(tmp_path / name, dict(reversed(state.items())) if name == "two" else state, {"b": 1, "a": 2})
    assert len({(tmp_path / name).read_bytes() for name in ("one", "two", "three")}) == 1


def test_tensors_are_written_in_the_format_of_safetensors_whatever_their_strides(tmp_path):
    state, metadata = some_state(), {"kind": "Thing", "count": 3}
    states.write_tensors(tmp_path / "ours", state, metadata)
    dense = {name: tensor.contiguous() for name, tensor in state.items()}
    safetensors.torch.save_file(dense, tmp_path / "theirs", {"prunecca": json.dumps(metadata)})
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()
    tensors, read = states.read_tensors(tmp_path / "ours", "Thing")
    assert read == {"count": 3}
    assert states.digest(tensors) == states.digest(state)


def test_tensors_of_another_kind_or_no_tensors_are_one_sentence(tmp_path):
    states.write_tensors(tmp_path / "thing", some_state(), {"kind": "Thing"})
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "foreign")
    for name in ("thing", "foreign"):
        with pytest.raises(ValueError, match=f"{name} is a safetensors file, but holds no Covariance"):
            states.read_tensors(tmp_path / name, "Covariance")
    whole = (tmp_path / "thing").read_bytes()
    for damaged in (b"", b"text", whole[:40], whole[:-1], b"\xff" * 16):
        (tmp_path / "damaged").write_bytes(damaged)
        with pytest.raises(ValueError, match="damaged is not a safetensors file that holds a Thing"):
            states.read_tensors(tmp_path / "damaged", "Thing")
    with pytest.raises(ValueError, match="none is not a safetensors file that holds a Thing"):
        states.read_tensors(tmp_path / "none", "Thing")


@pytest.mark.parametrize(
    "other",
    [
        {"a": torch.tensor([1.0, 2.0, 3.0])},  # value
        {"a": torch.tensor([[1.0, 2.0]])},  # shape
        {"a": torch.tensor([1.0, 2.0], dtype=torch.float64)},  # dtype
        {"b": torch.tensor([1.0, 2.0])},  # name
        {"a": torch.tensor([1.0, -2.0])},
        {"a": torch.tensor([1.0, 2.0]), "b": torch.zeros(0)},
    ],
)
def test_digest_tells_states_apart(other):
    assert states.digest({"a": torch.tensor([1.0, 2.0])}) != states.digest(other)


def test_digest_does_not_depend_on_order_or_strides():
    a, b = torch.randn(3, 4), torch.randn(2)
    assert states.digest({"a": a, "b": b}) == states.digest({"b": b, "a": a.T.contiguous().T})


def test_every_cut_of_a_state_is_detected(tmp_path):
    path = tmp_path / "state.safetensors"
    states.save_state(path, some_state(), {"epoch": 3})
    whole = path.read_bytes()
    for length in [*range(0, 64), *range(64, len(whole), 37), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(errors.CorruptFile, match=r"state\.safetensors"):
            states.load_state(path)


def test_every_flipped_byte_of_the_content_is_detected(tmp_path):
    path = tmp_path / "state.safetensors"
    states.save_state(path, {"weight": torch.randn(4)}, {"epoch": 3, "accuracy": 0.75})
    whole = path.read_bytes()
    silent = []
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            tensors, metadata = states.load_state(path)
        except errors.CorruptFile:
            continue
        # The only bytes that may change unseen are paddings and spellings that do not reach the values.
        if metadata != {"epoch": 3, "accuracy": 0.75} or list(tensors) != ["weight"]:
            silent.append(place)
    assert silent == []


def test_missing_state_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        states.load_state(tmp_path / "none.safetensors")


def test_json_round_trip_and_damage(tmp_path):
    path = tmp_path / "level.json"
    states.write_json(path, {"accuracy": 0.9, "levels": [1, 2]})
    assert states.read_json(path) == {"accuracy": 0.9, "levels": [1, 2]}
    text = path.read_text()
    for damaged in (text[:-5], "", "[]", "{}", text.replace("0.9", "0.8")):
        path.write_text(damaged)
        with pytest.raises(errors.CorruptFile):
            states.read_json(path)
