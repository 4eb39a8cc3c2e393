"""Errors as one sentence."""

from __future__ import annotations

import torch


def sentence(error: BaseException) -> str:
    """What went wrong, in one line, for a user who wants no traceback."""
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "the GPU's memory is full; use a smaller --batch-size, or --device cpu"
    text = " ".join(str(error.args[0] if len(error.args) == 1 else error).split())
    known = isinstance(
        error, ValueError | FileNotFoundError | PermissionError | RuntimeError | TimeoutError | TypeError
    )
    return text if text and (known or isinstance(error, OSError)) else f"{type(error).__name__}: {text}"


class InUse(RuntimeError):
    """Another process works on the run directory."""


class ConfigurationError(ValueError):
    """The options cannot be carried out, or differ from those a run directory was made with."""


RUN_AGAIN = "; remove it and run again"


class StorageError(OSError):
    """The folder or disk refuses to be written."""

    def __str__(self) -> str:
        return str(self.args[0])


class CorruptFile(ValueError):
    """A file is cut short or its content is not what was written."""

    @property
    def finding(self) -> str:
        """The sentence without its advice, for where the file is made again anyhow."""
        return str(self).removesuffix(RUN_AGAIN)


class PickledObject(CorruptFile):
    """A file holds Python objects, such as a whole module, and not weights alone."""


class WorkerFailed(RuntimeError):
    """A worker process stopped with an error, or all of them were killed."""


class CaptureFailed(RuntimeError):
    """A training step does what a CUDA graph cannot hold; the training stands where it stood before the epoch."""


class Diverged(ArithmeticError):
    """The loss is not a finite number; the training stands where it stood before the epoch.

    Example:
        >>> import prunecca as pc
        >>> issubclass(pc.training.Diverged, ArithmeticError)
        True
    """


class FewRows(UserWarning):
    """There are so few rows for the directions that took part that a similarity says little, or nothing."""


class UnusedMask(UserWarning):
    """Batches have a mask of their padding, and the padding counts as if it were data."""


class UnpooledWarning(UserWarning):
    """Weights are in no pool: nothing of them will be pruned.

    Example:
        >>> import warnings, torch, prunecca as pc
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always", pc.pruning.UnpooledWarning)
        ...     pools = pc.pruning.pools_by_type(torch.nn.Sequential(torch.nn.Embedding(9, 4), torch.nn.Linear(4, 2)))
        >>> str(caught[0].message)[:23]
        "no pool takes '0' (0.we"
    """
