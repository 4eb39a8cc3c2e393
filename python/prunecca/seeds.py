"""Random streams derived from a seed and from what they are for, so that nothing about them needs to be saved."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from collections.abc import Iterator

import numpy as np
import torch


def derive(seed: int, purpose: str, epoch: int = 0) -> int:
    """A 63-bit seed for one purpose (``"order"``, ``"dropout"``, ...) in one epoch; streams are independent.

    ``seed`` and ``epoch`` must not be negative (``ValueError``).
    """
    if seed < 0 or epoch < 0:
        raise ValueError(f"seed is {seed} and epoch is {epoch}; both must be 0 or more")
    sequence = np.random.SeedSequence([seed, epoch, zlib.crc32(purpose.encode())])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def generator(seed: int, purpose: str, epoch: int = 0) -> torch.Generator:
    """A CPU generator in the state that ``derive`` gives."""
    return torch.Generator().manual_seed(derive(seed, purpose, epoch))


def seed_for(*parts: object) -> int:
    """A seed in [0, 2^63) that depends on all parts and on nothing else."""
    return int.from_bytes(hashlib.sha256("/".join(map(str, parts)).encode()).digest()[:8], "little") >> 1


@contextlib.contextmanager
def seeded(seed: int | None, device: torch.device | None = None) -> Iterator[None]:
    """Within, torch's global generator of the CPU (and of a CUDA ``device``) has this seed; afterwards it is as before.

    None leaves the generators alone.
    """
    if seed is None:
        yield
        return
    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed all GPUs too
        for gpu in gpus:
            with torch.cuda.device(gpu):
                torch.cuda.manual_seed(seed)
        yield
