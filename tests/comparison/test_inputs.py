"""Comparisons of models that take more than one tensor, change it, or sit in wrappers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import reference
import torch
from networks import IMAGES, cut, network, values
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence
from torch.utils.data import DataLoader, TensorDataset

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")

A, B = torch.randn(80, 5), torch.randn(80, 3)


class Both(nn.Module):
    """Two inputs, and layers that give a dict, a tuple and a tensor."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.left, self.right, self.last = nn.Linear(5, 6), nn.Linear(3, 6), Several()

    def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Any:
        return self.last(torch.relu(self.left(a) + self.right(b)) * scale)


class Several(nn.Module):
    def forward(self, x: Tensor) -> Any:
        return {"pooled": x[:, :2], "last_hidden_state": x, "states": (x.square(), x[:, 1:])}


def truth(first: Both, second: Both, pick: Callable[[Any], Tensor]) -> float:
    with torch.no_grad():
        x, y = (pick(model(A, B)["last_hidden_state"]).double().numpy() for model in (first, second))
    return float(reference.linear_cka(x, y))


def test_every_form_of_two_inputs_gives_the_right_value() -> None:
    model, other = Both(), Both(1)
    expected = truth(model, other, lambda x: x)
    parts = [(A[k : k + 30], B[k : k + 30]) for k in (0, 30, 60)]
    loaders: list[Any] = [
        parts,
        [(a, b, torch.zeros(len(a))) for a, b in parts],
        [((a, b), 0) for a, b in parts],
        [{"b": b, "a": a, "labels": torch.zeros(len(a))} for a, b in parts],
        {"a": A, "b": B},
        TensorDataset(A, B),
        DataLoader(TensorDataset(A, B), 30),
    ]
    for loader in loaders:
        table = pc.compare(model, other, loader, "last", "linear_cka").table
        assert table["value"][0] == pytest.approx(expected, abs=1e-6)
        assert table["count"][0] == 80
    own = pc.compare(model, other, [A], "last", "linear_cka", forward=lambda model, a: model(a, B[: len(a)])).table
    assert own["value"][0] == pytest.approx(expected, abs=1e-6)
    few = pc.compare(model, other, {"a": A, "b": B}, "last", "linear_cka", max_datapoints=70).table
    assert few["count"][0] == 70


@pytest.mark.parametrize(
    ("output", "pick"),
    [
        (None, lambda x: x),
        ("pooled", lambda x: x[:, :2]),
        (0, lambda x: x[:, :2]),
        ("states", lambda x: x.square()),
        (lambda result: result["states"][1], lambda x: x[:, 1:]),
        ({"left": 0, "la*": "pooled"}, lambda x: x[:, :2]),
    ],
)
def test_output_picks_the_tensor(output: Any, pick: Callable[[Any], Tensor]) -> None:
    model, other = Both(), Both(1)
    table = pc.compare(
        model, other, [(A, B)], "last" if callable(output) else ["left", "last"], "linear_cka", output=output
    ).table
    assert values(table)["candidate", "last", "linear_cka"] == pytest.approx(truth(model, other, pick), abs=1e-6)
    dimensions = pc.intrinsic_dimensions(model, [(A, B)], "last", output=output)
    assert dimensions["features"].tolist() == [pick(A.new_zeros(1, 6)).shape[1]]


