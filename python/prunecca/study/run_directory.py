"""The run directory: which files a study leaves where, and which of its pieces are finished.

::

    RUN/config.json  environment.json
    RUN/digits4/level-00/                 the unpruned network, trained once and shared by the replicates
    RUN/digits4/replicate-00/level-01/    one pruning iteration of one replicate
    RUN/digits4/control-01/               the same retraining without pruning
    RUN/tables/  RUN/figures/             made from the finished pieces
    RUN/claims/                           who is working on what

The folder of a piece holds ``training.safetensors`` (network, optimizer and records after the latest epoch) while it is
trained. When it is finished: ``state.safetensors`` (the network), ``masks.safetensors`` (one bit per entry), ``similarity.parquet``,
``dimension.parquet`` (the intrinsic dimension of its layers, if asked for), at level 0 ``rewind.safetensors`` (everything at the end of epoch k) and ``initial.safetensors``; and, last of all, ``piece.json``: the
records of the epochs, the digests of the files, and those of the pieces it was made from. A piece is finished when
its ``piece.json`` is whole and all these digests agree; otherwise it is made again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .. import errors
from ..errors import ConfigurationError
from ..storage import atomic, states
from .claims import Claim
from .options import Options, Size, merge_configuration
from .plan import Piece

CONFIGURATION = "config.json"
ENVIRONMENT = "environment.json"
RECORD = "piece.json"
STATE = "state.safetensors"
REWIND = "rewind.safetensors"
INITIAL = "initial.safetensors"
MASKS = "masks.safetensors"
TRAINING = "training.safetensors"
SIMILARITY = "similarity.parquet"
DIMENSION = "dimension.parquet"
_FILES = (STATE, REWIND, INITIAL, MASKS, SIMILARITY, DIMENSION)


class RunDirectory:
    """The files of a study under one folder.

    `message` is told, in one sentence each, what was found damaged.
    """

    def __init__(self, root: str | os.PathLike[str], message: Callable[[str], None] | None = None) -> None:
        self.root = Path(root)
        self._tell = message or (lambda text: None)
        self._told: set[str] = set()
        self._verified: dict[Piece, tuple[object, dict[str, Any]]] = {}

    def configure(self, configuration: dict[str, Any]) -> None:
        """Write ``config.json``, or extend the one that is there; one that was damaged or lost is restored.

        Raises:
            ConfigurationError: the directory was made with other options, or nobody knows with which, or it is
                something else than a run directory.
            StorageError: the directory cannot be written.
        """
        path = self.root / CONFIGURATION
        if (
            not path.exists()
            and self.root.is_dir()
            and any(self.root.iterdir())
            and not (self.root / "claims").is_dir()
        ):
            raise ConfigurationError(f"{self.root} is not empty and not a run directory; choose another --out")
        with self._lock():
            for name in (CONFIGURATION, ENVIRONMENT):
                atomic.remove_partial(self.root, name)
            old, whole = self._known_configuration()
            merged = merge_configuration(old, configuration, str(self.root))
            if merged != old or not whole:
                states.write_json(path, merged)

    def configuration(self) -> dict[str, Any]:
        """The content of ``config.json``.

        Raises:
            ConfigurationError: this is not a run directory.
        """
        try:
            return states.read_json(self.root / CONFIGURATION)
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigurationError(
                f"{self.root} is not a run directory: it has no config.json; expected a folder made by `prunecca reproduce`"
            ) from None

    def options(self) -> Options:
        """The options of the study."""
        return Options.from_json(self.configuration()["options"])

    def note_environment(self, environment: dict[str, Any]) -> None:
        """Add the environment of one start (versions, device, threads, time) to ``environment.json``.

        It also holds a copy of the configuration, from which `configure` restores ``config.json``.
        """
        path = self.root / ENVIRONMENT
        with self._lock():
            try:
                starts = states.read_json(path)["starts"]
            except (FileNotFoundError, errors.CorruptFile):
                starts = []
            states.write_json(path, {"starts": [*starts, environment], "configuration": self.configuration()})

    def pieces(self) -> list[Piece]:
        """Every piece of the configuration, in the order in which one process makes them."""
        pieces: list[Piece] = []
        for problem, its in self.configuration()["problems"].items():
            size = Size(**its["size"])
            pieces.append(Piece(problem))
            pieces += [Piece(problem, r, i) for r in range(size.replicates) for i in range(1, size.levels + 1)]
            pieces += [Piece(problem, 0, i, control=True) for i in range(1, size.controls + 1)]
        return pieces

    def path(self, piece: Piece, name: str) -> Path:
        """The file `name` of a piece."""
        return self.root / piece.folder / name

    def claim_path(self, piece: Piece) -> Path:
        """The file that says who works on a piece, while somebody does."""
        return self.root / "claims" / piece.claim

    def claim(self, piece: Piece) -> Claim | None:
        """The right to work on a piece (see `Piece.claim`), or None when a living process has it."""
        return Claim.take(self.claim_path(piece))

    def claim_outputs(self) -> Claim:
        """The right to write tables and figures, as soon as it is free: many ranks may draw one after the other."""
        return Claim.wait(self.root / "claims" / "outputs", seconds=1800)

    def record(self, piece: Piece) -> dict[str, Any] | None:
        """The record of a finished piece; None when it is not finished, damaged, or made from what is there no more.

        The files are read and verified once, and again when they change.
        """
        path = self.path(piece, RECORD)
        try:
            record = states.read_json(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except errors.CorruptFile as error:
            self.tell(f"{error.finding}: {piece} is made again")
            return None
        return record if self._parents_agree(piece, record) and self._files_agree(piece, record) else None

    def finish(self, piece: Piece, record: dict[str, Any]) -> None:
        """Declare a piece finished: its record, with the digests of its files and of what it was made from."""
        paths = {name: self.path(piece, name) for name in _FILES}
        digests = {name: atomic.file_digest(path) for name, path in paths.items() if path.exists()}
        states.write_json(self.path(piece, RECORD), {**record, "files": digests, "parents": self.origin(piece)})
        self.path(piece, TRAINING).unlink(missing_ok=True)

    def remove_checkpoints(self) -> None:
        """Remove what processes left that were killed between finishing a piece and this; when all are finished."""
        for piece in self.pieces():
            self.path(piece, TRAINING).unlink(missing_ok=True)

    def finished(self) -> Iterator[tuple[Piece, dict[str, Any]]]:
        """The finished pieces with their records, in order."""
        for piece in self.pieces():
            record = self.record(piece)
            if record is not None:
                yield piece, record

    def origin(self, piece: Piece) -> dict[str, str]:
        """Digests that identify the finished pieces from which a piece is made, by their folders."""
        return {parent.folder: self._digest_of(parent) for parent in self._parents(piece)}

    def parent(self, piece: Piece) -> Piece | None:
        """The piece whose weights and masks this one is pruned from; None for level 0."""
        if piece.level == 0:
            return None
        if piece.control or piece.level == 1 or self.options().one_shot:
            return Piece(piece.problem)
        return Piece(piece.problem, piece.replicate, piece.level - 1)

    def _known_configuration(self) -> tuple[dict[str, Any] | None, bool]:
        """The configuration so far, None for a new directory, and whether it is that of a whole ``config.json``."""
        path = self.root / CONFIGURATION
        try:
            return states.read_json(path), True
        except FileNotFoundError:
            finding = f"{path} is missing"
        except errors.CorruptFile as error:
            finding = error.finding
        try:
            copy: dict[str, Any] = states.read_json(self.root / ENVIRONMENT)["configuration"]
        except (FileNotFoundError, errors.CorruptFile, KeyError):
            # Without it, networks of other options could pass for those of this study.
            if any(path.suffix == ".safetensors" for path in self.root.glob("*/**/*")):
                raise ConfigurationError(
                    f"{finding}, and no other file says with which options the networks there were trained; choose another --out"
                ) from None
            return None, False
        self.tell(f"{finding}: it is restored from {ENVIRONMENT}")
        return copy, False

    def _parents(self, piece: Piece) -> list[Piece]:
        # Every piece also starts from the rewind state of level 0 and is compared with its network.
        parent = self.parent(piece)
        return [] if parent is None else list(dict.fromkeys([Piece(piece.problem), parent]))

    def _parents_agree(self, piece: Piece, record: dict[str, Any]) -> bool:
        if any(self.record(parent) is None for parent in self._parents(piece)):
            return False
        return bool(record["parents"] == self.origin(piece))

    def _digest_of(self, piece: Piece) -> str:
        digests: dict[str, str] = states.read_json(self.path(piece, RECORD))["files"]
        return " ".join(digests[name] for name in (STATE, REWIND, INITIAL, MASKS) if name in digests)

    def _files_agree(self, piece: Piece, record: dict[str, Any]) -> bool:
        signature = [self._signature(self.path(piece, name)) for name in (RECORD, *record["files"])]
        if self._verified.get(piece, (None,))[0] == signature:
            return True
        for name, expected in record["files"].items():
            path = self.path(piece, name)
            if not path.exists() or atomic.file_digest(path) != expected:
                self.tell(f"{path} is {'damaged' if path.exists() else 'missing'}: {piece} is made again")
                return False
        self._verified[piece] = (signature, record)
        return True

    def tell(self, text: str) -> None:
        """Pass a sentence on to the user, once."""
        if text not in self._told:
            self._told.add(text)
            self._tell(text)

    @staticmethod
    def _signature(path: Path) -> object:
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_size, status.st_mtime_ns

    def _lock(self) -> Claim:
        return Claim.wait(self.root / "claims" / "configuration")
