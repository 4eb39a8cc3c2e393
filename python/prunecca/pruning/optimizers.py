"""Adam and SGD for masked networks: a pruned weight is exactly zero at every moment a user can see it.

The mask acts inside the step, on weight and moments, in one native call for all tensors. The forward pass pays
nothing, and ``state_dict`` is what ``torch.optim`` would write: checkpoints go both ways. Masks are not part of it.

With ``capturable=True`` a step can be part of a CUDA graph: the step count lies on the device, and so may the learning
rate (``lr`` as a tensor there, which a schedule fills anew). Take one step before the capture, so that the state exists.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from .. import _native
from .._arrays import native, stream_of
from .masked_optimizer import MaskedOptimizer, NativeTerms, Step, capturing, check_rates, refuse_while_capturing


class MaskedAdam(MaskedOptimizer):
    """Adam (Kingma and Ba 2014) whose masked entries are zero in weight and moments, always.

    On entries that are kept it equals ``torch.optim.Adam`` on the network that is left. float16 and bfloat16 weights have
    float32 moments; the step is computed in float32 (float64 for float64).

    Args:
        named_parameters: as from ``model.named_parameters()``, or parameter groups of such pairs.
        masks: parameter name -> ``torch.bool`` of the parameter's shape; see ``set_masks``.
        lr, betas, eps: as in ``torch.optim.Adam``.
        weight_decay: L2 added to the gradient, as ``torch.optim.Adam``.
        decoupled_weight_decay: weight decay apart from the gradient, as ``torch.optim.AdamW``.
        pruned: ``"zero"``, or ``"frozen"`` to leave masked weights at the value they have.
        capturable: the step can be captured in a CUDA graph; the parameters of a group then share one step count, and
            ``lr`` may be a tensor on the device, which is read as float32.

    Raises:
        TypeError: parameters without names, or masks that are not ``torch.bool``.
        ValueError: a mask that fits no parameter, or a rate that cannot be.

    Example:
        >>> import torch, prunecca as pc
        >>> model = torch.nn.Linear(4, 2)
        >>> masks = {"weight": torch.tensor([[True, False, True, False]] * 2)}
        >>> optimizer = pc.pruning.MaskedAdam(model.named_parameters(), masks, lr=0.1)
        >>> model(torch.ones(3, 4)).sum().backward()
        >>> optimizer.step()
        >>> bool(model.weight[:, 1::2].any())
        False
    """

    _moments = ("exp_avg", "exp_avg_sq")
    _counts = ("step",)
    _refused = ("amsgrad", "maximize")

    def __init__(
        self,
        named_parameters: Iterable[Any],
        masks: Mapping[str, Tensor] | None = None,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        pruned: str = "zero",
        capturable: bool = False,
    ) -> None:
        check_rates(lr=lr, eps=eps, weight_decay=weight_decay)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas are {betas}; expected two numbers in [0, 1)")
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
            "capturable": capturable,
        }
        super().__init__(named_parameters, masks, defaults, pruned)

    def _prepare(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        masks: list[_native.Array | None],
        terms: NativeTerms,
    ) -> Step:
        if not group["capturable"] and capturing(parameters):
            raise RuntimeError(
                "a CUDA graph would repeat one step number for ever; make MaskedAdam with capturable=True"
            )
        new = {p: self._new_state(p, group["capturable"]) for p in parameters if not self.state.get(p)}
        states = (
            [new[p] if p in new else self.state[p] for p in parameters] if new else [self.state[p] for p in parameters]
        )
        decay, decoupled = group["weight_decay"], group["decoupled_weight_decay"]
        beta1, beta2 = map(float, group["betas"])
        given: dict[str, Any] = {
            "weights": [native(p) for p in parameters],
            "gradients": [native(g) for g in gradients],
            "masks": masks,
            "beta1": beta1,
            "beta2": beta2,
            "epsilon": group["eps"],
            "l2": 0.0 if decoupled else decay,
            "keep_masked": self.pruned == "frozen",
            "stream": stream_of(parameters[0]),
            "penalties": terms,
        }
        moments = [
            [self._moment_of(s, key, p) for s, p in zip(states, parameters, strict=True)] for key in self._moments
        ]
        means, squares = moments
        given |= {"means": [native(m) for m in means], "squares": [native(m) for m in squares]}
        if group["capturable"]:
            return self._prepare_on_device(group, parameters, states, given)
        lr, steps = float(group["lr"]), [int(state["step"]) + 1 for state in states]

        def take() -> None:
            _native.adam_step(
                **given,
                steps=steps,
                lr=lr,
                shrink=1 - lr * decay if decoupled else 1.0,
                threads=torch.get_num_threads(),
            )
            self.state.update(new)
            for state in states:
                state["step"] += 1

        return take

    def _prepare_on_device(
        self, group: dict[str, Any], parameters: list[Tensor], states: list[dict[str, Any]], given: dict[str, Any]
    ) -> Step:
        step = self._shared_step(parameters, states)
        schedule = torch.empty(4, dtype=torch.float64, device=parameters[0].device)
        rate = self._rate_on_device(group, parameters)

        def take() -> None:
            for parameter, state in zip(parameters, states, strict=True):
                self.state[parameter] = state
                state["step"] = step
            _native.adam_advance(
                step=native(step),
                rate=native(rate),
                beta1=given["beta1"],
                beta2=given["beta2"],
                decay=group["weight_decay"] if group["decoupled_weight_decay"] else 0.0,
                schedule=native(schedule),
                stream=given["stream"],
            )
            _native.adam_step_scheduled(**given, schedule=native(schedule))

        return take

    def _begun(self, parameter: Tensor) -> dict[str, Any]:
        return self._new_state(parameter, self._group_of[parameter]["capturable"])

    def _new_state(self, parameter: Tensor, capturable: bool) -> dict[str, Any]:
        if capturable:
            refuse_while_capturing([parameter])
        step = {} if capturable else {"step": torch.zeros((), dtype=torch.float32)}
        return step | {key: self._moment(parameter) for key in self._moments}

    def _shared_step(self, parameters: list[Tensor], states: list[dict[str, Any]]) -> Tensor:
        """The one step count of these parameters, float32 on their device; every parameter's state holds that tensor."""
        held: list[Tensor | None] = [state.get("step") for state in states]
        shared = held[0]
        if shared is None or any(step is not shared for step in held):
            refuse_while_capturing(parameters)
            counts = {0.0 if step is None else float(step) for step in held}
            if len(counts) > 1:
                raise ValueError(
                    f"parameters of one group have taken {sorted(counts)} steps; a capturable group has one count, put them in groups of their own"
                )
            shared = torch.tensor(counts.pop(), dtype=torch.float32, device=parameters[0].device)
        return shared


