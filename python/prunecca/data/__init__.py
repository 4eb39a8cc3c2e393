"""Images of the problems, in memory or in files, and batches of them that a seed and an epoch determine."""

from .augmentation import Augmentation
from .loading import load, representation_subset
from .splits import Batches, Split, Splits

__all__ = ["Augmentation", "Batches", "Split", "Splits", "load", "representation_subset"]
