"""Trainers of other libraries, with the callback, end with the network that ``imp`` ends with, bit for bit."""

from __future__ import annotations

import copy
import importlib
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunecca as pc

P = pc.pruning
X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))
RECIPES = {
    "weight rewinding": P.Recipe(rates=0.5, levels=2, epochs=3, rewind_epoch=1),
    "learning rate rewinding": P.recipe_named("learning_rate_rewinding", rates=0.5, levels=2, epochs=3, rewind_epoch=1),
    "lottery ticket, one shot": P.Recipe(rates=0.5, levels=2, epochs=2, rewind_epoch=0, one_shot=True),
    "fresh": P.Recipe(rates=0.3, levels=1, epochs=2, rewind_epoch=1, survivors="shuffle"),
}
POOLS = {"all": ["body.0.weight", "body.2.weight"]}
pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:
        out = self.body(x)
        return out if labels is None else {"loss": (out - labels).square().mean(), "logits": out}


def optimizer_of(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def rate(epoch: int) -> float:
    return 1 / (1 + epoch)


def by_imp(recipe: P.Recipe) -> tuple[list[dict[str, Tensor]], dict[str, Tensor]]:
    """The state at the end of each level, and the last masks."""
    model = Network()

    def make(model: nn.Module, masks: dict[str, Tensor]) -> torch.optim.Optimizer:
        optimizer = optimizer_of(model)
        P.masked(optimizer, masks, model)
        return optimizer

    def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
        for epoch in range(first, last):
            optimizer.param_groups[0]["lr"] = 0.1 * rate(epoch)
            for x, y in zip(X.split(4), Y.split(4), strict=True):
                optimizer.zero_grad()
                model(x, y)["loss"].backward()
                optimizer.step()

    states, masks = [], {}
    for level in P.imp(model, recipe, make, train, pools=POOLS):
        states.append(copy.deepcopy(model.state_dict()))
        masks = level.masks
    return states, masks


def assert_equal(model: nn.Module, state: dict[str, Tensor]) -> None:
    found = model.state_dict()
    assert found.keys() == state.keys()
    for name, value in state.items():
        assert torch.equal(found[name], value), name


@pytest.mark.parametrize("name", ["weight rewinding", "learning rate rewinding"])
def test_lightning_ends_as_imp_does(name: str, tmp_path: Path) -> None:
    lightning = pytest.importorskip("lightning.pytorch")
    from prunecca.integrations.lightning import PruningCallback

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.body = Network().body

        def training_step(self, batch: Any, _: int) -> Tensor:
            return Network.forward(self, *batch)["loss"]

        def configure_optimizers(self) -> Any:
            optimizer = optimizer_of(self)
            return [optimizer], [torch.optim.lr_scheduler.LambdaLR(optimizer, rate)]

    def trainer(callback: Any, epochs: int) -> Any:
        options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "accelerator": "cpu"}
        return lightning.Trainer(
            callbacks=[callback], max_epochs=epochs, enable_model_summary=False, default_root_dir=tmp_path, **options
        )

    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, Y), batch_size=4)
    recipe = RECIPES[name]
    states, masks = by_imp(recipe)
    callback, module = PruningCallback(recipe, POOLS), Module()
    whole = trainer(callback, callback.total_epochs)
    whole.fit(module, loader)
    assert_equal(module, states[-1])
    assert all(torch.equal(callback.masks[n], mask) for n, mask in masks.items())
    assert float(whole.logged_metrics["density"]) == pytest.approx(P.density(masks))
    # Interrupted in the middle of a level, and resumed.
    part = trainer(PruningCallback(recipe, POOLS), recipe.epochs + 1)
    part.fit(Module(), loader)
    part.save_checkpoint(tmp_path / "x.ckpt")
    module = Module()
    trainer(PruningCallback(recipe, POOLS), callback.total_epochs).fit(module, loader, ckpt_path=tmp_path / "x.ckpt")
    assert_equal(module, states[-1])


