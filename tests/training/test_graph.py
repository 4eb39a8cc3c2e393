"""Training steps that are replayed give the bits of steps that are not; a tape stands in for the CUDA graph."""

from __future__ import annotations

import contextlib

import pytest
import torch
import waiting
from tape import Tapes
from trainings import everything, start, tiny

from prunecca.data import augmentation
from prunecca.data import splits as splits_module
from prunecca.errors import CaptureFailed, ConfigurationError
from prunecca.pruning import MaskedAdam, Snapshot, optimizers
from prunecca.training import graph
from prunecca.training import training as module
from prunecca.training.config import TrainingConfig
from prunecca.training.training import Training

pytestmark = pytest.mark.usefixtures("one_thread")
NAME = "conv2.0.weight"


def mask(seed=1):
    return {NAME: torch.rand(4, 4, 3, 3, generator=torch.Generator().manual_seed(seed)) < 0.5}


@pytest.fixture
def tapes(monkeypatch):
    """Stands in for CUDA graphs in every training that is made."""
    tapes = Tapes()
    monkeypatch.setattr(module, "recorder_for", lambda device: tapes)
    for each in (optimizers, augmentation):
        monkeypatch.setattr(each, "_native", tapes.extension())
    return tapes


def touched(training):
    """What a step changes, besides what it makes itself."""
    epoch = training._graph._epoch
    remembered = [value for state in training.optimizer.state.values() for value in state.values()]
    return [*training.model.state_dict().values(), *remembered, *(epoch.tensors() if epoch else [])]


@pytest.fixture
def make(splits, tapes):
    """Trainings of seven full batches and one of four images; their optimizer is the one of a device."""

    def adam(model, config):
        return MaskedAdam(model.named_parameters(), mask(), lr=config.lr, weight_decay=1e-3, capturable=True)

    def made(graphs=True, model=None, factory=adam, **changes):
        config = TrainingConfig(**{"epochs": 4, "batch": 8, "lr": 0.01, **changes})
        training = Training(model or tiny(), splits, config, seed=7, optimizer_factory=factory)
        training.graphs = graphs

        tapes.touched.append(lambda: touched(training))
        return training

    return made


@pytest.mark.parametrize(
    "changes", [{}, {"augmentation": None}, {"channels_last": False}, {"precision": "bfloat16"}, {"batch": 6}]
)
def test_replayed_steps_give_the_bits_of_steps_that_are_not(make, tapes, changes):
    replayed, plain = make(epochs=3, **changes), make(graphs=False, epochs=3, **changes)
    replayed.run()
    full = 60 // replayed.config.batch
    assert (tapes.recorded, tapes.replayed) == (1, 3 * full - graph.WARM_UPS)
    assert replayed.captured
    plain.run()
    assert not plain.captured
    assert everything(replayed) == everything(plain)
    assert not replayed.model.get_parameter(NAME)[~mask()[NAME]].any()


def test_images_are_warped_on_the_tape_as_on_a_device(make, tapes, monkeypatch):
    def by_grid_sample(images, index, maps, mean, std, channels_last):
        return augmentation._warp_by_grid_sample(images[index], maps, mean, std)

    monkeypatch.setattr(splits_module, "warp", by_grid_sample)
    ends = []
    for graphs in (True, False):
        training = make(graphs=graphs, epochs=2)
        training.run()
        ends.append(everything(training))
    assert ends[0] == ends[1]


def test_a_resumed_training_captures_elsewhere_and_draws_the_same(make, tapes, tmp_path):
    whole, first = make(), make()
    whole.run()
    first.run_epoch()
    first.run_epoch()
    first.state().save(tmp_path / "state")
    second = make(model=tiny(seed=55))
    second.load(Snapshot.load(tmp_path / "state"))
    second.run()
    assert everything(second) == everything(whole)


@pytest.mark.parametrize("stop", [2, 5, 8])
def test_an_interrupted_epoch_is_put_back_and_captured_anew(make, tapes, stop):
    training, plain = make(), make(graphs=False)
    training.run_epoch()
    before = everything(training)
    seen = []

    def interrupt(done, batches):
        seen.append((done, batches))
        if done == stop:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.run_epoch(interrupt)
    assert seen == [(n, 8) for n in range(1, stop + 1)]
    assert everything(training) == before
    training.run()
    plain.run()
    assert everything(training) == everything(plain)


def another_rate(training):
    training.optimizer.param_groups[0]["lr"] = 0.003


def other_masks(training):
    training.optimizer.set_masks(mask(seed=5))


def a_frozen_weight(training):
    training.model.output.weight.requires_grad_(False)


def another_dropout(training):
    training.model.dropout1.p = 0.25


def an_older_state(training):
    training.load(training.state())


@pytest.mark.parametrize("change", [another_rate, other_masks, a_frozen_weight, another_dropout, an_older_state])
def test_what_a_capture_made_constant_is_captured_anew(make, tapes, change):
    ends = []
    for graphs in (True, False):
        training = make(graphs=graphs, epochs=2)
        training.run_epoch()
        change(training)
        training.run()
        ends.append(everything(training))
    assert ends[0] == ends[1]
    assert tapes.recorded == 2


