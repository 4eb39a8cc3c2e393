"""The weights of one network out of what people save: nested, with prefixes of wrappers, apart from their masks."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .reparametrised import plain_weights

Shapes = Mapping[str, Sequence[int] | None]

_DEEPEST = 5  # dots between the keys that lead to weights
_WRAPPERS = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_MODULE = re.compile(r"(?:^|(?<=\.))module\.")
_GENERIC = ("module", "model", "network", "net")
_NO_WEIGHTS = re.compile(r"(^|[._])(optim\w*|lr_sched\w*|sched\w*|scaler|callbacks|rng\w*)($|[._])", re.IGNORECASE)
_OPTIONAL = ("num_batches_tracked", "_extra_state")  # older files lack them, and networks do without
_REPARAMETRISED = re.compile(r"(\.|^)parametrizations\.|_orig$|_(g|v|u)$")


class Misfit(ValueError):
    """The weights are those of another network."""


@dataclass(frozen=True)
class StateDict:
    """The weights of one network.

    Args:
        label: where they were found: keys joined by dots, empty for the whole.
        tensors: by the names of the network; extra state may be of any type.
        masks: of pruned parameters, ``torch.bool``, True where a weight is kept.
    """

    label: str
    tensors: dict[str, Any]
    masks: dict[str, Tensor] = field(default_factory=dict)


def find_state(
    content: object, where: str, shapes: Shapes | None = None, label: str | None = None, whose: str = "the network"
) -> StateDict:
    """The weights of a network in the content of a checkpoint.

    Prefixes of DataParallel, ``torch.compile``, FSDP and of wrappers such as a LightningModule go; masks that
    ``torch.nn.utils.prune`` or a parametrisation keeps beside a weight are applied.

    Args:
        content: of the checkpoint.
        where: what errors call it.
        shapes: of the network's parameters and buffers by name, None for those of unknown shape; without them, the
            only weights there are.
        label: which are meant, where there are several.
        whose: what errors call the network.

    Raises:
        Misfit: they do not fit the network; the sentence names what differs.
        ValueError: there are none, or there are several; the sentence lists them.
    """
    found = [_plain(state) for state in _mappings(content, "", set())]
    if not found:
        raise ValueError(f"{where} holds no weights; expected the state_dict of a network")
    if shapes is None:
        return _only([_shortened(state) for state in found], where, label)
    for rename in (_as_it_is, _without_wrappers, _without_modules):
        readings = [reading for state in found for reading in _parts(_renamed(state, rename), shapes)]
        fitting = [reading for reading in readings if not any(_differences(reading, shapes))]
        if fitting:
            return _only(fitting, where, label)
    shortened = [_shortened(state) for state in found]
    chosen = [state for state in shortened if label is None or state.label == label] or shortened
    nearest = min(chosen, key=lambda state: sum(map(len, _differences(state, shapes))))
    inside = f" ({nearest.label})" if nearest.label else ""
    raise Misfit(f"{where}{inside} does not fit {whose}: {_misfit(nearest, shapes)}")


def _mappings(value: object, label: str, seen: set[int]) -> Iterator[StateDict]:
    """Every mapping of names to tensors in a nested checkpoint, with where it is; each once, however often it is held."""
    if id(value) in seen or label.count(".") > _DEEPEST or _NO_WEIGHTS.search(label):
        return
    seen.add(id(value))
    if isinstance(value, list | tuple):
        value = {str(number): item for number, item in enumerate(value) if not isinstance(item, Tensor)}
    if not isinstance(value, Mapping):
        return
    own = {key: item for key, item in value.items() if isinstance(key, str)}
    tensors = {key: item for key, item in own.items() if isinstance(item, Tensor) or key.endswith("_extra_state")}
    if any(isinstance(item, Tensor) for item in tensors.values()):
        yield StateDict(label, tensors)
    for key, item in own.items():
        if key not in tensors:
            yield from _mappings(item, f"{label}.{key}" if label else key, seen)


def _plain(state: StateDict) -> StateDict:
    return StateDict(state.label, *plain_weights(state.tensors))


def _as_it_is(name: str) -> str:
    return name


def _without_wrappers(name: str) -> str:
    return _WRAPPERS.sub("", name)


def _without_modules(name: str) -> str:
    return _MODULE.sub("", _without_wrappers(name))


def _renamed(state: StateDict, rename: Callable[[str], str]) -> StateDict:
    """Other names; the same where two would become one."""
    tensors = {rename(name): item for name, item in state.tensors.items()}
    if len(tensors) < len(state.tensors):
        return state
    return StateDict(state.label, tensors, {rename(name): mask for name, mask in state.masks.items()})


def _parts(state: StateDict, shapes: Shapes) -> Iterator[StateDict]:
    """The whole, and each part whose names have one prefix, where the network's longest name is among them."""
    longest = max((name for name in shapes if not name.endswith(_OPTIONAL)), key=len, default="")
    yield state
    for name in state.tensors:
        if name.endswith(f".{longest}"):
            yield _part(state, name.removesuffix(longest))


