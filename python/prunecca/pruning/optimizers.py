"""Adam and SGD for masked networks: a pruned weight is exactly zero at every moment a user can see it.

The mask acts inside the step, on weight and moments, in one native call for all tensors. The forward pass pays
nothing, and ``state_dict`` is what ``torch.optim`` would write: checkpoints go both ways. Masks are not part of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast, overload

import torch
from torch import Tensor

from .. import _native
from .._arrays import native, stream_of
from .masks import fitting_mask, in_memory_order, zero_pruned

PRUNED = ("zero", "frozen")


class MaskedOptimizer(torch.optim.Optimizer):
    """What :class:`MaskedAdam` and :class:`MaskedSGD` share: names, masks, state."""

    _moments: tuple[str, ...] = ()  # keys of the per-weight state
    _refused: tuple[str, ...] = ()  # options of torch's optimizer that a loaded state may not have switched on

    def __init__(
        self, named_parameters: Iterable[Any], masks: Mapping[str, Tensor] | None, defaults: dict[str, Any], pruned: str
    ) -> None:
        if pruned not in PRUNED:
            raise ValueError(f"pruned is '{pruned}'; expected 'zero' or 'frozen'")
        self.masks: dict[str, Tensor] = {}
        self.pruned = pruned
        super().__init__(list(named_parameters), defaults)
        self.set_masks(masks or {})

    def set_masks(self, masks: Mapping[str, Tensor]) -> None:
        """Replace all masks, and set weights (unless ``pruned="frozen"``) and moments outside them to zero at once.

        ``masks``: parameter name -> ``torch.bool`` of the parameter's shape; kept by reference. Parameters without a
        mask are trained as by ``torch.optim``. Raises ``ValueError`` for a name or a shape that does not fit.
        """
        named = self._named()
        for name in masks:
            if name not in named:
                raise ValueError(f"mask '{name}' names no parameter of this optimizer; expected names among its own")
        # In the weights' memory order, once, so that a step walks both alike.
        self.masks = {
            name: in_memory_order(fitting_mask(name, mask, named[name]), named[name]) for name, mask in masks.items()
        }
        self._zero_pruned()

    def mask_gradients(self) -> None:
        """Set the gradients of pruned weights to zero in place. The step does not need it; a gradient norm does."""
        named = self._named()
        zero_pruned((grad, name, mask) for name, mask in self.masks.items() if (grad := named[name].grad) is not None)

    def clip_gradients(self, max_norm: float, norm_type: float = 2.0) -> Tensor:
        """As ``torch.nn.utils.clip_grad_norm_``, with the norm of the network that is left. Returns that norm."""
        self.mask_gradients()
        return torch.nn.utils.clip_grad_norm_(self._named().values(), max_norm, norm_type)

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """One step for every parameter that has a gradient. ``closure`` re-evaluates the model and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            stepped = [(name, p) for name, p in _pairs(group) if p.grad is not None]
            if not stepped:
                continue
            parameters = [p for _, p in stepped]
            gradients = [self._gradient(name, p) for name, p in stepped]
            masks = [self._mask(name, p) for name, p in stepped]
            self._step_native(group, parameters, gradients, masks)
            torch.autograd.graph.increment_version(parameters)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a copy of a state, of this class or of its counterpart in ``torch.optim``; the masks then act on it."""
        for group in state_dict["param_groups"]:
            for option in self._refused:
                if group.get(option):
                    raise ValueError(f"the state was saved with {option}=True; expected a state without, train anew")
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for option, value in self.defaults.items():
                group.setdefault(option, value)
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        for index, parameter in zip(saved, self._named().values(), strict=True):
            # torch hands the tensors over by reference, and rounds moments to half-precision weights.
            for key, value in state_dict["state"].get(index, {}).items():
                if key in self._moments and value is not None:
                    self.state[parameter][key] = self._moment(parameter).copy_(value)
                elif isinstance(value, Tensor):
                    self.state[parameter][key] = value.detach().cpu().clone()
        self._zero_pruned()

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return state | {"masks": self.masks, "pruned": self.pruned}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        if "param_names" not in self.param_groups[-1]:
            raise TypeError("given parameters without names; expected pairs, as from model.named_parameters()")
        names = [name for group in self.param_groups for name in group["param_names"]]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"parameter name '{twice}' was given twice; expected every name once")

    def _step_native(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        masks: list[_native.Array | None],
    ) -> None:
        raise NotImplementedError

    def _named(self) -> dict[str, Tensor]:
        return {name: p for group in self.param_groups for name, p in _pairs(group)}

    def _gradient(self, name: str, parameter: Tensor) -> Tensor:
        gradient = cast(Tensor, parameter.grad)
        if gradient.is_sparse:
            raise TypeError(f"gradient of '{name}' is sparse; expected a dense gradient, use Embedding(sparse=False)")
        return in_memory_order(gradient, parameter)

    def _mask(self, name: str, parameter: Tensor) -> _native.Array | None:
        mask = self.masks.get(name)
        if mask is None:
            return None
        if mask.stride() != parameter.stride():  # the model changed its memory format under the optimizer
            mask = self.masks[name] = in_memory_order(mask, parameter)
        return native(mask)

    def _moment(self, parameter: Tensor) -> Tensor:
        dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
        return torch.zeros_like(parameter, dtype=dtype, memory_format=torch.preserve_format)

    def _state_of(self, parameter: Tensor, key: str) -> Tensor:
        moment: Tensor = self.state[parameter][key]
        if moment.stride() != parameter.stride():
            moment = self.state[parameter][key] = in_memory_order(moment, parameter)
        return moment

    def _zero_pruned(self) -> None:
        named = self._named()
        items: list[tuple[Tensor | None, str, Tensor]] = []
        for name, mask in self.masks.items():
            if self.pruned == "zero":
                items.append((named[name], name, mask))
            state = self.state.get(named[name], {})
            items += [(state[key], name, mask) for key in self._moments if state.get(key) is not None]
        zero_pruned(items)


class MaskedAdam(MaskedOptimizer):
    """Adam (Kingma and Ba 2014) whose masked entries are zero in weight and moments, always.

    ``named_parameters``: as from ``model.named_parameters()``, or parameter groups of such pairs.
    ``masks``: parameter name -> ``torch.bool``; see :meth:`set_masks`.
    ``weight_decay``: L2 added to the gradient, as ``torch.optim.Adam``; decoupled from it, as ``AdamW``, with
    ``decoupled_weight_decay``. ``pruned``: ``"zero"``, or ``"frozen"`` to leave masked weights at the value they have.

    float16 and bfloat16 weights have float32 moments; the step is computed in float32 (float64 for float64).
    On entries that are kept it equals ``torch.optim.Adam`` on the network that is left.
    """

    _moments = ("exp_avg", "exp_avg_sq")
    _refused = ("amsgrad", "maximize")

    def __init__(
        self,
        named_parameters: Iterable[Any],
        masks: Mapping[str, Tensor] | None = None,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decoupled_weight_decay: bool = False,
        pruned: str = "zero",
    ) -> None:
        _check_rates(lr=lr, eps=eps, weight_decay=weight_decay)
        if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas are {betas}; expected two numbers in [0, 1)")
        defaults = {
            "lr": lr,
            "betas": tuple(betas),
            "eps": eps,
            "weight_decay": weight_decay,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(named_parameters, masks, defaults, pruned)

    def _step_native(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        masks: list[_native.Array | None],
    ) -> None:
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


class MaskedSGD(MaskedOptimizer):
    """SGD with momentum whose masked entries are zero in weight and momentum, always; as ``torch.optim.SGD`` elsewhere.

    Arguments as there and as in :class:`MaskedAdam`; ``weight_decay`` is L2 added to the gradient.
    """

    _moments = ("momentum_buffer",)
    _refused = ("maximize",)

    def __init__(
        self,
        named_parameters: Iterable[Any],
        masks: Mapping[str, Tensor] | None = None,
        lr: float = 1e-3,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        *,
        pruned: str = "zero",
    ) -> None:
        _check_rates(lr=lr, momentum=momentum, weight_decay=weight_decay)
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
                self.state[parameter]["momentum_buffer"] = self._moment(parameter)
        _native.sgd_step(
            weights=[native(p) for p in parameters],
            gradients=[native(g) for g in gradients],
            momenta=[native(self._state_of(p, "momentum_buffer")) for p in parameters] if moving else [],
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


def _pairs(group: dict[str, Any]) -> Iterable[tuple[str, Tensor]]:
    return zip(group["param_names"], group["params"], strict=True)


def _check_rates(**rates: float) -> None:
    for name, value in rates.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}; expected a number of at least 0")
