"""Small splits of random images for the tests of data, and their batches in one piece."""

import torch

from prunecca.data.splits import Split


def toy(count=50, classes=5, side=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    return Split(pixels, torch.arange(count) % classes, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def gather(batches):
    inputs, labels = zip(*batches, strict=True)
    return torch.cat(inputs), torch.cat(labels)
