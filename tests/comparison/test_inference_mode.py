"""Under torch.inference_mode, or with tensors made there, every number is the one it is elsewhere."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from representations import OF_ONE_PASS
from torch import Tensor, nn

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 6, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 10)]
    return nn.Sequential(nn.Hardtanh(inplace=True), *layers, nn.ReLU(inplace=True), nn.Linear(10, 3)).eval()


IMAGES = torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))
X, Y = (torch.randn(300, 6, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))


def table(reference: nn.Module, candidate: nn.Module, images: Tensor) -> Any:
    return pc.compare(reference, candidate, images.clone(), layers=["1", "2", "3", "6"], metrics=OF_ONE_PASS).table


def made_in_inference_mode(make: Callable[[], Any]) -> Any:
    with torch.inference_mode():
        return make()


@pytest.mark.parametrize("inside", [True, False], ids=["inside", "outside"])
@pytest.mark.parametrize("model_too", [True, False], ids=["all", "images"])
def test_comparisons(inside: bool, model_too: bool) -> None:
    expected = table(network(0), network(1), IMAGES)
    images = made_in_inference_mode(IMAGES.clone)
    models = [network(0), network(1)]
    if model_too:
        models = [made_in_inference_mode(lambda m=m: copy.deepcopy(m)) for m in models]
    with torch.inference_mode() if inside else nullcontext():
        result = pc.compare(*models, images, ["1", "2", "3", "6"], OF_ONE_PASS, keep_covariances=True)
        layers = pc.find_layers(models[0], images)
        dimensions = pc.intrinsic_dimensions(models[0], images)["dimension"].tolist()
    assert result.table.equals(expected)
    assert [layer.name for layer in layers] == [layer.name for layer in pc.find_layers(network(0), IMAGES.clone())]
    assert dimensions == pc.intrinsic_dimensions(network(0), IMAGES.clone())["dimension"].tolist()
    assert not any(c.xx.is_inference() for c in result.covariances.values())


def test_a_model_that_runs_in_inference_mode_by_itself() -> None:
    def inferring(seed: int) -> nn.Module:
        model = network(seed)
        model.forward = torch.inference_mode()(model.forward)  # type: ignore[method-assign]
        return model

    assert table(inferring(0), inferring(1), IMAGES).equals(table(network(0), network(1), IMAGES))


def values(accumulator: pc.StreamingCovariance) -> list[float]:
    cov = accumulator.finalize()
    return [
        *cov.xx.flatten().tolist(),
        *cov.xy.flatten().tolist(),
        float(pc.svcca(cov).mean),
        float(pc.linear_cka(cov)),
    ]


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("second", [True, False])
def test_streams_that_go_in_and_out(first: bool, second: bool) -> None:
    plain = pc.StreamingCovariance()
    plain.update(X, Y)
    plain.update(Y, X)
    accumulator, other = pc.StreamingCovariance(), pc.StreamingCovariance()
    with torch.inference_mode(first):
        accumulator.update(X.clone(), Y.clone())
    with torch.inference_mode(second):
        accumulator.update(Y.clone(), X.clone())
        other.update(X.clone(), Y.clone())
        assert values(accumulator) == values(plain)
    assert values(accumulator) == values(plain)
    accumulator.merge(other)
    other.merge(accumulator)
    plain.update(X, Y)
    assert values(accumulator) == pytest.approx(values(plain), abs=1e-7)


@pytest.mark.parametrize("made", [torch.jit.script, lambda m: torch.jit.trace(m, IMAGES[:2])])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning", "ignore:.*torch.jit")
def test_models_of_torch_jit_are_refused_with_what_to_give(made: Callable[[nn.Module], Any]) -> None:
    model = network(0)
    words = "of torch.jit, whose layers cannot be watched; expected the torch.nn.Module that it was made from"
    with pytest.raises(TypeError, match=f"the reference is a .* {words}"):
        pc.compare(made(network(0)), model, IMAGES)
    with pytest.raises(TypeError, match=f"candidate 'candidate' is a .* {words}"):
        pc.compare(model, made(network(0)), IMAGES.clone())
