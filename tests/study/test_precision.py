"""The precision of a study: chosen once for a run directory, and what a smaller test split changes."""

import time

import pytest
import studies
import torch
from tape import Tapes

from prunecca.data import load
from prunecca.errors import ConfigurationError
from prunecca.storage import states
from prunecca.study import resolve, study
from prunecca.study.options import Options, Size
from prunecca.study.plan import Network
from prunecca.training import precision as precision_module
from prunecca.training.precision import step_seconds

BASE = {"epochs": 2, "rewind_epoch": 1, "train_images": 64, "images": 16, "metrics": ("nbs",), "dimension_images": 0}
UNPRUNED = Network("digits2")


def prepared(out, problems=("digits2",), **flags):
    said = []
    run = study.prepare(problems, Options.from_flags(**{**BASE, **flags}), Size(0, 1, 0), out, message=said.append)
    return run, said


def faster(monkeypatch, name):
    seconds = {"float32": 0.2, "bfloat16": 0.2, name: 0.1}
    monkeypatch.setattr(resolve, "step_seconds", lambda model, inputs, labels: seconds)


def precision(run, problem="digits2"):
    return run.configuration()["problems"][problem]["settings"]["precision"]


def test_auto_takes_the_faster_one_says_so_and_keeps_it(tmp_path, monkeypatch):
    faster(monkeypatch, "bfloat16")
    run, said = prepared(tmp_path / "run", precision="auto")
    assert precision(run) == "bfloat16"
    assert said == [
        "digits2: a training step of 32 images takes 200 ms in float32 and 100 ms in bfloat16; bfloat16 is chosen"
    ]
    faster(monkeypatch, "float32")  # as on another machine
    run, said = prepared(tmp_path / "run", ("digits2", "digits4"), precision="auto")
    assert [precision(run, name) for name in ("digits2", "digits4")] == ["bfloat16", "float32"]
    assert len(said) == 1
    assert said[0].startswith("digits4: ")


def test_a_lost_configuration_does_not_change_the_precision(tmp_path, monkeypatch):
    faster(monkeypatch, "bfloat16")
    run, _ = prepared(tmp_path / "run", precision="auto")
    run.note_environment({})
    (tmp_path / "run" / "config.json").unlink()
    faster(monkeypatch, "float32")
    assert precision(prepared(tmp_path / "run", precision="auto")[0]) == "bfloat16"


def test_a_network_is_trained_in_the_precision_of_its_problem(tmp_path):
    digests = {}
    for name in ("float32", "bfloat16"):
        run, said = prepared(tmp_path / name, precision=name)
        studies.make(run)
        digests[name] = states.digest(studies.state(run, UNPRUNED))
        assert precision(run) == name
        assert not said
    assert digests["float32"] != digests["bfloat16"]
    with pytest.raises(ConfigurationError, match="precision = float32, and now precision = bfloat16 is asked for"):
        prepared(tmp_path / "float32", precision="bfloat16")


def test_a_step_in_each_precision_leaves_the_network_as_it_is():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3), torch.nn.BatchNorm1d(3))
    before = states.digest(model.state_dict())
    seconds = step_seconds(model, torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 0]))
    assert set(seconds) == {"float32", "bfloat16"}
    assert min(seconds.values()) > 0
    assert states.digest(model.state_dict()) == before
    assert all(p.grad is None for p in model.parameters())


class SlowAtFirst(torch.nn.Linear):
    """Takes long for the first pass in bfloat16, as kernels do that are loaded or made then."""

    def forward(self, x):
        if torch.is_autocast_enabled("cpu") and not hasattr(self, "loaded"):
            self.loaded = True
            time.sleep(0.5)
        return super().forward(x)


def test_a_first_step_does_not_count():
    model = torch.nn.Sequential(torch.nn.Flatten(), SlowAtFirst(12, 3))
    seconds = step_seconds(model, torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 0]))
    assert max(seconds.values()) < 0.5


def test_on_a_device_the_step_is_timed_as_it_is_replayed(monkeypatch):
    tapes = Tapes()
    monkeypatch.setattr(precision_module, "recorder_for", lambda device: tapes)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    seconds = step_seconds(model, torch.randn(4, 3, 2, 2), torch.tensor([0, 1, 2, 0]))
    assert set(seconds) == {"float32", "bfloat16"}
    assert tapes.recorded == 2
    assert 3 <= tapes.replayed <= 4


def test_a_gpu_times_the_batch_that_it_trains_on(monkeypatch):
    sizes = {}

    def measured(model, inputs, labels):
        sizes[inputs.device.type] = len(labels)
        return {"float32": 0.1, "bfloat16": 0.2}

    monkeypatch.setattr(resolve, "step_seconds", measured)
    options = Options(batch_size=100)
    problem = resolve.resolve("digits2", options)
    for place in ("cpu", "meta"):  # the latter for a device that is no CPU
        resolve.with_faster_precision(problem, options, None, place, lambda text: None)
    assert sizes == {"cpu": 64, "meta": 100}


def test_fewer_test_images_are_always_the_same_and_change_no_weight(tmp_path):
    some, _ = prepared(tmp_path / "some", test_images=20)
    everything, _ = prepared(tmp_path / "all")
    splits = some.plan().problems["digits2"].splits(None)
    again = prepared(tmp_path / "again", test_images=20)[0].plan().problems["digits2"].splits(None)
    assert len(splits.test) == 20 < len(load("digits2").test)
    assert splits.digest == again.digest
    tables = [studies.make(run)["levels"] for run in (some, everything)]
    assert tables[0].digest.tolist() == tables[1].digest.tolist()
    hits = tables[0].test_accuracy[0] * 20
    assert hits == pytest.approx(round(hits))
