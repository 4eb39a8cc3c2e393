"""Training one network, as a value: run an epoch, read its state, put a state back.

::

    training = Training(build("cifar2", seed=0), load("cifar2", folder), TrainingConfig.for_problem("cifar2"), seed=1)
    while not training.finished:
        print(training.run_epoch()["test_accuracy"])
    training.state().save("state.safetensors")

Whatever is random in an epoch (order, augmentation, dropout) follows from (seed, epoch) alone. A state therefore
carries no generator, and going on from it gives, on a CPU, the same bits as never having stopped.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from typing import Literal

import torch
from torch import Tensor, nn

from ..data.splits import Batches, Split, Splits
from ..errors import Diverged
from ..machine.memory import keeping_freed_memory
from ..pruning.masked_optimizer import MaskedOptimizer
from ..pruning.optimizer_state import OptimizerState
from ..pruning.optimizers import MaskedAdam
from ..pruning.rewind import Snapshot, copied
from ..seeds import derive, seeded
from .config import TrainingConfig
from .evaluation import evaluate
from .graph import GraphedSteps, can_be_captured, graphs_are_on, recorder_for
from .steps import Learner, lay_out, repeatable

Record = dict[str, float]
Progress = Callable[[int, int], None]
OptimizerFactory = Callable[[nn.Module, "TrainingConfig"], torch.optim.Optimizer]


class Training:
    """A network being trained on ``splits``; between calls it always stands at the end of an epoch.

    Args:
        model: trained in place, where it lies (the data is moved to its device).
        splits: as from ``prunecca.data.load``. With a validation split the training ends with the weights of lowest
            validation loss, otherwise with the last.
        config: epochs, batches, learning rate, precision.
        seed: of everything random in its epochs.
        masks: parameter name -> ``torch.bool``; masked entries are zero from here on.
        optimizer_factory: makes the optimizer from (model, config) instead of the paper's Adam with L2; one with masks of
            its own then takes the place of ``masks``.

    Attributes:
        epoch: epochs finished.
        history: a record of each epoch run here.
        best: the record of lowest validation loss, or None.
        graphs: whether the steps are replayed from a CUDA graph where they can be (see ``training.graph``); the bits are
            the same without. False where the variable PRUNECCA_CUDA_GRAPHS is ``off``.
        captured: whether they were in the latest epoch.

    Raises:
        ValueError: patience without a validation split, or masks beside an optimizer factory.

    Example:
        >>> import prunecca as pc
        >>> splits = pc.data.load("digits2")
        >>> model, config = pc.models.build("digits2", seed=0), pc.training.TrainingConfig.for_problem("digits2", epochs=1)
        >>> training = pc.training.Training(model, splits, config, seed=0)
        >>> record = training.run_epoch()
        >>> training.finished, training.state().epoch
        (True, 1)
    """

    def __init__(
        self,
        model: nn.Module,
        splits: Splits,
        config: TrainingConfig,
        *,
        seed: int,
        masks: Mapping[str, Tensor] | None = None,
        optimizer_factory: OptimizerFactory | None = None,
    ) -> None:
        if config.patience is not None and splits.validation is None:
            raise ValueError(
                "patience needs a validation split; hold one out (splits.hold_out) or set patience to None"
            )
        if masks and optimizer_factory is not None:
            raise ValueError(
                "both masks and an optimizer_factory are given; give the masks to the optimizer that it makes"
            )
        self.model = model
        self.device = next(model.parameters()).device
        self.digest = splits.digest
        self.splits = splits.to(self.device)
        self.config = config
        self.seed = seed
        masks = {name: mask.to(self.device) for name, mask in (masks or {}).items()}
        lay_out(model, self.device, config.channels_last)
        self.optimizer = optimizer_factory(model, config) if optimizer_factory else _adam(model, config, masks)
        self._learner = Learner(model, self.optimizer, config.precision)
        recorder = recorder_for(self.device)
        self._graph = None if recorder is None else GraphedSteps(self._learner, recorder)
        self.graphs, self.captured = graphs_are_on(), False
        self.epoch = 0
        self.start = 0
        self.history: list[Record] = []
        self.best: Record | None = None
        self._best_model: dict[str, Tensor] = {}

    @property
    def finished(self) -> bool:
        """Whether the epochs are used up or the patience is."""
        waited = self.epoch - (int(self.best["epoch"]) if self.best else self.start)
        return self.epoch >= self.config.epochs or (self.config.patience is not None and waited >= self.config.patience)

    def run(self, progress: Progress | None = None) -> list[Record]:
        """Run the epochs that are left; the history."""
        while not self.finished:
            self.run_epoch(progress)
        return self.history

    def run_epoch(self, progress: Progress | None = None) -> Record:
        """Train for one epoch and evaluate; the epoch's record.

        progress: called with (batches done, batches) after each batch. When anything interrupts the epoch, the
        training is put back to where the epoch began, so ``state`` is always that of a finished epoch. ``Diverged``
        when the loss becomes NaN or infinite.

        The record: epoch (counted from 1), train_loss and train_accuracy (running, over the augmented images, with
        dropout), val_loss and val_accuracy (where there is a validation split), test_loss and test_accuracy (after every
        ``config.evaluate_every`` epochs and for the weights that the training ends with), seconds.
        """
        if self.finished:
            raise ValueError(f"the training is finished after epoch {self.epoch}; it cannot run another")
        before = Snapshot.capture(self.model, self.optimizer)
        standing = self.epoch, list(self.history), self.best, self._best_model
        try:
            with keeping_freed_memory(self.device), repeatable(self.device):
                return self._run_epoch(progress)
        except BaseException:
            self.epoch, self.history, self.best, self._best_model = standing
            before.restore(self.model, self.optimizer)
            raise

    def state(self) -> Snapshot:
        """Everything that the next epoch depends on, as copies on the CPU.

        Returns:
            The snapshot: ``best`` are the validation-best weights, while an unfinished training has seen better ones
            than it holds; ``records`` are the seed, the split, the configuration and the history.
        """
        captured = Snapshot.capture(self.model, self.optimizer, epoch=self.epoch)
        optimizer = captured.optimizer or OptimizerState()
        return replace(
            captured,
            model=_on_cpu(captured.model),
            optimizer=replace(optimizer, tensors=_on_cpu(optimizer.tensors)),
            best={} if self.finished else _on_cpu(self._best_model),
            records={
                "start": self.start,
                "seed": self.seed,
                "split": self.digest,
                "config": asdict(self.config),
                "history": [dict(record) for record in self.history],
                "best": dict(self.best) if self.best else None,
            },
        )

    def load(self, snapshot: Snapshot) -> None:
        """Go on from a state of this same training.

        Args:
            snapshot: as ``state`` gave it, of the same network, data, configuration and seed.

        Raises:
            ValueError: it is of another training.
        """
        records = snapshot.records
        for name, own, given in (
            ("seed", self.seed, records["seed"]),
            ("split", self.digest, records["split"]),
            ("config", asdict(self.config), records["config"]),
        ):
            if own != given:
                raise ValueError(
                    f"the state has {name} {given}, this training {own}; go on with what the state was made with"
                )
        self._take(snapshot)
        self.epoch, self.start = snapshot.epoch, records["start"]
        self.history = [dict(record) for record in records["history"]]
        self.best = dict(records["best"]) if records["best"] else None
        self._best_model = {name: tensor.to(self.device, copy=True) for name, tensor in snapshot.best.items()}

    def start_from(self, snapshot: Snapshot, *, optimizer: Literal["restore", "fresh"] = "restore") -> None:
        """Start from the state of another training, with this one's seed, masks and settings of the optimizer.

        This is rewinding when the state is that of its ``epoch``, and learning-rate rewinding when the weights are of a
        later one. History and early stopping begin anew: the best weights and the patience count from ``epoch`` on.

        Args:
            snapshot: the network is taken whole (weights, biases, BatchNorm buffers), and epochs go on from ``epoch``.
            optimizer: its moments and steps are taken (``"restore"``) or begin anew (``"fresh"``).

        Raises:
            ValueError: no epochs would be left to run, or the state is of another architecture.
        """
        if not 0 <= snapshot.epoch < self.config.epochs:
            raise ValueError(
                f"epoch is {snapshot.epoch}; expected 0 to {self.config.epochs - 1}, so that epochs are left to run"
            )
        if optimizer not in ("restore", "fresh"):
            raise ValueError(f"optimizer is '{optimizer}'; expected 'restore' or 'fresh'")
        self._take(replace(snapshot, optimizer=None) if optimizer == "fresh" else snapshot)
        self.epoch = self.start = snapshot.epoch
        self.history, self.best, self._best_model = [], None, {}
        if isinstance(self.optimizer, MaskedOptimizer):
            self.optimizer.set_masks(self.optimizer.masks)  # the state may come from a denser network

    def _run_epoch(self, progress: Progress | None) -> Record:
        began = time.perf_counter()
        record: Record = {"epoch": self.epoch + 1}
        record["train_loss"], record["train_accuracy"] = self._train(progress)
        if self.splits.validation is not None:
            self._evaluate("val", self.splits.validation, record)
        if record["epoch"] % self.config.evaluate_every == 0:
            self._evaluate("test", self.splits.test, record)
        self.epoch += 1
        self.history.append(record)
        if "val_loss" in record and (self.best is None or record["val_loss"] < self.best["val_loss"]):
            self.best, self._best_model = record, copied(self.model)
        record["seconds"] = 0.0
        if self.finished:
            self._end()
        self.history[-1]["seconds"] = time.perf_counter() - began
        return self.history[-1]

    def _end(self) -> None:
        """The weights that the training ends with, and how good they are."""
        kept = self.history[-1]
        if self.best is not None:
            self._load_network(self._best_model)
            kept = self.best
        if "test_loss" not in kept:
            found = dict(kept)
            self._evaluate("test", self.splits.test, found)
            # A new record: an interrupted epoch puts back the one it found.
            place = next(i for i, each in enumerate(self.history) if each["epoch"] == kept["epoch"])
            self.history[place] = found
            self.best = None if self.best is None else found

    def _evaluate(self, name: str, split: Split, record: Record) -> None:
        config = self.config
        loss, accuracy = evaluate(self.model, split, precision=config.precision, channels_last=config.channels_last)
        if not math.isfinite(loss):
            raise Diverged(f"the {name} loss is {loss} after epoch {record['epoch']}; {_ADVICE}")
        record[f"{name}_loss"], record[f"{name}_accuracy"] = loss, accuracy

    def _train(self, progress: Progress | None) -> tuple[float, float]:
        config, number_of_epoch, learner = self.config, self.epoch + 1, self._learner
        batches = self.splits.train.batches(
            config.batch,
            seed=self.seed,
            epoch=self.epoch,
            augmentation=config.augmentation,
            channels_last=config.channels_last,
        )
        # On a GPU nothing is read back before the epoch ends: each reading would wait for the device.
        losses = torch.zeros(len(batches), device=self.device)
        hits = torch.zeros(len(batches), dtype=torch.int64, device=self.device)
        done = seen = 0
        self.model.train()
        with seeded(derive(self.seed, "dropout", self.epoch), self.device):
            for done in self._replayed(batches, losses, hits):
                seen += config.batch
                if progress is not None:
                    progress(done, len(batches))
            self.captured = done > 0
            for number, (inputs, labels) in enumerate(batches.after(done), start=done):
                if len(labels) == 1 < len(batches):
                    continue  # BatchNorm has no variance of one image; a shuffle leaves out another one each time
                loss, right = learner.forward(inputs, labels)
                if self.device.type == "cpu" and not math.isfinite(loss.item()):
                    raise _diverged(loss.item(), number_of_epoch, number, len(batches))
                learner.learn(loss)
                loss = loss.detach()  # what is left of the pass would tie the next capture to this stream
                losses[number] = loss * len(labels)
                hits[number] = right
                seen += len(labels)
                if progress is not None:
                    progress(number + 1, len(batches))
        wrong = torch.nonzero(~torch.isfinite(losses)).flatten().tolist()
        if wrong:
            raise _diverged(losses[wrong[0]].item(), number_of_epoch, wrong[0], len(batches))
        return losses.double().sum().item() / seen, hits.sum().item() / seen

    def _replayed(self, batches: Batches, losses: Tensor, hits: Tensor) -> Iterator[int]:
        """The steps of an epoch that a CUDA graph takes; none where it cannot."""
        if self._graph is None or not self.graphs or not can_be_captured(self._learner, batches):
            return iter(())
        return self._graph.run(batches, losses, hits)

    def _load_network(self, tensors: Mapping[str, Tensor]) -> None:
        self.model.load_state_dict(tensors)

    def _take(self, snapshot: Snapshot) -> None:
        # Extra state of modules need not be tensors.
        expected, given = (
            {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
            for state in (self.model.state_dict(), snapshot.model)
        )
        if given != expected:
            odd = sorted(name for name in given.keys() | expected.keys() if given.get(name) != expected.get(name))
            raise ValueError(
                f"the state does not fit the network at {odd[0]}: it has {given.get(odd[0], 'nothing')}, the network "
                f"{expected.get(odd[0], 'nothing')}; use the state of a network of the same architecture"
            )
        self._load_network(snapshot.model)
        (snapshot.optimizer or OptimizerState()).restore(self.model, self.optimizer, settings=False)


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.cpu() if isinstance(tensor, Tensor) else tensor for name, tensor in tensors.items()}


def _adam(model: nn.Module, config: TrainingConfig, masks: Mapping[str, Tensor]) -> torch.optim.Optimizer:
    # On a GPU its step count lies there, with graphs and without, so that both give the same bits.
    on_device = next(model.parameters()).is_cuda
    decay = config.weight_decay
    return MaskedAdam(model.named_parameters(), masks, lr=config.lr, weight_decay=decay, capturable=on_device)


_ADVICE = "lower the learning rate or look at the images and labels"


def _diverged(loss: float, epoch: int, batch: int, batches: int) -> Diverged:
    return Diverged(f"the loss is {loss} in epoch {epoch}, batch {batch + 1} of {batches}; {_ADVICE}")
