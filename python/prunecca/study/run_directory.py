"""The run directory: which files a study leaves where, and which of its networks are finished.

::

    RUN/config.json  environment.json
    RUN/digits4/level-00/                 the unpruned network, trained once and shared by the replicates
    RUN/digits4/replicate-00/level-01/    one pruning iteration of one replicate
    RUN/digits4/control-01/               the same retraining without pruning
    RUN/tables/  RUN/figures/             made from the finished networks
    RUN/.lock  .owner                     held by the one process that works on it, and its name

The folder of a network holds ``training.safetensors`` (network, optimizer and records after the latest epoch) while it is
trained. When it is finished: ``state.safetensors`` (the network), ``masks.safetensors`` (one bit per entry), ``similarity.parquet``,
``dimension.parquet`` (the intrinsic dimension of its layers, if asked for), at level 0 ``rewind.safetensors`` (everything at the end of epoch k) and ``initial.safetensors``; and, last of all, ``piece.json``: the
records of the epochs, the digests of the files, and those of the networks it was made from. A network is finished when
its ``piece.json`` is whole and all these digests agree; otherwise it is made again.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import secrets
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock

from ..errors import ConfigurationError, CorruptFile, InUse
from ..storage.atomic import file_digest, remove_partial, storage_error, write_atomic
from ..storage.regular_files import LARGEST_RECORD, LARGEST_STATE, exists, folder_of, read_regular, remove
from ..storage.states import read_json, write_json
from ..training.evaluation import Precision
from . import schema
from .checkpoint import PENALISED, REWIND, TRAINING
from .executors import OWNED
from .level import FILES, INITIAL, MASKS, SIMILARITY, STATE
from .options import FORMAT, Options, Size
from .plan import Network, NetworkResult, Parent, Plan
from .resolve import ResolvedProblem
from .schema import merge_configuration

CONFIGURATION = "config.json"
ENVIRONMENT = "environment.json"
RECORD = "piece.json"
_LOCK = ".lock"
_DEPTH = 3  # of the folders of networks
_INHERITED = (STATE, REWIND, INITIAL, MASKS)  # what other networks are made from

Record = dict[str, Any]


class RunDirectory:
    """The files of a study under one folder.

    `message` is told, in one sentence each, what was found damaged. The folder may come from someone else: inside it no
    link is followed, only regular files are opened, and what they hold is checked.
    """

    def __init__(self, root: str | os.PathLike[str], message: Callable[[str], None] | None = None) -> None:
        self.root = Path(root)
        self._message = message or (lambda text: None)
        self._said: set[str] = set()

    @contextlib.contextmanager
    def own(self) -> Iterator[str]:
        """Be the one process that works on the directory; gives the content of its ``.owner`` file.

        Raises:
            InUse: another process does; the sentence names it.
            StorageError: the directory cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._check_lock()
            lock = filelock.FileLock(self.root / _LOCK, timeout=0)
            lock.acquire()
        except filelock.Timeout:
            raise InUse(
                f"{self.root} is being worked on by {self._owner()}; wait until that ends, or choose another --out"
            ) from None
        except NotImplementedError as error:
            raise ConfigurationError(
                f"the file system of {self.root} has no locks; choose an --out on another one"
            ) from error
        except OSError as error:
            raise storage_error(self.root / _LOCK, error) from error
        owner = self.root / OWNED
        try:
            content = json.dumps(
                {
                    "host": socket.gethostname(),
                    "pid": os.getpid(),
                    "since": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                    "token": secrets.token_hex(8),
                }
            )
            write_atomic(owner, content.encode(), self.root)
            yield content
        finally:
            with contextlib.suppress(OSError):
                remove(owner, self.root)
            lock.release()

    def configure(self, configuration: dict[str, Any]) -> None:
        """Write ``config.json``, or extend the one that is there; one that was damaged or lost is restored.

        Raises:
            ConfigurationError: the directory was made with other options, or nobody knows with which, or it is
                something else than a run directory.
            InUse: another process works on it.
            StorageError: the directory cannot be written.
        """
        path = self.root / CONFIGURATION
        schema.check_configuration(configuration, path)
        if self.root.is_dir() and not exists(path, self.root) and not self._is_ours():
            raise ConfigurationError(f"{self.root} is not empty and not a run directory; choose another --out")
        merged = configuration
        with contextlib.suppress(FileNotFoundError, CorruptFile):  # a folder that is refused is left as it is
            before = schema.check_configuration(read_json(path, self.root), path)
            merged = merge_configuration(before, configuration, str(self.root))
        self._check_folders(merged)
        with self.own():
            for name in (CONFIGURATION, ENVIRONMENT, OWNED):
                remove_partial(self.root, name, self.root)
            old, whole = self._known_configuration()
            merged = merge_configuration(old, configuration, str(self.root))
            if merged != old or not whole:
                write_json(path, merged, self.root)

    def configuration(self) -> dict[str, Any]:
        """The content of ``config.json``.

        Raises:
            ConfigurationError: this is not a run directory, or asks for what no study can do.
        """
        path = self.root / CONFIGURATION
        try:
            return schema.check_configuration(read_json(path, self.root), path)
        except (FileNotFoundError, NotADirectoryError):
            raise ConfigurationError(
                f"{self.root} is not a run directory: it has no config.json; expected a folder made by `prunecca reproduce`"
            ) from None

    def precisions(self) -> dict[str, Precision]:
        """The precision of each problem that is there already; none of a new directory."""
        known, _ = self._known_configuration()
        asked = {} if known is None else known["problems"]
        return {name: problem["settings"].get("precision", "float32") for name, problem in asked.items()}

    def plan(self, *, problems: bool = True) -> Plan:
        """What the configuration asks for; without the problems where nothing is to be made, as in a report.

        Raises:
            ConfigurationError: this is not a run directory, or networks of another format are to be made.
        """
        configuration = self.configuration()
        asked: dict[str, Any] = configuration["problems"]
        if problems and configuration["format"] != FORMAT:
            raise ConfigurationError(
                f"{self.root} was made by another version (format {configuration['format']}, this one makes {FORMAT}); "
                "choose another --out"
            )
        return Plan(
            Options.from_json(configuration["options"]),
            {name: ResolvedProblem.from_json(one["settings"]) for name, one in asked.items()} if problems else {},
            {name: Size(**one["size"]) for name, one in asked.items()},
        )

    def note_environment(self, environment: dict[str, Any]) -> None:
        """Add the environment of one start (versions, device, threads, time) to ``environment.json``.

        It also holds a copy of the configuration, from which `configure` restores ``config.json``.
        """
        path = self.root / ENVIRONMENT
        try:
            starts = schema.check_environment(read_json(path, self.root), path)
        except (FileNotFoundError, CorruptFile):
            starts = []
        write_json(path, {"starts": [*starts, environment], "configuration": self.configuration()}, self.root)

    def path(self, network: Network, name: str) -> Path:
        """The file `name` of a network."""
        return self.root / network.folder / name

    def whole(self, plan: Plan) -> dict[Network, Record]:
        """The records of all networks whose files are as they were written; each file is read once."""
        found = ((network, self._record(network)) for network in plan.networks())
        return {network: record for network, record in found if record is not None}

    def finished(self) -> dict[Network, Record]:
        """The finished networks with their records, in order."""
        plan = self.plan(problems=False)
        return agreeing(plan, self.whole(plan))

    def parent(self, network: Network, record: Record) -> Parent:
        """A finished network as those that are made from it take it."""
        names = [name for name in _INHERITED if name in record["files"]]
        files = {name: read_regular(self.path(network, name), LARGEST_STATE, self.root) for name in names}
        return Parent(files, record_digest(record))

    def begin(self, network: Network) -> None:
        """Remove what killed processes left half-written of a network."""
        remove_partial(self.root / network.folder, within=self.root)

    def write(self, network: Network, result: NetworkResult, parents: Mapping[str, str]) -> Record:
        """Write a network and declare it finished, with the digests of its files and of what it was made from."""
        for name, content in result.files.items():
            write_atomic(self.path(network, name), content, self.root)
        for name in FILES:
            if name not in result.files:
                remove(self.path(network, name), self.root)
        record = {
            "summary": result.summary,
            "layers": result.layers,
            "epochs": result.epochs,
            "files": {name: file_digest(self.path(network, name), self.root) for name in FILES if name in result.files},
            "parents": dict(parents),
        }
        write_json(self.path(network, RECORD), record, self.root)
        self._remove_checkpoint(network)
        return record

    def remove_checkpoints(self, plan: Plan) -> None:
        """Remove what processes left that were killed between finishing a network and this; when all are finished."""
        for network in plan.networks():
            self._remove_checkpoint(network)

    def say(self, text: str) -> None:
        """Pass a sentence on to the user, once."""
        if text not in self._said:
            self._said.add(text)
            self._message(text)

    def _remove_checkpoint(self, network: Network) -> None:
        for name in (TRAINING, PENALISED):
            remove(self.path(network, name), self.root)

    def _is_ours(self) -> bool:
        """Whether an existing folder without a configuration is empty, or holds what is left of a run."""
        names = {path.name for path in self.root.iterdir()}
        return not names or bool(names & {_LOCK, ENVIRONMENT, "claims"})

    def _owner(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            owner = schema.check_owner(read_regular(self.root / OWNED, LARGEST_RECORD, self.root))
            return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
        return "another process"

    def _known_configuration(self) -> tuple[dict[str, Any] | None, bool]:
        """The configuration so far, None for a new directory, and whether it is that of a whole ``config.json``."""
        path = self.root / CONFIGURATION
        try:
            return schema.check_configuration(read_json(path, self.root), path), True
        except FileNotFoundError:
            finding = f"{path} is missing"
        except CorruptFile as error:
            finding = error.finding
        try:
            kept = self.root / ENVIRONMENT
            copy = schema.check_configuration(read_json(kept, self.root)["configuration"], kept)
        except (FileNotFoundError, CorruptFile, KeyError):
            # Without it, networks of other options could pass for those of this study.
            if self._holds_networks():
                raise ConfigurationError(
                    f"{finding}, and no other file says with which options the networks there were trained; choose another --out"
                ) from None
            return None, False
        self.say(f"{finding}: it is restored from {ENVIRONMENT}")
        return copy, False

    def _record(self, network: Network) -> Record | None:
        """The record of a network whose files are all whole."""
        path = self.path(network, RECORD)
        try:
            record = schema.check_network(read_json(path, self.root), path, FILES, (STATE, SIMILARITY))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except CorruptFile as error:
            self.say(f"{error.finding}: {network} is made again")
            return None
        for name, expected in record["files"].items():
            path = self.path(network, name)
            try:
                finding = "" if file_digest(path, self.root) == expected else f"{path} is damaged"
            except (FileNotFoundError, NotADirectoryError):
                finding = f"{path} is missing"
            except CorruptFile as error:
                finding = error.finding
            if finding:
                self.say(f"{finding}: {network} is made again")
                return None
        return record

    def _check_folders(self, configuration: dict[str, Any]) -> None:
        """Refuse links, and files in the place of folders, before hours are spent on what could not be written."""
        sizes = {name: Size(**one["size"]) for name, one in configuration["problems"].items()}
        networks = Plan(Options.from_json(configuration["options"]), {}, sizes).networks()
        for folder in (*dict.fromkeys(network.folder for network in networks), "tables", "figures"):
            try:
                with folder_of(self.root / folder / "file", self.root):
                    pass
            except FileNotFoundError:
                continue
            except OSError as error:
                raise storage_error(self.root / folder, error) from error

    def _check_lock(self) -> None:
        """The lock is the one file that is opened where it lies: it must be nothing else, nor another name of it."""
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(self.root / _LOCK)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1 or found.st_size:
                raise ConfigurationError(
                    f"{self.root / _LOCK} is not the empty file that a study leaves; remove it and run again"
                )

    def _holds_networks(self) -> bool:
        """Whether there is a file of tensors in a folder below; links are not followed."""
        for folder, folders, files in os.walk(self.root):
            if Path(folder) != self.root and any(name.endswith(".safetensors") for name in files):
                return True
            if len(Path(folder).relative_to(self.root).parts) >= _DEPTH:
                folders.clear()
        return False


def agreeing(plan: Plan, whole: Mapping[Network, Record]) -> dict[Network, Record]:
    """The networks that are finished: whole, and made from networks that are finished and as they were then."""
    finished: dict[Network, Record] = {}
    for network in plan.networks():
        record = whole.get(network)
        known = all(parent in finished for parent in plan.parents(network))
        if record is not None and known and record["parents"] == origin(plan, network, finished):
            finished[network] = record
    return finished


def origin(plan: Plan, network: Network, finished: Mapping[Network, Record]) -> dict[str, str]:
    """Digests that identify the finished networks from which one is made, by their folders."""
    return {parent.folder: record_digest(finished[parent]) for parent in plan.parents(network)}


def record_digest(record: Record) -> str:
    """The digests of the files from which other networks are made."""
    return " ".join(record["files"][name] for name in _INHERITED if name in record["files"])
