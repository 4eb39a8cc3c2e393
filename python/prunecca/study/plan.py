"""Which networks a study consists of, and which is made from which: a value, decided once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .options import Options, Size
from .resolve import ResolvedProblem


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
