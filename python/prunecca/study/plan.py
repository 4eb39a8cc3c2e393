"""Which networks a study consists of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Piece:
    """One network of a study: the unpruned one (level 0), a pruned one, or a control.

    `replicate` is 0 for level 0 and for controls; control n uses the seeds of replicate 0, level n.
    """

    problem: str
    replicate: int = 0
    level: int = 0
    control: bool = False

    @property
    def folder(self) -> str:
        """Where its files are, relative to the run directory."""
        if self.control:
            return f"{self.problem}/control-{self.level:02d}"
        if self.level == 0:
            return f"{self.problem}/level-00"
        return f"{self.problem}/replicate-{self.replicate:02d}/level-{self.level:02d}"

    @property
    def claim(self) -> str:
        """What a process claims to make it: level 0 and a control alone, a replicate with all its levels."""
        if self.control or self.level == 0:
            return self.folder.replace("/", "-")
        return f"{self.problem}-replicate-{self.replicate:02d}"

    def __str__(self) -> str:
        if self.control:
            return f"{self.problem} control {self.level}"
        return (
            f"{self.problem} level 0"
            if self.level == 0
            else f"{self.problem} replicate {self.replicate} level {self.level}"
        )