@pytest.mark.parametrize("name", RECIPES)
def test_transformers_ends_as_imp_does(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from prunecca.integrations.transformers import PruningCallback

    class InOrder(transformers.Trainer):
        def _get_train_sampler(self, *_: Any) -> Any:
            return torch.utils.data.SequentialSampler(self.train_dataset)

    model, recipe = Network(), RECIPES[name]
    callback = PruningCallback(recipe, POOLS)
    optimizer = optimizer_of(model)
    arguments = transformers.TrainingArguments(
        str(tmp_path),
        num_train_epochs=callback.total_epochs,
        per_device_train_batch_size=4,
        max_grad_norm=0.0,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_strategy="epoch",
        disable_tqdm=True,
    )
    trainer = InOrder(
        model,
        arguments,
        train_dataset=[{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)],
        optimizers=(optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step // 3))),
        callbacks=[callback],
    )
    trainer.train()
    states, masks = by_imp(recipe)
    assert_equal(model, states[-1])
    # ``begin`` and ``end`` left the optimizer as it was.
    assert not optimizer._optimizer_step_post_hooks
    densities = [entry["density"] for entry in trainer.state.log_history]
    assert densities[0] == 1.0
    assert densities[-1] == P.density(masks)


def test_recipes_that_a_callback_cannot_carry_out_are_refused() -> None:
    from prunecca.integrations.levels import Levels

    with pytest.raises(ValueError, match="pruned is 'init'; a callback keeps pruned weights at zero, expected 'zero'"):
        Levels(P.Recipe(pruned="init"), None, None)
    with pytest.raises(
        ValueError, match="survivors='reinitialize' needs the state of a new random network; pass fresh"
    ):
        Levels(P.recipe_named("random_reinitialization"), None, None)
    model = Network()
    optimizer = optimizer_of(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    with pytest.raises(ValueError, match="final_rate retrains at the last learning rate, which the schedule of a"):
        Levels(P.recipe_named("fine_tuning", rates=0.5), POOLS, None).begin(model, optimizer, schedule)


def test_a_training_of_transformers_that_is_resumed_is_refused() -> None:
    pytest.importorskip("transformers")
    from prunecca.integrations.transformers import PruningCallback

    with pytest.raises(
        ValueError, match="the training is resumed at step 7, but checkpoints of transformers hold no state"
    ):
        PruningCallback(P.Recipe(), POOLS).on_train_begin(None, SimpleNamespace(global_step=7), None)


def test_a_training_of_transformers_that_ends_with_its_best_checkpoint_is_refused() -> None:
    pytest.importorskip("transformers")
    from prunecca.integrations.transformers import PruningCallback

    arguments, state = SimpleNamespace(load_best_model_at_end=True), SimpleNamespace(global_step=0)
    with pytest.raises(ValueError, match=r"best checkpoint of all levels is mostly unpruned; expected False, load the"):
        PruningCallback(P.Recipe(), POOLS).on_train_begin(arguments, state, None)


def test_a_training_that_ends_too_early_is_a_warning() -> None:
    from prunecca.integrations.levels import Levels

    model = Network()
    optimizer = optimizer_of(model)
    levels = Levels(RECIPES["weight rewinding"], POOLS, None)
    levels.begin(model, optimizer, None)
    for _ in range(4):  # of 7: level 1 has begun
        levels.begin_epoch(model, optimizer, None)
    with pytest.warns(
        UserWarning, match=r"ended in epoch 2 of level 1, and the recipe has 2 levels; the trainer must run 7"
    ):
        levels.finish()
    assert not optimizer._optimizer_step_post_hooks


@pytest.mark.parametrize("given", ["fine_tuning", None, {}])
def test_what_is_no_recipe(given: Any) -> None:
    from prunecca.integrations.levels import total_epochs

    message = r"recipe is .*; expected a Recipe, as from recipe_named\('fine_tuning'\)"
    with pytest.raises(TypeError, match=message):
        total_epochs(given)
    with pytest.raises(TypeError, match=message):
        next(P.imp(Network(), given, lambda model, _: optimizer_of(model), lambda *_: None))


@pytest.mark.parametrize(
    ("module", "missing", "sentence"),
    [
        (
            "lightning",
            ("lightning.pytorch", "pytorch_lightning"),
            r"needs Lightning; install it with pip install 'prunecca",
        ),
        (
            "transformers",
            ("transformers",),
            r"needs transformers; install it with pip install 'prunecca\[transformers\]'",
        ),
    ],
)
def test_a_library_that_is_not_there_is_named(
    monkeypatch: pytest.MonkeyPatch, module: str, missing: tuple[str, ...], sentence: str
) -> None:
    monkeypatch.delitem(sys.modules, f"prunecca.integrations.{module}", raising=False)
    for name in missing:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=sentence):
        importlib.import_module(f"prunecca.integrations.{module}")
