"""The pools of real networks hold the weights of their linear maps, by a list that goes by other marks than the pools."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn

import prunecca as pc

P = pc.pruning
SMALL = {"vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}


def bert() -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24, **SMALL
    )
    return transformers.BertModel(config)


def gpt2(kind: Any = transformers.GPT2Model) -> nn.Module:
    return kind(transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=8, **SMALL))


def t5() -> nn.Module:
    config = transformers.T5Config(d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, **SMALL)
    return transformers.T5ForConditionalGeneration(config)


def timm_vit() -> nn.Module:
    return timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, img_size=32, depth=2, embed_dim=16, num_heads=2, num_classes=5
    )


def torchvision_vit() -> nn.Module:
    return torchvision.models.VisionTransformer(32, 8, 2, 2, 16, 24, num_classes=5)


# Not pooled: what has one of these in its name. The output layer is named in full.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[str, ...]]] = {
    "bert": (bert, ("embedding", "LayerNorm", "pooler.dense")),
    "gpt2": (gpt2, ("wte", "wpe", "ln_", "h.1.mlp.c_proj")),
    "t5": (t5, ("shared", "layer_norm", "relative_attention_bias")),
    "timm": (timm_vit, ("token", "pos_embed", "norm", "head")),
    "torchvision": (torchvision_vit, ("class_token", "pos_embedding", "ln", "head")),
}


def all_but(model: nn.Module, left_out: Iterable[str]) -> set[str]:
    return {name for name, _ in model.named_parameters() if not any(part in name for part in left_out)}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_linear_map_of_a_transformer_is_in_a_pool(name: str) -> None:
    make, left_out = NETWORKS[name]
    model = make()
    with pytest.warns(P.UnpooledWarning, match=r"they stay unpruned, \d+\.\d % of all parameters") as caught:
        pools = P.pools_by_type(model)
    assert len(caught) == 1
    assert {name for names in pools.values() for name in names} == all_but(model, left_out)
    assert [n for n in pools["conv"] if "patch_embed" not in n and "conv_proj" not in n] == []
    masks = P.prune(model, pools, 0.5)
    P.apply_masks(model, masks)
    assert abs(P.density(masks) - 0.5) < 0.01


def test_tied_weights_are_one_weight_in_one_pool_and_one_mask() -> None:
    model = gpt2(transformers.GPT2LMHeadModel)
    assert model.lm_head.weight is model.transformer.wte.weight
    with pytest.warns(P.UnpooledWarning, match=r"no pool takes 'transformer.wpe' \(transformer.wpe.weight\); they"):
        pools = P.pools_by_type(model, include_output=True)
    masks = P.prune(model, pools, 0.25)
    assert "transformer.wte.weight" in masks
    assert "lm_head.weight" not in masks
    P.apply_masks(model, masks)
    assert torch.equal(model.lm_head.weight != 0, masks["transformer.wte.weight"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        everything = P.pools_by_type(model, include_output=True, include_embeddings=True)
    assert everything["embedding"] == ["transformer.wpe.weight"]
    with pytest.warns(P.UnpooledWarning) as caught:
        P.pools_by_type(t5())
    text = str(caught[0].message)
    assert "'encoder.block.0.layer.0.SelfAttention.relative_attention_bias'" in text
    assert "embed_tokens" not in text  # the same weight as the output layer's


@pytest.mark.parametrize("name", [*pc.models.PROBLEMS])
def test_the_pools_of_convolutional_networks_are_as_ever(name: str) -> None:
    model = pc.models.build(name)
    layers = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for include_output in (False, True):
            expected: dict[str, list[str]] = {"conv": [], "fc": []}
            for layer, module in layers if include_output else layers[:-1]:
                own = [f"{layer}.{key}" for key in ("weight", "bias") if getattr(module, key) is not None]
                expected["conv" if isinstance(module, nn.Conv2d) else "fc"] += own
            assert P.pools_by_type(model, include_output=include_output) == expected