def hooked(training):
    training.model.conv1.register_forward_hook(lambda module, inputs, out: None)


def penalised(training):
    training.optimizer.penalty.kind = "l1"


def switched_off(training):
    training.graphs = False


@pytest.mark.parametrize("change", [hooked, penalised, switched_off])
def test_what_a_graph_cannot_hold_is_not_captured(make, tapes, change):
    training = make(epochs=1)
    change(training)
    with contextlib.suppress(TypeError):  # the penalty is not made on a device
        training.run()
    assert not training.captured
    assert tapes.recorded == 0


def test_other_optimizers_and_few_batches_are_not_captured(make, tapes):
    def plain_adam(model, config):
        return torch.optim.Adam(model.parameters(), lr=config.lr)

    for changes in ({"factory": plain_adam}, {"batch": 20}):
        training = make(epochs=1, **changes)
        training.run()
        assert (tapes.recorded, training.captured) == (0, False)


class Reading(torch.nn.Module):
    """Decides by a number that is read back."""

    def __init__(self):
        super().__init__()
        self.inner = tiny()

    def forward(self, x):
        return self.inner(x if x.mean().item() > -1e9 else -x)


def test_a_step_that_waits_is_refused_and_the_epoch_put_back(make, tapes):
    training = make(model=Reading(), factory=lambda m, c: MaskedAdam(m.named_parameters(), lr=c.lr, capturable=True))
    before = everything(training)
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        training.run_epoch()
    assert everything(training) == before
    training.graphs = False
    training.run_epoch()


def test_a_capture_that_fails_is_one_sentence_that_names_the_switch(monkeypatch):
    class Failing:
        def __init__(self, *args, **options):
            pass

        def __enter__(self):
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nCUDA kernel errors ...")

        def __exit__(self, *what):
            pass

    for name in ("CUDAGraph", "Stream"):
        monkeypatch.setattr(torch.cuda, name, lambda *a, **o: None)
    monkeypatch.setattr(torch.cuda, "device", contextlib.nullcontext)
    monkeypatch.setattr(torch.cuda, "graph", Failing)
    with pytest.raises(CaptureFailed) as told:
        graph.CudaGraphs(torch.device("cuda", 77)).record(lambda: None)
    graph._side_stream.cache_clear()
    assert str(told.value) == (
        "a training step cannot be captured in a CUDA graph (CUDA error: operation not permitted when stream is "
        "capturing); set PRUNECCA_CUDA_GRAPHS=off to train without graphs"
    )


def test_the_variable_switches_graphs_off(make, monkeypatch):
    for value, on in (("off", False), ("auto", True), ("", True)):
        monkeypatch.setenv("PRUNECCA_CUDA_GRAPHS", value)
        assert graph.graphs_are_on() is on
    monkeypatch.setenv("PRUNECCA_CUDA_GRAPHS", "no")
    with pytest.raises(ConfigurationError, match=r"^PRUNECCA_CUDA_GRAPHS is 'no'; expected auto or off$"):
        graph.graphs_are_on()


def test_on_a_cpu_nothing_is_captured(splits):
    training = start(splits, batch=8, epochs=1)
    training.run()
    assert (training.graphs, training.captured) == (True, False)
    assert graph.recorder_for(torch.device("cpu")) is None


@pytest.mark.cuda
@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16"}, {"channels_last": False}, {"augmentation": None}])
def test_on_the_gpu_a_graph_gives_the_bits_of_plain_steps(splits, changes, tmp_path):
    def made(graphs=True, seed=0):
        config = TrainingConfig(**{"epochs": 4, "batch": 8, "lr": 0.01, **changes})
        masks = {NAME: mask()[NAME].cuda()}
        training = Training(tiny(seed).cuda(), splits, config, seed=7, masks=masks)
        training.graphs = graphs
        return training

    replayed, again, plain, first = made(), made(), made(graphs=False), made()
    for training in (replayed, again, plain):
        training.run()
    assert (replayed.captured, plain.captured) == (True, False)
    assert everything(replayed) == everything(again), "repetition"
    assert everything(replayed) == everything(plain), "without a graph"
    first.run_epoch()
    first.state().save(tmp_path / "state")
    resumed = made(seed=3)
    resumed.load(Snapshot.load(tmp_path / "state"))
    resumed.run()
    assert everything(resumed) == everything(replayed), "resumed"


@pytest.mark.cuda
def test_on_the_gpu_nothing_waits_while_a_graph_is_replayed(splits):
    training = start(splits, model=tiny().cuda(), batch=8, epochs=2)
    try:
        training.run(lambda done, batches: waiting.forbid(graph.WARM_UPS < done < batches))
    finally:
        waiting.forbid(False)
    assert training.captured


@pytest.mark.cuda
def test_on_the_gpu_a_step_that_waits_is_one_sentence(splits):
    training = start(splits, model=Reading().cuda(), batch=8)
    before = everything(training)
    with pytest.raises(CaptureFailed, match="set PRUNECCA_CUDA_GRAPHS=off to train without graphs"):
        training.run_epoch()
    assert everything(training) == before
