"""A run directory from someone else is continued: nothing outside is read, written or removed, and nothing waits."""

import contextlib
import json
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from hostile import PLANTS, fingerprint, plant, soon
from making import configuration, work

from prunecca.errors import ConfigurationError, CorruptFile, StorageError
from prunecca.storage import states
from prunecca.storage.atomic import file_digest, write_atomic
from prunecca.storage.tables import parquet
from prunecca.study import tables
from prunecca.study.checkpoint import TRAINING
from prunecca.study.level import MASKS, REWIND, SIMILARITY, STATE
from prunecca.study.options import FORMAT
from prunecca.study.plan import Network
from prunecca.study.run_directory import RunDirectory

PRUNED = Network("digits2", 0, 1)
FILES = {
    "config.json": "config.json",
    "environment.json": "environment.json",
    ".lock": ".lock",
    ".owner": ".owner",
    "state": f"{PRUNED.folder}/{STATE}",
    "masks": f"{PRUNED.folder}/{MASKS}",
    "rewind": f"digits2/level-00/{REWIND}",
    "similarity": f"{PRUNED.folder}/{SIMILARITY}",
    "training": f"{PRUNED.folder}/{TRAINING}",
    "record": f"{PRUNED.folder}/piece.json",
    "table": "tables/levels.parquet",
    "csv": "tables/levels.csv",
}
REFUSALS = (ConfigurationError, CorruptFile, StorageError)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small finished study; tests copy it."""
    run = RunDirectory(tmp_path_factory.mktemp("finished") / "run")
    run.configure(configuration(levels=1, replicates=1, controls=0))
    work(run)
    tables.write(run, run.plan(), run.finished())
    run.note_environment({"device": "cpu"})
    return run.root


@pytest.fixture
def place(tmp_path, finished):
    """A copy of it, and beside it a folder with a file that must stay."""
    shutil.copytree(finished, tmp_path / "run")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine").write_bytes(b"")
    (tmp_path / "outside" / TRAINING).write_text("mine too")
    (tmp_path / "outside" / ".mine.1-2.partial").write_text("and this")
    return tmp_path


def go_on(root):
    """What `prunecca reproduce --out` does, but for the training."""
    run = RunDirectory(root, lambda text: None)
    run.configure(configuration(levels=1, replicates=1, controls=0))
    made = work(run)
    tables.write(run, run.plan(), run.finished())
    run.note_environment({"device": "cpu"})
    return made


@pytest.mark.parametrize("kind", PLANTS)
@pytest.mark.parametrize("name", FILES)
def test_what_takes_the_place_of_a_file_is_not_followed(place, kind, name):
    outside = fingerprint(place / "outside")
    plant(kind, place / "run" / FILES[name], place / "outside" / "mine")
    with soon(), contextlib.suppress(*REFUSALS):
        go_on(place / "run")
        written = place / "run" / FILES[name]
        assert not written.exists() or (written.is_file() and not written.is_symlink())
    assert fingerprint(place / "outside") == outside


@pytest.mark.parametrize("folder", ["digits2", "digits2/level-00", "digits2/replicate-00", PRUNED.folder, "tables"])
@pytest.mark.parametrize("kind", ["link", "file", "pipe"])
def test_what_takes_the_place_of_a_folder_is_refused_before_anything_is_written(place, folder, kind):
    outside, there = fingerprint(place / "outside"), place / "run" / folder
    shutil.rmtree(there)
    if kind == "link":
        there.symlink_to(place / "outside")
    elif kind == "file":
        there.write_text("")
    else:
        os.mkfifo(there)
    before = fingerprint(place / "run")
    words = "is a link, and none is followed inside a run directory" if kind == "link" else "is a file, not a folder"
    with soon(), pytest.raises(StorageError, match=words):
        go_on(place / "run")
    assert fingerprint(place / "outside") == outside
    assert fingerprint(place / "run") == before


def test_a_link_that_is_put_there_later_is_refused_too(place):
    run = RunDirectory(place / "run")
    outside = fingerprint(place / "outside")
    shutil.rmtree(place / "run" / PRUNED.folder)
    (place / "run" / PRUNED.folder).symlink_to(place / "outside")
    with pytest.raises(StorageError, match="is a link"):
        work(run)
    assert fingerprint(place / "outside") == outside


def test_a_run_directory_that_the_user_reaches_through_a_link_is_fine(place):
    (place / "mine").symlink_to(place / "run")
    (place / "run" / PRUNED.folder / STATE).unlink()
    assert go_on(place / "mine") == [PRUNED]
    assert (place / "mine").is_symlink()


@pytest.mark.parametrize("name", FILES)
def test_other_names_of_a_file_keep_their_content(place, name):
    mine, there = place / "outside" / "mine", place / "run" / FILES[name]
    mine.write_text("precious")
    there.unlink(missing_ok=True)
    os.link(mine, there)
    with contextlib.suppress(*REFUSALS):
        go_on(place / "run")
    assert mine.read_text() == "precious"


def test_a_lock_that_holds_something_is_not_opened(place):
    (place / "run" / ".lock").write_text("precious")
    with pytest.raises(ConfigurationError, match=r"\.lock is not the empty file that a study leaves"):
        go_on(place / "run")
    assert (place / "run" / ".lock").read_text() == "precious"


def test_a_lost_configuration_is_not_looked_for_behind_links(place):
    for name in ("config.json", "environment.json", "digits2"):
        path = place / "run" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (place / "run" / "elsewhere").symlink_to("/")
    with soon():
        RunDirectory(place / "run").configure(configuration())
    assert states.read_json(place / "run" / "config.json")["format"] == FORMAT


def test_a_large_file_in_the_place_of_a_record_is_not_read(place):
    path = place / "run" / "config.json"
    with open(path, "r+b") as stream:
        stream.truncate(10 << 30)  # of which nothing is on the disk
    said = []
    with soon():
        RunDirectory(place / "run", said.append).configure(configuration(levels=1, replicates=1, controls=0))
    assert said == [f"{path} has {10 << 30} bytes; expected at most {8 << 20}: it is restored from environment.json"]


def test_a_large_file_in_the_place_of_a_network_is_not_read(place):
    with open(place / "run" / PRUNED.folder / STATE, "r+b") as stream:
        stream.truncate(10 << 40)
    with soon():
        assert go_on(place / "run") == [PRUNED]


def test_mutations_of_every_file_touch_nothing_outside(place, finished, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # most of the time of so many writes
    generator = np.random.default_rng(11)
    outside = fingerprint(place / "outside")
    names = [path.relative_to(finished) for path in finished.rglob("*") if path.is_file() and path.name != ".lock"]
    for number in range(300):
        name = names[generator.integers(len(names))]
        path = place / "run" / name
        mutate(path, generator)
        with soon(), contextlib.suppress(*REFUSALS):
            assert len(RunDirectory(place / "run").finished()) <= 2
        if number % 20 == 0:
            with soon(), contextlib.suppress(*REFUSALS):
                go_on(place / "run")
                assert len(RunDirectory(place / "run").finished()) == 2
            shutil.rmtree(place / "run")
            shutil.copytree(finished, place / "run")
        shutil.copyfile(finished / name, path)
    assert fingerprint(place / "outside") == outside
    assert sorted(path.name for path in place.iterdir()) == ["outside", "run"]


def mutate(path, generator):
    """Flip, cut or repeat some bytes; a record gets a digest that fits again where it still can be parsed."""
    data = bytearray(path.read_bytes())
    for _ in range(generator.integers(1, 4)):
        place, length = int(generator.integers(len(data))), int(generator.integers(1, 30))
        match generator.integers(3):
            case 0:
                data[place] = int(generator.integers(256))
            case 1 if len(data) > 60:
                del data[place : place + length]
            case _:
                data[place:place] = data[place : place + length]
    path.write_bytes(data)
    if path.suffix == ".json":
        with contextlib.suppress(ValueError, AttributeError, TypeError):
            states.write_json(path, json.loads(bytes(data)))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (pd.DataFrame(), "lacks the columns layer, kind, depth, metric, value"),
        (pd.DataFrame({"layer": ["a"], "problem": ["../../x"]}), "has a column 'problem'; expected only layer"),
        (pd.DataFrame({"layer": ["a"], "kind": ["conv"], "depth": [0], "metric": ["../x"], "value": [1.0]}), "metric"),
    ],
)
def test_a_table_of_a_network_that_cannot_be_is_one_sentence(place, table, words):
    run, path = RunDirectory(place / "run"), place / "run" / PRUNED.folder / SIMILARITY
    write_atomic(path, parquet(table))
    record = states.read_json(run.path(PRUNED, "piece.json"))
    record["files"][SIMILARITY] = file_digest(path)
    states.write_json(run.path(PRUNED, "piece.json"), record)
    with pytest.raises(CorruptFile, match=words):
        go_on(place / "run")


@pytest.mark.parametrize("root", [".", "../run", "sub/../../run"])
def test_the_path_of_a_run_directory_may_be_relative(place, monkeypatch, root):
    (place / "run" / "sub").mkdir()
    monkeypatch.chdir(place / "run")
    (place / "run" / PRUNED.folder / STATE).unlink()
    assert go_on(root) == [PRUNED]