@pytest.mark.parametrize(
    ("output", "error", "words"),
    [
        (
            "hidden",
            ValueError,
            "'last' of the reference gives 'pooled', 'last_hidden_state', 'states'; expected output='h",
        ),
        (3, ValueError, "gives 3 outputs; expected output=3 to be one of 0 to 2"),
        (lambda result: "text", TypeError, "gives a str; expected a tensor, which output= can pick"),
        (lambda x: x["pooled"] * 1j, TypeError, "gives complex torch.complex64; expected floating .* output=lambda"),
        (lambda x: x["pooled"].argmax(1), TypeError, "gives a tensor of torch.int64; expected floating point numbers"),
        (lambda x: x["pooled"].to_sparse(), TypeError, "gives a sparse tensor; .*output=lambda x: x.to_dense"),
        (1.5, TypeError, "output is 1.5; expected a name, an index, a function, or these by layer"),
    ],
)
def test_outputs_that_cannot_be_compared(output: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        pc.compare(Both(), Both(1), [(A, B)], "last", output=output)


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor")
def test_quantised_outputs_are_named_and_can_be_dequantised() -> None:
    class Quantised(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)

    model = nn.Sequential(Quantised())
    with pytest.raises(TypeError, match=r"layer '0' of the reference gives quantised torch.qint8; .*x.dequantize\(\)"):
        pc.compare(model, model, A, "0")
    table = pc.compare(model, model, A, "0", output=lambda x: x.dequantize()).table
    assert table["value"][0] == pytest.approx(1, abs=1e-6)


def test_packed_sequences_go_in_and_come_out() -> None:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent = nn.LSTM(5, 4)

        def forward(self, x: PackedSequence) -> PackedSequence:
            packed: PackedSequence = self.recurrent(x)[0]
            return packed

    model, other = Tagger(), Tagger()
    lengths = [9, 7, 7, 2]
    packed = pack_sequence([torch.randn(n, 5) for n in lengths])
    table = pc.compare(model, other, [(packed, torch.zeros(4))], "recurrent", "linear_cka").table
    x, y = (each(packed).data.detach().double().numpy() for each in (model, other))
    assert table["value"][0] == pytest.approx(float(reference.linear_cka(x, y)), abs=1e-6)
    assert table["count"][0] == sum(lengths)
    last = pc.compare(model, model, [packed, packed], "recurrent", output=lambda result: result[1][0][0])
    assert last.table["count"][0] == 8


class Changing(nn.Module):
    """Writes to its inputs, as the function says, before it uses them."""

    def __init__(self, change: Callable[[Tensor], Any], seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.change, self.same, self.layer = change, nn.Identity(), nn.Linear(5, 4)

    def forward(self, a: Tensor) -> Tensor:
        self.change(a)
        x: Tensor = self.layer(self.same(a))
        return x


def _blank(x: Tensor) -> None:
    x[:, :2] = 0


def _only_whole_batches(x: Tensor) -> None:
    if len(x) > 2:
        x.mul_(-3)


CHANGES = [
    lambda x: x.sub_(0.5),
    _blank,
    _only_whole_batches,
    lambda x: x.data.mul_(2),
    lambda x: x.numpy().__imul__(2),
    lambda x: x.view(-1).cumsum_(0),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("keyword", [False, True])
def test_what_a_model_writes_to_its_inputs_is_seen_by_no_other(change: Callable[[Tensor], Any], keyword: bool) -> None:
    given = A.clone()
    loader: Any = [{"a": part} for part in given.split(40)] if keyword else given.split(40)
    model, plain = Changing(change), Changing(lambda x: None, 1)
    found = pc.compare(model, {"self": model, "plain": plain, "again": plain}, loader, ["same", "layer"], "linear_cka")
    assert torch.equal(given, A)
    by_layer = values(found.table)
    assert by_layer["self", "layer", "linear_cka"] == pytest.approx(1, abs=1e-6)
    assert by_layer["self", "same", "linear_cka"] == pytest.approx(1, abs=1e-6)
    seen = torch.cat([part.clone() for part in A.split(40)])
    for part in seen.split(40):
        change(part)
    with torch.no_grad():
        x, y = model.layer(seen).double().numpy(), plain.layer(A).double().numpy()
    expected = float(reference.linear_cka(x, y))
    assert by_layer["plain", "layer", "linear_cka"] == pytest.approx(expected, abs=1e-6)
    assert by_layer["again", "layer", "linear_cka"] == by_layer["plain", "layer", "linear_cka"]
    pc.intrinsic_dimensions(model, given, "layer")
    pc.find_layers(model, given, "layer")
    assert torch.equal(given, A)


def test_in_inference_mode() -> None:
    model = Changing(lambda x: x.sub_(0.5))
    with torch.inference_mode():
        table = pc.compare(model, copy.deepcopy(model), A.clone(), "layer").table
    assert table["value"][0] == pytest.approx(1, abs=1e-6)


def test_a_random_forward_pass_is_said_to_be_one() -> None:
    class Noisy(nn.Module):
        def __init__(self, draw: Callable[[Tensor], Tensor]) -> None:
            super().__init__()
            self.layer, self.draw = nn.Linear(5, 4), draw

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(self.draw(x))

    for draw in (
        lambda x: nn.functional.dropout(x, 0.5),
        lambda x: torch.randn_like(x),
        lambda x: x * (torch.rand(()) < 0.7),
    ):
        model = Noisy(draw)
        with pytest.warns(
            UserWarning, match="the forward pass of candidate 'noisy' is random: layer 'layer' gives other"
        ):
            pc.compare(network_of_one(), {"noisy": model}, A, "layer", "linear_cka", max_datapoints=20)
    pc.compare(network_of_one(), Noisy(lambda x: x + 0 * torch.rand_like(x)), A, "layer")


def network_of_one() -> nn.Module:
    model = nn.Sequential()
    model.add_module("layer", nn.Linear(5, 4))
    return model


@pytest.mark.parametrize(
    ("model", "loader", "words"),
    [
        (
            network(),
            [IMAGES[0]],
            r"layer '0' of the reference gets one for the shape \(3, 12, 12\); expected datapoints in",
        ),
        (network(), [(image, 1) for image in IMAGES[:4]], "the loader gives single samples: layer '0'"),
        (
            nn.Sequential(nn.Flatten(), nn.Linear(432, 3)),
            [(IMAGES[0], 1)],
            r"takes one of shape \(3, 12, 12\) only as a batch",
        ),
        (nn.Sequential(nn.Linear(5, 3), nn.ReLU()), [A[0], A[1]], "layer '0' of the reference gets one for the shape"),
        (nn.Sequential(nn.LSTM(5, 3)), [A[:9]], "layer '0' of the reference gets one"),
        (
            nn.Sequential(nn.Embedding(9, 4), nn.GRU(4, 3)),
            [(torch.arange(9), 1)],
            "layer '1' of the reference gets one",
        ),
        (nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, batch_first=True), 1), [A[:9, :4]], "layer 'layers.0'"),
    ],
)
def test_single_samples_are_refused(model: nn.Module, loader: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pc.compare(model, model, loader)


def test_a_data_set_is_put_into_a_loader() -> None:
    model, other = network(), network(1)
    expected = pc.compare(model, other, cut(IMAGES, 60)).table
    found = pc.compare(model, other, TensorDataset(IMAGES, torch.zeros(60))).table
    assert found["value"].tolist() == pytest.approx(expected["value"].tolist(), abs=1e-6)


def test_globs_are_matched_on_both_sides() -> None:
    model, other = network(), network(1)
    expected = values(pc.compare(model, other, IMAGES, ["5", "8"]).table)
    assert values(pc.compare(model, other, IMAGES, {"[58]": "[58]"}).table) == expected
    assert set(pc.compare(model, other, IMAGES, {"[13]": "[13]"}).table["layer"]) == {"1", "3"}
    with pytest.raises(
        ValueError, match=r"'\[13\]' is 2 layers of the reference but '1' is 1 of candidate 'candidate'"
    ):
        pc.compare(model, other, IMAGES, {"[13]": "1"})


def test_a_candidate_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="a candidate is named ''; expected a name"):
        pc.compare(network(), {"": network()}, IMAGES)
