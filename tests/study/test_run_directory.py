"""Run directories: what is finished, what is made again, and that one process works on each."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from making import Maker, configuration, table_of, work

from prunecca import errors
from prunecca.errors import ConfigurationError, InUse
from prunecca.storage import states
from prunecca.study import run_directory
from prunecca.study.checkpoint import TRAINING
from prunecca.study.executors import Outcome
from prunecca.study.level import MASKS, REWIND, SIMILARITY, STATE
from prunecca.study.plan import Network
from prunecca.study.reporter import Reporter
from prunecca.study.run_directory import RunDirectory
from prunecca.study.study import make_networks


@pytest.fixture
def run(tmp_path):
    run = RunDirectory(tmp_path / "run", message=lambda text: messages.append(text))
    messages = run.messages = []
    run.configure(configuration())
    return run


def test_every_network_is_made_once_parents_first(run):
    made = work(run)
    assert made == run.plan().networks()
    assert [str(network) for network in made] == [
        "digits2 level 0",
        "digits2 replicate 0 level 1",
        "digits2 replicate 0 level 2",
        "digits2 replicate 1 level 1",
        "digits2 replicate 1 level 2",
        "digits2 control 1",
    ]
    assert work(run) == []
    assert work(RunDirectory(run.root)) == []


def test_a_run_directory_has_one_owner_and_the_second_is_told_who(run):
    program = f"""
        from prunecca.study.run_directory import RunDirectory
        from prunecca.errors import InUse
        try:
            with RunDirectory({str(run.root)!r}).own():
                print("owned")
        except InUse as error:
            print(error)
    """
    other = [sys.executable, "-c", textwrap.dedent(program)]
    with run.own() as owner:
        said = subprocess.run(other, capture_output=True, text=True, check=True).stdout
        known = json.loads(owner)
        assert said == (
            f"{run.root} is being worked on by process {os.getpid()} on {known['host']} since {known['since']}; "
            "wait until that ends, or choose another --out\n"
        )
        with pytest.raises(InUse), RunDirectory(run.root).own():
            pass
    assert subprocess.run(other, capture_output=True, text=True, check=True).stdout == "owned\n"
    assert not (run.root / ".owner").exists()


@pytest.mark.parametrize("name", [STATE, MASKS, SIMILARITY, "piece.json"])
def test_damaged_network_alone_is_made_again(run, name):
    work(run)
    before = table_of(run)
    network = Network("digits2", 0, 1)
    path = run.path(network, name)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert work(run) == [network], "what was made from it is still right, for it came out the same"
    assert any("digits2 replicate 0 level 1 is made again" in text for text in run.messages)
    assert all(table_of(run)[table].equals(before[table]) for table in before)


def test_missing_file_is_noticed(run):
    work(run)
    run.path(Network("digits2"), STATE).unlink()
    assert work(run) == [Network("digits2")]
    assert "is missing" in run.messages[0]


def test_network_that_comes_out_differently_is_followed_by_its_descendants(run):
    work(run)
    first = Network("digits2", 0, 1)
    run.path(first, STATE).unlink()
    assert work(run, Maker(run, {first: torch.full((3,), 7.0)})) == [first, Network("digits2", 0, 2)]


def test_latest_epoch_goes_when_the_network_is_finished(run):
    network = Network("digits2")
    states.save_state(run.path(network, TRAINING), {"weight": torch.ones(2)})
    work(run)
    assert sorted(path.name for path in run.path(network, "").iterdir()) == [
        "piece.json", REWIND, SIMILARITY, STATE,
    ]  # fmt: skip


def test_latest_epoch_goes_also_when_its_process_was_killed_before_it_could_remove_it(run):
    work(run)
    latest = run.path(Network("digits2", 0, 1), TRAINING)
    states.save_state(latest, {"weight": torch.ones(2)})
    work(run)
    assert not latest.exists()


def test_half_written_files_of_killed_processes_are_removed(run):
    leftover = run.path(Network("digits2"), f".{STATE}.1-ab.partial")
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"half")
    work(run)
    assert not leftover.exists()


def test_a_network_whose_worker_was_lost_is_made_by_another(run):
    class Losing(Maker):
        lost = False

        def wait(self):
            if not self.lost:
                self.lost = True
                return Outcome(self.tasks.pop().network, None, "a worker was lost")
            return super().wait()

    class Noting(Reporter):
        said = []  # noqa: RUF012

        def message(self, text):
            self.said.append(text)

    maker = Losing(run)
    with run.own():
        make_networks(run, run.plan(), lambda: maker, Noting())
    assert maker.made == run.plan().networks()
    assert Noting.said == ["a worker was lost"]


def test_one_shot_levels_start_from_the_unpruned_network(tmp_path):
    run = RunDirectory(tmp_path)
    run.configure(configuration(one_shot=True))
    assert run.plan().parent(Network("digits2", 1, 2)) == Network("digits2")
    assert run.plan().parent(Network("digits2")) is None


def test_study_may_grow(run):
    work(run)
    run.configure(configuration(levels=3, replicates=1, problems=("digits2", "digits4")))
    assert [str(network) for network in work(run)] == [
        "digits2 replicate 0 level 3",
        "digits2 replicate 1 level 3",
        *(str(network) for network in run.plan().networks() if network.problem == "digits4"),
    ]


def test_replicates_may_begin_elsewhere_once_the_unpruned_network_is_there(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.configure(configuration(levels=0, replicates=1, controls=0))
    assert work(run) == [Network("digits2")]
    run.configure(configuration(levels=1, replicates=2, controls=0, first=5))
    assert work(run) == [Network("digits2", 5, 1), Network("digits2", 6, 1)]
    assert table_of(run)["levels"]["replicate"].tolist() == [5, 5, 6, 6]
    run.configure(configuration(levels=1, replicates=1, controls=0, first=3))
    assert work(run) == [Network("digits2", 3, 1), Network("digits2", 4, 1)], "and all between"


def test_files_are_read_once_however_many_levels_there_are(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    run = RunDirectory(tmp_path / "run")
    run.configure(configuration(levels=20, replicates=20, controls=1))
    assert len(work(run)) == 402
    reads = []
    for name in ("read_json", "file_digest"):
        original = getattr(run_directory, name)
        monkeypatch.setattr(run_directory, name, lambda *given, o=original: reads.append(given[0]) or o(*given))
    with run.own():
        plan = run.plan()
        records = make_networks(run, plan, None, Reporter())
    assert len(records) == 402
    networks = [path for path in reads if path.name != "config.json"]
    assert len(networks) == len(set(networks)) == 402 * 4
    assert len(reads) == len(networks) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_decay": 0.0}, "made with weight-decay = 0.0005, and now weight-decay = 0.0 is asked for"),
        ({"metrics": ("cca",)}, "metrics = svcca,cca,"),
        ({"trim": 0.98}, r"made with trim = \(default\), and now trim = 0.98"),
        ({"settings": {"epochs": 9}}, "made with epochs = 4 for digits2, and now epochs = 9 is"),
        ({"retrain": "finetune"}, "made with retrain = rewind, and now retrain = finetune is asked for"),
        ({"rewind_epoch": 2}, "made with rewind-epoch = 3, and now rewind-epoch = 2 is asked for"),
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
    path = run.root / "config.json"
    run.note_environment({"device": "cpu"})
    work(run)
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
    assert work(run) == []


def test_networks_of_unknown_options_are_not_mixed_with_new_ones(run):
    work(run)
    for damage in (lambda path: path.write_text("{"), lambda path: path.unlink()):
        damage(run.root / "config.json")
        with pytest.raises(ConfigurationError, match="no other file says with which options the networks there were"):
            run.configure(configuration())


def test_damaged_configuration_of_no_networks_is_written_again(run):
    (run.root / "config.json").write_text("{")
    with pytest.raises(errors.CorruptFile, match=r"config\.json is not a whole record; remove it and run again"):
        run.plan()
    run.configure(configuration())
    assert len(run.plan().networks()) == 6


def test_what_killed_processes_left_of_the_configuration_is_removed(run):
    leftovers = [run.root / f".{name}.json.1-ab.partial" for name in ("config", "environment")]
    other = run.root / ".report.html.1-ab.partial"
    for path in (*leftovers, other):
        path.write_bytes(b"half")
    run.configure(configuration())
    assert [path.exists() for path in (*leftovers, other)] == [False, False, True]


def test_damaged_record_is_told_without_asking_for_anything(run):
    work(run)
    path = run.path(Network("digits2", 0, 1), "piece.json")
    path.write_text("{")
    run.finished()
    assert run.messages == [f"{path} is not a whole record: digits2 replicate 0 level 1 is made again"]


def test_a_run_directory_of_the_format_before_is_refused_in_a_sentence(run):
    old = {**configuration(), "format": 1}
    states.write_json(run.root / "config.json", old)
    for attempt in (lambda: run.configure(configuration()), run.plan):
        with pytest.raises(
            ConfigurationError, match=r"was made by another version \(format 1, .*; choose another --out$"
        ):
            attempt()
