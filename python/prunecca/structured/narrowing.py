"""Narrower networks: channels really leave, with all that is coupled to them, along torch-pruning's dependency graph."""

from __future__ import annotations

import copy
import math
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..activations.inputs import Batch, tensors
from ..activations.wrappers import unwrapped
from ..weights.rates import rate_as_written
from .layers import Layers, all_layers
from .likeness import Silenced
from .operations import operations

_OUT = "leave it out of the scores"


class Narrowed(NamedTuple):
    """A narrower network, and what is left of the one it was made from.

    Attributes:
        model: the network.
        kept: name of the weight -> the output channels of the parent that are left, ascending, for every convolution and
            linear layer that was scored or is coupled to one that was.

    Example:
        >>> import torch, prunecca as pc
        >>> pc.pruning.Narrowed(torch.nn.Linear(2, 1), {"weight": torch.tensor([3])}).kept
        {'weight': tensor([3])}
    """

    model: nn.Module
    kept: dict[str, Tensor]


def narrowed(
    model: nn.Module,
    scores: Mapping[str, Tensor],
    rate: Any,
    example: Any,
    *,
    scope: str = "layer",
    per_operation: bool = False,
) -> Narrowed:
    """A copy of a network without the channels of lowest score; the network itself stays as it is.

    Channels that can only go together, such as those that residual sums add, are one channel here: its score is the sum of
    those of its layers. Needs torch-pruning: ``pip install 'prunecca[structured]'``.

    Args:
        model: any module whose layers torch-pruning can cut.
        scores: name of the weight -> one number for each output channel, as from ``l1_channel_scores``. Layers without
            scores lose a channel only where they are coupled to a layer that has.
        rate: the fraction of channels that go, in [0, 1), taken as it is written, as in ``prune``.
        example: a batch of inputs, as a loader of ``compare`` gives it.
        scope: ``"layer"``: exactly ``floor(rate * n)`` of the n channels of each layer (or coupled layers) go;
            ``"global"``: that many of all channels.
        per_operation: rank by the score per multiply-add that the network saves without the channel (Theis et al. 2018), in
            its own layer and in those that read it.

    Returns:
        The network and the channels that are left. Ties go by position: the first go first.

    Raises:
        ImportError: torch-pruning is not installed.
        TypeError: a rate is no number.
        ValueError: a rate outside [0, 1), scores that fit no layer or are NaN, a layer that would lose its last channel, or one
            that torch-pruning cannot cut.

    Warns:
        UserWarning: the narrower network does not give what its parent gives without these channels, normalisations over
            channels aside: it reads channels by their place, as the heads of an attention do, or sums over them.

    Example:
        >>> import torch, prunecca as pc
        >>> model = pc.models.build("digits4", seed=0)
        >>> small, kept = pc.pruning.narrowed(model, pc.pruning.l1_channel_scores(model), 0.5, torch.zeros(1, 3, 32, 32))
        >>> small.conv1[0].weight.shape
        torch.Size([4, 3, 3, 3])
    """
    exact = rate_as_written(rate, "narrowed")
    if exact == 1:
        raise ValueError("the rate is 1, and no channel would be left; expected a fraction in [0, 1)")
    if scope not in ("layer", "global"):
        raise ValueError(f"scope is '{scope}'; expected layer or global")
    made = copy.deepcopy(unwrapped(model, "the model"))
    layers = _scored(made, scores)
    cut = _Cut(made, layers, Batch.of(example))
    units = cut.coupled(scores)
    if per_operation:
        cut.divide_by_operations(units)
    if scope == "layer":
        for unit in units:
            unit.gone = _lowest([unit], exact)[id(unit)]
    else:
        chosen = _lowest(units, exact)
        for unit in units:
            unit.gone = chosen.get(id(unit), [])
    kept = {name: own for unit in units for name, own in unit.kept(cut.names).items()}
    for name, own in kept.items():
        if not len(own):
            raise ValueError(f"layer '{name}' would lose its last channel; expected a lower rate, or scope='layer'")
    cut.remove(units)
    return Narrowed(made, kept)


@dataclass(eq=False)
class _Unit:
    """Channels that go together: a group of torch-pruning, whose first layer numbers them."""

    group: Any
    outputs: list[tuple[Any, list[int], list[int]]]  # layer, its channels, and the number of each
    scores: list[float]
    gone: list[int] = field(default_factory=list)

    def kept(self, names: Mapping[Any, str]) -> dict[str, Tensor]:
        """The channels left of each of its layers."""
        gone = set(self.gone)
        return {
            names[layer]: torch.tensor(sorted(c for c, number in zip(own, numbers, strict=True) if number not in gone))
            for layer, own, numbers in self.outputs
        }


