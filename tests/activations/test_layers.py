"""Which layers are found in which order, and that what is captured is what the layer gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

import prunecca as pc
from prunecca.activations.hooks import capturing
from prunecca.activations.layers import find_layers

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = torch.randn(4, 3, 32, 32)


def names(model: nn.Module, layers: Any = None, inputs: Tensor = IMAGES) -> list[str]:
    return [layer.name for layer in find_layers(model.eval(), inputs, layers)]


class Repeated(nn.Module):
    """One ReLU used three times, a residual sum, a module that never runs, and one under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.shortcut = nn.Conv2d(8, 8, 1)
        self.relu = nn.ReLU(inplace=True)
        self.again = self.relu
        self.spare = nn.Linear(8, 8)
        self.hidden = nn.Linear(8, 6)
        self.output = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = self.relu(self.second(x) + self.shortcut(x))
        return self.output(self.again(self.hidden(x.mean((2, 3)))))


def test_default_of_vgg() -> None:
    layers = find_layers(torchvision.models.vgg19_bn(num_classes=10).eval(), IMAGES)
    assert [layer.kind for layer in layers].count("conv") == 16
    assert [layer.name for layer in layers][:4] == ["features.2", "features.5", "features.6", "features.9"]
    assert [layer.name for layer in layers][-3:] == ["avgpool", "classifier.1", "classifier.4"]
    assert [layer.kind for layer in layers][-4:] == ["pool", "pool", "fc", "fc"]
    assert [layer.depth for layer in layers] == list(range(24))


def test_default_of_resnet_takes_the_activation_after_the_residual_sum() -> None:
    found = names(torchvision.models.resnet18(num_classes=10))
    assert found[:4] == ["relu", "maxpool", "layer1.0.relu#1", "layer1.0.relu#2"]
    assert found[-2:] == ["layer4.1.relu#2", "avgpool"]
    assert len(found) == 1 + 1 + 16 + 1


def test_default_follows_a_reused_activation_and_a_shortcut() -> None:
    assert names(Repeated()) == ["relu#1", "relu#2", "relu#3"]
    assert [layer.kind for layer in find_layers(Repeated().eval(), IMAGES)] == ["conv", "conv", "fc"]


def test_default_of_a_model_that_names_its_layers() -> None:
    model = Repeated()
    model.representation_layers = ["hidden", "first"]
    assert names(model) == ["first", "hidden"]


def test_default_takes_activations_that_are_functions() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
            self.pool, self.hidden, self.output = nn.MaxPool2d(2), nn.Linear(900, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.output(F.relu(self.hidden(self.pool(F.relu(self.norm(self.conv(x)))).flatten(1))))

    assert names(Functional()) == ["norm.relu", "pool", "hidden.relu"]


def test_default_sees_through_parametrised_convolutions() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3600, 2))
    torch.nn.utils.parametrizations.weight_norm(model[0])
    assert names(model) == ["1"]


def test_output_layer_is_left_out_even_before_a_softmax() -> None:
    layers = [nn.Linear(5, 6), nn.Tanh(), nn.Dropout(), nn.Linear(6, 4), nn.LogSoftmax(1)]
    assert names(nn.Sequential(*layers), inputs=torch.randn(3, 5)) == ["1"]
    assert names(nn.Sequential(*layers[:2]), inputs=torch.randn(3, 5)) == ["1"]  # a feature extractor


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (["hidden", "first"], ["first", "hidden"]),
        ("relu#2", ["relu#2"]),
        (["again#3", "relu#1"], ["relu#1", "relu#3"]),
        (["re*"], ["relu#1", "relu#2", "relu#3"]),
        (nn.Conv2d, ["first", "second", "shortcut"]),
        ([nn.Linear, "sec*", "second"], ["second", "hidden", "output"]),
    ],
)
def test_choice_by_name_call_glob_and_type(choice: Any, expected: list[str]) -> None:
    assert names(Repeated(), choice) == expected


