"""The networks: the paper's family as one parametrised architecture, and torchvision's classifiers.

A problem names a data set, an architecture and how it is trained and pruned (Ansuini et al. 2020, Tables 1 to 3).
Where the paper is silent: the output layer has as many neurons as the problem has classes, BatchNorm comes
before the activation, and parameters start from torch's defaults.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from .problems import PROBLEMS, Problem, find_problem, torchvision_classifiers
from .seeds import seeded

__all__ = ["PROBLEMS", "ConvNet", "Problem", "build", "find_problem"]


def build(
    problem: str | Problem,
    classes: int | None = None,
    dropout: float | None = None,
    *,
    image_size: int = 32,
    seed: int | None = None,
) -> nn.Module:
    """A new network for a problem, taking images (N, 3, H, W) float32 and returning logits (N, classes).

    The paper's networks have modules ``conv1, conv2, pool1, ..., fc1, output``; convN and fcN include the activation.
    Torchvision's VGGs and ResNets are adapted to images of less than 64 pixels a side; ``"vgg19"`` is torchvision's
    ``vgg19_bn``. ``model.representation_layers`` names the layers that a comparison looks at, in order of depth; other
    torchvision networks do not have it.

    Args:
        problem: a problem, or the name of one (see ``find_problem``).
        classes: the number of logits; None: the problem's own.
        dropout: after the hidden linear layers; None: 0.5 in the paper's networks, torchvision's own in the others.
        image_size: the side of the images in pixels.
        seed: decides the parameters alone, and torch's global generator is left as it was; None: the global generator.

    Returns:
        The network on the CPU, in training mode.

    Raises:
        ValueError: there is no such problem, or an argument is impossible.

    Example:
        >>> import torch
        >>> from prunecca.models import build
        >>> model = build("cifar4", seed=0)
        >>> model(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 4])
        >>> model.representation_layers
        ['conv1', 'conv2', 'pool1', 'conv3', 'conv4', 'pool2', 'fc1']
    """
    chosen = find_problem(problem) if isinstance(problem, str) else problem
    classes = chosen.classes if classes is None else classes
    if classes < 2:
        raise ValueError(f"classes is {classes}; a classifier needs at least 2 classes")
    if dropout is not None and not 0 <= dropout < 1:
        raise ValueError(f"dropout is {dropout}; expected a probability in [0, 1)")
    with seeded(seed):
        if chosen.network is not None:
            return _torchvision_network(chosen.network, classes, dropout, image_size)
        return ConvNet(chosen.conv, chosen.fc, classes, 0.5 if dropout is None else dropout, image_size)


class ConvNet(nn.Module):
    """The paper's family (section 4.2): blocks of 3x3 convolutions and max-pooling, hidden linear layers, an output.

    Args:
        conv, fc: in the notation of ``Problem``, such as ``"16* 16 MP"`` and ``"256"``, or ``"NIN 256"``.
        classes: the number of logits.
        dropout: after every hidden linear layer.
        image_size: the input is (N, 3, image_size, image_size).

    Raises:
        ValueError: the notation is wrong, or the images are too small for the poolings.

    Example:
        >>> from prunecca.models import ConvNet
        >>> [name for name, _ in ConvNet("8* MP", "16", classes=3).named_children()]
        ['conv1', 'pool1', 'flatten', 'fc1', 'dropout1', 'output']
    """

    def __init__(self, conv: str, fc: str, classes: int, dropout: float = 0.5, image_size: int = 32) -> None:
        super().__init__()
        self.representation_layers: list[str] = []
        channels, side, pools = 3, image_size, 0
        for number, (width, norm) in enumerate(_parse(conv)):
            if width == 0:
                pools += 1
                self._represent(f"pool{pools}", nn.MaxPool2d(2))
                side //= 2
            else:
                convolution = nn.Conv2d(channels, width, 3, padding=1)
                batch_norm = [nn.BatchNorm2d(width)] if norm else []
                self._represent(f"conv{number + 1 - pools}", nn.Sequential(convolution, *batch_norm, nn.ReLU()))
                channels = width
        if side == 0:
            raise ValueError(f"image_size is {image_size}; {pools} poolings need images of at least {2**pools} pixels")
        if fc.split()[:1] == ["NIN"]:
            self._classify_by_channels(fc.partition("NIN")[2], channels, classes, dropout)
            return
        self.add_module("flatten", nn.Flatten())
        features = channels * side * side
        for number, (width, norm) in enumerate(_parse(fc), start=1):
            batch_norm_1d = [nn.BatchNorm1d(width)] if norm else []
            self._represent(f"fc{number}", nn.Sequential(nn.Linear(features, width), *batch_norm_1d, nn.ReLU()))
            self.add_module(f"dropout{number}", nn.Dropout(dropout))
            features = width
        self.add_module("output", nn.Linear(features, classes))

    def _classify_by_channels(self, widths: str, channels: int, classes: int, dropout: float) -> None:
        """The head of a network in network: 1x1 convolutions, a channel for each class, and its mean over the image."""
        for number, (width, norm) in enumerate(_parse(widths), start=1):
            batch_norm = [nn.BatchNorm2d(width)] if norm else []
            self._represent(f"nin{number}", nn.Sequential(nn.Conv2d(channels, width, 1), *batch_norm, nn.ReLU()))
            self.add_module(f"dropout{number}", nn.Dropout(dropout))
            channels = width
        self.add_module("output", nn.Conv2d(channels, classes, 1))
        self.add_module("average", nn.AdaptiveAvgPool2d(1))
        self.add_module("flatten", nn.Flatten())

    def forward(self, x: Tensor) -> Tensor:
        """The logits (N, classes) of images (N, 3, H, W)."""
        for module in self.children():
            x = module(x)
        return x

    def _represent(self, name: str, module: nn.Module) -> None:
        self.add_module(name, module)
        self.representation_layers.append(name)


def _parse(layers: str) -> Iterator[tuple[int, bool]]:
    """``"16* MP"`` -> (16, True), (0, False): the width, 0 for a pooling, and whether BatchNorm follows."""
    for token in layers.split():
        match = re.fullmatch(r"([1-9]\d*)(\*?)", token)
        if match is None and token != "MP":
            raise ValueError(
                f"'{token}' is not a layer; expected a width such as 16, 16* (with BatchNorm) or MP (max-pooling)"
            )
        yield (int(match[1]), match[2] == "*") if match else (0, False)


def _torchvision_network(name: str, classes: int, dropout: float | None, image_size: int) -> nn.Module:
    import torchvision

    if name not in torchvision_classifiers():
        raise ValueError(f"torchvision has no classifier '{name}'; torchvision.models.list_models() names them")
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": True}
    elif name.startswith("vit_"):
        options = {"image_size": image_size}
    model: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes, **options)
    small = image_size < 64
    if isinstance(model, torchvision.models.VGG):
        _adapt_vgg(model, classes, small)
    elif isinstance(model, torchvision.models.ResNet):
        _adapt_resnet(model, small)
    if dropout is not None:
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = dropout
    return model


def _adapt_vgg(model: Any, classes: int, small: bool) -> None:
    """Small images reach the classifier as 1x1, so one hidden layer of 512 replaces the two of 4096."""
    if small:
        model.avgpool = nn.Identity()
        hidden = OrderedDict(fc1=nn.Sequential(nn.Linear(512, 512), nn.ReLU()), dropout1=nn.Dropout(0.5))
        model.classifier = nn.Sequential(OrderedDict(**hidden, output=nn.Linear(512, classes)))
    layers = [name for name, module in model.features.named_children() if isinstance(module, nn.ReLU | nn.MaxPool2d)]
    hidden_layers = [name for name, module in model.classifier.named_children() if isinstance(module, nn.ReLU)]
    model.representation_layers = [f"features.{name}" for name in layers] + (
        ["classifier.fc1"] if small else [f"classifier.{name}" for name in hidden_layers]
    )


def _adapt_resnet(model: Any, small: bool) -> None:
    """Small images keep their resolution: a 3x3 stem of stride 1, no pooling after it (He et al. 2016, 4.2)."""
    if small:
        stem = nn.Conv2d(3, 64, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
        model.conv1, model.maxpool = stem, nn.Identity()
    blocks = [f"layer{n}.{name}" for n in (1, 2, 3, 4) for name, _ in model.get_submodule(f"layer{n}").named_children()]
    model.representation_layers = ["relu", *([] if small else ["maxpool"]), *blocks, "avgpool"]
