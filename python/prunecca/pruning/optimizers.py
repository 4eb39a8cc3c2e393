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
from .masked_optimizer import MaskedOptimizer, capturing, check_rates, refuse_while_capturing


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
            ``lr`` may be a float32 tensor on the device.

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

    def _step_native(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        masks: list[_native.Array | None],
    ) -> None:
        if group["capturable"]:
            return self._step_on_device(group, parameters, gradients, masks)
        if capturing(parameters):
            raise RuntimeError(
                "a CUDA graph would repeat one step number for ever; make MaskedAdam with capturable=True"
            )
        lr, decay, decoupled = float(group["lr"]), group["weight_decay"], group["decoupled_weight_decay"]
        steps = []
        for parameter in parameters:
            state = self.state[parameter]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32)
                state.update({key: self._moment(parameter) for key in self._moments})
            state["step"] += 1
            steps.append(int(state["step"]))
        _native.adam_step(
            weights=[native(p) for p in parameters],
            gradients=[native(g) for g in gradients],
            means=[native(self._state_of(p, "exp_avg")) for p in parameters],
            squares=[native(self._state_of(p, "exp_avg_sq")) for p in parameters],
            masks=masks,
            steps=steps,
            lr=lr,
            beta1=float(group["betas"][0]),
            beta2=float(group["betas"][1]),
            epsilon=group["eps"],
            l2=0.0 if decoupled else decay,
            shrink=1 - lr * decay if decoupled else 1.0,
            keep_masked=self.pruned == "frozen",
            threads=torch.get_num_threads(),
            stream=stream_of(parameters[0]),
        )

    def _step_on_device(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        masks: list[_native.Array | None],
    ) -> None:
        for parameter in parameters:
            if not self.state[parameter]:
                refuse_while_capturing(parameters)
                self.state[parameter].update({key: self._moment(parameter) for key in self._moments})
        step = self._shared_step(parameters)
        schedule = torch.empty(3, dtype=torch.float64, device=parameters[0].device)
        stream, decoupled = stream_of(parameters[0]), group["decoupled_weight_decay"]
        beta1, beta2 = map(float, group["betas"])
        _native.adam_advance(
            step=native(step),
            rate=native(self._rate_on_device(group, parameters)),
            beta1=beta1,
            beta2=beta2,
            decay=group["weight_decay"] if decoupled else 0.0,
            schedule=native(schedule),
            stream=stream,
        )
        _native.adam_step_scheduled(
            weights=[native(p) for p in parameters],
            gradients=[native(g) for g in gradients],
            means=[native(self._state_of(p, "exp_avg")) for p in parameters],
            squares=[native(self._state_of(p, "exp_avg_sq")) for p in parameters],
            masks=masks,
            schedule=native(schedule),
            beta1=beta1,
            beta2=beta2,
            epsilon=group["eps"],
            l2=0.0 if decoupled else group["weight_decay"],
            keep_masked=self.pruned == "frozen",
            stream=stream,
        )

    def _shared_step(self, parameters: list[Tensor]) -> Tensor:
        """The one step count of these parameters, float32 on their device; every parameter's state holds that tensor."""
        held: list[Tensor | None] = [self.state[p].get("step") for p in parameters]
        shared = held[0]
        if shared is None or any(step is not shared for step in held):
            refuse_while_capturing(parameters)
            counts = {0.0 if step is None else float(step) for step in held}
            if len(counts) > 1:
                raise ValueError(
                    f"parameters of one group have taken {sorted(counts)} steps; a capturable group has one count, put them in groups of their own"
                )
            shared = torch.tensor(counts.pop(), dtype=torch.float32, device=parameters[0].device)
            for parameter in parameters:
                self.state[parameter]["step"] = shared
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

    def _step_native(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        masks: list[_native.Array | None],
    ) -> None:
        moving = group["momentum"] != 0
        first = [moving and self.state[p].get("momentum_buffer") is None for p in parameters]
        for parameter, new in zip(parameters, first, strict=True):
            if new:
                refuse_while_capturing(parameters)
                self.state[parameter]["momentum_buffer"] = self._moment(parameter)
        momenta = [native(self._state_of(p, "momentum_buffer")) for p in parameters] if moving else []
        if group["capturable"]:
            _native.sgd_step_scheduled(
                weights=[native(p) for p in parameters],
                gradients=[native(g) for g in gradients],
                momenta=momenta,
                masks=masks,
                first=first,
                rate=native(self._rate_on_device(group, parameters)),
                momentum=float(group["momentum"]),
                dampening=float(group["dampening"]),
                l2=group["weight_decay"],
                nesterov=group["nesterov"],
                keep_masked=self.pruned == "frozen",
                stream=stream_of(parameters[0]),
            )
            return
        _native.sgd_step(
            weights=[native(p) for p in parameters],
            gradients=[native(g) for g in gradients],
            momenta=momenta,
            masks=masks,
            first=first,
            lr=float(group["lr"]),
            momentum=float(group["momentum"]),
            dampening=float(group["dampening"]),
            l2=group["weight_decay"],
            nesterov=group["nesterov"],
            keep_masked=self.pruned == "frozen",
            threads=torch.get_num_threads(),
            stream=stream_of(parameters[0]),
        )
