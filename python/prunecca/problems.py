"""The problems of the study: data, architecture, schedule and pruning rates of each (Ansuini et al. 2020, Tables 1 to 3)."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn


class _Rates(dict[str, float]):
    """A mapping that cannot be changed, so that a problem can be the key of a cache; JSON takes it as any dictionary."""

    # dict sets __hash__ to None, which a type checker takes for what every dictionary must keep.
    def __hash__(self) -> int:  # type: ignore[override]  # a dictionary has none
        return hash(frozenset(self.items()))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)

    def _refuse(self, *_: object, **__: object) -> NoReturn:
        raise TypeError("the rates of a problem cannot be changed; make another problem with dataclasses.replace")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse


_SLOW = _Rates(conv=0.1, fc=0.2)
_FAST = _Rates(conv=0.2, fc=0.2)


@dataclass(frozen=True)
class Problem:
    """A classification problem: its data, its network, its training and pruning. It is hashable, and never changes.

    Args:
        name: of the problem.
        dataset: ``"cifar10"``, ``"digits"``, or ``"any"``: CIFAR-10 or an image folder.
        classes: the default number of classes.
        conv: widths of the 3x3 convolutions as in the paper's Table 2, ``*`` for BatchNorm, ``MP`` for max-pooling.
        fc: widths of the hidden linear layers, in the same notation. Or ``NIN`` with the widths of 1x1 convolutions: these, a
            last one with a channel for each class, and global average pooling take the place of all linear layers.
        network: name of a torchvision classifier, which takes the place of ``conv`` and ``fc``.
        epochs: at most so many.
        batch: images per step.
        patience: epochs without improvement on the validation images before training stops; None: it never stops early.
        validation: the fraction of the training set that validates.
        rates: the fraction of each pool that one pruning iteration removes; any mapping, of which a copy is kept.

    Example:
        >>> from prunecca.models import PROBLEMS, Problem
        >>> PROBLEMS["cifar4"].conv
        '16* 16 MP 32* 32 MP'
        >>> mine = Problem("mine", "digits", 3, "8* 8 MP", "32", rates={"conv": 0.3, "fc": 0.5})
        >>> mine.rates["conv"]
        0.3
        >>> {mine: "found"}[mine]
        'found'
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
    rates: Mapping[str, float] = _SLOW

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", _Rates(self.rates))


_SMALL = "16* 16 MP"
_MEDIUM = "16* 16 MP 32* 32 MP"
_LARGE = "64* 64 MP 128* 128 MP 256* 256 MP"
_LARGEST = "64* 64* MP 128* 128* MP 256* 256* MP 512* 512* MP"
_DIGITS = "8* 8 MP 16* 16 MP 32* 32 MP"


def _stopped_early(name: str, **changes: Any) -> Problem:
    return Problem(name, epochs=200, patience=20, validation=0.1, rates=_FAST, **changes)


PROBLEMS: dict[str, Problem] = {
    problem.name: problem
    for problem in (
        Problem("cifar2", "cifar10", 2, _SMALL, "256"),
        Problem("cifar4", "cifar10", 4, _MEDIUM, "256"),
        Problem("cifar6", "cifar10", 6, _LARGE, "256", epochs=100),
        _stopped_early("cifar8", dataset="cifar10", classes=8, conv=_LARGEST, fc="1024*"),
        _stopped_early("cifar10", dataset="cifar10", classes=10, conv=_LARGEST, fc="1024*"),
        # Networks in networks (Lin et al. 2013): the same convolutions, and no fully-connected layer.
        *(
            Problem(f"cifar{n}-nin", "cifar10", n, conv, "NIN 256", epochs=epochs)
            for n, conv, epochs in ((2, _SMALL, 50), (4, _MEDIUM, 50), (6, _LARGE, 100))
        ),
        *(
            _stopped_early(f"cifar{n}-nin", dataset="cifar10", classes=n, conv=_LARGEST, fc="NIN 1024*")
            for n in (8, 10)
        ),
        *(Problem(f"digits{n}", "digits", n, _DIGITS, "64", epochs=30, batch=32) for n in range(2, 11)),
        _stopped_early("vgg19", dataset="any", classes=10, network="vgg19_bn"),
        _stopped_early("resnet18", dataset="any", classes=10, network="resnet18"),
    )
}
"""The problems by name: ``cifar2`` to ``cifar10``, ``cifar2-nin`` to ``cifar10-nin``, ``digits2`` to ``digits10``, ``vgg19`` and ``resnet18``.

Example:
    >>> from prunecca.models import PROBLEMS
    >>> PROBLEMS["cifar4"].rates
    {'conv': 0.1, 'fc': 0.2}
"""


def find_problem(name: str) -> Problem:
    """The problem of that name: one of ``PROBLEMS``, or any torchvision classifier on an image folder.

    Args:
        name: such as ``"cifar4"``, ``"digits10"`` or ``"mobilenet_v2"``.

    Raises:
        ValueError: there is no such problem; the sentence lists the choices.

    Example:
        >>> from prunecca.models import find_problem
        >>> find_problem("digits4").epochs
        30
        >>> find_problem("mobilenet_v2").dataset
        'any'
    """
    if name in PROBLEMS:
        return PROBLEMS[name]
    networks = torchvision_classifiers()
    if name in networks:
        return _stopped_early(name, dataset="any", classes=10, network=name)
    close = difflib.get_close_matches(name, [*PROBLEMS, *networks], n=1)
    hint = f" (did you mean '{close[0]}'?)" if close else ""
    raise ValueError(
        f"there is no problem '{name}'{hint}: choose cifar2, 4, 6, 8 or 10, cifar2-nin to cifar10-nin, digits2 to digits10, vgg19, resnet18, "
        f"or any torchvision classifier such as mobilenet_v2"
    )


def torchvision_classifiers() -> list[str]:
    """The names of torchvision's classifiers."""
    import torchvision

    names: list[str] = torchvision.models.list_models(module=torchvision.models)
    return names
