"""Looking at the test images less often changes nothing but how often they are looked at."""

import pytest
import torch
from trainings import everything, start, tiny

from prunecca.pruning import Snapshot
from prunecca.training.config import TrainingConfig


def records(training):
    return {record["epoch"]: record for record in training.history}


def test_without_validation_every_so_many_epochs_and_the_last(splits):
    often, seldom = start(splits, epochs=5), start(splits, epochs=5, evaluate_every=2)
    often.run()
    seldom.run()
    assert [n for n, record in records(seldom).items() if "test_accuracy" in record] == [2, 4, 5]
    for number in (2, 4, 5):
        assert records(seldom)[number]["test_loss"] == records(often)[number]["test_loss"]
    assert all(torch.equal(a, b) for a, b in zip(seldom.model.parameters(), often.model.parameters(), strict=True))


@pytest.mark.parametrize("every", [3, 100])
def test_the_weights_that_are_kept_always_have_a_test_accuracy(validated, every):
    how = {"epochs": 40, "patience": 2, "lr": 0.05}
    often, seldom = start(validated, **how), start(validated, **how, evaluate_every=every)
    often.run()
    seldom.run()
    assert often.best["epoch"] == seldom.best["epoch"] < len(often.history)
    for key in ("test_loss", "test_accuracy", "val_loss"):
        assert seldom.best[key] == often.best[key]
    assert records(seldom)[seldom.best["epoch"]]["test_loss"] == often.best["test_loss"]
    assert all("val_loss" in record for record in seldom.history)


def test_going_on_after_any_epoch_gives_the_same_bits(validated, tmp_path):
    whole = start(validated, epochs=6, patience=3, evaluate_every=4)
    whole.run()
    first = start(validated, epochs=6, patience=3, evaluate_every=4)
    first.run_epoch()
    first.state().save(tmp_path / "state")
    second = start(validated, epochs=6, patience=3, evaluate_every=4, model=tiny(seed=55))
    second.load(Snapshot.load(tmp_path / "state"))
    second.run()
    assert everything(second) == everything(whole)


def test_never_is_refused():
    with pytest.raises(ValueError, match="evaluate_every is 0; expected at least 1 epoch"):
        TrainingConfig(evaluate_every=0)
