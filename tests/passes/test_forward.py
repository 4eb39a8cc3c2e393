"""What happens with one batch: models left as they were, activations as they were when they were produced."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
import waiting
from networks import IMAGES, cut, network, values
from torch import Tensor, nn

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")


def test_modes_and_hooks_are_as_before() -> None:
    model, other = network().train(), network(1).train()
    model[1].eval()
    pc.compare(model, other, cut(IMAGES, 20))
    assert [m.training for m in model] == [True, False] + [True] * 9
    assert other.training
    assert all(p.grad is None for p in model.parameters())
    torch.testing.assert_close(model[1].running_mean, network()[1].running_mean)
    assert not any(m._forward_hooks for m in [*model.modules(), *other.modules()])


def test_interrupted_it_leaves_the_models_as_they_were() -> None:
    def interrupted() -> Iterator[Tensor]:
        yield IMAGES
        raise KeyboardInterrupt

    model, other = network().train(), network(1).train()
    with pytest.raises(KeyboardInterrupt):
        pc.compare(model, other, interrupted())
    assert model.training
    assert other[1].training
    assert not any(m._forward_hooks for m in [*model.modules(), *other.modules()])


def test_an_activation_overwritten_in_place_is_compared_as_it_was() -> None:
    model, other = network(), network(1)
    plain, plain_other = copy.deepcopy(model), copy.deepcopy(other)
    plain[2], plain_other[2] = nn.ReLU(), nn.ReLU()
    found = values(pc.compare(model, other, cut(IMAGES, 20), ["1"], "linear_cka").table)
    assert found == values(pc.compare(plain, plain_other, cut(IMAGES, 20), ["1"], "linear_cka").table)
    assert found != values(pc.compare(model, other, cut(IMAGES, 20), ["2"], "linear_cka").table)


def test_an_activation_overwritten_only_in_later_batches_is_an_error() -> None:
    class Moody(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return x.mul_(2) if len(x) == 7 else x

    with pytest.raises(ValueError, match="'conv' of the reference was overwritten in place in batch 1"):
        pc.compare(Moody(), Moody(), [IMAGES[:8], IMAGES[8:15]], "conv")


def test_layers_of_different_names_are_compared_by_a_mapping() -> None:
    model = network()
    renamed = nn.Sequential(nn.Sequential(*copy.deepcopy(model)[:6]), nn.Sequential(*copy.deepcopy(model)[6:]))
    table = pc.compare(model, renamed, cut(IMAGES, 20), {"8": "1.2", "3": "0.3"}).table
    assert table["layer"].tolist() == ["3", "8"]
    assert table["kind"].tolist() == ["pool", "fc"]
    assert table["value"].tolist() == pytest.approx([1, 1], abs=1e-6)


def test_convolutions_run_channels_last_where_the_model_takes_it() -> None:
    class Viewing(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            x = self[5](self[4](self[3](self[2](self[1](self[0](x))))))
            return self[8](self[7](x.view(len(x), -1)))

    model, other = network(), network(1)
    formats = []
    model[5].register_forward_hook(lambda m, a, out: formats.append(out.stride(1)))
    expected = pc.compare(model, other, IMAGES).table
    assert formats[-1] == 1
    viewing, viewing_other = Viewing(*copy.deepcopy(model)), Viewing(*copy.deepcopy(other))
    found = pc.compare(viewing, viewing_other, IMAGES, ["2", "3", "5", "8"]).table
    assert formats[-1] == 36
    assert found["value"].tolist() == pytest.approx(expected["value"].tolist(), abs=1e-6)


class _Poisoned(nn.Module):
    """Gives NaN in one layer for batches of five images."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.output = nn.Conv2d(3, 4, 3), nn.Flatten()

    def forward(self, x: Tensor) -> Tensor:
        return self.output(self.conv(x * (torch.nan if len(x) == 5 else 1)))


def test_nan_is_traced_to_layer_model_and_batch() -> None:
    good, bad = nn.Sequential(), _Poisoned()
    good.add_module("conv", nn.Conv2d(3, 4, 3))
    good.add_module("output", nn.Flatten())
    loader = [IMAGES[:8], IMAGES[8:13]]
    with pytest.raises(ValueError, match=r"layer 'conv' of candidate 'bad', batch 1.*NaN"):
        pc.compare(good, {"good": copy.deepcopy(good), "bad": bad}, loader, "conv")
    with pytest.raises(ValueError, match=r"layer 'conv' of the reference, batch 1.*NaN"):
        pc.compare(bad, {"good": good}, loader, "conv")


def test_autocast_is_the_precision_of_the_forward_passes() -> None:
    model, others = network(), [network(1)]
    expected = pc.compare(model, others, IMAGES, metrics="linear_cka").table
    with torch.autocast("cpu", torch.bfloat16):
        found = pc.compare(model, others, IMAGES, metrics="linear_cka").table
    assert 0 < (found["value"] - expected["value"]).abs().max() < 0.02


@pytest.mark.cuda
@pytest.mark.parametrize("half", [False, True])
def test_on_the_gpu_nothing_waits_between_batches(half: bool) -> None:
    model, others = network().cuda(), [network(k).cuda() for k in (1, 2)]

    def after_a_batch(done: int, total: int | None) -> None:
        waiting.forbid(0 < done < len(IMAGES))

    try:
        with torch.autocast("cuda", torch.bfloat16, enabled=half):
            table = pc.compare(model, others, IMAGES.cuda().split(10), progress=after_a_batch).table
    finally:
        waiting.forbid(False)
    assert table["value"].between(0, 1).all()


@pytest.mark.cuda
def test_on_the_gpu_nan_is_traced_to_layer_model_and_batch() -> None:
    good, bad = nn.Sequential(), _Poisoned()
    good.add_module("conv", nn.Conv2d(3, 4, 3))
    good.add_module("output", nn.Flatten())
    loader = [IMAGES[:8], IMAGES[8:13]]
    with pytest.raises(ValueError, match=r"layer 'conv' of candidate 'bad', batch 1.*NaN"):
        pc.compare(good, {"good": copy.deepcopy(good), "bad": bad}, loader, "conv", device="cuda")
