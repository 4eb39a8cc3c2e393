"""Compare transformers: the layers of a torch.nn.TransformerEncoder give (N, L, C), datapoints by positions by channels.

    python transformer.py

trains two small transformers to tell which of two tokens occurs more often, and compares each block of one with the
same block of the other, and with that of the network before it was trained.
"""

import copy

import torch
from torch import nn

import prunecca as pc

TOKENS, LENGTH, CHANNELS = 8, 12, 32


class Classifier(nn.Module):
    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(TOKENS, CHANNELS)
        block = nn.TransformerEncoderLayer(CHANNELS, nhead=4, dim_feedforward=64, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(block, num_layers=3, enable_nested_tensor=False)
        self.output = nn.Linear(CHANNELS, 2)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.output(self.encoder(self.embedding(tokens)).mean(1))


def trained(model: nn.Module, steps: int = 100) -> nn.Module:
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        tokens = torch.randint(TOKENS, (64, LENGTH))
        labels = ((tokens == 0).sum(1) > (tokens == 1).sum(1)).long()
        loss = nn.functional.cross_entropy(model(tokens), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(f"loss of the last batch: {loss.item():.3f}")
    return model


untrained = Classifier(seed=1)
reference = trained(copy.deepcopy(untrained))
other = trained(Classifier(seed=2))
tokens = torch.randint(TOKENS, (500, LENGTH))  # 500 x 12 rows for every covariance

result = pc.compare(
    reference,
    {"other seed": other, "untrained": untrained},
    tokens,
    layers=nn.TransformerEncoderLayer,  # a type: all its instances; names and globs such as "encoder.layers.*" work too
    metrics=("svcca", "linear_cka"),
)  # that the channels are the last dimension is found by following the forward pass; the table's column layout says so
print(result.table.pivot(index=["candidate", "layer"], columns="metric", values="value").round(3).to_string())
