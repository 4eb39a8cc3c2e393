"""What optimizers of masked networks share: names, masks, state, and what a captured step may do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias, cast, overload

import torch
from torch import Tensor

from .. import _native
from .._arrays import native, resolved
from ..methods.penalised import PenalisedOptimizer
from ..methods.penalty import DUALS, Penalty
from .masks import fitting_mask, in_memory_order, zero_pruned

PRUNED = ("zero", "frozen")
Step = Callable[[], None]
NativeTerm: TypeAlias = "tuple[_native.Array | None, float, float, float]"  # anchor, pull, l1, threshold of a weight
NativeTerms: TypeAlias = list[NativeTerm]

_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class MaskedOptimizer(PenalisedOptimizer):
    """What ``MaskedAdam`` and ``MaskedSGD`` share: names, masks, state."""

    _moments: tuple[str, ...] = ()  # keys of the per-weight state
    _counts: tuple[str, ...] = ()  # further keys
    _refused: tuple[str, ...] = ()  # options of torch's optimizer that a loaded state may not have switched on

    def __init__(
        self, named_parameters: Iterable[Any], masks: Mapping[str, Tensor] | None, defaults: dict[str, Any], pruned: str
    ) -> None:
        if pruned not in PRUNED:
            raise ValueError(f"pruned is '{pruned}'; expected 'zero' or 'frozen'")
        self.masks: dict[str, Tensor] = {}
        self.pruned = pruned
        self.penalty = Penalty()
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
        # All or nothing: what could be refused is, for every group, before the first weight or count changes.
        groups = [group for group in self.param_groups if any(p.grad is not None for p in group["params"])]
        for parameters, _, take in [self._prepared(group, len(groups) > 1) for group in groups]:
            take()
            torch.autograd.graph.increment_version(parameters)
        return loss

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take a copy of a state, of this class or of its counterpart in ``torch.optim``; the masks then act on it."""
        for group in state_dict["param_groups"]:
            for option in self._refused:
                if group.get(option):
                    raise ValueError(f"the state was saved with {option}=True; expected a state without, train anew")
        saved = [index for group in state_dict["param_groups"] for index in group["params"]]
        for index, (name, parameter) in zip(saved, self._named().items(), strict=False):
            self._check_state(name, parameter, state_dict["state"].get(index) or {})
        capturable = [group["capturable"] for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, own in zip(self.param_groups, capturable, strict=True):
            for option, value in self.defaults.items():
                group.setdefault(option, value)
            group["capturable"] = own  # how this optimizer runs, and nothing that was learnt
        for index, parameter in zip(saved, self._named().values(), strict=True):
            # torch hands the tensors over by reference, and rounds moments to half-precision weights.
            for key, value in state_dict["state"].get(index, {}).items():
                if key in (*self._moments, *DUALS) and value is not None:
                    self.state[parameter][key] = self._moment(parameter).copy_(value)
                elif isinstance(value, Tensor):
                    place = parameter.device if self._group_of[parameter]["capturable"] else "cpu"
                    self.state[parameter][key] = value.detach().to(place, copy=True)
        self._zero_pruned()

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return state | {"masks": self.masks, "pruned": self.pruned, "penalty": self.penalty}

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        if "param_names" not in self.param_groups[-1]:
            raise TypeError("given parameters without names; expected pairs, as from model.named_parameters()")
        names = [name for group in self.param_groups for name in group["param_names"]]
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"parameter name '{twice}' was given twice; expected every name once")

    def _prepared(self, group: dict[str, Any], among_others: bool) -> tuple[list[Tensor], list[Tensor], Step]:
        """The parameters that have gradients, these gradients, which must live until the step is taken, and the step."""
        stepped = [(name, p) for name, p in pairs(group) if p.grad is not None]
        parameters = [p for _, p in stepped]
        gradients = [self._gradient(name, p) for name, p in stepped]
        masks = [self._mask(name, p) for name, p in stepped]
        if among_others:  # a single native call checks all of this by itself, before it writes
            self._check(stepped)
        try:
            terms: NativeTerms = []
            if self.penalty.kind != "none":
                rate = 1.0 if self._reads_rate_on_device(group) else float(group["lr"])
                terms = [self._term(name, p, rate) for name, p in stepped]
            return parameters, gradients, self._prepare(group, parameters, gradients, masks, terms)
        except (TypeError, ValueError):
            _name_the_one_refused(stepped)  # here, where it costs nothing as long as all is well
            raise

    def _term(self, name: str, parameter: Tensor, rate: float) -> NativeTerm:
        """The penalty of one weight; a rate that the device reads is 1 here, and multiplies the threshold there."""
        term = self.penalty.term(name, rate)
        if term.anchor is None:
            return None, term.pull, term.l1, term.threshold
        anchor = self.penalty.anchors[name] = in_memory_order(term.anchor, parameter)
        return native(anchor), term.pull, term.l1, term.threshold

    def _reads_rate_on_device(self, group: dict[str, Any]) -> bool:
        """Whether the kernels read the learning rate on their device, and the host does not know it."""
        return bool(group["capturable"])

    def _check(self, stepped: list[tuple[str, Tensor]]) -> None:
        """Refuse what the native step of one group would refuse after that of another was taken."""
        devices = sorted({str(p.device) for _, p in stepped})
        if len(devices) > 1:
            raise ValueError(
                f"parameters of one group lie on {' and '.join(devices)}; expected one device, put them in groups of their own"
            )
        for name, parameter in stepped:
            gradient = cast(Tensor, parameter.grad)
            if gradient.dtype != parameter.dtype:
                raise ValueError(
                    f"gradient of '{name}' is {gradient.dtype}; expected that of its weight, {parameter.dtype}"
                )
            if (
                not parameter.is_contiguous()
                and torch.empty_like(parameter, device="meta").stride() != parameter.stride()
            ):
                raise ValueError(
                    f"parameter '{name}' is a weight whose memory has gaps; expected a dense tensor, call .contiguous()"
                )
            dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
            for key in self._moments:
                moment = self.state.get(parameter, {}).get(key)
                if moment is None:
                    continue
                if (moment.shape, moment.dtype, moment.device) != (parameter.shape, dtype, parameter.device):
                    raise ValueError(
                        f"{key} of '{name}' is {moment.dtype} of shape {tuple(moment.shape)} on {moment.device}; expected "
                        f"{dtype} of shape {tuple(parameter.shape)} on {parameter.device}, load the state with load_state_dict"
                    )

    def _prepare(
        self,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradients: list[Tensor],
        masks: list[_native.Array | None],
        terms: NativeTerms,
    ) -> Step:
        """What takes the step of one group, and only when it is called changes anything; every optimizer has one."""
        raise NotImplementedError

    def _check_state(self, name: str, parameter: Tensor, state: Mapping[str, Any]) -> None:
        """Refuse the state of an optimizer of another kind, or of another network."""
        wrong = {key for key in state if key not in (*self._moments, *self._counts, *DUALS)}
        if state and (wrong or not state.keys() >= self._needed()):
            raise ValueError(
                f"the state of '{name}' holds {', '.join(map(str, state))}; expected "
                f"{', '.join((*self._moments, *self._counts))}, as {type(self).__name__} or its counterpart in torch.optim saves it"
            )
        for key in (*self._moments, *DUALS):
            moment = state.get(key)
            if moment is not None and getattr(moment, "shape", None) != parameter.shape:
                raise ValueError(
                    f"{key} of '{name}' has shape {tuple(getattr(moment, 'shape', ()))}; expected that of the parameter, "
                    f"{tuple(parameter.shape)}"
                )

    def _needed(self) -> set[str]:
        """What every state that is not empty holds."""
        return {*self._moments, *self._counts}

    @property
    def _group_of(self) -> dict[Tensor, dict[str, Any]]:
        return {p: group for group in self.param_groups for p in group["params"]}

    def _named(self) -> dict[str, Tensor]:
        return {name: p for group in self.param_groups for name, p in pairs(group)}

    def _gradient(self, name: str, parameter: Tensor) -> Tensor:
        gradient = cast(Tensor, parameter.grad)
        if parameter.dtype not in _DTYPES:
            raise TypeError(
                f"parameter '{name}' has dtype {parameter.dtype}; expected float16, bfloat16, float32 or float64"
            )
        if gradient.layout is not torch.strided:
            raise TypeError(f"gradient of '{name}' is sparse; expected a dense gradient, use Embedding(sparse=False)")
        return in_memory_order(gradient.resolve_neg(), parameter)

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

    def _rate_on_device(self, group: dict[str, Any], parameters: list[Tensor]) -> Tensor:
        """The learning rate where the kernels read it, float32; nothing here waits for the device.

        Memory of its own for each step: of several groups, and of steps on several streams, all have theirs.
        """
        device, rate = parameters[0].device, group["lr"]
        if isinstance(rate, Tensor) and (rate.is_cuda or rate.device == device):
            return rate.detach().to(device, torch.float32)
        return torch.full((), float(rate), dtype=torch.float32, device=device)

    def _moment_of(self, state: dict[str, Any], key: str, parameter: Tensor) -> Tensor:
        """A moment in the memory order of its parameter."""
        moment: Tensor = state[key]
        if moment.stride() != parameter.stride() and moment.shape == parameter.shape:
            moment = state[key] = in_memory_order(moment, parameter)
        return moment

    def _zero_pruned(self) -> None:
        named = self._named()
        items: list[tuple[Tensor | None, str, Tensor]] = []
        for name, mask in self.masks.items():
            if self.pruned == "zero":
                items.append((named[name], name, mask))
            state = self.state.get(named[name], {})
            items += [(state[key], name, mask) for key in (*self._moments, *DUALS) if state.get(key) is not None]
        zero_pruned(items)
        self._renew_anchors()


def pairs(group: dict[str, Any]) -> Iterable[tuple[str, Tensor]]:
    return zip(group["param_names"], group["params"], strict=True)


def _name_the_one_refused(stepped: Iterable[tuple[str, Tensor]]) -> None:
    for name, parameter in stepped:
        native(parameter, f"parameter '{name}'")
        resolved(cast(Tensor, parameter.grad), f"gradient of '{name}'")


def capturing(parameters: list[Tensor]) -> bool:
    return parameters[0].is_cuda and torch.cuda.is_current_stream_capturing()


def refuse_while_capturing(parameters: list[Tensor]) -> None:
    if capturing(parameters):
        raise RuntimeError(
            "the optimizer has no state yet, and a CUDA graph would begin anew at each replay; take one step before the capture"
        )


def check_rates(**rates: float | Tensor) -> None:
    for name, value in rates.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}; expected a number of at least 0")
