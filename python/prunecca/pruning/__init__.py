"""Pruning: which weights go (pools, criteria, masks), how the rest is trained (optimizers), and IMP itself."""

from ..methods.wanda import wanda_scores
from .criteria import CRITERIA
from .imp import Level, imp, next_masks, next_weights
from .interchange import masks_from
from .masks import (
    LayerCollapseWarning,
    apply_masks,
    density,
    density_per_layer,
    full_masks,
    prune,
)
from .optimizers import MaskedAdam, MaskedSGD
from .packing import pack, unpack
from .pools import UnpooledWarning, pools_by_type
from .recipe import RECIPES, Recipe, recipe_named
from .rewind import Snapshot

__all__ = [
    "CRITERIA",
    "RECIPES",
    "LayerCollapseWarning",
    "Level",
    "MaskedAdam",
    "MaskedSGD",
    "Recipe",
    "Snapshot",
    "UnpooledWarning",
    "apply_masks",
    "density",
    "density_per_layer",
    "full_masks",
    "imp",
    "masks_from",
    "next_masks",
    "next_weights",
    "pack",
    "pools_by_type",
    "prune",
    "recipe_named",
    "unpack",
    "wanda_scores",
]
