"""Run directories: what is finished, what is made again, and who makes it."""

import dataclasses
import os
import socket
import threading
import time

import pandas as pd
import pytest
import torch

from prunecca import errors
from prunecca.errors import ClaimLost, ConfigurationError
from prunecca.storage import states
from prunecca.storage.tables import write_table
from prunecca.study import tables
from prunecca.study.executors import work
from prunecca.study.options import Options, Size
from prunecca.study.plan import Piece
from prunecca.study.run_directory import MASKS, REWIND, SIMILARITY, STATE, TRAINING, RunDirectory


def configuration(levels=2, replicates=2, controls=1, problems=("digits2",), settings=None, **options):
    size = dataclasses.asdict(Size(levels, replicates, controls))
    settings = settings or {"epochs": 4}
    return {
        "format": 1,
        "options": Options(**options).as_json(),
        "problems": {name: {"size": size, "settings": settings} for name in problems},
    }


class Maker:
    """Makes pieces whose content follows from their parents, as trained networks do."""

    def __init__(self, run):
        self.run = run
        self.made = []

    def __call__(self, piece, claim):
        claim.check()
        run, parent = self.run, self.run.parent(piece)
        weight = torch.zeros(3)
        if parent is not None:
            weight = states.load_state(run.path(parent, STATE))[0]["weight"] + piece.level + 10 * piece.replicate
        digest = states.save_state(run.path(piece, STATE), {"weight": weight})
        states.save_state(run.path(piece, REWIND if piece.level == 0 else MASKS), {"weight": weight})
        table = pd.DataFrame({"layer": ["conv1"], "kind": ["conv"], "depth": [0], "metric": ["svcca"], "value": [1.0]})
        write_table(run.path(piece, SIMILARITY), table)
        record = {
            "summary": {"density": 0.8**piece.level, "test_accuracy": 0.9, "digest": digest},
            "layers": [{"layer": "conv1", "density": 0.8**piece.level}],
            "epochs": [{"epoch": 1, "train_loss": 0.5, "seconds": 0.1}],
        }
        run.finish(piece, record)
        self.made.append(piece)


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run", message=lambda text: messages.append(text))
    messages = run.messages = []
    run.configure(configuration())
    return run


def test_every_piece_is_made_once_parents_first(run):
    maker = Maker(run)
    work(run, maker)
    assert maker.made == run.pieces()
    assert [str(piece) for piece in maker.made] == [
        "digits2 level 0",
        "digits2 replicate 0 level 1",
        "digits2 replicate 0 level 2",
        "digits2 replicate 1 level 1",
        "digits2 replicate 1 level 2",
        "digits2 control 1",
    ]
    work(run, maker)
    work(RunDirectory(run.root), maker)
    assert len(maker.made) == 6


