"""Where a network is made, and the checkpoint of its running training: what a killed process leaves to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ..errors import CorruptFile
from ..pruning.rewind import Snapshot
from ..storage.atomic import write_atomic
from ..storage.regular_files import LARGEST_STATE, read_regular
from .reporter import Reporter

TRAINING = "training.safetensors"
REWIND = "rewind.safetensors"
PENALISED = "penalised.safetensors"  # of the training before the network is pruned: with a penalty, or of scores


@dataclass(frozen=True)
class Checkpoint:
    """The state after the latest epoch, and that of epoch k, in ``folder``; nothing is kept where that is None.

    Below ``root``, the run directory, no link is followed.
    """

    folder: Path | None = None
    root: Path | None = None

    def keep(self, snapshot: Snapshot, origin: Mapping[str, str], file: str = TRAINING) -> None:
        """Keep the state after an epoch; ``origin`` identifies the networks it is made from."""
        if self.folder is not None:
            kept = replace(snapshot, records={**snapshot.records, "origin": dict(origin)})
            write_atomic(self.folder / file, kept.as_bytes(), self.root)

    def keep_rewind(self, content: bytes) -> None:
        """Keep the file of the rewind epoch."""
        if self.folder is not None:
            write_atomic(self.folder / REWIND, content, self.root)

    def latest(self, origin: Mapping[str, str], reporter: Reporter, name: str, file: str = TRAINING) -> Snapshot | None:
        """The state that was kept last, if it was made from the same networks."""
        found = self._read(file, reporter, name)
        if found is None:
            return None
        snapshot = found[0]
        return snapshot if snapshot.records.get("origin") == dict(origin) else None

    def rewind(self, reporter: Reporter, name: str) -> bytes | None:
        """The file of the rewind epoch, if it is whole."""
        found = self._read(REWIND, reporter, name)
        return None if found is None else found[1]

    def _read(self, file: str, reporter: Reporter, name: str) -> tuple[Snapshot, bytes] | None:
        if self.folder is None:
            return None
        path = self.folder / file
        try:
            content = read_regular(path, LARGEST_STATE, self.root)
            return Snapshot.from_bytes(content, str(path)), content
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (KeyError, TypeError, AttributeError):  # it is whole, but was written by something else
            reporter.message(f"{path} holds no state of a training: {name} is trained from its start")
            return None
        except CorruptFile as error:
            reporter.message(f"{error.finding}: {name} is trained from its start")
            return None


@dataclass(frozen=True)
class Workplace:
    """Where a network is made.

    Attributes:
        device: of torch.
        data: folder of the images; None: the variable PRUNECCA_DATA.
        checkpoint: of the running training.
        reporter: told what happens.
    """

    device: torch.device
    data: Path | None = None
    checkpoint: Checkpoint = field(default_factory=Checkpoint)
    reporter: Reporter = field(default_factory=Reporter)
