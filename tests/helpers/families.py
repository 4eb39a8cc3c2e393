"""Small networks of the families that people compare, with random weights, and linear CKA of stored activations."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

IMAGES = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(1))
TOKENS = torch.randint(0, 50, (6, 10), generator=torch.Generator().manual_seed(1))


class FromTokens(nn.Module):
    """A language model that is given tokens, and gives its last hidden state."""

    def __init__(self, model: nn.Module, decoder: bool = False) -> None:
        super().__init__()
        self.model, self.decoder = model, decoder

    def forward(self, ids: Tensor) -> Any:
        extra = {"decoder_input_ids": ids[:, :7]} if self.decoder else {}
        return self.model(input_ids=ids, **extra)[0]


def language(name: str, config: str, **options: Any) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        transformers = pytest.importorskip("transformers", reason="transformers is not installed")
        return FromTokens(getattr(transformers, name)(getattr(transformers, config)(**options)), name == "T5Model")

    return make


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64, "vocab_size": 50}


def vision(make: Callable[[Any], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: make(pytest.importorskip("torchvision", reason="torchvision is not installed").models)


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, padding=1)
        self.up, self.out = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        skip = F.relu(self.down(x))
        low = F.relu(self.middle(F.max_pool2d(skip, 2)))
        return self.out(torch.cat([skip, F.gelu(self.up(low))], 1))


class Recurrent(nn.Module):
    def __init__(self, batch_first: bool) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(50, 12, batch_first=batch_first), nn.Linear(12, 3)
        self.batch_first = batch_first

    def forward(self, ids: Tensor) -> Tensor:
        x = F.one_hot(ids, 50).float()
        out = self.lstm(x if self.batch_first else x.transpose(0, 1))[0]
        return self.head(out)


class Heads(nn.Module):
    """Attention by hand: reshapes, matrix products, einsum; and images whose patches become tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.patch, self.qkv, self.mix = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, 48), nn.Linear(16, 16)
        self.norm, self.drop = nn.LayerNorm(16), nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        n, length, c = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, 4, c // 4).permute(2, 0, 3, 1, 4).unbind(0)
        attention = (q @ k.transpose(-2, -1) / 2).softmax(-1)
        out = torch.einsum("nhql,nhld->nhqd", attention, v).transpose(1, 2).reshape(n, length, c)
        return self.norm(x + self.drop(self.mix(out)))


# Models, their inputs, and for some layers which axis of the output holds the channels, as their authors wrote them.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Tensor, dict[str, str]]] = {
    "bert": (
        language("BertModel", "BertConfig", **SMALL),
        TOKENS,
        {
            "model.encoder.layer.1.output": "nlc",
            "model.encoder.layer.0.attention.self.query": "nlc",
            "model.pooler": "nc",
        },
    ),
    "gpt2": (
        language(
            "GPT2Model", "GPT2Config", n_embd=32, n_layer=2, n_head=4, vocab_size=50, bos_token_id=0, eos_token_id=0
        ),
        TOKENS,
        {"model.h.1.mlp.c_fc": "nlc", "model.h.0.attn": "nlc", "model.h.1": "nlc", "model.h.0.mlp.act": "nlc"},
    ),
    "llama": (
        language("LlamaModel", "LlamaConfig", num_key_value_heads=2, **SMALL),
        TOKENS,
        {"model.layers.1.mlp": "nlc", "model.layers.0.self_attn.o_proj": "nlc", "model.norm": "nlc"},
    ),
    "t5": (
        language("T5Model", "T5Config", d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4, vocab_size=50),
        TOKENS,
        {"model.encoder.block.1": "nlc", "model.decoder.block.0.layer.1": "nlc"},
    ),
    "vit": (
        vision(lambda m: m.VisionTransformer(32, 8, 2, 4, 32, 64)),
        IMAGES,
        {"conv_proj": "nchw", "encoder.layers.encoder_layer_0.mlp.0": "nlc", "encoder.ln": "nlc"},
    ),
    "swin": (
        vision(lambda m: m.SwinTransformer([2, 2], 16, [1, 2], [2, 4], [4, 4])),
        IMAGES,
        {"features.0": "nhwc", "features.1": "nhwc", "features.3.1.attn": "nhwc", "norm": "nhwc", "permute": "nchw"},
    ),
    "convnext": (
        vision(lambda m: m.ConvNeXt([m.convnext.CNBlockConfig(16, 32, 1), m.convnext.CNBlockConfig(32, None, 1)])),
        IMAGES,
        {"features.0": "nchw", "features.1.0.block.3": "nhwc", "features.1.0.block.6": "nchw", "features.3": "nchw"},
    ),
    "densenet": (
        vision(lambda m: m.DenseNet(8, (2, 2), 16, num_classes=5)),
        IMAGES,
        {"features.denseblock1": "nchw", "features.denseblock2.denselayer2.relu2": "nchw", "classifier": "nc"},
    ),
    "levit": (
        lambda: pytest.importorskip("timm", reason="timm is not installed").models.levit.Levit(
            32, num_classes=5, embed_dim=(16, 24), num_heads=(2, 2), depth=(1, 1), key_dim=8
        ),
        IMAGES,
        {"stem.conv3": "nchw", "stages.0.blocks.0.mlp.ln1": "nlc", "stages.1.blocks.0.attn.qkv": "nlc", "head": "nc"},
    ),
    "video": (
        lambda: nn.Sequential(
            nn.Unflatten(1, (3, 1)), nn.Conv3d(3, 6, 3, padding=1), nn.BatchNorm3d(6), nn.ReLU(inplace=True)
        ),
        IMAGES,
        {"1": "ncdhw", "3": "ncdhw"},
    ),
    "lstm": (lambda: Recurrent(True), TOKENS, {"lstm": "nlc", "head": "nlc"}),
    "lstm, time first": (lambda: Recurrent(False), TOKENS, {"lstm": "nlc", "head": "nlc"}),
    "u-net": (
        UNet,
        IMAGES,
        {"down": "nchw", "down.relu": "nchw", "down.max_pool2d": "nchw", "up.gelu": "nchw", "out": "nchw"},
    ),
    "heads": (Heads, IMAGES, {"patch": "nchw", "qkv": "nlc", "mix": "nlc", "norm": "nlc"}),
}


def pruned(model: nn.Module, fraction: float = 0.3) -> nn.Module:
    """A copy in which the smallest weights of every matrix and kernel are 0."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            if p.ndim > 1:
                p[p.abs() <= p.abs().flatten().kthvalue(max(1, int(fraction * p.numel()))).values] = 0
    return other


def noisy(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    with torch.no_grad():
        for p in other.parameters():
            p += 0.2 * p.std().nan_to_num(0.1) * torch.randn_like(p)
    return other


def linear_cka(x: Any, y: Any) -> float:
    """Kornblith et al. 2019, on whole matrices in float64."""
    x, y = x - x.mean(0), y - y.mean(0)
    return float(np.linalg.norm(x.T @ y) ** 2 / np.linalg.norm(x.T @ x) / np.linalg.norm(y.T @ y))