class _Cut:
    """A network, its dependency graph, and an example of its inputs."""

    def __init__(self, model: nn.Module, layers: Layers, batch: Batch) -> None:
        self.model, self.layers, self.batch = model, layers, batch
        self.names = {layer: name for name, layer in all_layers(model).items()}
        self.modules: dict[Any, str] = {module: name for name, module in model.named_modules()}
        self.modes = {module: module.training for module in model.modules()}
        self.frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        model.eval()
        with torch.no_grad():
            self.shapes = self._shapes()
        self.graph = self._graph()

    def coupled(self, scores: Mapping[str, Tensor]) -> list[_Unit]:
        """The channels of the scored layers, each once, with their scores."""
        units: list[_Unit] = []
        taken: set[Any] = set()
        for name, layer in self.layers.items():
            if layer in taken:
                continue
            if layer not in self.graph.module2node:
                raise ValueError(f"torch-pruning cannot cut '{name}', which the example does not pass through; {_OUT}")
            number = len(scores[name])
            with _sentence(name):
                root = self.graph.get_pruner_of_module(layer).prune_out_channels
                group = self.graph.get_pruning_group(layer, root, list(range(number)))
            unit = self._unit(name, group, number)
            taken |= {part for part, _, _ in unit.outputs}
            for part, own, numbers in unit.outputs:
                given = scores[self.names[part]].tolist() if self.names[part] in self.layers else ()
                for channel, n in zip(own, numbers, strict=True) if given else ():
                    unit.scores[n] += given[channel]
            units.append(unit)
        return units

    def divide_by_operations(self, units: list[_Unit]) -> None:
        """Scores per multiply-add that goes with the channel."""
        costs = operations(self.model, self.batch)
        for unit in units:
            saved: Counter[int] = Counter()
            for (dependency, _), numbers in self._members(unit.group):
                layer = dependency.target.module
                if layer in costs:
                    outputs = self.graph.is_out_channel_pruning_fn(dependency.handler)
                    width = self.graph.get_out_channels(layer) if outputs else self.graph.get_in_channels(layer)
                    for number in numbers:
                        saved[number] += costs[layer] // width
            unit.scores = [score / max(1, saved[number]) for number, score in enumerate(unit.scores)]

    def remove(self, units: list[_Unit]) -> None:
        """Cut the chosen channels out, and see that the network still runs and gives what its parent gives without them."""
        parent = Silenced(self.model, self.batch)
        for unit in units:
            if unit.gone:
                self._silence(parent, unit)
        for unit in units:
            if unit.gone:
                with _sentence(self.names[unit.group[0].dep.target.module]):
                    self._group_without(unit).prune()
        try:
            with torch.no_grad():
                shapes = self._shapes()
        except (RuntimeError, ValueError, TypeError) as error:
            raise ValueError(
                f"torch-pruning cannot cut {type(self.model).__name__} at these layers: without the channels it does not run "
                f"({_line(error)}); score fewer layers"
            ) from error
        if shapes != self.shapes:
            raise ValueError(
                f"without the channels the network gives {shapes} instead of {self.shapes}; leave its output layer out of the scores"
            )
        if not parent.is_like(self.model):
            warnings.warn(
                f"the narrower {type(self.model).__name__} does not give what its parent gives without these channels: it "
                "reads channels by their place, as heads of an attention, or sums over them; score fewer layers, or train it on",
                UserWarning,
                stacklevel=3,
            )
        frozen = set(self.frozen)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        for module, training in self.modes.items():
            module.training = training

    def _group_without(self, unit: _Unit) -> Any:
        return self.graph.get_pruning_group(unit.group[0].dep.target.module, unit.group[0].dep.handler, unit.gone)

    def _silence(self, parent: Silenced, unit: _Unit) -> None:
        """Take the channels out of the parent as well, where torch-pruning takes those that were chosen and no others."""
        with _sentence(self.names[unit.group[0].dep.target.module]):
            group = self._group_without(unit)
        goes: dict[Any, set[int]] = {layer: set() for layer, _, _ in unit.outputs}
        for (dependency, own), _ in self._members(group):
            layer = dependency.target.module
            outputs = self.graph.is_out_channel_pruning_fn(dependency.handler)
            if outputs and layer in self.names:
                goes.setdefault(layer, set()).update(own)
            if layer in self.modules:
                with _sentence(self.names[unit.group[0].dep.target.module]):
                    parent.silence(self.modules[layer], own, outputs)
        gone = set(unit.gone)
        for layer, own, numbers in unit.outputs:
            if goes[layer] != {c for c, number in zip(own, numbers, strict=True) if number in gone}:
                raise ValueError(
                    f"torch-pruning cannot cut '{self.names[layer]}': the network takes its channels apart (chunk, split), and some "
                    f"can only go together; {_OUT}"
                )

    def _unit(self, name: str, group: Any, number: int) -> _Unit:
        outputs = []
        owners = Counter(id(p) for _, p in self.model.named_parameters(remove_duplicate=False))
        for (dependency, own), numbers in self._members(group):
            part = dependency.target.module
            where = self.modules.get(part)
            if isinstance(part, nn.Parameter):
                raise ValueError(
                    f"torch-pruning cannot cut '{name}': its channels meet the parameter '{self.graph._param_to_name.get(part)}', "
                    f"which belongs to no layer that it knows; {_OUT}"
                )
            if isinstance(part, nn.MultiheadAttention):
                raise ValueError(
                    f"torch-pruning cannot cut '{name}': its channels meet '{where}', whose heads take channels by their place; "
                    f"{_OUT}"
                )
            if any(owners[id(p)] > 1 for p in part.parameters(recurse=False)):
                raise ValueError(f"torch-pruning cannot cut '{name}': '{where}' shares its weight; {_OUT}")
            grouped = isinstance(part, nn.modules.conv._ConvNd) and part.groups > 1
            if grouped and not part.groups == part.in_channels == part.out_channels:
                raise ValueError(
                    f"torch-pruning cannot cut '{name}': its channels meet '{where}', a convolution of {part.groups} groups, "
                    f"which must stay alike; {_OUT}"
                )
            if part in self.names and self.graph.is_out_channel_pruning_fn(dependency.handler):
                outputs.append((part, list(own), list(numbers)))
        return _Unit(group, outputs, [0.0] * number)

    def _members(self, group: Any) -> list[tuple[Any, list[int]]]:
        return [(item, item.root_idxs) for item in group.items]

    def _graph(self) -> Any:
        try:
            import torch_pruning
        except ImportError:
            raise ImportError(
                "narrowed needs torch-pruning; install it with pip install 'prunecca[structured]'"
            ) from None
        for parameter in self.model.parameters():  # the graph is read from autograd's
            parameter.requires_grad_(True)
        try:
            with torch.enable_grad():
                return torch_pruning.DependencyGraph().build_dependency(
                    self.model,
                    self.batch.content,
                    forward_fn=lambda model, _: list(tensors(self.batch.private(None).call(model))),
                    verbose=False,
                )
        except Exception as error:  # whatever a network that it does not expect brings up
            raise ValueError(
                f"torch-pruning cannot follow {type(self.model).__name__} ({_line(error)}); mask its channels in place with "
                "prune(..., scope='channel')"
            ) from error

    def _shapes(self) -> list[tuple[int, ...]]:
        return [tuple(tensor.shape) for tensor in tensors(self.batch.private(None).call(self.model))]


