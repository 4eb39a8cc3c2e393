"""Iterative magnitude pruning, Algorithm 1 of the paper (Frankle and Carbin 2019), independent of how one trains.

``imp`` is the loop. It is made of ``next_masks`` and ``next_weights``, pure functions of named tensors,
for those who train in pieces and store what lies between.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from ..methods.channels import check_outputs_first, scores_of_channels
from ..methods.penalised import Choose, PenalisedOptimizer
from ..methods.pooled import pooled_names
from ..methods.supermask import Supermask
from ..methods.wanda import scores_of_pools
from ..weights.names import Named, copies_of, named_tensors, same_names, under_first_names
from ..weights.pools import Pools, pools_by_type
from ..weights.rates import density_of_pools, rates_by_pool
from .criteria import SCORED
from .masks import Masks, apply_masks, density, full_masks, prune
from .recipe import Recipe, check_recipe
from .rewind import Snapshot

Train = Callable[[nn.Module, torch.optim.Optimizer, int, int], object]
MakeOptimizer = Callable[[nn.Module, Masks], torch.optim.Optimizer]


@dataclass(frozen=True)
class Level:
    """The network has been trained with these masks; level 0 is the unpruned one.

    Attributes:
        number: from 0.
        masks: parameter name -> ``torch.bool``.
        density: the fraction of masked entries that is kept.

    Example:
        >>> import prunecca as pc
        >>> pc.pruning.Level(0, {}, 1.0).density
        1.0
    """

    number: int
    masks: Masks
    density: float


def imp(
    model: nn.Module,
    recipe: Recipe,
    make_optimizer: MakeOptimizer,
    train: Train,
    *,
    pools: Pools | None = None,
    fresh: Callable[[int], Mapping[str, Tensor]] | None = None,
    squares: Callable[[nn.Module], Mapping[str, Tensor]] | None = None,
    channel_scores: Callable[[nn.Module], Mapping[str, Tensor]] | None = None,
) -> Iterator[Level]:
    """Train, prune, rewind, train again: Algorithm 1 of Ansuini et al. 2020.

    What ``train`` keeps besides the model, such as an average of its weights, is neither rewound nor masked here: begin
    it anew at each level, or mask it with ``apply_masks``.

    Args:
        model: trained in place.
        recipe: what is pruned, and from where the rest is trained again.
        make_optimizer: ``make_optimizer(model, masks)``, a new optimizer that keeps the masks, such as ``MaskedAdam``
            (with ``pruned="frozen"`` if ``recipe.frozen``). A recipe with a penalty needs ``MaskedAdam`` or ``MaskedSGD``.
        train: ``train(model, optimizer, first, last)`` trains epochs [first, last) of the model that it is given: before a
            pruning by ``"supermask"`` that is a ``Supermask``.
        pools: by default ``pools_by_type``.
        fresh: ``fresh(level)``, the state of a new random network, for ``survivors="reinitialize"``.
        squares: ``squares(model)``, the mean squares of the inputs of its layers, for the criterion ``"wanda"``, such as
            ``lambda model: prunecca.mean_squares(model, loader)``.
        channel_scores: ``channel_scores(model)``, a score of each channel of every pooled weight, for the criterion
            ``"fisher"``, such as ``lambda model: fisher_channel_scores(model, loader, for_each=True)``.

    Yields:
        A ``Level`` after each training, with ``model`` as trained at that level. Stop at a target density, or when
        performance falls, by leaving the loop.

    Raises:
        ValueError: before anything is trained, if no pool names a parameter, a pool has no rate, the outputs of a layer are not
            along its first dimension, as the scope wants, or the recipe needs ``squares`` or ``channel_scores``, which is None.

    Example:
        >>> import torch, prunecca as pc
        >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
        >>> recipe = pc.pruning.Recipe(rates=0.5, levels=2, epochs=2, rewind_epoch=1)
        >>> def adam(model, masks):
        ...     return pc.pruning.MaskedAdam(model.named_parameters(), masks)
        >>> def train(model, optimizer, first, last):
        ...     pass  # epochs first to last - 1
        >>> [level.density for level in pc.pruning.imp(model, recipe, adam, train, pools={"all": ["0.weight"]})]
        [1.0, 0.5, 0.25]
    """
    check_recipe(recipe)
    pools = pools_by_type(model) if pools is None else pools
    check_outputs_first(model, pooled_names(pools), recipe.scope)
    rates_by_pool(recipe.rates, pools)
    if recipe.criterion == "wanda" and squares is None:
        raise ValueError("criterion='wanda' needs the inputs of the layers; pass their mean squares as squares")
    if recipe.criterion == "fisher" and channel_scores is None:
        raise ValueError(
            "criterion='fisher' needs scores of the channels; pass a function that gives them as channel_scores"
        )
    masks = full_masks(model, pools)  # line 2
    initial = Snapshot.capture(model)  # line 1
    optimizer = make_optimizer(model, masks)
    train(model, optimizer, 0, recipe.rewind_epoch)
    rewind = Snapshot.capture(model, optimizer, epoch=recipe.rewind_epoch)
    train(model, optimizer, recipe.rewind_epoch, recipe.epochs)  # line 3
    yield Level(0, masks, density(masks))

    final = unpruned = Snapshot.capture(model, optimizer, epoch=recipe.epochs)
    retraining = recipe.retraining
    for number in range(1, recipe.levels + 1):  # line 7
        trained = unpruned if recipe.one_shot else final
        if recipe.penalty != "none":
            model.load_state_dict(trained.model)
            worn = full_masks(model, pools) if recipe.one_shot else masks
            optimizer = make_optimizer(model, worn)
            choose = partial(_kept, recipe, pools, worn, number, initial.model)
            for epoch in drawn(recipe, pools, optimizer, choose):
                train(model, optimizer, recipe.epochs + epoch, recipe.epochs + epoch + 1)
            trained = Snapshot.capture(model, optimizer, epoch=recipe.epochs)
        ranked: Named = trained.model
        buffers: dict[str, Tensor] = {}
        if squares is not None and recipe.criterion == "wanda":
            model.load_state_dict(trained.model)
            ranked = scores_of_pools(model, [name for names in pools.values() for name in names], squares(model))
        elif channel_scores is not None and recipe.criterion == "fisher":
            model.load_state_dict(trained.model)
            ranked = scores_of_channels(model, pools, channel_scores(model), None if recipe.one_shot else masks)
        elif recipe.criterion == "supermask":
            network = copy.deepcopy(model)
            network.load_state_dict(initial.model)
            supermask = begun_supermask(recipe, pools, network, None if recipe.one_shot else masks, number)
            scores = torch.optim.Adam(supermask.scores.values(), lr=recipe.score_rate)
            train(supermask, scores, 0, recipe.score_epochs)
            ranked = {name: score.detach() for name, score in supermask.scores.items()}
            if (
                retraining.first == retraining.last
            ):  # statistics of a BatchNorm: those at initialisation are of no network
                buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
        before, masks = masks, next_masks(recipe, pools, ranked, masks, number, initial.model)  # line 4
        weights = next_weights(
            recipe,
            masks,
            number,
            previous=None if recipe.one_shot else before,
            initial=initial.model,
            rewind=rewind.model,
            final=trained.model,
            fresh=fresh(number) if fresh else None,
        )
        weights |= {name: buffer for name, buffer in buffers.items() if name in weights}
        model.load_state_dict(weights)  # line 5
        source = trained if retraining.from_end else rewind
        optimizer = make_optimizer(model, masks)
        Snapshot(source.epoch, weights, source.optimizer).restore(
            model, optimizer, masks=None if recipe.frozen else masks, optimizer_state=retraining.optimizer
        )
        train(model, optimizer, retraining.first, retraining.last)  # line 6
        yield Level(number, masks, density(masks))
        final = Snapshot.capture(model, optimizer, epoch=recipe.epochs)


def drawn(
    recipe: Recipe, pools: Pools, optimizer: torch.optim.Optimizer, choose: Choose, first: int = 0
) -> Iterator[int]:
    """The epochs of a recipe's penalty, each to be trained when it is yielded; ADMM's Z and U are renewed in between.

    Args:
        recipe: its penalty, strength and epochs.
        pools: whose weights are drawn.
        optimizer: of these weights; it has no penalty when all epochs are over.
        choose: the masks that the next pruning would give these values.
        first: the epoch to go on with; above 0 the optimizer has its Z and U already.

    Raises:
        TypeError: the optimizer knows no penalty.
    """
    if not isinstance(optimizer, PenalisedOptimizer):
        raise TypeError(
            f"the recipe has the penalty '{recipe.penalty}', and make_optimizer gave a {type(optimizer).__name__}; "
            "expected a MaskedAdam or MaskedSGD"
        )
    optimizer.set_penalty(recipe.penalty, recipe.penalty_strength, [name for names in pools.values() for name in names])
    renews = recipe.penalty == "admm"
    if renews and first == 0:
        optimizer.update_duals(choose)
    for epoch in range(first, recipe.penalty_epochs):
        yield epoch
        if renews:
            optimizer.update_duals(choose)
    optimizer.set_penalty("none")


def next_masks(
    recipe: Recipe,
    pools: Pools,
    final: Named,
    previous: Mapping[str, Tensor] | None,
    level: int,
    initial: Named | None = None,
) -> Masks:
    """The masks of a level, from the trained weights and the masks of the level before.

    Args:
        recipe: rates, criterion, scope; for one-shot pruning ``previous`` is not read, and the counts are those of
            iterative pruning, in one go.
        pools: as from ``pools_by_type``.
        final: the trained network that is pruned; for one-shot pruning the unpruned one. With the criterion ``"wanda"`` or
            ``"supermask"`` the scores of its weights.
        previous: the masks of ``final``; None for none.
        level: from 1.
        initial: the weights at initialisation, for criteria that read them.

    Returns:
        Parameter name -> ``torch.bool``.

    Example:
        >>> import torch, prunecca as pc
        >>> weights, pools = {"weight": torch.arange(1.0, 101.0)}, {"all": ["weight"]}
        >>> recipe = pc.pruning.Recipe(rates=0.1, one_shot=True)
        >>> int(pc.pruning.next_masks(recipe, pools, weights, None, 2)["weight"].sum())
        81
    """
    masks = None if recipe.one_shot else previous
    trained = named_tensors(final)
    for _ in range(level if recipe.one_shot else 1):
        masks = prune(
            trained,
            pools,
            recipe.rates,
            masks,
            criterion="score" if recipe.criterion in SCORED else recipe.criterion,
            initial=initial,
            scope=recipe.scope,
            alpha=recipe.alpha,
            seed=recipe.seed,
        )
    return dict(masks or {})


def next_weights(
    recipe: Recipe,
    masks: Mapping[str, Tensor],
    level: int,
    *,
    initial: Mapping[str, Tensor],
    rewind: Mapping[str, Tensor],
    final: Mapping[str, Tensor],
    previous: Mapping[str, Tensor] | None = None,
    fresh: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The state from which ``level`` is trained: copies, masks applied. All states are those of ``model.state_dict()``.

    Args:
        recipe: what becomes of survivors and of what is pruned.
        masks: of this level, as from ``next_masks``.
        level: from 1.
        initial: the network at initialisation.
        rewind: the network at the end of epoch k.
        final: the network as trained, from which this level was pruned.
        previous: the masks of ``final``; what they prune keeps the value it was frozen at.
        fresh: a new random network, for ``survivors="reinitialize"``.

    Returns:
        Names with tensors, on the devices of the state that the values are taken from. A weight that has two names in any
        of the states (shared by two modules) is one tensor under both.

    Raises:
        ValueError: the recipe needs ``fresh``, which is None, or a mask has no weight of its name.

    Example:
        >>> import torch, prunecca as pc
        >>> state = {"weight": torch.tensor([1.0, -2.0])}
        >>> masks = {"weight": torch.tensor([False, True])}
        >>> pc.pruning.next_weights(pc.pruning.Recipe(), masks, 1, initial=state, rewind=state, final=state)
        {'weight': tensor([ 0., -2.])}
    """
    if recipe.survivors == "reinitialize" and fresh is None:
        raise ValueError("survivors='reinitialize' needs the state of a new random network; pass it as fresh")
    base = {"keep": final, "reinitialize": fresh}.get(recipe.survivors) or rewind
    first = same_names(initial, rewind, final, base)
    initial, final = (under_first_names(state, first) for state in (initial, final))
    previous = under_first_names(previous or {}, first)
    weights = copies_of(base)
    changed = under_first_names(weights, first)
    generator = torch.Generator().manual_seed((recipe.seed * 1_000_003 + level) % 2**63)
    for name, mask in under_first_names(masks, first).items():
        if not all(name in state for state in (changed, initial, final)):
            raise ValueError(f"mask '{name}' has no weight of that name; expected states with all masked weights")
        values = changed[name]
        start, end = initial[name].to(values.device), final[name].to(values.device)
        kept = mask.to(values.device)
        if recipe.survivors == "shuffle":
            survivors = values[kept]
            values[kept] = survivors[torch.randperm(len(survivors), generator=generator).to(values.device)]
        elif recipe.survivors == "signed_constant":
            values = values.sign() * start.float().std(correction=0).to(values.dtype)
        gone = torch.zeros_like(values)
        if recipe.pruned == "init":
            gone = start
        elif recipe.pruned == "zero_if_shrunk":
            gone = torch.where(end.abs() < start.abs(), gone, start)
        elif recipe.pruned in ("frozen", "by_movement"):
            shrunk = end.abs() < start.abs() if recipe.pruned == "by_movement" else torch.zeros_like(kept)
            gone = torch.where(shrunk, gone, values)
            if name in previous:
                gone = torch.where(previous[name].to(values.device), gone, end)
        changed[name] = torch.where(kept, values, gone)
    return {name: changed[first.get(name, name)] for name in weights}


def begun_supermask(
    recipe: Recipe, pools: Pools, network: nn.Module, previous: Mapping[str, Tensor] | None, level: int
) -> Supermask:
    """The scores of a network at its initialisation, less what ``previous`` prunes, where their training begins."""
    apply_masks(network, previous or {})
    left = density_of_pools(recipe.rates, pools, previous or {}, recipe.scope, level if recipe.one_shot else 1)
    # From 0 and 1 no score would ever move.
    probability = {pool: min(max(density, 0.01), 0.99) for pool, density in left.items()}
    return Supermask(network, pools, probability=probability, sampling=recipe.sampling, seed=recipe.seed)


def _kept(
    recipe: Recipe, pools: Pools, previous: Masks, level: int, initial: Named, values: Mapping[str, Tensor]
) -> Masks:
    return next_masks(recipe, pools, values, previous, level, initial)
