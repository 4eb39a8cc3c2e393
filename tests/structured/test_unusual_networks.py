"""Networks that fold positions into the batch, split channels, or read them by their place."""

from __future__ import annotations

import copy
import warnings
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import prunecca as pc

P = pc.pruning


class Frames(nn.Module):
    """Each frame goes through the layers as a datapoint of its own."""

    def __init__(self, frames_first: bool) -> None:
        super().__init__()
        self.conv, self.act, self.hidden, self.gelu, self.output = (
            nn.Conv2d(3, 4, 3),
            nn.ReLU(),
            nn.Linear(4, 5),
            nn.GELU(),
            nn.Linear(5, 3),
        )
        self.axis = int(not frames_first)

    def forward(self, x: Tensor) -> Tensor:
        x = x if self.axis else x.transpose(0, 1)
        shape = x.shape[:2]
        hidden = self.gelu(self.hidden(self.act(self.conv(x.flatten(0, 1))).mean((2, 3))))
        return self.output(hidden).view(*shape, -1).mean(self.axis)


def by_hand(model: nn.Module, activations: dict[str, str], images: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The formula in float64, one datapoint after the other."""
    model = copy.deepcopy(model).double().eval()
    totals: dict[str, Any] = {}
    found: dict[str, Tensor] = {}
    for weight, module in activations.items():
        keep = partial(found.__setitem__, weight)
        model.get_submodule(module).register_forward_hook(lambda _m, _a, output, keep=keep: keep(output))
    for image, label in zip(images.double(), labels, strict=True):
        loss = F.cross_entropy(model(image[None]), label[None])
        gradients = torch.autograd.grad(loss, list(found.values()))
        for (weight, a), gradient in zip(found.items(), gradients, strict=True):
            totals[weight] = totals.get(weight, 0) + (a * gradient).detach().transpose(0, 1).flatten(1).sum(1) ** 2
    return {weight: total / (2 * len(images)) for weight, total in totals.items()}


def test_the_positions_of_a_datapoint_are_summed_also_where_they_are_rows() -> None:
    torch.manual_seed(0)
    model = Frames(frames_first=False)
    images, labels = torch.randn(6, 5, 3, 6, 6), torch.randint(3, (6,))
    found = P.fisher_channel_scores(model, [(images[:4], labels[:4]), (images[4:], labels[4:])])
    expected = by_hand(model, {"conv.weight": "act", "hidden.weight": "gelu"}, images, labels)
    for name, scores in expected.items():
        torch.testing.assert_close(found[name], scores, rtol=1e-5, atol=1e-12)


def test_rows_in_another_order_are_refused_and_exact_one_by_one() -> None:
    torch.manual_seed(0)
    model = Frames(frames_first=True)
    images, labels = torch.randn(4, 5, 3, 6, 6), torch.randint(3, (4,))
    with pytest.raises(
        ValueError, match=r"'conv.weight' has 20 rows for 4 datapoints, .* give batches of one datapoint"
    ):
        P.fisher_channel_scores(model, (images, labels))
    found = P.fisher_channel_scores(model, list(zip(images[:, None], labels[:, None], strict=True)))
    for name, scores in by_hand(model, {"conv.weight": "act", "hidden.weight": "gelu"}, images, labels).items():
        torch.testing.assert_close(found[name], scores, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(
    ("loss", "shown"),
    [
        (lambda output, _: 1.0, "a float"),
        (lambda output, batch: F.cross_entropy(output, batch[1], reduction="none"), r"a tensor of shape \(4,\)"),
        (lambda output, _: output.detach().sum(), r"a tensor of shape \(\)"),
    ],
)
def test_a_loss_is_one_number(loss: Any, shown: str) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=f"the loss is {shown}; expected one number with a gradient"):
        P.fisher_channel_scores(model, (torch.randn(4, 3), torch.zeros(4, dtype=torch.long)), loss=loss)


class Gated(nn.Module):
    """A gated linear unit: channels k and k + 4 of one layer can only go together."""

    def __init__(self) -> None:
        super().__init__()
        self.both, self.output = nn.Linear(6, 8), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        values, gates = self.both(x).chunk(2, -1)
        return self.output(values * gates.sigmoid())


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.output = (nn.Linear(6, 8) for _ in range(4))
        self.output = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (layer(x).unflatten(2, (2, -1)).transpose(1, 2) for layer in (self.q, self.k, self.v))
        return self.output(((q @ k.mT).softmax(-1) @ v).transpose(1, 2).flatten(2))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attention, self.output = (
            nn.Linear(3, 8),
            nn.MultiheadAttention(8, 2, batch_first=True),
            nn.Linear(8, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.output(self.attention(x, x, x)[0])


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.rnn, self.output = nn.Linear(3, 8), nn.GRU(8, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.rnn(self.stem(x).relu())[0])


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.low = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, stride=2)
        self.up, self.top = nn.ConvTranspose2d(8, 8, 2, stride=2), nn.Conv2d(16, 6, 3, padding=1)
        self.depth, self.norm, self.output = nn.Conv2d(6, 6, 3, groups=6), nn.GroupNorm(2, 6), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(x).relu()
        x = self.top(torch.cat([x, self.up(self.low(x).relu()).relu()], 1)).relu()
        return self.output(self.norm(self.depth(x)))


@pytest.mark.parametrize(
    ("model", "layer", "shape", "message"),
    [
        (
            Gated(),
            "both",
            (2, 6),
            "cut 'both.weight': the network takes its channels apart .chunk, split., and some can only",
        ),
        (
            Attention(),
            "stem",
            (2, 5, 3),
            "cut 'stem.weight': its channels meet 'attention', whose heads take channels by",
        ),
        (Recurrent(), "stem", (2, 5, 3), "torch-pruning cannot cut 'stem.weight', or what reads its channels"),
        (
            nn.Sequential(nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.Conv2d(2, 2, 1)),
            "0",
            (1, 3, 6, 6),
            "cannot cut '0.weight'",
        ),
    ],
)
def test_what_cannot_be_cut_is_one_sentence(model: nn.Module, layer: str, shape: tuple[int, ...], message: str) -> None:
    pytest.importorskip("torch_pruning", reason="needs torch-pruning")
    scores = P.l1_channel_scores(model, {"all": [f"{layer}.weight"]})
    with pytest.raises(ValueError, match=message):
        P.narrowed(model, scores, 0.5, torch.zeros(shape))


def test_channels_that_are_read_by_their_place_are_a_warning() -> None:
    pytest.importorskip("torch_pruning", reason="needs torch-pruning")
    torch.manual_seed(0)
    model = Heads()
    scores = P.l1_channel_scores(model, {"all": ["q.weight"]})
    with pytest.warns(UserWarning, match="narrower Heads does not give what its parent gives without these channels"):
        P.narrowed(model, scores, 0.25, torch.zeros(2, 4, 6))


def test_concatenations_depthwise_and_normalised_channels_are_cut_without_a_word() -> None:
    pytest.importorskip("torch_pruning", reason="needs torch-pruning")
    torch.manual_seed(0)
    model = UNet()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small: Any = P.narrowed(model, P.l1_channel_scores(model), "1/3", torch.zeros(1, 3, 8, 8)).model
    assert (small.top.in_channels, small.top.out_channels, small.depth.groups) == (12, 4, 4)
