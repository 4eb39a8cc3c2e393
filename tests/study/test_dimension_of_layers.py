"""The intrinsic dimension of the layers in a study: asked for or not, resumed, damaged, and of dead layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import studies
import torch

from prunecca import intrinsic_dimensions
from prunecca.data.loading import representation_subset
from prunecca.storage import states
from prunecca.study import level, tables
from prunecca.study.level import DIMENSION, STATE
from prunecca.study.options import Size
from prunecca.study.plan import Network
from prunecca.study.reporter import Reporter
from prunecca.study.resolve import ResolvedProblem
from prunecca.study.run_directory import RunDirectory

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = ["conv1", "pool1", "conv6", "fc1"]
FLAGS = {
    **{"epochs": 2, "rewind_epoch": 1, "train_images": 64, "images": 40, "metrics": ("nbs",)},
    **{"dimension_images": 30, "layers": tuple(LAYERS)},
}
SIZE = Size(levels=1, replicates=2, controls=1)


class Noting(Reporter):
    """Keeps the epoch from which each network was trained, and the messages."""

    def __init__(self) -> None:
        self.begun: list[tuple[str, int]] = []
        self.messages: list[str] = []

    def begin(self, name: str, epoch: int, epochs: int) -> None:
        self.begun.append((name, epoch))

    def message(self, text: str) -> None:
        if " directions" not in text:  # a hint of few images
            self.messages.append(text)


def start(out: Path, size: Size = SIZE, **changes: Any) -> RunDirectory:
    return studies.start(out, {**FLAGS, **changes}, size)


def make(run: RunDirectory, reporter: Reporter | None = None) -> Any:
    return studies.make(run, reporter)["dimension"]


def dimension(run: RunDirectory) -> Any:
    """The table of what is finished."""
    return tables.build(run, run.plan(), run.finished())["dimension"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = start(tmp_path_factory.mktemp("dimension") / "run")
    make(run)
    return run


def test_the_table_has_a_row_for_every_network_and_layer(finished: RunDirectory) -> None:
    table = dimension(finished)
    assert list(table.columns) == [
        *("problem", "replicate", "level", "control", "layer", "kind", "depth"),
        *("dimension", "error", "count", "duplicates", "features"),
    ]
    networks = table.groupby(["control", "replicate", "level"])["layer"].apply(list)
    assert networks.index.tolist() == [(False, 0, 0), (False, 0, 1), (False, 1, 0), (False, 1, 1), (True, 0, 1)]
    assert networks.tolist() == [LAYERS] * 5
    assert table["kind"].tolist() == ["conv", "pool", "conv", "fc"] * 5
    assert table["features"].tolist() == [8 * 32 * 32, 8 * 16 * 16, 32 * 8 * 8, 64] * 5
    assert (table["count"] + table["duplicates"]).unique().tolist() == [30]
    assert (table["dimension"] > 0).all()
    assert (table["error"] > 0).all()


def test_the_numbers_are_those_of_the_first_images_of_the_comparison(finished: RunDirectory) -> None:
    piece = Network("digits2", 1, 1)
    plan = finished.plan()
    setting = plan.problems["digits2"]
    model = setting.build(plan.options)
    model.load_state_dict(states.load_state(finished.path(piece, STATE))[0])
    images = representation_subset(setting.splits(None).train, 40, 0)
    expected = intrinsic_dimensions(model, images, LAYERS, max_datapoints=30).drop(columns="pc_dimension")
    table = dimension(finished).query("replicate == 1 and level == 1")
    assert table[expected.columns].reset_index(drop=True).equals(expected)


def test_no_images_no_dimension(finished: RunDirectory, tmp_path: Path) -> None:
    run = start(tmp_path / "run", Size(levels=0, replicates=1, controls=0), dimension_images=0)
    assert make(run).empty
    assert not run.path(Network("digits2"), DIMENSION).exists()
    tables.write(run, run.plan(), run.finished())
    assert tables.load(run.root)["dimension"].empty
    same = [states.load_state(its.path(Network("digits2"), STATE))[0] for its in (run, finished)]
    assert states.digest(same[0]) == states.digest(same[1]), "measuring changes no network"


def test_interrupted_while_it_is_measured_it_goes_on_from_there(
    finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(tmp_path / "run")
    measure, calls = level.intrinsic_dimensions, 0

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return measure(*arguments, **options)

    monkeypatch.setattr(level, "intrinsic_dimensions", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make(run)
    reporter = Noting()
    assert make(run, reporter).equals(dimension(finished))
    assert reporter.begun[0] == ("digits2 replicate 0 level 1", 2), "trained already"


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_damaged_file_is_made_again(tmp_path: Path, damage: str) -> None:
    run = start(tmp_path / "run", Size(levels=0, replicates=1, controls=0))
    before = make(run)
    path = run.path(Network("digits2"), DIMENSION)
    whole = path.read_bytes()
    path.unlink()
    if damage == "cut":
        path.write_bytes(whole[:100])
    reporter = Noting()
    assert make(run, reporter).equals(before)
    assert path.read_bytes() == whole
    assert reporter.messages == [
        f"{path} is {'damaged' if damage == 'cut' else 'missing'}: digits2 level 0 is made again"
    ]


def test_dead_layers_have_none_and_stop_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killing(self: ResolvedProblem, *arguments: Any) -> torch.nn.Module:
        model: Any = build(self, *arguments)
        with torch.no_grad():  # a channel in ten lives in conv6, none in fc1
            model.conv6[0].bias[3:] = -1e9
            model.fc1[0].bias.fill_(-1e9)
        return model

    build = ResolvedProblem.build
    monkeypatch.setattr(ResolvedProblem, "build", killing)
    table = make(start(tmp_path / "run", Size(levels=1, replicates=1, controls=0))).set_index("layer")
    dead = table.loc["fc1"]
    assert dead["dimension"].isna().all()
    assert dead["error"].isna().all()
    assert dead["count"].tolist() == [1, 1]
    assert dead["duplicates"].tolist() == [29, 29]
    assert table.loc["conv6", "dimension"].notna().all()
