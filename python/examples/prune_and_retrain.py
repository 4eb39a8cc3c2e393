"""Iterative magnitude pruning with your own training loop: pools, masks, MaskedAdam and imp().

    python prune_and_retrain.py

Each level prunes a fraction of what is left, puts the survivors back to epoch 1 of the first training (weights, biases,
BatchNorm statistics and the optimizer), and trains again.
"""

import torch
from torch import nn

import prunecca as pc
from prunecca.pruning import MaskedAdam, Recipe, imp, pools_by_type

splits = pc.data.load("digits2")
model = pc.models.build("digits2", seed=0)
recipe = Recipe(rates={"conv": 0.3, "fc": 0.5}, levels=3, epochs=4, rewind_epoch=1)


def make_optimizer(model, masks):
    # The step keeps pruned weights, and their moments, at exactly zero.
    return MaskedAdam(model.named_parameters(), masks, lr=1e-3, weight_decay=5e-4)


def train(model, optimizer, first, last):
    model.train()
    for epoch in range(first, last):
        for images, labels in splits.train.batches(32, seed=0, epoch=epoch):
            loss = nn.functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def accuracy(model):
    model.eval()
    with torch.no_grad():
        hits = sum((model(images).argmax(1) == labels).sum().item() for images, labels in splits.test.batches(512))
    return hits / len(splits.test)


pools = pools_by_type(model)  # {"conv": [names], "fc": [names]}; the output layer and BatchNorm are in neither
for level in imp(model, recipe, make_optimizer, train, pools=pools):
    zeros = sum(int((parameter == 0).sum()) for name, parameter in model.named_parameters() if name in level.masks)
    print(f"level {level.number}: {level.density:.3f} kept, {zeros} zeros, test accuracy {accuracy(model):.3f}")
