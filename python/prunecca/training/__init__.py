"""Training one network, as a value: run an epoch, read its state, put a state back."""

from ..errors import Diverged
from .config import TrainingConfig
from .training import Training

__all__ = ["Diverged", "Training", "TrainingConfig"]
