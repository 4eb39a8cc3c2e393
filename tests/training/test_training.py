"""Training as a value: exact resumption, rewinding, early stopping, and what is said when it goes wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from trainings import everything, start, tiny, without_seconds

from prunecca import models
from prunecca.data.augmentation import Augmentation
from prunecca.errors import Diverged
from prunecca.pruning import Snapshot
from prunecca.storage import states
from prunecca.training import training as module
from prunecca.training.config import TrainingConfig
from prunecca.training.evaluation import evaluate
from prunecca.training.training import Training


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
