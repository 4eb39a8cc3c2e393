"""The problems of the study: data, architecture, schedule and pruning rates of each (Ansuini et al. 2020, Tables 1 to 3)::

PROBLEMS["cifar4"].rates  # {"conv": 0.1, "fc": 0.2}
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """A classification problem: its data, its network, its training and pruning.

    ``conv`` and ``fc`` are written as in the paper's Table 2: widths of the 3x3 convolutions and of the hidden
    linear layers, ``*`` for BatchNorm, ``MP`` for max-pooling; ``network`` names a torchvision classifier instead.
    ``classes`` is the default number of classes, ``dataset`` is ``"cifar10"``, ``"digits"`` or ``"any"`` (CIFAR-10
    or an image folder). ``patience`` (epochs) turns early stopping on, on ``validation``, a fraction of the training
    set. ``rates`` are the fractions of each pool that one pruning iteration removes.
    """

    name: str
    dataset: str
    classes: int
    conv: str = ""
    fc: str = ""
    network: str | None = None
    epochs: int = 50
    batch: int = 128
    patience: int | None = None
    validation: float = 0.0
    rates: dict[str, float] = field(default_factory=lambda: {"conv": 0.1, "fc": 0.2})


_SMALL = "16* 16 MP"
_MEDIUM = "16* 16 MP 32* 32 MP"
_LARGE = "64* 64 MP 128* 128 MP 256* 256 MP"
_LARGEST = "64* 64* MP 128* 128* MP 256* 256* MP 512* 512* MP"
_DIGITS = "8* 8 MP 16* 16 MP 32* 32 MP"


def _stopped_early(name: str, **changes: Any) -> Problem:
    rates = {"conv": 0.2, "fc": 0.2}
    return Problem(name, epochs=200, patience=20, validation=0.1, rates=rates, **changes)


PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem("cifar2", "cifar10", 2, _SMALL, "256"),
        Problem("cifar4", "cifar10", 4, _MEDIUM, "256"),
        Problem("cifar6", "cifar10", 6, _LARGE, "256", epochs=100),
        _stopped_early("cifar8", dataset="cifar10", classes=8, conv=_LARGEST, fc="1024*"),
        _stopped_early("cifar10", dataset="cifar10", classes=10, conv=_LARGEST, fc="1024*"),
        *(Problem(f"digits{n}", "digits", n, _DIGITS, "64", epochs=30, batch=32) for n in range(2, 11)),
        _stopped_early("vgg19", dataset="any", classes=10, network="vgg19_bn"),
        _stopped_early("resnet18", dataset="any", classes=10, network="resnet18"),
    )
}


def find_problem(name: str) -> Problem:
    """The problem of that name: one of ``PROBLEMS``, or any torchvision classifier on an image folder.

    ``ValueError`` for an unknown name, listing the choices.
    """
    if name in PROBLEMS:
        return PROBLEMS[name]
    networks = torchvision_classifiers()
    if name in networks:
        return _stopped_early(name, dataset="any", classes=10, network=name)
    close = difflib.get_close_matches(name, [*PROBLEMS, *networks], n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    raise ValueError(
        f"there is no problem '{name}'{hint}: choose cifar2, 4, 6, 8 or 10, digits2 to digits10, vgg19, resnet18, "
        f"or any torchvision classifier such as mobilenet_v2"
    )


def torchvision_classifiers() -> list[str]:
    import torchvision

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names