@pytest.mark.parametrize(
    ("choice", "error", "words"),
    [
        ("frist", ValueError, "there is no layer 'frist'; expected a layer such as 'first'"),
        ("relu", ValueError, "'relu' runs 3 times in a forward pass; name one call, from 'relu#1' to 'relu#3'"),
        ("relu#4", ValueError, "there is no call 'relu#4'"),
        ("relu#x", ValueError, "there is no call 'relu#x'"),
        ("spare", ValueError, "'spare' does not run"),
        ("conv*", ValueError, "matches 'conv\\*'"),
        ([nn.LSTM], ValueError, "no module of type LSTM runs"),
        ([], ValueError, "the choice of layers is empty"),
        ([3], TypeError, "expected a name, a glob or a module type"),
    ],
)
def test_errors_of_a_choice(choice: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        names(Repeated(), choice)


def test_globs_with_a_number_find_calls() -> None:
    assert names(Repeated(), "relu#[13]") == ["relu#1", "relu#3"]
    assert names(Repeated(), "*#2") == ["relu#2"]
    with pytest.raises(ValueError, match="no layer that runs in Repeated matches"):
        names(Repeated(), "*#4")


def test_recurrent_layers_are_default_layers() -> None:
    model = nn.Sequential(nn.LSTM(3, 4, batch_first=True))
    assert [layer.name for layer in find_layers(model.eval(), torch.randn(2, 5, 3))] == ["0"]


def test_nothing_to_find() -> None:
    with pytest.raises(
        ValueError, match="no convolutions, poolings, hidden linear or recurrent layers run in Sequential"
    ):
        names(nn.Sequential(nn.Flatten(), nn.Linear(3072, 2)))


def test_outputs_that_are_overwritten_in_place_are_noticed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3), nn.ReLU())
    layers = find_layers(model.eval(), IMAGES, "*")
    assert [layer.overwritten for layer in layers] == [False, True, False, False, False]


def test_capturing_gives_the_outputs_and_leaves_no_hooks() -> None:
    model = Repeated().eval()
    layers = find_layers(model, IMAGES, ["first", "relu#2", "hidden"])
    seen: dict[str, Tensor] = {}
    with torch.no_grad(), capturing(model, layers, lambda layer, x: seen.update({layer.name: x.clone()})):
        model(IMAGES)
    assert list(seen) == ["first", "relu#2", "hidden"]
    assert bool((seen["first"] < 0).any())  # before the ReLU that works in place
    torch.testing.assert_close(seen["first"], model.first(IMAGES))
    assert not any(module._forward_hooks for module in model.modules())


def test_capturing_removes_hooks_when_interrupted() -> None:
    def interrupt(layer: Any, x: Tensor) -> None:
        raise KeyboardInterrupt

    model = Repeated().eval()
    layers = find_layers(model, IMAGES)
    with pytest.raises(KeyboardInterrupt), capturing(model, layers, interrupt):
        model(IMAGES)
    assert not any(module._forward_hooks for module in model.modules())


def test_capturing_says_what_another_model_lacks() -> None:
    layers = find_layers(Repeated().eval(), IMAGES, ["first", "relu#3"])
    plain = nn.Sequential(nn.Conv2d(3, 8, 3))
    with (
        pytest.raises(ValueError, match="candidate 'b' has no layer 'first'"),
        capturing(plain, layers, print, "candidate 'b'"),
    ):
        pass

    class Once(Repeated):
        def forward(self, x: Tensor) -> Tensor:
            return self.relu(self.first(x))

    other = Once().eval()
    with (
        pytest.raises(ValueError, match="'relu' ran 1 times in one forward pass of candidate 'b'; expected 3"),
        capturing(other, layers, lambda layer, x: None, "candidate 'b'"),
    ):
        other(IMAGES)


def test_layers_that_give_no_tensor() -> None:
    class Told(nn.Module):
        def forward(self, x: Tensor) -> dict[str, Any]:
            return {"shape": x.shape}

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.told, self.recurrent = Told(), nn.LSTM(3, 4, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            self.told(x)
            return self.recurrent(x)[0]

    model, inputs = Model().eval(), torch.randn(2, 5, 3)
    layers = find_layers(model, inputs, ["told", "recurrent"])
    with (
        pytest.raises(TypeError, match="'told' of the model gives a dict; expected a tensor"),
        capturing(model, layers, print),
    ):
        model(inputs)
    shapes = []
    with capturing(model, layers[1:], lambda layer, x: shapes.append(tuple(x.shape))):
        model(inputs)
    assert shapes == [(2, 5, 4)]


def test_public_names() -> None:
    assert pc.find_layers is find_layers
