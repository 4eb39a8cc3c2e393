"""Which networks a study consists of, and which is made from which: a value, decided once; and what it is made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ..errors import RUN_AGAIN, CorruptFile
from ..pruning.rewind import Snapshot
from ..storage.states import state_from_bytes
from .checkpoint import REWIND
from .options import Options, Size
from .resolve import ResolvedProblem

Files = Mapping[str, bytes]


@dataclass(frozen=True, order=True)
class Network:
    """One network of a study: the unpruned one (level 0), a pruned one, or a control.

    ``replicate`` is 0 for level 0 and for controls; control n uses the seeds of replicate 0, level n.
    """

    problem: str
    replicate: int = 0
    level: int = 0
    control: bool = False

    @property
    def unpruned(self) -> Network:
        """The unpruned network of the same problem."""
        return Network(self.problem)

    @property
    def folder(self) -> str:
        """The folder of its files, relative to the run directory."""
        if self.control:
            return f"{self.problem}/control-{self.level:02d}"
        if self.level == 0:
            return f"{self.problem}/level-00"
        return f"{self.problem}/replicate-{self.replicate:02d}/level-{self.level:02d}"

    def __str__(self) -> str:
        if self.control:
            return f"{self.problem} control {self.level}"
        if self.level == 0:
            return f"{self.problem} level 0"
        return f"{self.problem} replicate {self.replicate} level {self.level}"


@dataclass(frozen=True)
class Plan:
    """What a study is to do: its options, its problems with the options applied, and how much of each."""

    options: Options
    problems: Mapping[str, ResolvedProblem]
    sizes: Mapping[str, Size]

    def networks(self) -> list[Network]:
        """Every network, in the order in which one process makes them: parents first."""
        networks: list[Network] = []
        for problem, size in self.sizes.items():
            networks.append(Network(problem))
            networks += [Network(problem, r, level) for r in size.numbers for level in range(1, size.levels + 1)]
            networks += [Network(problem, 0, level, control=True) for level in range(1, size.controls + 1)]
        return networks

    def parent(self, network: Network) -> Network | None:
        """The network whose weights and masks this one is pruned from; None for level 0."""
        if network.level == 0:
            return None
        if network.control or network.level == 1 or self.options.recipe.one_shot:
            return network.unpruned
        return Network(network.problem, network.replicate, network.level - 1)

    def parents(self, network: Network) -> list[Network]:
        """All networks it is made from: it also starts from the unpruned one's rewind state, and is compared with it."""
        parent = self.parent(network)
        return [] if parent is None else list(dict.fromkeys([network.unpruned, parent]))


@dataclass(frozen=True)
class Parent:
    """A finished network that another one is made from: the content of its files by name, and a digest of them."""

    files: Files
    digest: str

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of a file, verified."""
        return state_from_bytes(self._content(name), name)[0]

    def state(self, name: str, model: nn.Module) -> dict[str, Tensor]:
        """The tensors of a file, verified, which must be those of a network like ``model``."""
        found, expected = self.tensors(name), model.state_dict()
        for key in sorted(found.keys() | expected.keys()):
            given, wanted = (tuple(each[key].shape) if key in each else "nothing" for each in (found, expected))
            if given != wanted:
                raise CorruptFile(f"{name} of a parent has {given} at {key!a:.60}; expected {wanted}{RUN_AGAIN}")
        return found

    def rewind(self) -> Snapshot:
        """The state of epoch k."""
        try:
            return Snapshot.from_bytes(self._content(REWIND), REWIND)
        except (KeyError, TypeError, AttributeError):
            raise CorruptFile(f"{REWIND} of a parent holds no state of a training{RUN_AGAIN}") from None

    def _content(self, name: str) -> bytes:
        if name not in self.files:
            raise CorruptFile(f"a parent has no {name}, but one is made from it{RUN_AGAIN}")
        return self.files[name]


@dataclass(frozen=True)
class NetworkResult:
    """What is kept of a finished network.

    Attributes:
        files: the content of its files, by name.
        summary: density, accuracy, digests.
        layers: parameters, and how many are left, of each module that has any.
        epochs: the records of the epochs.
    """

    files: dict[str, bytes]
    summary: dict[str, Any]
    layers: list[dict[str, Any]]
    epochs: list[dict[str, float]]
