"""The study end to end, on a few images of two digits."""

import dataclasses
import random
import shutil

import pytest
import studies
import torch
from studies import make, state

from prunecca import pruning
from prunecca.errors import ConfigurationError
from prunecca.storage import states
from prunecca.study import study, tables
from prunecca.study.options import Size
from prunecca.study.plan import Network
from prunecca.study.reporter import Reporter
from prunecca.study.run_directory import INITIAL, MASKS, REWIND, STATE, TRAINING, RunDirectory

FLAGS = {"epochs": 3, "rewind_epoch": 1, "train_images": 64, "images": 48, "metrics": ("svcca", "linear_cka")}
SIZE = Size(levels=2, replicates=2, controls=1)


def start(out, size=SIZE, problems=("digits2",), **changes):
    return studies.start(out, {**FLAGS, **changes}, size, *problems)


def execute(run, reporter=None, **workers):
    """On one thread: the networks are so small that more only wait for each other."""
    return study.execute(run, study.Workers(threads=1, **workers), reporter=reporter)


def digests(run):
    return {str(piece): record["summary"]["digest"] for piece, record in run.finished().items()}


def table_bytes(run):
    return {name: (run.root / "tables" / f"{name}.parquet").read_bytes() for name in tables.NAMES if name != "timing"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A study that nothing interrupted; tests only read it."""
    run = start(tmp_path_factory.mktemp("study") / "run")
    execute(run)
    return run


class Interrupting(Reporter):
    """Raises KeyboardInterrupt at the event of the given number, as Ctrl-C may at any moment."""

    def __init__(self, at):
        self.left = at

    def tick(self, *_):
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt

    begin = batch = epoch = end = tick


class Noting(Reporter):
    """Keeps which networks were trained, and the messages."""

    def __init__(self):
        self.begun, self.messages = [], []

    def begin(self, name, *_):
        self.begun.append(name)

    def message(self, text):
        self.messages.append(text)


def masks(run, piece):
    shapes = {name: tensor.shape for name, tensor in state(run, piece).items()}
    return pruning.unpack(state(run, piece, MASKS), shapes)


def test_replicates_share_the_unpruned_network_and_differ_after(finished):
    levels = tables.load(finished.root)["levels"]
    pruned = levels[~levels["control"]].pivot(index="level", columns="replicate", values="digest")
    assert pruned.loc[0].nunique() == 1
    assert (pruned.loc[1:].nunique(axis=1) == 2).all()
    first = [masks(finished, Network("digits2", replicate, 1)) for replicate in (0, 1)]
    assert states.digest(first[0]) == states.digest(first[1]), "both prune the one unpruned network"
    assert states.digest(masks(finished, Network("digits2", 0, 2))) != states.digest(
        masks(finished, Network("digits2", 1, 2))
    )


def test_control_differs_from_its_level_only_by_not_being_pruned(finished):
    control = Network("digits2", 0, 1, control=True)
    assert not finished.path(control, MASKS).exists()
    levels = tables.load(finished.root)["levels"]
    assert levels.loc[levels["control"], "density"].tolist() == [1.0]
    assert levels["digest"].nunique() == 1 + 4 + 1


def test_every_level_has_the_same_validation_split_and_data(finished):
    assert tables.load(finished.root)["levels"]["split"].nunique() == 1


def test_pruned_entries_are_zero_counted_exactly_and_never_return(finished):
    model = finished_model(finished)
    pools = pruning.pools_by_type(model)
    for replicate in (0, 1):
        before = pruning.full_masks(model, pools)
        for level in (1, 2):
            now, weights = masks(finished, Network("digits2", replicate, level)), None
            weights = state(finished, Network("digits2", replicate, level))
            for pool, rate in (("conv", 0.1), ("fc", 0.2)):
                had, has = (sum(int(its[name].sum()) for name in pools[pool]) for its in (before, now))
                assert had - has == int(rate * had + 1e-9)
            for name, mask in now.items():
                assert not (mask & ~before[name]).any()
                assert (weights[name][~mask] == 0).all()
            before = now


def finished_model(run):
    plan = run.plan()
    return plan.problems["digits2"].build(plan.options)


def test_levels_train_the_epochs_after_the_rewind(finished):
    epochs = tables.load(finished.root)["epochs"]
    assert epochs[epochs["level"] == 0].groupby("replicate")["epoch"].apply(list).tolist() == [[1, 2, 3]] * 2
    later = epochs[epochs["level"] > 0].groupby(["control", "replicate", "level"])["epoch"].apply(list)
    assert later.tolist() == [[2, 3]] * 5


def test_unpruned_network_is_similar_to_itself_and_layers_are_in_order(finished):
    similarity = tables.load(finished.root)["similarity"]
    assert similarity[similarity["level"] == 0]["value"].tolist() == pytest.approx([1.0] * 2 * 2 * 10)
    assert similarity["value"].between(0, 1 + 1e-9).all()
    layers = similarity.drop_duplicates("layer").sort_values("depth")
    assert layers["layer"].tolist()[:4] == ["conv1", "conv2", "pool1", "conv3"]
    assert layers["kind"].tolist()[:4] == ["conv", "conv", "pool", "conv"]
    assert layers["layer"].tolist()[-1] == "fc1"


def test_density_counts_every_parameter(finished):
    made = tables.load(finished.root)
    level = made["levels"].query("level == 2 and replicate == 1 and not control").iloc[0]
    layers = made["layers"].query("level == 2 and replicate == 1 and not control")
    total = sum(p.numel() for p in finished_model(finished).parameters())
    assert layers["parameters"].sum() == total
    assert layers["parameters_left"].sum() == level["parameters_left"]
    assert level["density"] == pytest.approx(level["parameters_left"] / total)
    left = layers.set_index("layer")["density"]
    assert left["output"] == 1.0
    assert left["fc1.0"] < left["conv1.0"] < 1.0


def test_run_directory_describes_itself(finished):
    root = finished.root
    assert states.read_json(root / "config.json")["options"]["recipe"]["rewind_epoch"] == 1
    assert states.read_json(root / "environment.json")["starts"][0]["device"] == "cpu"
    assert {path.name for path in (root / "figures").iterdir()} == {
        f"{name}.{kind}"
        for name in ("accuracy", "similarity-svcca", "similarity-linear_cka")
        for kind in ("png", "pdf")
    }
    assert {path.name for path in (root / "tables").iterdir()} == {
        f"{n}.{k}" for n in tables.NAMES for k in ("csv", "parquet")
    }
    stray = [path for path in root.rglob("*") if path.name.endswith(".partial") or path.name == TRAINING]
    assert stray == []


def test_finished_study_is_not_computed_again(finished):
    before, reporter = table_bytes(finished), Noting()
    execute(start(finished.root), reporter=reporter)
    assert reporter.begun == []
    assert table_bytes(finished) == before


def test_interrupted_anywhere_it_ends_in_the_same_tables(finished, tmp_path):
    choose = random.Random(3)
    run = start(tmp_path / "run")
    interruptions = 0
    for _ in range(100):
        try:
            execute(RunDirectory(run.root), reporter=Interrupting(choose.randrange(2, 14)))
            break
        except KeyboardInterrupt:
            interruptions += 1
    assert interruptions >= 5
    assert digests(run) == digests(finished)
    assert table_bytes(run) == table_bytes(finished)


def test_damaged_checkpoint_is_trained_from_its_start(finished, tmp_path):
    run = start(tmp_path / "run", Size(levels=1, replicates=1, controls=0))
    with pytest.raises(KeyboardInterrupt):
        execute(run, reporter=Interrupting(7))
    latest = run.path(Network("digits2"), TRAINING)
    latest.write_bytes(latest.read_bytes()[:-100])

    reporter = Noting()
    execute(run, reporter=reporter)
    damaged, few_rows = reporter.messages
    assert "digits2 level 0 is trained from its start" in damaged
    assert "has 48 rows for 21 + 21 directions" in few_rows
    assert digests(run).items() <= digests(finished).items()


@pytest.mark.parametrize(
    ("piece", "name"),
    [(Network("digits2"), REWIND), (Network("digits2", 0, 1), STATE), (Network("digits2", 1, 1), MASKS)],
)
def test_damaged_file_of_a_finished_piece_is_made_again(finished, tmp_path, piece, name):
    shutil.copytree(finished.root, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    path = run.path(piece, name)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)

    reporter = Noting()
    execute(run, reporter=reporter)
    assert reporter.begun == [str(piece)]
    assert len([message for message in reporter.messages if name in message]) == 1
    assert table_bytes(run) == table_bytes(finished)


def test_changed_option_is_refused_with_its_name(finished):
    with pytest.raises(ConfigurationError, match="made with epochs = 3, and now epochs = 4 is asked for"):
        start(finished.root, epochs=4)
    with pytest.raises(ConfigurationError, match="dropout"):
        start(finished.root, dropout=0.1)


def test_other_data_is_refused(finished, tmp_path, monkeypatch):
    from prunecca.study import resolve

    shutil.copytree(finished.root, tmp_path / "run")
    original = resolve.load
    monkeypatch.setattr(
        resolve, "load", lambda *a, **k: dataclasses.replace(original(*a, **k), class_names=("0", "1")).hold_out(0.3)
    )
    resolve._load.cache_clear()
    try:
        with pytest.raises(ConfigurationError, match=r"the images for digits2 are not those that .*run was made with"):
            start(tmp_path / "run")
        grown = RunDirectory(tmp_path / "run")
        (tmp_path / "run" / "digits2" / "replicate-00" / "level-02" / "piece.json").unlink()
        with pytest.raises(ConfigurationError, match="images of digits2 are not those"):
            execute(grown)
    finally:
        resolve._load.cache_clear()


def test_study_grows_without_touching_what_is_finished(finished, tmp_path):
    shutil.copytree(finished.root, tmp_path / "run")
    run = start(tmp_path / "run", Size(levels=3, replicates=1, controls=1))
    make(run)
    grown = digests(run)
    assert digests(finished).items() <= grown.items()
    assert set(grown) - set(digests(finished)) == {"digits2 replicate 0 level 3", "digits2 replicate 1 level 3"}


ONE = Size(levels=1, replicates=1, controls=0)


@pytest.mark.parametrize(
    "changes",
    [
        {"conv_rate": 0.5},
        {"weight_decay": 0.0},
        {"dropout": 0.0},
        {"patience": 1},
    ],
    ids=str,
)
def test_option_changes_the_pruned_network(finished, tmp_path, changes):
    run = start(tmp_path / "run", ONE, **changes)
    make(run)
    assert digests(run)["digits2 replicate 0 level 1"] != digests(finished)["digits2 replicate 0 level 1"]
    # What concerns pruning alone leaves the unpruned network as it is.
    same = digests(run)["digits2 level 0"] == digests(finished)["digits2 level 0"]
    assert same == (not changes.keys() & {"weight_decay", "dropout", "patience"})


def test_reinitialised_network_trains_all_epochs_from_other_weights(tmp_path):
    run = start(tmp_path / "run", Size(levels=1, replicates=2, controls=0), retrain="reinit")
    made = make(run)
    epochs = made["epochs"].query("level == 1").groupby("replicate")["epoch"].apply(list)
    assert epochs.tolist() == [[1, 2, 3]] * 2
    similarity = made["similarity"].query("level == 1 and metric == 'linear_cka' and layer == 'fc1'")["value"]
    assert (similarity < 0.999).all()


def test_one_shot_prunes_level_2_from_the_unpruned_network(finished, tmp_path):
    run = start(tmp_path / "run", Size(levels=2, replicates=1, controls=0), one_shot=True)
    made = make(run)["levels"]
    iterated = tables.load(finished.root)["levels"].query("replicate == 0 and not control")
    assert made["density"].tolist() == pytest.approx(iterated["density"].tolist(), abs=1e-4)
    counts = [
        {name: int(mask.sum()) for name, mask in masks(one, Network("digits2", 0, 2)).items()}
        for one in (run, finished)
    ]
    pools = pruning.pools_by_type(finished_model(run))
    for names in pools.values():
        assert sum(counts[0][name] for name in names) == sum(counts[1][name] for name in names)
    weights, expected = state(run, Network("digits2")), None
    for _ in range(2):
        expected = pruning.prune(weights, pools, {"conv": 0.1, "fc": 0.2}, expected)
    assert states.digest(expected) == states.digest(masks(run, Network("digits2", 0, 2)))


@pytest.mark.parametrize("pruned_value", ["frozen", "by_movement"])
def test_pruned_entries_may_keep_a_value(tmp_path, pruned_value):
    run = start(tmp_path / "run", Size(levels=2, replicates=1, controls=0), pruned_value=pruned_value)
    make(run)
    rewind, initial = state(run, Network("digits2"), REWIND), state(run, Network("digits2"), INITIAL)
    before = state(run, Network("digits2"))
    kept_before = None
    kinds = set()
    for level in (1, 2):
        weights, kept = state(run, Network("digits2", 0, level)), masks(run, Network("digits2", 0, level))
        for name, mask in kept.items():
            gone = ~mask
            new = gone if kept_before is None else gone & kept_before[name]
            expected = rewind[f"model.{name}"].clone()
            if pruned_value == "by_movement":
                expected[before[name].abs() < initial[name].abs()] = 0.0
            assert torch.equal(weights[name][new], expected[new])
            assert torch.equal(weights[name][gone & ~new], before[name][gone & ~new])
            kinds |= set((weights[name][new] == 0).tolist())
        before, kept_before = weights, kept
    assert kinds == ({False} if pruned_value == "frozen" else {False, True})


def test_trim_and_variance_reach_the_metric(finished, tmp_path):
    run = start(tmp_path / "run", Size(levels=0, replicates=1, controls=0), variance=0.9, metrics=("svcca",))
    kept = make(run)["similarity"]["kept_x"]
    whole = tables.load(finished.root)["similarity"].query("level == 0 and replicate == 0 and metric == 'svcca'")[
        "kept_x"
    ]
    assert kept.sum() < whole.sum()


def test_layers_can_be_chosen(tmp_path):
    run = start(tmp_path / "run", Size(levels=0, replicates=1, controls=0), layers=("conv1", "fc?"))
    assert set(make(run)["similarity"]["layer"]) == {"conv1", "fc1"}
