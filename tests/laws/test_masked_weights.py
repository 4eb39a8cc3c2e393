"""Masked weights and their moments stay zero: what implementations get wrong in training."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from pitfalls import OPTIMIZERS, masked, moments, network, prune, train
from torch import Tensor

import prunecca as pc

P = pc.pruning


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("state", ["kept", "fresh"])
def test_a_masked_weights_never_move(kind: str, state: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[kind](model, {})
    train(model, optimizer, 50)
    masks = prune(model)
    if state == "kept":
        assert (moments(model, optimizer, masks) != 0).any()
        optimizer.set_masks(masks)
    else:
        optimizer = OPTIMIZERS[kind](model, masks)
    for steps in (0, 1, 9, 90):
        train(model, optimizer, steps, seed=steps)
        gone = masked(dict(model.named_parameters()), masks)
        assert len(gone) > 200
        assert (gone == 0).all()
        assert not gone.signbit().any()
    again = prune(model, 0.2, masks)
    assert not any((again[n] & ~masks[n]).any() for n in masks)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a2_moments_are_dead_and_the_clipped_norm_is_the_sub_networks(kind: str) -> None:
    model = network()
    optimizer = OPTIMIZERS[kind](model, {})
    train(model, optimizer, 20)
    masks = prune(model)
    optimizer.set_masks(masks)
    assert (moments(model, optimizer, masks) == 0).all()
    train(model, optimizer, 5, seed=1)
    assert len(moments(model, optimizer, masks)) > 200
    assert (moments(model, optimizer, masks) == 0).all()
    gradients = {n: p.grad.clone() for n, p in model.named_parameters()}
    left = [g[masks[n]] if n in masks else g.ravel() for n, g in gradients.items()]
    torch.testing.assert_close(optimizer.clip_gradients(1e-3), torch.cat(left).norm())
    clipped = torch.cat([p.grad.ravel() for p in model.parameters()]).norm()
    torch.testing.assert_close(clipped, torch.tensor(1e-3), rtol=1e-2, atol=0)


def test_b_a_checkpoint_right_after_a_step_is_sparse() -> None:
    model = network()
    masks = prune(model)
    optimizer = OPTIMIZERS["adam-l2"](model, masks)
    train(model, optimizer, 1)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    assert (masked(saved["model"], masks) == 0).all()
    other = network()
    other.load_state_dict(saved["model"])
    twin = OPTIMIZERS["adam-l2"](other, masks)
    twin.load_state_dict(saved["optimizer"])
    assert (moments(other, twin, masks) == 0).all()


@pytest.mark.parametrize("kind", ["adam-l2", "adamw"])
def test_i_weight_decay_moves_no_masked_weight(kind: str) -> None:
    model = network()
    masks = prune(model)
    optimizer = OPTIMIZERS[kind](model, masks)
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in network().named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    for _ in range(3):
        optimizer.step()
    assert (masked(dict(model.named_parameters()), masks) == 0).all()
    weights = dict(network().named_parameters())
    frozen = P.MaskedAdam(weights.items(), masks, lr=0.1, weight_decay=0.1, pruned="frozen")
    before = {n: p.detach().clone() for n, p in weights.items()}
    for p in weights.values():
        p.grad = torch.zeros_like(p)
    frozen.step()
    assert torch.equal(masked(weights, masks), masked(before, masks))


def test_q_copies_pickles_and_dense_networks() -> None:
    model = network()
    masks = prune(model)
    optimizer = OPTIMIZERS["adam-l2"](model, masks)
    train(model, optimizer, 2)
    for twin, other in (copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer)))):
        train(twin, other, 2, seed=1)
        assert (masked(dict(twin.named_parameters()), masks) == 0).all()
        assert (moments(twin, other, masks) == 0).all()
    dense = network()
    dense.load_state_dict(model.state_dict(), strict=True)
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(dense.eval()(x), model.eval()(x))
    assert all(torch.equal(P.unpack(P.pack(masks), dense)[n], m) for n, m in masks.items())


def test_r_memory_does_not_grow_with_the_levels() -> None:
    model = network()
    optimizer = OPTIMIZERS["adam-l2"](model, {})
    masks: dict[str, Tensor] | None = None
    sizes = []
    for level in range(20):
        train(model, optimizer, 1, seed=level)
        masks = prune(model, 0.1, masks)
        optimizer.set_masks(masks)
        sizes.append((len(pickle.dumps((model, optimizer))), sum(m.untyped_storage().nbytes() for m in masks.values())))
    assert len(set(sizes)) == 1
    assert sizes[0][1] == sum(m.numel() for m in masks.values())
