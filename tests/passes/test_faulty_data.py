"""Data and options that would give a wrong number unseen are one sentence; what looks strange but is right is compared."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")

INPUTS = torch.randn(300, 6, generator=torch.Generator().manual_seed(3))
LAYERS = ["1", "3"]


def dense(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh())


def compared(loader: Any, metrics: Any = "linear_cka", **options: Any) -> Any:
    return pc.compare(dense(0), dense(1), loader, LAYERS, metrics, **options).table


def cka(layer: str, inputs: Tensor = INPUTS) -> float:
    with torch.no_grad():
        x, y = (dense(seed)[: int(layer) + 1](inputs).double().numpy() for seed in (0, 1))
    x, y = x - x.mean(0), y - y.mean(0)
    return float(np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y))


def shuffled(**options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(INPUTS), 50, shuffle=True, **options)


def test_features_of_several_passes_are_of_the_same_datapoints() -> None:
    """In another order the features of one datapoint would be put beside those of another."""
    with pytest.raises(
        ValueError, match=r"in a later pass than in the first, or the same in another order; .* do not shuffle"
    ):
        compared(shuffled(), points="flatten", budget=300 * 4 * 8)
    for options in ({"points": "flatten"}, {"pairs": "all", "budget": 1}):  # one order in each pass is enough
        table = compared(shuffled(), **options).query("layer == layer_y")
        assert table["value"].tolist() == pytest.approx([cka(layer) for layer in LAYERS], abs=1e-6)
    kept = compared(DataLoader(TensorDataset(INPUTS), 70, drop_last=True), points="flatten", budget=300 * 4 * 8)
    assert kept["count"].tolist() == [280, 280]
    assert kept["value"].tolist() == pytest.approx([cka(layer, INPUTS[:280]) for layer in LAYERS], abs=1e-6)


def test_data_of_which_another_part_is_drawn_in_each_pass() -> None:
    for options in ({"max_datapoints": 100}, {"loader": shuffled(drop_last=True), "max_datapoints": 260}):
        given = {"loader": shuffled(), "pairs": "all", "budget": 1} | options
        with pytest.raises(ValueError, match="the loader gave other data in a later pass than in the first"):
            compared(**given)


@pytest.mark.parametrize("pairs", ["same", "all"])
def test_chance_needs_other_datapoints(pairs: str) -> None:
    with pytest.raises(
        ValueError, match="300 of 300 rows are of a datapoint that is alone in its batch; expected larger"
    ):
        compared(INPUTS.split(1), pairs=pairs, chance="permutation")
    table = compared(INPUTS[:281].split(40), pairs=pairs, chance="permutation")  # the last has one
    assert (table["chance"] < 0.06).all()
    tokens = torch.randn(30, 12, 6)  # positions of one datapoint are no other datapoint
    with pytest.raises(ValueError, match="360 of 360 rows are of a datapoint that is alone"):
        compared(tokens.split(1), pairs=pairs, chance="permutation")


def test_a_rest_of_few_datapoints_has_no_estimate() -> None:
    expected = compared(INPUTS[:100].split(20), "minibatch_cka")
    for rest in (1, 3):
        table = compared(INPUTS[: 100 + rest].split(20), "minibatch_cka")
        assert table["value"].tolist() == expected["value"].tolist()
        assert (table["count"].tolist(), table["points"].tolist()) == ([100, 100], ["flatten", "flatten"])
    with pytest.raises(ValueError, match=r"every batch has fewer than 4 datapoints, .* expected larger batches"):
        compared(INPUTS.split(3), "minibatch_cka")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rows": torch.arange(300) < 100}, "takes all numbers of a datapoint for channels, .* and rows= was given"),
        ({"resize": "pool"}, "and resize= was given"),
        ({"chance": "permutation"}, "and chance= was given"),
        ({"points": "mean"}, "and points='mean' was given; expected none such, or an exact metric"),
        ({"keep_covariances": True}, "'minibatch_cka' has no covariances to keep"),
    ],
)
def test_what_an_estimate_would_not_heed_is_refused(options: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        compared(INPUTS.split(50), "minibatch_cka", **options)


class Folded(nn.Module):
    """Gives each step of a sequence as a row, as some models do."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, x.shape[-1])


@pytest.mark.parametrize("options", [{"points": "flatten"}, {"metrics": "minibatch_cka"}])
def test_rows_that_are_no_datapoints_have_no_features_of_them(options: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 9), Folded(), nn.Tanh())
    given = {"metrics": "linear_cka"} | options
    with pytest.raises(
        ValueError, match=r"layer '2' of the reference, batch 0: this output has 60 in place of 20 datapoints"
    ):
        pc.compare(model, model, torch.randn(40, 3, 6).split(20), ["0", "2"], **given)


