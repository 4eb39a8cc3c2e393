"""Makes the pieces of a study: Algorithm 1 of the paper (Ansuini et al. 2020, section 3.1), with rewinding.

Level i takes the trained network of level i - 1, prunes it, restarts it from the end of epoch k with the new masks, trains
the epochs that remain, and compares it with the unpruned network. Everything it leaves is written by `files`, so that
it can be killed anywhere and go on after its last finished epoch, to the same bits on a CPU.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import errors, pruning
from ..comparison.compare import compare
from ..data.loading import representation_subset
from ..dimension import intrinsic_dimensions
from ..seeds import seed_for
from ..storage import atomic, states
from ..storage.tables import parquet
from ..training.config import TrainingConfig
from ..training.training import Training
from .claims import Claim
from .plan import Piece
from .reporter import Reporter
from .resolve import Setting
from .run_directory import DIMENSION, INITIAL, MASKS, REWIND, SIMILARITY, STATE, TRAINING, RunDirectory

FINETUNE_FACTOR = 0.1  # Han et al. 2015: a tenth of the learning rate


class Maker:
    """Makes pieces of one run directory on one device, telling `reporter` what it does."""

    def __init__(self, run: RunDirectory, data: Path | None, device: torch.device, reporter: Reporter) -> None:
        self._run = run
        self._data = data
        self._device = device
        self._reporter = reporter
        self._options = run.options()
        problems = run.configuration()["problems"]
        self._settings = {name: Setting.from_json(its["settings"]) for name, its in problems.items()}

    def make(self, piece: Piece, claim: Claim) -> None:
        """Train one network, compare it with the unpruned one, and declare the piece finished.

        Raises:
            ClaimLost: another process has taken the piece over; nothing was written since.
        """
        setting = self._settings[piece.problem]
        model = setting.build(self._options).to(self._device)
        if piece.level == 0:
            states.save_state(self._run.path(piece, INITIAL), model.state_dict())
        masks = self._prune(piece, model)
        training = self._start(piece, model, masks)
        self._train(piece, claim, training)
        metadata = {"problem": piece.problem, "piece": str(piece), "setting": setting.as_json()}
        digest = states.save_state(self._run.path(piece, STATE), model.state_dict(), metadata)
        self._compare(piece, model)
        layers = _count_layers(model, masks)
        left, total = (sum(layer[key] for layer in layers) for key in ("parameters_left", "parameters"))
        kept = training.best or training.history[-1]
        summary = {
            "density": left / total,
            "parameters_left": left,
            "test_accuracy": kept["test_accuracy"],
            "test_loss": kept["test_loss"],
            "epochs": len(training.history),
            "best_epoch": int(kept["epoch"]),
            "digest": digest,
            "split": training.digest,
        }
        claim.check()
        self._run.finish(piece, {"summary": summary, "layers": layers, "epochs": training.history})
        self._reporter.end(str(piece), summary)

    def _prune(self, piece: Piece, model: nn.Module) -> dict[str, Tensor]:
        """What is left of the trained parent after pruning it, also as a file; empty where nothing is pruned."""
        parent = self._run.parent(piece)
        if parent is None or piece.control:
            return {}
        options, problem = self._options, self._settings[piece.problem].problem
        # One shot prunes at once what as many iterations would.
        times = piece.level if options.one_shot else 1
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", pruning.LayerCollapseWarning)
            masks = pruning.prune(
                self._state(parent, STATE),
                pruning.pools_by_type(model, include_output=options.prune_output_layer),
                {pool: 1 - (1 - rate) ** times if times > 1 else rate for pool, rate in problem.rates.items()},
                self._masks_of(parent, model),
                criterion=options.criterion,
                initial=self._state(Piece(piece.problem), INITIAL),
                scope=options.scope,
                seed=seed_for(options.seed, piece.problem, "pruning", piece.replicate, piece.level),
            )
        for warning in caught:
            self._reporter.message(f"{piece}: {warning.message}")
        states.save_state(self._run.path(piece, MASKS), pruning.pack(masks))
        return masks

    def _start(self, piece: Piece, model: nn.Module, masks: dict[str, Tensor]) -> Training:
        """The training of a piece where it begins: at the initialisation, or where its parent left it."""
        options, problem = self._options, self._settings[piece.problem].problem
        parent = self._run.parent(piece)
        finetune = parent is not None and options.retrain == "finetune"
        rate = options.learning_rate * (FINETUNE_FACTOR if finetune else 1)
        config = TrainingConfig.for_problem(problem, lr=rate, weight_decay=options.weight_decay)
        frozen = bool(masks) and options.pruned_value != "zero"

        def freezing(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
            named, decay = model.named_parameters(), config.weight_decay
            return pruning.MaskedAdam(named, masks, lr=config.lr, weight_decay=decay, pruned="frozen")

        training = Training(
            model,
            self._settings[piece.problem].splits(self._data),
            config,
            # Replicates differ by this seed alone; a control has that of the level of replicate 0 it is the control of.
            seed=seed_for(options.seed, piece.problem, "training", piece.replicate, piece.level),
            masks=None if frozen else masks,
            optimizer_factory=freezing if frozen else None,
        )
        if parent is not None:
            self._restart(piece, parent, training)
        if parent is not None and frozen:
            self._set_frozen(piece, parent, training, masks)
        return training

    def _restart(self, piece: Piece, parent: Piece, training: Training) -> None:
        options = self._options
        if options.retrain == "reinit":
            fresh = self._settings[piece.problem].build(options, piece.replicate, piece.level).state_dict()
            training.start_from(_as_model(fresh), epoch=0, optimizer="fresh")
            return
        state, metadata = states.load_state(self._run.path(Piece(piece.problem), REWIND))
        if options.retrain != "rewind":
            state = {name: tensor for name, tensor in state.items() if name.startswith("optimizer.")}
            state |= _as_model(self._state(parent, STATE))
        fresh_optimizer = options.rewind_optimizer == "fresh" or options.retrain == "finetune"
        training.start_from(
            state,
            epoch=options.rewind_epoch,
            optimizer="fresh" if fresh_optimizer else "restore",
            numbers=metadata["optimizer"],
        )

    def _set_frozen(self, piece: Piece, parent: Piece, training: Training, masks: dict[str, Tensor]) -> None:
        """Entries pruned before keep the value they had; new ones that of the restart, or zero by their movement."""
        before = self._masks_of(parent, training.model) or {}
        trained, initial = self._state(parent, STATE), self._state(Piece(piece.problem), INITIAL)
        parameters = dict(training.model.named_parameters())
        with torch.no_grad():
            for name, mask in masks.items():
                value = parameters[name].cpu()
                gone = ~before[name] if name in before else torch.zeros_like(mask)
                if self._options.pruned_value == "by_movement":
                    value[~mask & (trained[name].abs() < initial[name].abs())] = 0.0
                value[gone] = trained[name][gone]
                parameters[name].copy_(value)
        assert isinstance(training.optimizer, pruning.MaskedAdam)
        training.optimizer.set_masks(masks)  # its moments, restored with the rest, are zero there

    def _train(self, piece: Piece, claim: Claim, training: Training) -> None:
        """Train to the end, saving after every epoch; go on after the latest saved one."""
        run, name, rewind_epoch = self._run, str(piece), self._options.rewind_epoch
        latest, rewind = run.path(piece, TRAINING), run.path(piece, REWIND)
        origin = run.origin(piece)
        try:
            tensors, metadata = states.load_state(latest)
            if piece.level == 0 and metadata["training"]["epoch"] >= rewind_epoch:
                states.load_state(rewind)  # it was written before; damaged since, it must be made again
            if metadata["origin"] == origin:
                training.load(tensors, metadata["training"])
        except FileNotFoundError:
            pass
        except errors.CorruptFile as error:
            self._reporter.message(f"{error.finding}: {name} is trained from its start")
        if piece.level == 0 and training.epoch == rewind_epoch == 0:
            self._save_rewind(piece, *training.state())
        self._reporter.begin(name, training.epoch, training.config.epochs)
        while not training.finished:
            record = training.run_epoch(lambda done, total: self._reporter.batch(name, done, total))
            claim.check()
            tensors, metadata = training.state()
            if piece.level == 0 and training.epoch == rewind_epoch:
                self._save_rewind(piece, tensors, metadata)
            states.save_state(latest, tensors, {"origin": origin, "training": metadata})
            self._reporter.epoch(name, record)

    def _save_rewind(self, piece: Piece, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        # Without the history, whose seconds would make another file of the same state.
        kept = {name: metadata[name] for name in ("epoch", "optimizer")}
        states.save_state(self._run.path(piece, REWIND), tensors, kept)

    def _compare(self, piece: Piece, model: nn.Module) -> None:
        """Compare with the unpruned network (level 0: with itself) and measure dimensions, on the fixed images."""
        options, setting = self._options, self._settings[piece.problem]
        reference = setting.build(options).to(self._device)
        reference.load_state_dict(self._state(Piece(piece.problem), STATE))
        images = representation_subset(setting.splits(self._data).train.to(self._device), options.images, options.seed)
        result = compare(
            reference, {"pruned": model}, images, options.layers, options.metric_options(), distributed="off"
        )
        atomic.write_atomic(self._run.path(piece, SIMILARITY), parquet(result.table.drop(columns="candidate")))
        if options.dimension_images:
            found = intrinsic_dimensions(model, images, options.layers, max_datapoints=options.dimension_images)
            atomic.write_atomic(self._run.path(piece, DIMENSION), parquet(found))

    def _state(self, piece: Piece, name: str) -> dict[str, Tensor]:
        return states.load_state(self._run.path(piece, name))[0]

    def _masks_of(self, piece: Piece, model: nn.Module) -> dict[str, Tensor] | None:
        return pruning.unpack(self._state(piece, MASKS), model) if piece.level > 0 and not piece.control else None


def _as_model(state: dict[str, Any]) -> dict[str, Tensor]:
    return {f"model.{name}": tensor for name, tensor in state.items()}


def _count_layers(model: nn.Module, masks: dict[str, Tensor]) -> list[dict[str, Any]]:
    """Parameters, and how many are left, of each module that has any of its own."""
    rows = []
    for layer, module in model.named_modules():
        own = {f"{layer}.{name}".lstrip("."): p for name, p in module.named_parameters(recurse=False)}
        if own:
            total = sum(p.numel() for p in own.values())
            left = sum(int(masks[name].sum()) if name in masks else p.numel() for name, p in own.items())
            rows.append({"layer": layer, "parameters": total, "parameters_left": left, "density": left / total})
    return rows