def _scored(model: nn.Module, scores: Mapping[str, Tensor]) -> Layers:
    """The layers that have scores, which must fit."""
    known = all_layers(model)
    if not scores:
        raise ValueError("there are no scores; expected those of one layer at least, as from l1_channel_scores")
    for name, given in scores.items():
        if name not in known:
            raise ValueError(
                f"torch-pruning cannot cut '{name}', which is no weight of a convolution or linear layer of the network; {_OUT}"
            )
        width = getattr(known[name], "out_channels", None) or known[name].out_features
        if given.shape != (width,) or given.isnan().any():
            what = "NaN among its scores" if given.shape == (width,) else f"scores of shape {tuple(given.shape)}"
            raise ValueError(f"layer '{name}' has {what}; expected a number for each of its {width} output channels")
    return {name: known[name] for name in known if name in scores}


def _lowest(units: list[_Unit], rate: Fraction) -> dict[int, list[int]]:
    """Of all channels of the units, ``floor(rate * n)`` of lowest score, by the ``id`` of their unit."""
    channels = [(score, place, n) for place, unit in enumerate(units) for n, score in enumerate(unit.scores)]
    chosen: dict[int, list[int]] = {id(unit): [] for unit in units}
    for _, place, n in sorted(channels)[: math.floor(rate * len(channels))]:
        chosen[id(units[place])].append(n)
    return chosen


@contextmanager
def _sentence(name: str) -> Iterator[None]:
    """Whatever torch-pruning brings up where it does not know a layer."""
    try:
        yield
    except Exception as error:
        raise ValueError(
            f"torch-pruning cannot cut '{name}', or what reads its channels ({_line(error)}); {_OUT}"
        ) from error


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
