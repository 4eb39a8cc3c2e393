"""The state of a training: rewinding, early stopping, resuming, and training on a GPU."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
import waiting
from trainings import everything, start, tiny

from prunecca import models
from prunecca.data.loading import load
from prunecca.errors import Diverged
from prunecca.storage import states
from prunecca.training.config import TrainingConfig
from prunecca.training.evaluation import evaluate
from prunecca.training.training import Training


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