@pytest.mark.parametrize("option", ["budget", "subsample"])
@pytest.mark.parametrize("number", [0, -5, "2GB", 1.5, True])
def test_numbers_that_are_none_are_refused(option: str, number: Any) -> None:
    with pytest.raises(ValueError, match=rf"{option} is {number!r}; expected a whole number of at least 1"):
        compared(INPUTS, "mutual_knn", **{option: number})


class Poison(nn.Module):
    """Gives NaN for one datapoint of batches of 44."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(torch.arange(len(x))[:, None] == (3 if len(x) == 44 else -1), torch.nan, x)


@pytest.mark.parametrize(
    "options",
    [{"pairs": "all"}, {"points": "flatten"}, {"points": "flatten", "budget": 9000}, {"metrics": "minibatch_cka"}],
    ids=str,
)
def test_nan_is_traced_to_layer_model_and_batch(options: Any) -> None:
    good = nn.Sequential(nn.Linear(6, 9), nn.Identity(), nn.Linear(9, 5))
    bad = copy.deepcopy(good)
    bad[1] = Poison()
    loader, given = [INPUTS[:100], INPUTS[100:144], INPUTS[144:]], {"metrics": "linear_cka"} | options
    with pytest.raises(ValueError, match=r"layer '1' of candidate 'bad', batch 1: .*holds NaN or infinity"):
        pc.compare(good, {"good": good, "bad": bad}, loader, ["0", "1", "2"], **given)
    with pytest.raises(ValueError, match=r"layer '1' of the reference, batch 1: .*holds NaN or infinity"):
        pc.compare(bad, {"good": good}, loader, ["0", "1", "2"], **given)


@pytest.mark.parametrize("options", [{"points": "flatten", "budget": 5000}, {"pairs": "all", "budget": 1}], ids=str)
def test_interrupted_in_a_later_pass_the_models_are_as_before(options: Any) -> None:
    class Interrupted:
        dataset, passes = INPUTS, 0

        def __iter__(self) -> Iterator[Tensor]:
            self.passes += 1
            for number, part in enumerate(INPUTS.split(50)):
                if (self.passes, number) == (2, 3):
                    raise KeyboardInterrupt
                yield part

    a, b = dense(0).train(), dense(1).train()
    b[1].eval()
    with pytest.raises(KeyboardInterrupt):
        pc.compare(a, b, Interrupted(), LAYERS, "linear_cka", max_datapoints=300, **options)
    assert (a.training, b.training, b[1].training) == (True, True, False)
    assert not any(module._forward_hooks for module in [*a.modules(), *b.modules()])


def test_the_meta_device_does_not_take_the_weights() -> None:
    model = dense(0)
    with pytest.raises(
        ValueError, match="the device is 'meta', where tensors hold no numbers; expected 'cpu' or a CUDA"
    ):
        pc.compare(model, model, INPUTS, device="meta")
    assert not any(p.is_meta for p in model.parameters())


def test_weights_of_another_type_than_the_batches() -> None:
    half = dense(1).bfloat16()
    sentence = (
        r"candidate 'half' has weights of torch.bfloat16, but the batches are torch.float32; convert one of them, or"
    )
    with pytest.raises(TypeError, match=sentence):
        pc.compare(dense(0), {"half": half}, INPUTS)
    for options in ({}, {"pairs": "all"}, {"points": "flatten"}):
        found = pc.compare(
            dense(0),
            half,
            INPUTS,
            LAYERS,
            "linear_cka",
            forward=lambda model, batch: model(batch.to(next(model.parameters()).dtype)),
            **options,
        ).table.query("layer == layer_y")
        assert found["value"].tolist() == pytest.approx([cka(layer) for layer in LAYERS], abs=0.01)


@pytest.mark.parametrize("pairs", ["same", "all"])
def test_chance_of_rows_that_were_chosen(pairs: str) -> None:
    tokens, mask = torch.randn(90, 12, 6), torch.arange(12) < torch.randint(2, 12, (90, 1))
    for rows in (mask, mask[:, 5]):
        plain = compared(tokens.split(40), pairs=pairs, rows=rows)
        table = compared(tokens.split(40), pairs=pairs, rows=rows, chance="permutation")
        # Small batches are joined where no chance is asked for.
        assert table["value"].tolist() == pytest.approx(plain["value"].tolist(), abs=1e-6)
        assert (table["chance"] < 0.1).all()
    # All tokens of a sentence alike: there are as many rows to tell apart as sentences, and chance is that of those.
    alike = (tokens[:24, :1] + 0.01 * tokens[:24]).contiguous()
    model = nn.Sequential(nn.Identity())
    options: dict[str, Any] = {"rows": mask[:24], "chance": "permutation", "layout": "nlc"}
    chances = pc.compare(model, model, [alike], ["0"], "mean_squared_cca", **options).table["chance"]
    assert chances[0] > 0.05  # 6 directions of 24 sentences; of 170 independent rows it would be 0.035