def test_two_workers_at_once_make_each_piece_once(run):
    makers = [Maker(RunDirectory(run.root)) for _ in range(2)]
    threads = [threading.Thread(target=work, args=(m.run, m), kwargs={"pause": 0.01}) for m in makers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(makers[0].made + makers[1].made) == sorted(run.pieces())
    assert [claim.name for claim in (run.root / "claims").iterdir()] == [".lock"]


@pytest.mark.parametrize("name", [STATE, MASKS, SIMILARITY, "piece.json"])
def test_damaged_piece_alone_is_made_again(run, name):
    work(run, Maker(run))
    before = tables.build(run)
    piece = Piece("digits2", 0, 1)
    path = run.path(piece, name)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    maker = Maker(run)
    work(run, maker)
    assert maker.made == [piece], "what was made from it is still right, for it came out the same"
    assert any("digits2 replicate 0 level 1 is made again" in text for text in run.messages)
    assert all(tables.build(run)[table].equals(before[table]) for table in before)


def test_missing_file_is_noticed(run):
    work(run, Maker(run))
    run.path(Piece("digits2"), STATE).unlink()
    maker = Maker(run)
    work(run, maker)
    assert maker.made == [Piece("digits2")]
    assert "is missing" in run.messages[0]


def test_piece_that_comes_out_differently_is_followed_by_its_descendants(run):
    work(run, Maker(run))
    run.path(Piece("digits2", 0, 1), STATE).unlink()

    class Other(Maker):
        def __call__(self, piece, claim):
            super().__call__(piece, claim)
            if piece == Piece("digits2", 0, 1):
                self.made.pop()
                states.save_state(run.path(piece, STATE), {"weight": torch.full((3,), 7.0)})
                record = states.read_json(run.path(piece, "piece.json"))
                run.finish(piece, record)
                self.made.append(piece)

    maker = Other(run)
    work(run, maker)
    assert maker.made == [Piece("digits2", 0, 1), Piece("digits2", 0, 2)]


def test_latest_epoch_goes_when_the_piece_is_finished(run):
    piece = Piece("digits2")
    states.save_state(run.path(piece, TRAINING), {"weight": torch.ones(2)})
    work(run, Maker(run))
    assert sorted(path.name for path in run.path(piece, "").iterdir()) == [
        "piece.json", REWIND, SIMILARITY, STATE,
    ]  # fmt: skip


def test_latest_epoch_goes_also_when_its_process_was_killed_before_it_could_remove_it(run):
    work(run, Maker(run))
    latest = run.path(Piece("digits2", 0, 1), TRAINING)
    states.save_state(latest, {"weight": torch.ones(2)})
    work(run, Maker(run))
    assert not latest.exists()


def test_half_written_files_of_killed_processes_are_removed(run):
    leftover = run.path(Piece("digits2"), f".{STATE}.1-ab.partial")
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    work(run, Maker(run))
    assert not leftover.exists()


def test_worker_that_lost_its_claim_goes_on_with_other_pieces(run):
    class Slow(Maker):
        lost = False

        def __call__(self, piece, claim):
            if not self.lost:
                self.lost = True
                raise ClaimLost("taken over")
            super().__call__(piece, claim)

    maker = Slow(run)
    work(run, maker, pause=0.01)
    assert len(maker.made) == 6
    assert run.messages == ["taken over"]


def test_one_shot_levels_start_from_the_unpruned_network(tmp_path):
    run = RunDirectory(tmp_path)
    run.configure(configuration(one_shot=True))
    assert run.parent(Piece("digits2", 1, 2)) == Piece("digits2")
    assert run.parent(Piece("digits2")) is None


def test_study_may_grow(run):
    work(run, Maker(run))
    run.configure(configuration(levels=3, replicates=1, problems=("digits2", "digits4")))
    maker = Maker(run)
    work(run, maker)
    assert [str(piece) for piece in maker.made] == [
        "digits2 replicate 0 level 3",
        "digits2 replicate 1 level 3",
        *(str(piece) for piece in run.pieces() if piece.problem == "digits4"),
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_decay": 0.0}, "made with weight-decay = 0.0005, and now weight-decay = 0.0 is asked for"),
        ({"metrics": ("cca",)}, "metrics = svcca,cca,"),
        ({"trim": 0.98}, r"made with trim = \(default\), and now trim = 0.98"),
        ({"settings": {"epochs": 9}}, "made with epochs = 4 for digits2, and now epochs = 9 is"),
    ],
)
def test_other_configuration_is_refused_and_changes_nothing(run, changes, message):
    before = (run.root / "config.json").read_bytes()
    with pytest.raises(ConfigurationError, match=message):
        run.configure(configuration(**changes))
    assert (run.root / "config.json").read_bytes() == before


def test_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("")
    with pytest.raises(ConfigurationError, match="not empty and not a run directory"):
        RunDirectory(tmp_path).configure(configuration())
    with pytest.raises(ConfigurationError, match="is not a run directory"):
        RunDirectory(tmp_path).configuration()


@pytest.mark.parametrize("damage", ["cut", "edited", "gone"])
def test_damaged_configuration_is_restored_from_its_copy(run, damage):
    path, maker = run.root / "config.json", Maker(run)
    run.note_environment({"device": "cpu"})
    work(run, maker)
    whole = path.read_text()
    path.unlink()
    if damage != "gone":
        path.write_text(whole[:50] if damage == "cut" else whole.replace("0.0005", "0.0001"))
    with pytest.raises(ConfigurationError, match=r"made with weight-decay = 0.0005, and now weight-decay = 0.0001"):
        run.configure(configuration(weight_decay=1e-4))
    run.configure(configuration())
    assert path.read_text() == whole
    assert len(run.messages) == 1
    assert run.messages[0].startswith(f"{path} is ")
    assert run.messages[0].endswith(": it is restored from environment.json")
    work(run, maker)
    assert len(maker.made) == 6


