"""Every case of the CUDA benchmarks in miniature, on the host."""

import math

import pytest
import torch
from benchmarks.cuda import covariance, linalg, networks, pruning

from prunecca import models

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("shape", "order"), [((6, 16, 5, 5), "NCHW"), ((6, 16, 5, 5), "channels_last"), ((900, 9), "NCHW")]
)
def test_covariance_cases(bench, shape, order, dtype):
    row = covariance.update(bench, shape, order, dtype)
    assert row.error <= covariance.ERROR
    assert row.bytes == math.prod(shape) * dtype.itemsize
    assert len(row.aims) == (2 if dtype == torch.float32 else 1)


def test_wide_layers_are_held_against_tensor_cores(bench):
    row = covariance.update(bench, (300, 256))
    assert [aim.least for aim in row.aims] == [0.6, 3.0]


def test_layers_are_those_of_the_papers_networks():
    listed = set(covariance.LAYERS)
    found = set()
    for problem in ("cifar2", "cifar4", "cifar6", "cifar8", "cifar10"):
        model = models.build(problem, seed=0).eval()
        shapes: list[torch.Size] = []
        for name in model.representation_layers:
            model.get_submodule(name).register_forward_hook(lambda m, a, out, to=shapes: to.append(out.shape))
        with torch.no_grad():
            model(torch.zeros(1, 3, 32, 32))
        found |= {(s[1], s[2] if len(s) == 4 else 1) for s in shapes}
        if problem == "cifar10":
            assert [(s[1], s[2] if len(s) == 4 else 1) for s in shapes] == linalg.LAYERS
    assert listed == found


def test_pruning_cases(bench):
    for kind in ("Adam", "SGD"):
        assert pruning.step(bench, kind, 5000).error <= 1e-6
    assert pruning.selection(bench, 5000).aims[0].least == 10
    for backward in (False, True):
        row = pruning.operator(bench, 3000, backward)
        assert (row.bytes, row.aims[0].least) == (27000, 0.85)


def test_linalg_cases(bench, monkeypatch):
    monkeypatch.setattr(linalg, "BATCH", 50)
    row = linalg.study(bench, [(8, 4), (20, 1)], 3)
    assert row.error <= 1e-6
    assert set(row.seconds) == {"prunecca", "torch, one by one", "accumulating"}
    assert linalg.one_size(bench, 12, 3).error < 1e-12


def test_whole_jobs(bench):
    assert networks.comparison(bench, "cifar2", 40, 2).error <= 1e-6
    row = networks.epoch(bench, "cifar2", 60)
    assert set(row.seconds) == {"prunecca", "contiguous", "bfloat16", "torch Adam, no masks"}


@pytest.mark.parametrize(("problem", "goal"), [("cifar2", 0.15), ("cifar10", 0.7)])
def test_epochs_in_a_graph_have_the_goals_and_rivals(problem, goal, bench, monkeypatch):
    build = models.build
    monkeypatch.setattr(models, "build", lambda name, seed: build("digits2", 10, seed=seed))
    monkeypatch.setattr(networks, "step_seconds", lambda *of_a_step: {"float32": 0.1, "bfloat16": 0.2})
    row = networks.replayed(bench, problem, 40)
    assert set(row.seconds) == {"prunecca", "float32 without", "torch's loop"}
    assert [aim.name for aim in row.aims] == [f"times faster than {goal} s", "times faster than torch's loop"]
    assert [aim.least for aim in row.aims] == [1.0, 5.0]
    assert row.aims[0].value == pytest.approx(goal / row.ours)
    monkeypatch.setattr(networks.Training, "_replayed", lambda *of_an_epoch: iter(()))
    monkeypatch.setattr(networks.torch, "equal", lambda a, b: False)
    with pytest.raises(AssertionError, match="'float32 in a graph' and 'float32 without' differ in their weights"):
        networks.replayed(bench, problem, 40)
