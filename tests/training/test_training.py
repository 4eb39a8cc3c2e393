"""Training as a value: exact resumption, rewinding, early stopping, and what is said when it goes wrong."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import waiting

from prunecca import models
from prunecca.data.augmentation import Augmentation
from prunecca.data.loading import load
from prunecca.data.splits import Split, Splits
from prunecca.errors import Diverged
from prunecca.pruning import Snapshot
from prunecca.storage import states
from prunecca.training import training as module
from prunecca.training.config import TrainingConfig
from prunecca.training.evaluation import evaluate
from prunecca.training.training import Training

TINY = models.Problem("tiny", "any", 3, "4* 4 MP", "8*")


def images(count, seed, classes=3):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % classes
    pixels = torch.randint(0, 120, (count, 3, 8, 8), generator=generator)
    for row, label in enumerate(labels.tolist()):
        pixels[row, label] += 60  # the class is the bright channel
    return Split(pixels.to(torch.uint8), labels, (0.3,) * 3, (0.2,) * 3)


@pytest.fixture(scope="module")
def splits():
    return Splits("tiny", ("a", "b", "c"), train=images(60, 1), test=images(30, 2))


@pytest.fixture(scope="module")
def validated(splits):
    return splits.hold_out(0.2)


def tiny(seed=0, dropout=0.5):
    return models.build(TINY, dropout=dropout, image_size=8, seed=seed)


def start(splits, seed=7, model=None, **changes):
    config = TrainingConfig(**{"epochs": 4, "batch": 16, "lr": 0.01, **changes})
    return Training(model or tiny(), splits, config, seed=seed)


def without_seconds(history):
    return [{key: value for key, value in record.items() if key != "seconds"} for record in history]


def everything(training):
    snapshot = training.state()
    return states.digest(snapshot.tensors()), without_seconds(snapshot.records["history"])


def test_it_learns_and_records_each_epoch(validated):
    training = start(validated, epochs=8)
    history = training.run()
    assert [record["epoch"] for record in history] == list(range(1, 9))
    assert set(history[0]) == {
        *("epoch", "train_loss", "train_accuracy", "val_loss", "val_accuracy", "test_loss", "test_accuracy", "seconds")
    }
    assert history[-1]["test_accuracy"] > 0.9 > history[0]["test_accuracy"]
    assert history[-1]["train_loss"] < history[0]["train_loss"]


@pytest.mark.parametrize("stop", [1, 2, 3, 4, 5])
def test_going_on_after_any_epoch_gives_the_same_bits(validated, stop, tmp_path):
    whole = start(validated, epochs=6, patience=3)
    whole.run()

    first = start(validated, epochs=6, patience=3)
    for _ in range(min(stop, len(whole.history))):
        first.run_epoch()
    first.state().save(tmp_path / "state")
    torch.manual_seed(999)  # a resumed process has another global generator
    second = start(validated, epochs=6, patience=3, model=tiny(seed=55))
    second.load(Snapshot.load(tmp_path / "state"))
    second.run()
    assert everything(second) == everything(whole)
    assert second.best == whole.best or without_seconds([second.best]) == without_seconds([whole.best])


def test_an_interrupted_epoch_leaves_no_trace(validated):
    training = start(validated)
    training.run_epoch()
    before = everything(training)

    def interrupt(done, batches):
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training.run_epoch(interrupt)
    assert everything(training) == before
    training.run_epoch()
    whole = start(validated)
    whole.run_epoch()
    whole.run_epoch()
    assert everything(training) == everything(whole)


def test_an_interruption_after_the_last_batch_leaves_no_trace_either(validated, monkeypatch):
    training = start(validated, patience=1)
    training.run_epoch()
    before = everything(training), training.best
    copy = module.copied

    def interrupt(model):
        if training.epoch == 2:
            raise KeyboardInterrupt
        return copy(model)

    monkeypatch.setattr(module, "copied", interrupt)
    training.best["val_loss"] = 99.0  # so that the second epoch is better, and its weights are copied
    with pytest.raises(KeyboardInterrupt):
        training.run_epoch()
    assert training.epoch == 1
    assert (everything(training)[0], training.best) == (before[0][0], before[1])


def test_replicates_differ_by_their_seed_and_by_nothing_else(splits):
    first, second, again = (start(splits, seed=seed) for seed in (1, 2, 1))
    assert everything(first)[0] == everything(second)[0]
    for training in (first, second, again):
        training.run_epoch()
    assert everything(first) == everything(again)
    assert everything(first)[0] != everything(second)[0]


@pytest.mark.parametrize("cause", ["order", "augmentation", "dropout"])
def test_each_source_of_randomness_follows_the_epoch(splits, cause, monkeypatch):
    """Hold the two other causes still: two epochs from the same weights must still differ."""
    from prunecca import seeds

    derive = seeds.derive
    monkeypatch.setattr(
        seeds, "derive", lambda seed, purpose, epoch=0: derive(seed, purpose, epoch if purpose == cause else 0)
    )
    ends = []
    for epoch in (0, 1):
        training = start(splits)
        training.start_from(replace(start(splits).state(), epoch=epoch))
        training.run_epoch()
        ends.append(everything(training)[0])
    assert ends[0] != ends[1]


def test_training_leaves_the_global_generator_alone(splits):
    before = torch.random.get_rng_state()
    start(splits).run_epoch()
    assert torch.equal(torch.random.get_rng_state(), before)


def test_state_is_a_copy_with_flat_names(splits):
    training = start(splits)
    training.run_epoch()
    snapshot = training.state()
    tensors, metadata = snapshot.tensors(), snapshot.records
    digest = states.digest(tensors)
    assert {"model.conv1.0.weight", "model.conv1.1.running_mean", "optimizer.exp_avg.conv1.0.weight"} <= set(tensors)
    json.dumps(metadata, allow_nan=False)
    training.run_epoch()
    assert states.digest(tensors) == digest


def test_rewinding_restores_everything_and_never_aliases(splits):
    origin = start(splits)
    for _ in range(2):
        origin.run_epoch()
    snapshot = origin.state()
    stored = snapshot.tensors()
    digest = states.digest(stored)
    origin.run()

    replicate = start(splits, seed=8, model=tiny(seed=3))
    for _ in range(3):  # rewind, train, rewind again
        replicate.start_from(replace(snapshot, epoch=2))
        assert states.digest(replicate.state().tensors()) == digest
        assert (replicate.epoch, replicate.history, replicate.best) == (2, [], None)
        history = replicate.run()
        assert [record["epoch"] for record in history] == [3, 4]
        assert states.digest(stored) == digest


def test_rewinding_with_the_same_seed_is_the_control(splits):
    origin = start(splits)
    origin.run_epoch()
    snapshot = origin.state()
    origin.run()
    control = start(splits, model=tiny(seed=3))
    control.start_from(replace(snapshot, epoch=1))
    control.run()
    assert states.digest(control.state().tensors()) == states.digest(origin.state().tensors())


def test_a_fresh_optimizer_forgets_the_moments(splits):
    origin = start(splits)
    origin.run_epoch()
    fresh = start(splits)
    fresh.start_from(replace(origin.state(), epoch=1), optimizer="fresh")
    names = list(fresh.state().tensors())
    assert not any(name.startswith("optimizer.") for name in names)
    fresh.run_epoch()
    origin.run_epoch()
    assert everything(fresh)[0] != everything(origin)[0]


def test_early_stopping_ends_with_the_best_weights(validated):
    training = start(validated, epochs=40, patience=2, lr=0.05)
    kept = {}
    while not training.finished:
        record = training.run_epoch()
        kept[record["epoch"]] = evaluate(training.model, validated.validation)[0]
    losses = [record["val_loss"] for record in training.history]
    best = losses.index(min(losses)) + 1
    assert training.best["epoch"] == best
    assert training.epoch == best + 2 < 40
    assert evaluate(training.model, validated.validation)[0] == losses[best - 1]
    snapshot = training.state()
    again = start(validated, epochs=40, patience=2, lr=0.05)
    again.load(snapshot)
    assert again.finished
    assert evaluate(again.model, validated.validation)[0] == losses[best - 1]
    with pytest.raises(ValueError, match=f"finished after epoch {training.epoch}"):
        again.run_epoch()


def test_patience_counts_anew_after_a_rewind(validated):
    origin = start(validated, patience=1)
    origin.run_epoch()
    snapshot = origin.state()
    replicate = start(validated, patience=1)
    replicate.start_from(replace(snapshot, epoch=3))
    assert not replicate.finished
    replicate.run_epoch()
    assert replicate.best["epoch"] == 4


def test_evaluation_is_deterministic_and_leaves_the_mode_alone(splits):
    model = tiny()
    model.conv1.eval()
    before = states.digest(model.state_dict())
    assert evaluate(model, splits.test) == evaluate(model, splits.test)
    loss, accuracy = evaluate(model, splits.test, batch=7)
    assert loss == pytest.approx(evaluate(model, splits.test)[0], rel=1e-6)
    assert accuracy == evaluate(model, splits.test)[1]
    assert model.training
    assert not model.conv1.training
    assert states.digest(model.state_dict()) == before


def test_a_last_batch_of_one_image_is_left_out(splits):
    split = splits.train.subset(torch.arange(33))
    training = start(replace(splits, train=split), batch=16)
    steps = []
    training.run_epoch(lambda done, batches: steps.append((done, batches)))
    assert steps == [(1, 3), (2, 3)]


def test_masked_entries_are_zero_from_the_start_after_a_rewind_and_after_training(splits):
    origin = start(splits)
    origin.run_epoch()
    snapshot = origin.state()
    stored = snapshot.tensors()
    mask = torch.rand(4, 4, 3, 3) < 0.5
    name = "conv2.0.weight"
    training = Training(tiny(), splits, origin.config, seed=1, masks={name: mask})
    assert not training.model.conv2[0].weight[~mask].any()
    training.start_from(replace(snapshot, epoch=1))
    state = training.state().tensors()
    for kind in ("model", "optimizer.exp_avg", "optimizer.exp_avg_sq"):
        assert stored[f"{kind}.{name}"][~mask].any()
        assert not state[f"{kind}.{name}"][~mask].any()
        assert torch.equal(state[f"{kind}.{name}"][mask], stored[f"{kind}.{name}"][mask])
    others = {key for key in stored if not key.endswith(name)}
    assert all(torch.equal(state[key], stored[key]) for key in others)
    training.run()
    state = training.state().tensors()
    assert not any(
        state[f"{kind}.{name}"][~mask].any() for kind in ("model", "optimizer.exp_avg", "optimizer.exp_avg_sq")
    )


def test_another_optimizer_can_be_given_and_resumed(splits):
    def momentum(model, config):
        return torch.optim.SGD(model.parameters(), lr=config.lr, momentum=0.9)

    def new():
        return Training(tiny(), splits, TrainingConfig(epochs=2, batch=16), seed=1, optimizer_factory=momentum)

    whole, half, rest = new(), new(), new()
    whole.run()
    half.run_epoch()
    rest.load(half.state())
    rest.run()
    assert "optimizer.momentum_buffer.conv1.0.weight" in rest.state().tensors()
    assert everything(rest) == everything(whole)


def test_a_loss_that_is_not_finite_names_epoch_and_batch_and_undoes_the_epoch(splits):
    training = start(splits, augmentation=None)
    training.run_epoch()
    before = everything(training)
    poisoned = []

    def poison(done, batches):
        if done == 2:
            poisoned.append(done)
            training.model.output.bias.data[0] = float("nan")

    with pytest.raises(Diverged, match="the loss is nan in epoch 2, batch 3 of 4; lower"):
        training.run_epoch(poison)
    assert poisoned
    assert everything(training) == before


def test_bfloat16_and_both_memory_layouts_train(splits):
    for changes in ({"precision": "bfloat16"}, {"channels_last": False}, {"augmentation": Augmentation(flip=False)}):
        training = start(splits, epochs=8, **changes)
        assert training.run()[-1]["test_accuracy"] > 0.6
        assert training.model.conv1[0].weight.dtype == torch.float32


def test_the_schedule_of_a_problem():
    config = TrainingConfig.for_problem("cifar10", epochs=3)
    assert (config.epochs, config.patience, config.batch, config.lr, config.weight_decay) == (3, 20, 128, 1e-3, 5e-4)
    assert config.augmentation == Augmentation(crop=4, flip=True, rotation=15, translation=0.1)
    assert TrainingConfig.for_problem("digits4").augmentation.flip is False


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 0}, "epochs is 0 and batch is 16; expected at least 1 and 2"),
        ({"batch": 1}, "batch is 1"),
        ({"lr": 0.0}, "lr is 0.0"),
        ({"patience": 0}, "patience is 0"),
        ({"patience": 3}, "patience needs a validation split"),
        ({"precision": "float8"}, "precision is 'float8'"),
        ({"seed": -1}, None),
    ],
)
def test_wrong_settings_are_one_sentence(splits, changes, sentence):
    if sentence is None:
        with pytest.raises(ValueError, match="seed is -1"):
            start(splits, **changes).run_epoch()
    else:
        with pytest.raises(ValueError, match=sentence):
            start(splits, **changes)


def test_a_state_that_does_not_belong_is_refused(splits, validated):
    training = start(splits)
    training.run_epoch()
    snapshot = training.state()
    for other, sentence in (
        (start(splits, seed=8), "the state has seed 7, this training 8"),
        (start(validated), "the state has split"),
        (start(splits, lr=0.02), "the state has config"),
    ):
        with pytest.raises(ValueError, match=sentence):
            other.load(snapshot)
    wide = models.build(models.Problem("wide", "any", 3, "5* 4 MP", "8*"), image_size=8)
    with pytest.raises(
        ValueError, match=r"does not fit the network at conv1.0.bias: it has \(4,\), the network \(5,\)"
    ):
        start(splits, model=wide).load(snapshot)
    with pytest.raises(ValueError, match="epoch is 4; expected 0 to 3"):
        start(splits).start_from(replace(snapshot, epoch=4))
    with pytest.raises(ValueError, match="optimizer is 'keep'"):
        start(splits).start_from(replace(snapshot, epoch=1), optimizer="keep")
    with pytest.raises(ValueError, match="mask 'conv1' names no parameter"):
        Training(tiny(), splits, TrainingConfig(), seed=0, masks={"conv1": torch.ones(4) > 0})
    with pytest.raises(ValueError, match="both masks and an optimizer_factory"):
        Training(tiny(), splits, TrainingConfig(), seed=0, masks={"x": torch.ones(4) > 0}, optimizer_factory=len)


@pytest.mark.cifar10
def test_cifar2_is_learnt_from_real_images(cifar10_folder):
    splits = load("cifar2", cifar10_folder)
    few = replace(splits, train=splits.train.subset(torch.arange(1500)), test=splits.test.subset(torch.arange(500)))
    training = Training(models.build("cifar2", seed=0), few, TrainingConfig.for_problem("cifar2", epochs=3), seed=0)
    history = training.run()
    assert history[-1]["test_accuracy"] > 0.6
    assert history[-1]["train_loss"] < 0.68 < history[0]["train_loss"]


@pytest.mark.cuda
@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16"}, {"channels_last": False}])
def test_on_the_gpu_nothing_waits_for_the_device_between_batches(splits, changes):
    training = start(splits, model=tiny().cuda(), epochs=8, **changes)

    def forbid_waiting(done, batches):
        waiting.forbid(1 <= done < batches)

    try:
        history = [training.run_epoch(forbid_waiting) for _ in range(8)]
    finally:
        waiting.forbid(False)
    assert history[-1]["test_accuracy"] > 0.8
    snapshot = training.state()
    tensors = snapshot.tensors()
    assert not any(tensor.is_cuda for tensor in tensors.values())
    again = start(splits, model=tiny(seed=4).cuda(), epochs=8, **changes)
    again.load(snapshot)
    assert everything(again) == everything(training)


@pytest.mark.cuda
def test_on_the_gpu_a_loss_that_is_not_finite_is_found_at_the_end_of_the_epoch(splits):
    training = start(splits, model=tiny().cuda(), augmentation=None)
    before = everything(training)

    def poison(done, batches):
        if done == 2:
            training.model.output.bias.data[0] = float("nan")

    with pytest.raises(Diverged, match="the loss is nan in epoch 1, batch 3 of 4"):
        training.run_epoch(poison)
    assert everything(training) == before


@pytest.mark.cuda
def test_on_the_gpu_a_masked_network_is_trained_as_on_the_host(splits):
    before = torch.backends.cudnn.conv.fp32_precision
    torch.backends.cudnn.conv.fp32_precision = "ieee"
    try:
        ends = []
        for place in ("cpu", "cuda"):
            mask = torch.rand(4, 4, 3, 3, generator=torch.Generator().manual_seed(1)) < 0.5
            masks = {"conv2.0.weight": mask.to(place)}
            config = TrainingConfig(epochs=1, batch=16, lr=1e-3)
            training = Training(tiny(dropout=0.0).to(place), splits, config, seed=7, masks=masks)
            training.run_epoch()
            ends.append(training.state().tensors())
    finally:
        torch.backends.cudnn.conv.fp32_precision = before
    for name, here in ends[0].items():
        if name.startswith("model."):
            torch.testing.assert_close(ends[1][name], here, rtol=0.05, atol=5e-3)
    assert not ends[1]["model.conv2.0.weight"][~mask].any()
