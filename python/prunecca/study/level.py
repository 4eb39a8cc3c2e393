"""Makes one network of a study: Algorithm 1 of the paper (Ansuini et al. 2020, section 3.1), with rewinding.

Level i takes the trained network of level i - 1, prunes it, restarts it from the end of epoch k with the new masks, trains
the epochs that remain, and compares it with the unpruned network. ``make_network`` is a function of its arguments, but for
the checkpoint of the running training: whatever process calls it, on a CPU it gives the same bytes.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from .. import pruning
from ..comparison.compare import compare
from ..data.loading import representation_subset
from ..data.splits import Batches, Splits
from ..dimension import intrinsic_dimensions
from ..errors import FewRows
from ..input_moments import mean_squares
from ..methods.channels import scores_of_channels
from ..methods.wanda import scores_of_pools
from ..pruning.criteria import SCORED
from ..pruning.imp import begun_supermask, drawn
from ..seeds import seed_for, seeded
from ..storage.states import digest, state_bytes
from ..storage.tables import parquet
from ..training.config import TrainingConfig
from ..training.evaluation import evaluate
from ..training.training import Training
from ..weights.counts import count_parameters
from .checkpoint import PENALISED, REWIND, Workplace
from .plan import Network, NetworkResult, Parent, Plan
from .resolve import ResolvedProblem

STATE = "state.safetensors"
INITIAL = "initial.safetensors"
MASKS = "masks.safetensors"
SIMILARITY = "similarity.parquet"
DIMENSION = "dimension.parquet"
_SIMILARITY_COLUMNS = ["layer", "kind", "depth", "metric", "value", "chance", "count", "channels", "kept_x", "kept_y"]
FILES = (STATE, REWIND, INITIAL, MASKS, SIMILARITY, DIMENSION)

LAST_RATE = 0.1  # Han et al. 2015 fine-tune at a tenth; Adam's rate is constant here, so that no schedule ends there
_BATCH = 500  # images of each step of finding the statistics of a BatchNorm


def make_network(
    plan: Plan, network: Network, parents: Mapping[Network, Parent], workplace: Workplace
) -> NetworkResult:
    """Prune, restart, train and compare one network.

    Args:
        plan: the study.
        network: one of ``plan.networks()``.
        parents: what it is made from, all of ``plan.parents(network)``.
        workplace: device, images, and where the running training is kept.

    Raises:
        CorruptFile: a file of a parent is not what was written.
        Diverged: the loss became NaN or infinite.
    """
    return _Level(plan, network, parents, workplace).make()


class _Level:
    """The steps of ``make_network``, which share its arguments."""

    def __init__(self, plan: Plan, network: Network, parents: Mapping[Network, Parent], workplace: Workplace) -> None:
        self.options = plan.options
        self.network = network
        self.problem: ResolvedProblem = plan.problems[network.problem]
        parent = plan.parent(network)
        self.parent = None if parent is None else parents[parent]
        self.unpruned = None if parent is None else parents[network.unpruned]
        self.origin = {each.folder: parents[each].digest for each in plan.parents(network)}
        self.place = workplace
        seed = seed_for(self.options.seed, network.problem, "pruning", network.replicate, network.level)
        self.recipe = self.problem.recipe(self.options, seed)
        self.files: dict[str, bytes] = {}
        self.trained: dict[str, Tensor] = {}  # the weights that are pruned
        self.ranked: dict[str, Tensor] = {}  # what decides which of them go: the weights, or scores of them

    def make(self) -> NetworkResult:
        model = self.problem.build(self.options).to(self.place.device)
        if self.unpruned is None:
            self.files[INITIAL] = state_bytes(model.state_dict())
        self._draw(model)
        masks = self._prune(model)
        if self.parent is None or self.network.control or self.recipe.retraining_epochs != 0:
            training = self._start(model, masks)
            self._train(training)
            kept, history = training.best or training.history[-1], training.history
        else:
            kept, history = self._left_as_it_is(model, masks), []
        state = model.state_dict()
        metadata = {
            "problem": self.network.problem,
            "piece": str(self.network),
            "setting": self.problem.as_json(),
        }
        self.files[STATE] = state_bytes(state, metadata)
        self._compare(model)
        layers = count_parameters(model, masks)
        left, total = (sum(layer[key] for layer in layers) for key in ("parameters_left", "parameters"))
        summary = {
            "density": left / total,
            "parameters_left": left,
            "test_accuracy": kept["test_accuracy"],
            "test_loss": kept["test_loss"],
            "epochs": len(history),
            "best_epoch": int(kept["epoch"]),
            "digest": digest(state),
            "split": self.problem.splits(self.place.data).digest,
        }
        return NetworkResult(self.files, summary, layers, history)

    def _prune(self, model: nn.Module) -> dict[str, Tensor]:
        """The masks of this network; empty where nothing is pruned."""
        if self.parent is None or self.unpruned is None or self.network.control:
            return {}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", pruning.LayerCollapseWarning)
            masks = self._choose(model)(self.ranked)
        for warning in caught:
            self.place.reporter.message(f"{self.network}: {warning.message}")
        self.files[MASKS] = state_bytes(pruning.pack(masks))
        return masks

    def _choose(self, model: nn.Module) -> Callable[[Mapping[str, Tensor]], dict[str, Tensor]]:
        """The masks of this network as a function of the weights that are pruned."""
        previous, initial = self._previous(model), self.unpruned.state(INITIAL, model) if self.unpruned else None
        recipe, pools, level = self.recipe, self._pools(model), self.network.level
        return lambda trained: pruning.next_masks(recipe, pools, trained, previous, level, initial)

    def _pools(self, model: nn.Module) -> dict[str, list[str]]:
        return pruning.pools_by_type(model, include_output=self.options.prune_output_layer)

    def _draw(self, model: nn.Module) -> None:
        """Find the weights that are pruned, and what ranks them."""
        if self.parent is None:
            return
        self.ranked = self.trained = self.parent.state(STATE, model)
        if self.network.control:
            return
        if self.recipe.penalty != "none":
            self._draw_to_zero(model)
        elif self.recipe.criterion == "wanda":
            model.load_state_dict(self.trained)
            names = [name for names in self._pools(model).values() for name in names]
            self.ranked = scores_of_pools(self.trained, names, mean_squares(model, self._images()))
        elif self.recipe.criterion == "fisher":
            model.load_state_dict(self.trained)
            pools, previous = self._pools(model), None if self.recipe.one_shot else self._previous(model)
            found = pruning.fisher_channel_scores(model, self._images(), pools=pools, for_each=True)
            self.ranked = scores_of_channels(self.trained, pools, found, previous)
        elif self.recipe.criterion == "supermask":
            self._learn_scores()
        if self.recipe.criterion in SCORED:
            self.origin = {**self.origin, "scores": digest(self.ranked)}

    def _learn_scores(self) -> None:
        """Train the scores of a supermask; the weights stay those of the unpruned network's initialisation."""
        network = self.problem.build(self.options)
        if self.unpruned is not None:
            network.load_state_dict(self.unpruned.state(INITIAL, network))
        pools, previous = self._pools(network), None if self.recipe.one_shot else self._previous(network)
        supermask = begun_supermask(self.recipe, pools, network, previous, self.network.level).to(self.place.device)
        rate = self.recipe.score_rate
        training = Training(
            supermask,
            replace(self.problem.splits(self.place.data), validation=None),
            replace(self._config(1.0), epochs=self.recipe.score_epochs, patience=None),
            seed=self._seed("scores"),
            optimizer_factory=lambda model, config: torch.optim.Adam(supermask.scores.values(), lr=rate),
        )
        self._before_pruning(training, lambda first: range(first, self.recipe.score_epochs))
        self.ranked = {name: score.detach().to("cpu", copy=True) for name, score in supermask.scores.items()}

    def _draw_to_zero(self, model: nn.Module) -> None:
        """Train the parent's weights on with the penalty of the recipe."""
        model.load_state_dict(self.trained)
        config = replace(self._config(1.0), epochs=self.recipe.penalty_epochs, patience=None)
        splits = replace(self.problem.splits(self.place.data), validation=None)  # the last weights count, not the best
        training = self._training(model, self._previous(model) or {}, config, splits, "penalty")
        pools, choose = self._pools(model), self._choose(model)
        self._before_pruning(training, lambda first: drawn(self.recipe, pools, training.optimizer, choose, first))
        self.trained = {key: value.to("cpu", copy=True) for key, value in model.state_dict().items()}
        self.ranked = self.trained
        self.origin = {**self.origin, "penalised": digest(self.trained)}

    def _before_pruning(self, training: Training, epochs: Callable[[int], Iterable[int]]) -> None:
        """Train the epochs that are left of those before the pruning, keeping every finished one."""
        checkpoint, reporter, name = self.place.checkpoint, self.place.reporter, str(self.network)
        if (latest := checkpoint.latest(self.origin, reporter, name, PENALISED)) is not None:
            training.load(latest)
        first = training.epoch
        reporter.begin(name, first, training.config.epochs)
        for epoch in epochs(first):
            if epoch > first:  # with Z and U of ADMM as they were renewed after the epoch before
                checkpoint.keep(training.state(), self.origin, PENALISED)
            reporter.epoch(name, training.run_epoch(lambda done, total: reporter.batch(name, done, total)))
        checkpoint.keep(training.state(), self.origin, PENALISED)

    def _previous(self, model: nn.Module) -> dict[str, Tensor] | None:
        """The masks of the parent, if it has any."""
        if self.parent is None or MASKS not in self.parent.files:
            return None
        return pruning.unpack(self.parent.tensors(MASKS), model)

    def _start(self, model: nn.Module, masks: dict[str, Tensor]) -> Training:
        """The training where it begins: at the initialisation, or restarted from what the parents left."""
        config = self._config(LAST_RATE if self.parent is not None and self.recipe.final_rate else 1.0)
        if self.parent is not None and not self.network.control and self.recipe.retraining_epochs is not None:
            config = replace(config, epochs=self.recipe.rewind_epoch + self.recipe.retraining_epochs)
        training = self._training(model, masks, config, self.problem.splits(self.place.data), "training")
        self._restart(training, masks)
        return training

    def _config(self, fraction: float) -> TrainingConfig:
        """The problem's way of training, at a fraction of the learning rate."""
        rate, decay = self.options.learning_rate * fraction, self.options.weight_decay
        how = {"precision": self.problem.precision, "evaluate_every": self.options.evaluate_every}
        return TrainingConfig.for_problem(self.problem.problem, lr=rate, weight_decay=decay, **how)

    def _training(
        self, model: nn.Module, masks: dict[str, Tensor], config: TrainingConfig, splits: Splits, purpose: str
    ) -> Training:
        frozen = bool(masks) and self.recipe.frozen

        def freezing(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
            named, decay, on_device = model.named_parameters(), config.weight_decay, self.place.device.type == "cuda"
            return pruning.MaskedAdam(
                named, masks, config.lr, weight_decay=decay, pruned="frozen", capturable=on_device
            )

        return Training(
            model,
            splits,
            config,
            seed=self._seed(purpose),
            masks=None if frozen else masks,
            optimizer_factory=freezing if frozen else None,
        )

    def _seed(self, purpose: str) -> int:
        """Replicates differ by this seed alone; a control has that of the level of replicate 0 it is the control of."""
        return seed_for(self.options.seed, self.network.problem, purpose, self.network.replicate, self.network.level)

    def _left_as_it_is(self, model: nn.Module, masks: dict[str, Tensor]) -> dict[str, float]:
        """Evaluate the pruned network without training it again."""
        if self.unpruned is not None:
            model.load_state_dict(self._weights(model, masks, self.unpruned))
        splits = self.problem.splits(self.place.data).to(self.place.device)
        if self.recipe.criterion == "supermask":  # never trained: the statistics of a BatchNorm are of no network
            with seeded(self._seed("statistics"), self.place.device):
                torch.optim.swa_utils.update_bn(splits.train.batches(_BATCH), model, self.place.device)
        loss, accuracy = evaluate(model, splits.test, precision=self.problem.precision)
        return {"test_loss": loss, "test_accuracy": accuracy, "epoch": self.recipe.rewind_epoch}

    def _restart(self, training: Training, masks: dict[str, Tensor]) -> None:
        if self.parent is None or self.unpruned is None:
            return
        recipe = self.recipe
        # Epochs are counted from k on, also where a recipe goes on at the last rate: there is no schedule to go on with.
        weights = self._weights(training.model, masks, self.unpruned)
        restart = replace(self.unpruned.rewind(), epoch=recipe.rewind_epoch, model=weights)
        training.start_from(restart, optimizer="fresh" if recipe.retraining.optimizer == "fresh" else "restore")

    def _weights(self, model: nn.Module, masks: dict[str, Tensor], unpruned: Parent) -> dict[str, Tensor]:
        """The pruned network before it is trained again."""
        recipe, network = self.recipe, self.network
        fresh = None
        if recipe.survivors == "reinitialize":
            fresh = self.problem.build(self.options, network.replicate, network.level).state_dict()
        return pruning.next_weights(
            recipe,
            masks,
            network.level,
            initial=unpruned.state(INITIAL, model),
            rewind=unpruned.rewind().model,
            final=self.trained,
            previous=self._previous(model),
            fresh=fresh,
        )

    def _train(self, training: Training) -> None:
        """Train to the end, keeping every finished epoch; go on after the latest one kept."""
        checkpoint, reporter, name = self.place.checkpoint, self.place.reporter, str(self.network)
        rewind_epoch = self.recipe.rewind_epoch
        latest = checkpoint.latest(self.origin, reporter, name)
        rewind = None
        if latest is not None and self.unpruned is None and latest.epoch >= rewind_epoch:
            rewind = checkpoint.rewind(reporter, name)  # it was kept before; damaged since, all must be made again
            latest = latest if rewind is not None else None
        if latest is not None:
            training.load(latest)
        if self.unpruned is None and training.epoch == rewind_epoch == 0:
            rewind = self._keep_rewind(training)
        reporter.begin(name, training.epoch, training.config.epochs)
        while not training.finished:
            record = training.run_epoch(lambda done, total: reporter.batch(name, done, total))
            if self.unpruned is None and training.epoch == rewind_epoch:
                rewind = self._keep_rewind(training)
            checkpoint.keep(training.state(), self.origin)
            reporter.epoch(name, record)
        if rewind is not None:
            self.files[REWIND] = rewind

    def _keep_rewind(self, training: Training) -> bytes:
        # Without the records, whose seconds would make another file of the same state.
        content = replace(training.state(), records={}, best={}).as_bytes()
        self.place.checkpoint.keep_rewind(content)
        return content

    def _images(self) -> Batches:
        """The fixed images on which layers are compared, and which count for Wanda and Fisher scores."""
        train = self.problem.splits(self.place.data).train.to(self.place.device)
        return representation_subset(train, self.options.images, self.options.seed)

    def _compare(self, model: nn.Module) -> None:
        """Compare with the unpruned network (level 0: with itself) and measure dimensions, on the fixed images."""
        options = self.options
        reference = self.problem.build(options).to(self.place.device)
        own = Parent(self.files, "") if self.unpruned is None else self.unpruned
        reference.load_state_dict(own.state(STATE, reference))
        images = self._images()
        with warnings.catch_warnings(record=True) as noted:
            warnings.simplefilter("always", FewRows)
            result = compare(
                reference,
                {"pruned": model},
                images,
                options.layers,
                options.metric_options(),
                chance="permutation",
                distributed="off",
            )
        for warning in noted:
            if not issubclass(warning.category, FewRows):
                warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
            elif self.unpruned is None:  # once for all networks of a problem, which have the same images and layers
                self.place.reporter.message(f"{self.network}: {warning.message}")
        self.files[SIMILARITY] = parquet(result.table[_SIMILARITY_COLUMNS])
        if options.dimension_images:
            found = intrinsic_dimensions(model, images, options.layers, max_datapoints=options.dimension_images)
            self.files[DIMENSION] = parquet(found.drop(columns="pc_dimension"))  # no column of the tables