def test_networks_of_unknown_options_are_not_mixed_with_new_ones(run):
    work(run, Maker(run))
    for damage in (lambda path: path.write_text("{"), lambda path: path.unlink()):
        damage(run.root / "config.json")
        with pytest.raises(ConfigurationError, match="no other file says with which options the networks there were"):
            run.configure(configuration())


def test_damaged_configuration_of_no_networks_is_written_again(run):
    (run.root / "config.json").write_text("{")
    with pytest.raises(errors.CorruptFile, match=r"config\.json is not a whole record; remove it and run again"):
        run.pieces()
    run.configure(configuration())
    assert len(run.pieces()) == 6


def test_what_killed_processes_left_of_the_configuration_is_removed(run):
    leftovers = [run.root / f".{name}.json.1-ab.partial" for name in ("config", "environment")]
    other = run.root / ".report.html.1-ab.partial"
    for path in (*leftovers, other):
        path.write_bytes(b"half")
    run.configure(configuration())
    assert [path.exists() for path in (*leftovers, other)] == [False, False, True]


def test_damaged_record_is_told_without_asking_for_anything(run):
    work(run, Maker(run))
    path = run.path(Piece("digits2", 0, 1), "piece.json")
    path.write_text("{")
    run.record(Piece("digits2", 0, 1))
    assert run.messages == [f"{path} is not a whole record: digits2 replicate 0 level 1 is made again"]


def test_process_that_waits_for_another_says_for_whom(run):
    piece = Piece("digits2")
    claim = run.claim(piece)
    maker = Maker(RunDirectory(run.root, run.messages.append))
    waiting = threading.Thread(target=work, args=(maker.run, maker), kwargs={"pause": 0.01})
    waiting.start()
    for _ in range(500):
        if run.messages:
            break
        time.sleep(0.01)
    time.sleep(0.05)
    claim.release()
    waiting.join()
    who = f"process {os.getpid()} on {socket.gethostname()}"
    assert run.messages == [f"waiting for {piece}: {who} works on it; should that stop, this one takes over"]
    assert maker.made == run.pieces()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("epochs", 0), ("rewind_epoch", -1), ("rewind_optimizer", "keep"), ("scope", "tensor"), ("retrain", "no"),
        ("conv_rate", 1.0), ("fc_rate", -0.1), ("dropout", 1.0), ("learning_rate", 0.0), ("weight_decay", -1.0),
        ("batch_size", 1), ("patience", 0), ("train_images", 1), ("images", 1), ("variance", 0.0), ("trim", 1.5),
        ("metrics", ()),
    ],
)  # fmt: skip
def test_option_that_cannot_be_is_refused_by_its_name(option, value):
    with pytest.raises(ConfigurationError, match=rf"^{option.replace('_', '-')} is .*; expected "):
        Options(**{option: value})


def test_options_round_trip_through_json():
    options = Options(epochs=7, metrics=("svcca",), layers=("conv*",), trim=0.98)
    assert Options.from_json(options.as_json()) == options


def test_tables_repeat_level_0_for_every_replicate(run):
    work(run, Maker(run))
    written = tables.write(run)
    loaded = tables.load(run.root)
    assert all(loaded[name].equals(written[name]) for name in tables.NAMES)
    levels = loaded["levels"]
    assert levels.groupby(["replicate", "control"]).size().to_dict() == {(0, False): 3, (1, False): 3, (0, True): 1}
    assert levels[levels["level"] == 0]["digest"].nunique() == 1
    assert "seconds" not in loaded["epochs"]
    assert list(loaded["timing"].columns) == ["problem", "replicate", "level", "control", "epoch", "seconds"]
    assert list(loaded["similarity"].columns[:5]) == ["problem", "replicate", "level", "control", "layer"]


def test_tables_of_nothing_and_of_no_run(run, tmp_path):
    assert all(table.empty for table in tables.build(run).values())
    with pytest.raises(FileNotFoundError, match="has no tables"):
        tables.load(tmp_path)