class MaskedSGD(MaskedOptimizer):
    """SGD with momentum whose masked entries are zero in weight and momentum, always; as ``torch.optim.SGD`` elsewhere.

    Args:
        named_parameters, masks, pruned: as in ``MaskedAdam``.
        lr, momentum, dampening, nesterov: as in ``torch.optim.SGD``.
        weight_decay: L2 added to the gradient.
        capturable: in a CUDA graph the learning rate is read from the device; without, it is that of the capture.

    Raises:
        TypeError: parameters without names, or masks that are not ``torch.bool``.
        ValueError: a mask that fits no parameter, or a rate that cannot be.

    Example:
        >>> import torch, prunecca as pc
        >>> model = torch.nn.Linear(4, 2)
        >>> masks = pc.pruning.prune(model, {"all": ["weight"]}, 0.5)
        >>> optimizer = pc.pruning.MaskedSGD(model.named_parameters(), masks, lr=0.1, momentum=0.9)
        >>> model(torch.ones(3, 4)).sum().backward()
        >>> optimizer.step()
        >>> int((model.weight == 0).sum())
        4
    """

    _moments = ("momentum_buffer",)
    _refused = ("maximize",)

    def __init__(
        self,
        named_parameters: Iterable[Any],
        masks: Mapping[str, Tensor] | None = None,
        lr: float | Tensor = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        pruned: str = "zero",
        capturable: bool = False,
    ) -> None:
        check_rates(lr=lr, momentum=momentum, weight_decay=weight_decay)
        if nesterov and (momentum <= 0 or dampening != 0):
            raise ValueError(
                f"nesterov was asked for with momentum {momentum} and dampening {dampening}; expected a momentum above 0 and no dampening"
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
            "capturable": capturable,
        }
        super().__init__(named_parameters, masks, defaults, pruned)

    def _prepare(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        masks: list[_native.Array | None],
        terms: NativeTerms,
    ) -> Step:
        moving = group["momentum"] != 0
        states = [self.state.get(p, {}) if moving else {} for p in parameters]
        first = [moving and state.get("momentum_buffer") is None for state in states]
        if any(first):
            refuse_while_capturing(parameters)
        momenta = [
            self._moment(p) if new else self._moment_of(state, "momentum_buffer", p)
            for p, state, new in zip(parameters if moving else [], states, first, strict=False)
        ]
        given: dict[str, Any] = {
            "weights": [native(p) for p in parameters],
            "gradients": [native(g) for g in gradients],
            "momenta": [native(m) for m in momenta],
            "masks": masks,
            "first": first,
            "momentum": float(group["momentum"]),
            "dampening": float(group["dampening"]),
            "l2": group["weight_decay"],
            "nesterov": group["nesterov"],
            "keep_masked": self.pruned == "frozen",
            "stream": stream_of(parameters[0]),
            "penalties": terms,
        }
        on_device = self._reads_rate_on_device(group)
        rate = self._rate_on_device(group, parameters) if on_device else float(group["lr"])

        def take() -> None:
            if isinstance(rate, Tensor):
                _native.sgd_step_scheduled(**given, rate=native(rate))
            else:
                _native.sgd_step(**given, lr=rate, threads=torch.get_num_threads())
            for parameter, momentum, new in zip(parameters, momenta, first, strict=False):
                if new:
                    self.state[parameter]["momentum_buffer"] = momentum

        return take

    def _reads_rate_on_device(self, group: dict[str, Any]) -> bool:
        # A rate on a device is read there in any case: to ask for it would wait, which a capture does not allow.
        return super()._reads_rate_on_device(group) or (isinstance(group["lr"], Tensor) and group["lr"].is_cuda)

    def _needed(self) -> set[str]:
        return set()
