"""How a network is trained: epochs, batches, learning rate, precision."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..data.augmentation import Augmentation
from ..problems import Problem, find_problem
from .evaluation import Precision


@dataclass(frozen=True)
class TrainingConfig:
    """How a network is trained; the defaults are the paper's (Ansuini et al. 2020, section 4.2).

    Attributes:
        epochs: T.
        batch: images per step.
        lr, weight_decay: of Adam with L2.
        patience: epochs without a lower validation loss after which training stops; None: it never stops early.
        augmentation: None trains on the images as they are.
        precision: ``"float32"`` or ``"bfloat16"``, of the forward and backward pass; parameters and optimizer stay float32.
        channels_last: memory layout of the activations.
        evaluate_every: the test images are looked at after each so many epochs, and at the end. Validation images, which
            decide when training stops, are looked at after every epoch.

    Raises:
        ValueError: a number that cannot be.

    Example:
        >>> import prunecca as pc
        >>> pc.training.TrainingConfig.for_problem("cifar10", epochs=3).patience
        20
    """

    epochs: int = 50
    batch: int = 128
    lr: float = 1e-3
    weight_decay: float = 5e-4
    patience: int | None = None
    augmentation: Augmentation | None = field(default_factory=Augmentation)
    precision: Precision = "float32"
    channels_last: bool = True
    evaluate_every: int = 1

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 2:
            raise ValueError(f"epochs is {self.epochs} and batch is {self.batch}; expected at least 1 and 2")
        if self.lr <= 0 or self.weight_decay < 0:
            raise ValueError(
                f"lr is {self.lr} and weight_decay is {self.weight_decay}; expected above 0, and 0 or more"
            )
        if self.patience is not None and self.patience < 1:
            raise ValueError(f"patience is {self.patience}; expected at least 1 epoch, or None")
        if self.evaluate_every < 1:
            raise ValueError(f"evaluate_every is {self.evaluate_every}; expected at least 1 epoch")
        if self.precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision is '{self.precision}'; expected 'float32' or 'bfloat16'")

    @classmethod
    def for_problem(cls, problem: str | Problem, **changes: Any) -> TrainingConfig:
        """The problem's schedule with some fields changed. Digits are not mirrored: that would make other signs of them."""
        chosen = find_problem(problem) if isinstance(problem, str) else problem
        augmentation = Augmentation(flip=chosen.dataset != "digits")
        given = {
            "epochs": chosen.epochs,
            "batch": chosen.batch,
            "patience": chosen.patience,
            "augmentation": augmentation,
        }
        return cls(**{**given, **changes})
