"""Batches in the forms in which loaders give them and models take them."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, TensorDataset

import prunecca as pc
from prunecca.activations.calls import arguments, is_mask_of
from prunecca.activations.inputs import Batch, input_batches, total_inputs

X, Y, LABELS = torch.randn(6, 4), torch.randn(6, 3), torch.zeros(6)
Pair = namedtuple("Pair", "a b label")


@dataclass
class Fields:
    a: Tensor
    b: Tensor
    length: int = 4


class One(nn.Module):
    def forward(self, a: Tensor, scale: float = 1.0) -> Tensor:
        return a


class Two(nn.Module):
    def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
        return a


class Keywords(nn.Module):
    def forward(self, *, a: Tensor, b: Tensor | None = None) -> Tensor:
        return a


class Mixed(nn.Module):
    def forward(self, a: Tensor, *, b: Tensor) -> Tensor:
        return a


class Anything(nn.Module):
    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        return inputs[0]


class Masked(nn.Module):
    def forward(self, ids: Tensor | None = None, past: Any = None, attention_mask: Tensor | None = None) -> Any:
        return ids


@pytest.mark.parametrize(
    ("model", "content", "args", "kwargs"),
    [
        (One(), X, [X], {}),
        (One(), (X, LABELS), [X], {}),
        (One(), [X, Y, LABELS], [X], {}),
        (One(), {"a": X, "label": LABELS}, [], {"a": X}),
        (One(), ({"a": X}, LABELS), [], {"a": X}),
        (One(), UserDict(a=X, label=LABELS), [], {"a": X}),
        (Two(), (X, Y), [X, Y], {}),
        (Two(), (X, Y, LABELS), [X, Y], {}),
        (Two(), ((X, Y), LABELS), [X, Y], {}),
        (Two(), Pair(X, Y, LABELS), [], {"a": X, "b": Y}),
        (Two(), Fields(X, Y), [], {"a": X, "b": Y}),
        (Two(), {"b": Y, "a": X, "scale": 2.0}, [], {"a": X, "b": Y, "scale": 2.0}),
        (Keywords(), X, [], {"a": X}),
        (Keywords(), (X, LABELS), [], {"a": X}),
        (Keywords(), {"a": X, "b": Y, "label": LABELS}, [], {"a": X, "b": Y}),
        (Mixed(), (X, Y, LABELS), [X], {"b": Y}),
        (Anything(), (X, LABELS), [X], {}),
        (Anything(), {"a": X, "text": ["a"] * 6}, [], {"a": X}),
        (nn.Linear(4, 2), (X, LABELS), [X], {}),
        (nn.TransformerDecoderLayer(4, 2), (X, Y, LABELS), [X, Y], {}),
    ],
)
def test_how_a_model_is_called(model: nn.Module, content: Any, args: list[Any], kwargs: dict[str, Any]) -> None:
    found_args, found = arguments(model, content)
    assert [id(value) for value in found_args] == [id(value) for value in args]
    assert found.keys() == kwargs.keys()
    assert all(found[key] is value for key, value in kwargs.items())


@pytest.mark.parametrize(
    ("model", "content", "words"),
    [
        (
            Two(),
            X,
            "Two takes a, b but a batch gives 1 input; expected tuples of its inputs, mappings with these keys, or",
        ),
        (Two(), (X,), "Two takes a, b but a batch gives 1 input"),
        (Mixed(), X, "Mixed takes a, b but a batch gives 1 input"),
        (
            Two(),
            {"a": X},
            "Two takes a, b but a batch has the keys 'a'; expected keys that it takes, or forward=lambda",
        ),
        (One(), {"image": X}, "One takes a but a batch has the keys 'image'"),
    ],
)
def test_inputs_that_a_model_lacks_are_named(model: nn.Module, content: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        arguments(model, content)


def test_the_padding_mask_beside_tokens_is_passed_and_labels_are_not() -> None:
    ids = torch.tensor([[5, 7, 0, 0], [3, 2, 9, 0]])
    mask = (ids != 0).long()
    assert arguments(Masked(), (ids, mask), is_mask_of(ids, mask))[1] == {"attention_mask": mask}
    assert is_mask_of(ids, mask.bool())
    assert is_mask_of(ids, torch.ones_like(ids))
    for other in (torch.zeros_like(ids), ids, ids % 2, mask[:, :3], LABELS, torch.tensor([[1, 0, 1, 0], [1, 0, 0, 1]])):
        assert not is_mask_of(ids, other)
    assert arguments(Masked(), (ids, ids % 2), False)[1] == {}
    assert arguments(One(), (ids, mask), True)[1] == {}


def test_datapoints_are_counted_and_cut_in_every_form() -> None:
    packed = pack_sequence([torch.ones(3, 2), torch.ones(2, 2) * 2, torch.ones(1, 2) * 3])
    table = torch.randn(4, 4)  # of the model, not of the datapoints
    for content, count in [(X, 6), ((X, LABELS), 6), ({"a": X, "t": table}, 6), (Fields(X, Y), 6), (packed, 3)]:
        assert Batch.of(content).count == count
        assert Batch.of(content).cut(2).count == 2
    cut = Batch.of({"a": X, "t": table, "names": list("abcdef")}).cut(2).content
    assert torch.equal(cut["a"], X[:2])
    assert cut["t"] is table
    assert cut["names"] == ["a", "b"]
    assert isinstance(Batch.of(Pair(X, Y, LABELS)).cut(2).content, Pair)
    shorter = Batch.of((packed, LABELS[:3])).cut(2).content[0]
    assert isinstance(shorter, PackedSequence)
    assert shorter.data[:, 0].tolist() == [1, 2, 1, 2, 1]


def test_a_list_of_samples_for_a_function() -> None:
    images = [torch.randn(3, 8, 8) for _ in range(5)]
    batch = Batch.of(images, lambda model, images: model(torch.stack(images)))
    assert batch.count == 5
    assert batch.cut(4).call(nn.Conv2d(3, 4, 3)).shape == (4, 4, 6, 6)


def test_loaders_that_are_whole_data() -> None:
    data = torch.randn(100, 4)
    labels, ids = torch.zeros(100), torch.randint(1, 9, (100, 4))
    whole = [data, {"a": data}, (data, labels), [data, labels], (ids, torch.ones_like(ids))]
    for loader in (*whole, TensorDataset(data, labels), DataLoader(TensorDataset(data), 64)):
        assert [batch.count for _, batch, _ in input_batches(loader, None, (0, 1))] == [64, 36]
        assert [seen for _, _, seen in input_batches(loader, 70, (0, 1))] == [64, 70]
        assert total_inputs(loader, None) == 100
    batches = [[ids[:50], ids[:50, :3]], (data[:50], data[50:])]
    assert [[batch.count for _, batch, _ in input_batches(loader, None, (0, 1))] for loader in batches] == [
        [50, 50]
    ] * 2


@pytest.mark.parametrize(
    ("loader", "words"),
    [
        (None, "the loader is None; expected batches: a DataLoader, a list of them, a tensor, or a data set"),
        (3, "the loader is a int; expected batches"),
        ("digits", "the loader is a str; expected batches"),
        ([["a", "b"]], "batch 0 of the loader is a list that starts with a str; expected a tensor of inputs"),
        ([{"ids": [[1, 2]]}], "batch 0 of the loader is a dict; expected"),
        ([torch.tensor(3.0)], "batch 0 of the loader is a Tensor; expected"),
    ],
)
def test_loaders_without_inputs(loader: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        list(input_batches(loader, None, (0, 1)))


def test_a_data_set_of_what_makes_no_batches() -> None:
    class Pictures(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> Any:
            return object(), index

    with pytest.raises(
        TypeError, match=r"a data set whose samples do not make batches .*; expected a DataLoader of it"
    ):
        list(input_batches(Pictures(), None, (0, 1)))


def test_layers_are_found_with_any_batch() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(4, 5), nn.Linear(3, 5)

        def forward(self, a: Tensor, *, b: Tensor) -> Tensor:
            return self.left(a).relu_() + self.right(b)

    model = Both().eval()
    for content in ((X, Y), {"a": X, "b": Y, "label": LABELS}):
        assert [layer.name for layer in pc.find_layers(model, content, ["right", "left"])] == ["left", "right"]
    own = pc.find_layers(model, [X, Y], "left", forward=lambda model, batch: model(batch[0], b=batch[1]))
    assert [layer.name for layer in own] == ["left"]
