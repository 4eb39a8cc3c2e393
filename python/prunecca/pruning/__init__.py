"""Pruning: which weights go (pools, criteria, masks), how the rest is trained (optimizers), and IMP itself."""

from ..errors import UnpooledWarning
from ..methods.supermask import Supermask
from ..methods.wanda import wanda_scores
from ..structured.narrowing import Narrowed, narrowed
from ..structured.scores import fisher_channel_scores, l1_channel_scores
from ..weights.pools import pools_by_type
from ..weights.rules import register_pool_rule
from .criteria import CRITERIA
from .imp import Level, imp, next_masks, next_weights
from .interchange import masks_from, masks_from_zeros, masks_to, pruned_state
from .masking import Masking, masked
from .masks import (
    LayerCollapseWarning,
    apply_masks,
    density,
    density_per_layer,
    full_masks,
    prune,
)
from .optimizers import MaskedAdam, MaskedSGD
from .packing import load_masks, pack, save_masks, unpack
from .recipe import RECIPES, Recipe, recipe_named
from .rewind import Snapshot

__all__ = [
    "CRITERIA",
    "RECIPES",
    "LayerCollapseWarning",
    "Level",
    "MaskedAdam",
    "MaskedSGD",
    "Masking",
    "Narrowed",
    "Recipe",
    "Snapshot",
    "Supermask",
    "UnpooledWarning",
    "apply_masks",
    "density",
    "density_per_layer",
    "fisher_channel_scores",
    "full_masks",
    "imp",
    "l1_channel_scores",
    "load_masks",
    "masked",
    "masks_from",
    "masks_from_zeros",
    "masks_to",
    "narrowed",
    "next_masks",
    "next_weights",
    "pack",
    "pools_by_type",
    "prune",
    "pruned_state",
    "recipe_named",
    "register_pool_rule",
    "save_masks",
    "unpack",
    "wanda_scores",
]
