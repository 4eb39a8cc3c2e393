"""Training throughput on the CPU: augmentation and loading, one step, one epoch.

    pytest benchmarks/cpu/bench_training.py

Images are random: the time does not depend on what they show.
"""

from __future__ import annotations

import statistics

import pytest
import torch

from prunecca import models
from prunecca.bench.timing import HostClock, ratio, take_turns
from prunecca.data import augmentation
from prunecca.data.augmentation import Augmentation
from prunecca.data.splits import Split, Splits
from prunecca.training.config import TrainingConfig
from prunecca.training.training import Training

BATCH = 128
BATCHES = 8
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def images(count, classes=2):
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    return Split(pixels, torch.arange(count) % classes, MEAN, STD)


def per_image(split, workers):
    """What a user would write otherwise: torchvision's transforms of one image at a time, in a DataLoader."""
    from torchvision import transforms

    chain = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.RandomAffine(15, translate=(0.1, 0.1), interpolation=transforms.InterpolationMode.BILINEAR),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )

    class Images(torch.utils.data.Dataset):
        def __len__(self):
            return len(split)

        def __getitem__(self, index):
            return chain(split.images[index]), split.labels[index]

    return torch.utils.data.DataLoader(
        Images(), BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0
    )


@pytest.mark.benchmark(group="augmented batches of 128 images")
@pytest.mark.parametrize("rival", ["grid_sample", "torchvision, 0 workers", "torchvision, 2 workers"])
def test_augmented_batches(benchmark, rival):
    split = images(BATCH * BATCHES)
    maps = Augmentation().draw(BATCH, 32, 32, torch.Generator().manual_seed(0))
    index = torch.arange(BATCH)
    by_torch = augmentation._warp_by_grid_sample(split.images[index], maps, MEAN, STD)
    torch.testing.assert_close(augmentation.warp(split.images, index, maps, MEAN, STD), by_torch, rtol=0, atol=2e-4)

    def ours():
        for _ in split.batches(BATCH, seed=0, augmentation=Augmentation(), channels_last=True):
            pass

    def grid_sample():
        drawn = Augmentation().draw(len(split), 32, 32, torch.Generator().manual_seed(0))
        order = torch.randperm(len(split))
        for chunk in torch.split(order, BATCH):
            augmentation._warp_by_grid_sample(split.images[chunk], drawn[chunk], MEAN, STD)

    if rival == "grid_sample":
        theirs, rounds = grid_sample, 50
    else:
        loader, rounds = per_image(split, int(rival.split()[1])), 5

        def theirs():
            for _ in loader:
                pass

    seconds = take_turns({"ours": ours, rival: theirs}, HostClock(), rounds=(rounds, rounds))
    benchmark.extra_info.update(
        ours_ms=1e3 * statistics.median(seconds["ours"]) / BATCHES,
        rival_ms=1e3 * statistics.median(seconds[rival]) / BATCHES,
        times_faster=ratio(seconds, rival, "ours"),
    )
    benchmark.pedantic(theirs, rounds=3)


@pytest.mark.benchmark(group="share of loading and augmentation in an epoch")
@pytest.mark.parametrize("problem", ["cifar2", "digits4"])
def test_share_of_an_epoch(benchmark, problem):
    config = TrainingConfig.for_problem(problem, epochs=1000)
    split = images(BATCH * BATCHES)
    splits = Splits(problem, ("a", "b"), train=split, test=images(BATCH))
    training = Training(models.build(problem, 2, seed=0), splits, config, seed=0)

    def loading():
        for _ in split.batches(config.batch, seed=0, augmentation=config.augmentation, channels_last=True):
            pass

    seconds = take_turns({"epoch": lambda: training._train(None), "loading": loading}, HostClock(), rounds=(15, 15))
    benchmark.extra_info.update(
        share=ratio(seconds, "loading", "epoch"), images_per_second=len(split) / statistics.median(seconds["epoch"])
    )
    benchmark.pedantic(training._train, (None,), rounds=3)


@pytest.mark.benchmark(group="one training step of 128 images")
@pytest.mark.parametrize("problem", ["cifar2", "cifar4"])
def test_choices_of_a_step(benchmark, problem):
    """What makes the defaults: memory layout, optimizer, precision; each against the plain choice."""
    splits = Splits(problem, ("a", "b"), train=images(BATCH), test=images(BATCH))

    def torch_adam(fused):
        return lambda model, c: torch.optim.Adam(model.parameters(), lr=c.lr, weight_decay=c.weight_decay, fused=fused)

    def step(optimizer=None, **changes):
        config = TrainingConfig(epochs=10000, augmentation=None, **changes)
        model = models.build(problem, 2, seed=0)
        training = Training(model, splits, config, seed=0, optimizer_factory=optimizer)
        return lambda: training._train(None)

    rivals = {
        "plain": step(torch_adam(False), channels_last=False),
        "channels_last": step(torch_adam(False), channels_last=True),
        "channels_last, fused": step(torch_adam(True), channels_last=True),
        "channels_last, masked (default)": step(channels_last=True),
        "channels_last, masked, bfloat16": step(channels_last=True, precision="bfloat16"),
    }
    seconds = take_turns(rivals, HostClock(), rounds=(25, 25), warmup=3)
    benchmark.extra_info.update({f"{name}, ms": 1e3 * statistics.median(times) for name, times in seconds.items()})
    benchmark.extra_info.update({f"{name}, times faster": ratio(seconds, "plain", name) for name in list(rivals)[1:]})
    benchmark.pedantic(rivals["channels_last, masked (default)"], rounds=5)


@pytest.mark.benchmark(group="one epoch of cifar2")
def test_epoch_of_cifar2(benchmark):
    """10000 training images, augmented, and 2000 test images: what the paper's smallest problem costs per epoch."""
    splits = Splits("cifar2", ("a", "b"), train=images(10000), test=images(2000))
    training = Training(
        models.build("cifar2", seed=0), splits, TrainingConfig.for_problem("cifar2", epochs=100), seed=0
    )
    record = benchmark.pedantic(training.run_epoch, rounds=2, warmup_rounds=1)
    assert record["epoch"] == 3
    assert 0.4 < record["test_accuracy"] < 0.6  # the images are noise
