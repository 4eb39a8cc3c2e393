"""Penalties: what draws weights towards few of them while they are trained, so that less is lost when the others go."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

PENALTIES = {
    "none": "nothing",
    "l1": "each step is followed by the soft threshold of its learning rate times the strength",
    "l1_loss": "the strength times the sign of the weight is added to the gradient",
    "admm": "the strength times (W - Z + U) is added to the gradient",
}
TARGET, DUAL = "admm_target", "admm_dual"  # Z and U in the state of an optimizer
DUALS = (TARGET, DUAL)


class Term(NamedTuple):
    """What a penalty does to one weight in a step."""

    anchor: Tensor | None = None  # Z - U
    pull: float = 0.0
    l1: float = 0.0
    threshold: float = 0.0


@dataclass
class Penalty:
    """A penalty of the named parameters.

    Attributes:
        kind: of ``PENALTIES``.
        strength: lambda of L1, rho of ADMM.
        names: of the parameters that it draws.
        anchors: Z - U of each, for ADMM.

    Raises:
        ValueError: there is no such penalty, or the strength cannot be.
    """

    kind: str = "none"
    strength: float = 0.0
    names: Collection[str] = ()
    anchors: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_penalty(self.kind, self.strength)

    def term(self, name: str, rate: float) -> Term:
        """What it does to a parameter in a step of that learning rate.

        Raises:
            RuntimeError: ADMM has no Z and U yet.
        """
        if name not in self.names or self.kind == "none":
            return Term()
        if self.kind == "l1":
            return Term(threshold=rate * self.strength)
        if self.kind == "l1_loss":
            return Term(l1=self.strength)
        if name not in self.anchors:
            raise RuntimeError(
                f"the penalty 'admm' has no Z and U of '{name}' yet; call update_duals before the first step"
            )
        return Term(anchor=self.anchors[name], pull=self.strength)


def check_penalty(kind: str, strength: float) -> None:
    """Refuse what is no penalty.

    Raises:
        ValueError: there is no such penalty, or its strength is not above 0.
    """
    if kind not in PENALTIES:
        raise ValueError(f"penalty is '{kind}'; expected one of {', '.join(PENALTIES)}")
    if kind != "none" and not 0 < strength < math.inf:
        raise ValueError(f"the strength of the penalty '{kind}' is {strength}; expected a number above 0")
