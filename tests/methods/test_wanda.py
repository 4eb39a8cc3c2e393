"""Second moments of inputs and Wanda's scores, against NumPy in float64."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import prunecca as pc

P = pc.pruning


def patches(layer: Any, x: Tensor) -> list[np.ndarray]:
    """The inputs of each group, as outputs of the same convolution with the identity for a weight."""
    d = layer.weight[0].numel()
    options = {
        name: getattr(layer, name)
        for name in ("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    }
    copy = type(layer)(layer.in_channels, d * layer.groups, bias=False, **options).double()
    with torch.no_grad():
        copy.weight.copy_(torch.eye(d, dtype=torch.float64).repeat(layer.groups, 1).view(copy.weight.shape))
        rows = copy(x.double()).movedim(1, -1).reshape(-1, layer.groups, d)
    return [rows[:, group].numpy() for group in range(layer.groups)]


CONVOLUTIONS = {
    "plain": lambda: nn.Conv2d(3, 5, 3),
    "strided": lambda: nn.Conv2d(3, 5, (3, 2), stride=(2, 1), padding=(1, 0)),
    "dilated": lambda: nn.Conv2d(3, 5, 3, dilation=2, padding="same"),
    "reflected": lambda: nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"),
    "valid": lambda: nn.Conv2d(3, 5, 1, padding="valid"),
    "grouped": lambda: nn.Conv2d(4, 8, 3, groups=2, padding=1),
    "depthwise": lambda: nn.Conv2d(4, 4, 3, groups=4),
    "line": lambda: nn.Conv1d(3, 5, 3, padding=1, dilation=2),
    "circular line": lambda: nn.Conv1d(4, 6, 3, padding=2, groups=2, stride=2, padding_mode="circular"),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolutions_inputs_are_patches(name: str) -> None:
    torch.manual_seed(0)
    layer = CONVOLUTIONS[name]()
    shape = (6, layer.in_channels, *(9, 8)[: len(layer.kernel_size)])
    x = torch.randn(shape) + 3
    got = pc.second_moments(nn.Sequential(layer), x)["0.weight"]
    expected = np.stack([rows.T @ rows / len(rows) for rows in patches(layer, x)])
    np.testing.assert_allclose(got.numpy(), expected if layer.groups > 1 else expected[0], rtol=1e-12, atol=1e-12)
    scores = P.wanda_scores(nn.Sequential(layer), {"0.weight": got})["0.weight"]
    norms = np.sqrt(np.stack([np.diag(each) for each in expected])).repeat(layer.out_channels // layer.groups, 0)
    by_hand = np.abs(layer.weight.detach().double().numpy()) * norms.reshape(layer.weight.shape)
    np.testing.assert_allclose(scores.numpy(), by_hand, rtol=1e-12)


def test_linear_layers_of_any_dimensions_in_batches_of_any_size() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(7, 9), nn.BatchNorm1d(5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 2)).train()
    x = torch.randn(23, 5, 7, dtype=torch.float32) * 100 + 1e4
    whole = pc.second_moments(model, x)
    assert model.training
    assert not any(m._forward_pre_hooks for m in model)
    batches = pc.second_moments(model, [(part, torch.zeros(len(part))) for part in x.split([1, 3, 19])])
    model.eval()
    hidden = model[:4](x).detach()
    for name, rows in (("0.weight", x), ("4.weight", hidden)):
        flat = rows.reshape(-1, rows.shape[-1]).double().numpy()
        exact = flat.T @ flat / len(flat)
        for found in (whole[name], batches[name]):
            assert found.dtype == torch.float64
            assert torch.equal(found, found.T)
            # The float32 forward pass rounds otherwise in batches of another size.
            np.testing.assert_allclose(found.numpy(), exact, rtol=1e-10 if name == "0.weight" else 1e-6)
            assert np.linalg.eigvalsh(found.numpy()).min() >= -1e-12 * np.trace(exact)
    fewer = pc.second_moments(model, x, max_inputs=4)["0.weight"]
    assert torch.equal(fewer, pc.second_moments(model, x[:4])["0.weight"])


def test_shared_weights_have_the_inputs_of_both_layers_and_computed_ones_none() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 3)))
    model[1].weight = model[0].weight
    x = torch.randn(10, 4)
    found = pc.second_moments(model, x)
    rows = torch.cat([x, model[0](x)]).detach().double().numpy()
    assert list(found) == ["0.weight"]
    np.testing.assert_allclose(found["0.weight"].numpy(), rows.T @ rows / 20, rtol=1e-12)


@pytest.mark.parametrize("scope", ["row", "2:4"])
def test_wanda_keeps_the_highest_of_every_row(scope: str) -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(12, 6))
    x = torch.randn(50, 12) * torch.logspace(-2, 2, 12)
    scores = P.wanda_scores(model, pc.second_moments(model, x))
    masks = P.prune(scores, {"all": ["0.weight"]}, 0.5, scope=scope)
    by_hand = np.abs(model[0].weight.detach().double().numpy()) * np.sqrt((x.double().numpy() ** 2).sum(0))
    size, kept = (12, 6) if scope == "row" else (4, 2)
    for row, first in itertools.product(range(6), range(0, 12, size)):
        best = np.sort(np.argsort(by_hand[row, first : first + size])[-kept:])
        assert masks["0.weight"][row, first : first + size].nonzero().flatten().tolist() == best.tolist()


@pytest.mark.parametrize("given", ["model", "weights"])
def test_mean_squares_are_taken_as_well_as_whole_moments(given: str) -> None:
    torch.manual_seed(0)
    # As many groups as a patch of one channel has entries: (9, 9) is no matrix of second moments here.
    model = nn.Sequential(nn.Conv2d(9, 9, 3, groups=9), nn.Flatten(), nn.Linear(144, 2))
    images = torch.randn(5, 9, 6, 6) * torch.arange(1.0, 10.0)[:, None, None]
    squares = pc.mean_squares(model, images)
    assert squares["0.weight"].shape == (9, 9)
    weights: Any = model if given == "model" else dict(model.named_parameters())
    found = P.wanda_scores(weights, squares)
    rows = np.stack([(each**2).mean(0) for each in patches(model[0], images)])
    expected = np.abs(model[0].weight.detach().double().numpy()) * np.sqrt(rows).reshape(9, 1, 3, 3)
    np.testing.assert_allclose(found["0.weight"].numpy(), expected, rtol=1e-12)
    whole = P.wanda_scores(weights, pc.second_moments(model, images))
    for name, scores in found.items():
        torch.testing.assert_close(scores, whole[name], rtol=1e-9, atol=0)


def test_layers_that_are_called_by_name_are_seen() -> None:
    class ByName(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Any:
            return self.layer(input=x)

    torch.manual_seed(0)
    model, x = ByName(), torch.randn(7, 3)
    exact = x.double().numpy().T @ x.double().numpy() / 7
    np.testing.assert_allclose(pc.second_moments(model, x)["layer.weight"].numpy(), exact, rtol=1e-12)
    np.testing.assert_allclose(pc.mean_squares(model, x)["layer.weight"][0].numpy(), np.diag(exact), rtol=1e-12)
    heads = pc.compare(model, model, x.repeat(9, 1), layers=["layer"], heads=3, metrics=("linear_cka",))
    np.testing.assert_allclose(heads.table["value"], 1, rtol=1e-9)


def test_what_is_refused_in_one_sentence() -> None:
    model = nn.Sequential(nn.Linear(3, 2))
    with pytest.raises(ValueError, match="the loader gave no inputs; expected at least one batch"):
        pc.second_moments(model, [])
    with pytest.raises(ValueError, match=r"the layer of '0.weight' has seen 1 inputs; expected at least two"):
        pc.second_moments(model, torch.ones(1, 3))
    with pytest.raises(ValueError, match=r"the input of '0.weight': .*(NaN|infinity)"):
        pc.second_moments(model, torch.full((4, 3), float("nan")))
    assert not model[0]._forward_pre_hooks
    with pytest.raises(ValueError, match=r"moment '1.weight' has no weight of that name"):
        P.wanda_scores(model, {"1.weight": torch.eye(3)})
    with pytest.raises(ValueError, match=r"moment '0.weight' has shape \(4, 4\); expected that of the inputs"):
        P.wanda_scores(model, {"0.weight": torch.eye(4)})
    for moment in (torch.full((3, 3), float("nan")), -torch.eye(3), torch.eye(3) / 0):
        with pytest.raises(
            ValueError, match=r"mean squares of the inputs of '0.weight' hold a NaN, infinity or negative"
        ):
            P.wanda_scores(model, {"0.weight": moment})
    for odd in (torch.ones(3), torch.tensor(1.0), torch.ones(2, 3), torch.ones(2, 3, 3)):
        with pytest.raises(ValueError, match=r"moment '0.weight' has shape .* expected that of the inputs"):
            P.wanda_scores(model, {"0.weight": odd})
