"""What an optimizer with a penalty remembers, and the half of ADMM that is no step of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from .penalty import DUAL, DUALS, TARGET, Penalty

Choose = Callable[[dict[str, Tensor]], Mapping[str, Tensor]]


class PenalisedOptimizer(torch.optim.Optimizer):
    """The base of the masked optimizers, whose steps carry the penalty out."""

    penalty: Penalty
    masks: dict[str, Tensor]

    def set_penalty(self, kind: str, strength: float = 0.0, names: Collection[str] | None = None) -> None:
        """Draw weights towards few of them from the next step on; inside the step, without a further pass over memory.

        Args:
            kind: ``"l1"`` (each step is followed by the soft threshold of learning rate times strength), ``"l1_loss"`` (the
                strength times the sign in the gradient), ``"admm"`` (see ``update_duals``), or ``"none"``, which ends it.
            strength: lambda of L1, rho of ADMM; above 0.
            names: the parameters that are drawn; None: those that have masks.

        Raises:
            ValueError: there is no such penalty, the strength cannot be, or a name is no parameter's.
        """
        named = self._named()
        for name in names or ():
            if name not in named:
                raise ValueError(f"'{name}' names no parameter of this optimizer; expected names among its own")
        self.penalty = Penalty(kind, strength, tuple(self.masks if names is None else names))
        for name, parameter in named.items():
            if kind != "admm" or name not in self.penalty.names:
                for key in DUALS:
                    self.state.get(parameter, {}).pop(key, None)
        self._renew_anchors()

    @torch.no_grad()
    def update_duals(self, choose: Choose) -> None:
        """The second half of a step of ADMM (Zhang et al. 2018): Z becomes the kept part of W + U, then U += W - Z.

        Call it once before the first step, which makes U zero and Z the kept part of W, and after every few epochs.
        Until the next call each step adds rho (W - Z + U) to the gradient. Z and U are part of the optimizer's state.

        Args:
            choose: the masks of what is kept, from W + U by name; such as ``lambda values: prune(values, pools, rates)``.

        Raises:
            RuntimeError: the penalty is not ADMM.
        """
        if self.penalty.kind != "admm":
            raise RuntimeError(f"the penalty is '{self.penalty.kind}'; call set_penalty('admm', rho) first")
        named = {name: p for name, p in self._named().items() if name in self.penalty.names}
        begun = {name: DUAL in self.state.get(p, {}) for name, p in named.items()}
        duals = {name: self.state[p][DUAL] if begun[name] else self._moment(p) for name, p in named.items()}
        sums = {name: duals[name] + p.detach() for name, p in named.items()}
        masks = choose(sums)
        for name, parameter in named.items():
            target = torch.where(masks[name].to(parameter.device), sums[name], 0)
            if not self.state.get(parameter):
                self.state[parameter] = self._begun(parameter)
            dual = duals[name] + (parameter.detach() - target) if begun[name] else duals[name]
            self.state[parameter] |= {TARGET: target, DUAL: dual}
        self._zero_pruned()

    def _begun(self, parameter: Tensor) -> dict[str, Any]:
        """The state of a parameter that has taken no step."""
        return {}

    def _renew_anchors(self) -> None:
        """Z - U, which the step reads, from Z and U; in the memory that it had, which a captured CUDA graph reads."""
        if self.penalty.kind == "admm":
            states = {name: self.state.get(p, {}) for name, p in self._named().items() if name in self.penalty.names}
            held = self.penalty.anchors
            new = {name: s[TARGET] - s[DUAL] for name, s in states.items() if TARGET in s}
            self.penalty.anchors = {
                name: held[name].copy_(anchor) if name in held and _alike(held[name], anchor) else anchor
                for name, anchor in new.items()
            }

    def _named(self) -> dict[str, Tensor]:
        """The optimizer's parameters by name; each optimizer gives them."""
        raise NotImplementedError

    def _moment(self, parameter: Tensor) -> Tensor:
        """The first moment of a parameter; each optimizer has its own."""
        raise NotImplementedError

    def _zero_pruned(self) -> None:
        """Zero what is pruned; each optimizer has its own moments."""
        raise NotImplementedError


def _alike(one: Tensor, other: Tensor) -> bool:
    return (one.shape, one.dtype, one.device) == (other.shape, other.dtype, other.device)