def _part(state: StateDict, prefix: str) -> StateDict:
    label = ".".join(filter(None, (state.label, prefix.rstrip("."))))
    tensors, masks = (
        {name.removeprefix(prefix): item for name, item in mapping.items() if name.startswith(prefix)}
        for mapping in (state.tensors, state.masks)
    )
    return StateDict(label, tensors, masks)


def _shortened(state: StateDict) -> StateDict:
    """The state without the prefixes of wrappers, and without those that every name has."""
    state = _renamed(state, _without_wrappers)
    while True:
        names = state.tensors.keys() - {"n_averaged"}  # which torch's AveragedModel has beside its copy
        prefix = next((p for p in _GENERIC if names and all(name.startswith(f"{p}.") for name in names)), None)
        if prefix is None:
            return state
        part = _part(state, f"{prefix}.")
        state = StateDict(state.label, part.tensors, part.masks)


def _only(states: list[StateDict], where: str, label: str | None) -> StateDict:
    """The state of that label, or the only one there is; several that are equal are one."""
    labels = ", ".join(state.label or "(the whole)" for state in states)
    if label is not None:
        for state in states:
            if state.label == label:
                return state
        raise ValueError(f"{where} holds no weights called {label!r}; it holds {labels}")
    first, *others = states
    if any(not _equal(first.tensors, other.tensors) for other in others):
        raise ValueError(
            f"{where} holds several networks: {labels}; name one as {where}:{others[0].label or states[0].label}"
        )
    return first


def _equal(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    tensors = ((item, other.get(name)) for name, item in one.items() if isinstance(item, Tensor))
    return one.keys() == other.keys() and all(
        a is b or (isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)) for a, b in tensors
    )


def _differences(state: StateDict, shapes: Shapes) -> tuple[list[str], list[str], list[str]]:
    """Names that the network has and the state lacks, that the state has beside them, and those of another shape."""
    tensors = state.tensors
    missing = [name for name in shapes if name not in tensors and not name.endswith(_OPTIONAL)]
    unexpected = [name for name in tensors if name not in shapes and not name.endswith(_OPTIONAL)]
    other = [
        name
        for name, shape in shapes.items()
        if shape is not None and isinstance(tensors.get(name), Tensor) and tuple(tensors[name].shape) != tuple(shape)
    ]
    return missing, unexpected, other


def _misfit(state: StateDict, shapes: Shapes) -> str:
    missing, unexpected, other = _differences(state, shapes)
    parts = []
    if missing:
        parts.append(f"it lacks {_some(missing)}")
    if unexpected:
        parts.append(f"it has {_some(unexpected)}, which the network has not")
    if other:
        name = other[0]
        more = f" (and {len(other) - 1} more differ)" if len(other) > 1 else ""
        parts.append(
            f"{name} has shape {tuple(state.tensors[name].shape)}, in the network {tuple(shapes[name] or ())}{more}"
        )
    if any(_REPARAMETRISED.search(name) for name in unexpected) and missing:
        parts.append("some weights are reparametrised, and have to be made plain (remove_parametrizations) and saved")
    return "; ".join(parts)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
