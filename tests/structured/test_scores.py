"""Scores of channels against plain float64 references: one datapoint after the other, by autograd."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import prunecca as pc

P = pc.pruning


class Blocks(nn.Module):
    """Normalisation, a residual sum, an activation that is overwritten, a function, and a layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.Linear(4, 4)
        self.output = nn.Linear(4, 3)
        self.taken: list[tuple[str, Tensor]] = []

    def forward(self, x: Tensor) -> Tensor:
        first = F.relu(self.norm(self.a(x)))
        self.taken = [("a.weight", first)]
        second = torch.relu(self.b(first) + first)
        self.taken.append(("b.weight", second))
        x = second.mean((2, 3))
        for _ in range(2):
            x = torch.tanh(self.fc(x))
            self.taken.append(("fc.weight", x))
        return self.output(x)


def by_hand(model: Blocks, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    scores: dict[str, Tensor] = {}
    for image, label in zip(inputs, labels, strict=True):
        loss = F.cross_entropy(model(image[None]), label[None])
        gradients = torch.autograd.grad(loss, [a for _, a in model.taken])
        products: dict[str, Tensor] = {}
        for (name, activation), gradient in zip(model.taken, gradients, strict=True):
            product = (
                (activation * gradient)[0].flatten(1).sum(1) if activation.dim() > 2 else (activation * gradient)[0]
            )
            products[name] = products.get(name, torch.zeros(4)) + product.detach()
        for name, product in products.items():
            scores[name] = scores.get(name, torch.zeros(4)) + product**2 / (2 * len(inputs))
    return scores


def blocks() -> Blocks:
    torch.manual_seed(0)
    model = Blocks().double()
    model.norm.running_mean.uniform_(-1, 1)
    return model.eval()


def test_fisher_is_that_of_single_datapoints() -> None:
    model = blocks()
    inputs, labels = torch.randn(7, 3, 5, 5, dtype=torch.float64), torch.randint(3, (7,))
    expected = by_hand(model, inputs, labels)
    model.train()
    for loader in ((inputs, labels), [(inputs[:3], labels[:3]), (inputs[3:], labels[3:])]):
        found = P.fisher_channel_scores(model, loader)
        assert found.keys() == expected.keys()
        for name, score in found.items():
            assert score.dtype == torch.float64
            torch.testing.assert_close(score, expected[name].double(), rtol=1e-12, atol=0)
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_frozen_networks_and_other_losses() -> None:
    model = blocks()
    inputs, labels = torch.randn(4, 3, 5, 5, dtype=torch.float64), torch.randint(3, (4,))
    plain = P.fisher_channel_scores(model, (inputs, labels))
    model.requires_grad_(False)
    with torch.no_grad():
        twice = P.fisher_channel_scores(
            model, [inputs], loss=lambda output, _: 2 * F.cross_entropy(output, labels, reduction="sum")
        )
    assert not any(p.requires_grad for p in model.parameters())
    for name, score in plain.items():
        torch.testing.assert_close(twice[name], 4 * score, rtol=1e-12, atol=0)


def test_an_activation_that_is_overwritten_later_counts_as_it_was() -> None:
    class Doubled(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            self.conv, self.act, self.output = nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Linear(2, 2)
            self.in_place = in_place

        def forward(self, x: Tensor) -> Tensor:
            x = self.act(self.conv(x)) * 1 if not self.in_place else self.act(self.conv(x))
            return self.output((x.add_(3.0) if self.in_place else x + 3.0).sigmoid().mean((2, 3)))

    torch.manual_seed(0)
    model, other = Doubled(False), Doubled(True)
    other.load_state_dict(model.state_dict())
    other.act = nn.Hardtanh(0, 100)  # whose backward does not read what is overwritten
    batch = (torch.randn(5, 1, 6, 6), torch.randint(2, (5,)))
    scores = [P.fisher_channel_scores(each, batch)["conv.weight"] for each in (model, other)]
    torch.testing.assert_close(scores[0], scores[1])


def test_l1_norms() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 4, 2, groups=2), nn.Linear(3, 5), nn.Linear(5, 1)
    )
    scores = P.l1_channel_scores(model)
    assert list(scores) == ["0.weight", "1.weight", "2.weight"]
    weights = [module.weight.detach().double().abs() for module in list(model)[:3]]
    torch.testing.assert_close(scores["0.weight"], weights[0].sum((1, 2, 3)), rtol=1e-12, atol=0)
    transposed = torch.cat([weights[1][:3].sum((0, 2, 3)), weights[1][3:].sum((0, 2, 3))])
    torch.testing.assert_close(scores["1.weight"], transposed, rtol=1e-12, atol=0)
    assert P.l1_channel_scores(model, {"all": ["3.weight", "3.bias"]}).keys() == {"3.weight"}


def test_bad_inputs() -> None:
    model = blocks().float()
    images, labels = torch.randn(2, 3, 5, 5), torch.tensor([0, 1])
    with pytest.raises(ValueError, match="the loader gave no inputs; expected at least one batch"):
        P.fisher_channel_scores(model, [])
    with pytest.raises(
        ValueError, match="a batch of the loader has no labels; expected pairs of inputs and labels, or loss="
    ):
        P.fisher_channel_scores(model, images)
    with pytest.raises(
        ValueError, match=r"no pool names the weight of a convolution or linear layer; .* {'all': \['a.weight'\]}"
    ):
        P.l1_channel_scores(model, {"all": ["norm.weight"]})
    spoilt = blocks().float()
    spoilt.b.weight.data[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"parameter 'b.weight' has a NaN; expected finite weights"):
        P.l1_channel_scores(spoilt)
    with pytest.raises(ValueError, match=r"batch 0 gives '.*' a gradient that is not finite; expected finite losses"):
        P.fisher_channel_scores(spoilt, (images, labels))
