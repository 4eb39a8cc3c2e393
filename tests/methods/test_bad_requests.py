"""Requests for pruning that cannot be meant: each is one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import prunecca as pc

P = pc.pruning


class Conv1D(nn.Module):
    """As in the transformers library: inputs along the first dimension."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


@pytest.mark.parametrize("scope", ["row", "2:4", "channel"])
@pytest.mark.parametrize("layer", [Conv1D(4, 8), nn.ConvTranspose2d(8, 4, 3)], ids=["Conv1D", "transposed"])
def test_scopes_by_dimension_refuse_layers_with_their_inputs_first(layer: nn.Module, scope: str) -> None:
    model = nn.Sequential(layer)
    pools = {"all": ["0.weight", "0.bias"]}
    message = f"scope '{scope}' cannot cut '0.weight': the output channels of a {type(layer).__name__} are not along the first"
    with pytest.raises(ValueError, match=message):
        P.prune(model, pools, 0.5, scope=scope)
    trained: list[int] = []
    levels = P.imp(
        model,
        P.Recipe(rates=0.5, scope=scope, levels=1, epochs=1, rewind_epoch=0),
        lambda model, masks: P.MaskedAdam(model.named_parameters(), masks),
        lambda *_: trained.append(1),
        pools=pools,
    )
    with pytest.raises(ValueError, match=message):
        next(levels)
    assert not trained
    P.prune(model, pools, 0.5)


def test_rows_of_an_embedding_are_rows() -> None:
    masks = P.prune(nn.Sequential(nn.Embedding(6, 4)), {"all": ["0.weight"]}, 0.5, scope="row")
    assert masks["0.weight"].sum(1).tolist() == [2] * 6


@pytest.mark.parametrize(
    ("pools", "message"),
    [
        (["0.weight"], "pools are a list; expected lists of names by pool, as {'all': "),
        (None, "pools are a NoneType; expected lists of names by pool"),
        (
            {"fc": "0.weight"},
            r"pool 'fc' is '0.weight'; expected a list of names of parameters, as {'fc': \['0.weight'\]}",
        ),
        ({"fc": None}, "pool 'fc' is None; expected a list of names of parameters"),
        ({"fc": [1]}, r"pool 'fc' is \[1\]; expected a list of names of parameters"),
    ],
)
@pytest.mark.parametrize(
    "use",
    [
        lambda model, pools: P.prune(model, pools, 0.5),
        P.full_masks,
        P.Supermask,
        lambda model, pools: P.l1_channel_scores(model, pools) if pools is not None else P.full_masks(model, pools),
        lambda model, pools: (
            P.masks_from_zeros(model, pools=pools) if pools is not None else P.full_masks(model, pools)
        ),
    ],
    ids=["prune", "full_masks", "Supermask", "l1_channel_scores", "masks_from_zeros"],
)
def test_pools_are_lists_of_names(use: Callable[[nn.Module, Any], Any], pools: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        use(nn.Sequential(nn.Linear(3, 2)), pools)


@pytest.mark.parametrize("option", ["levels", "epochs", "rewind_epoch", "retraining_epochs", "seed", "score_epochs"])
@pytest.mark.parametrize("given", [2.5, "3", True])
def test_counts_of_a_recipe_are_whole(option: str, given: Any) -> None:
    with pytest.raises(TypeError, match=f"{option} is {given!r}; expected a whole number"):
        P.Recipe(**{option: given})


@pytest.mark.parametrize("given", [float("nan"), float("inf"), "1"])
def test_alpha_is_finite(given: Any) -> None:
    with pytest.raises(ValueError, match=f"alpha is {given!r}; expected a finite number"):
        P.Recipe(alpha=given)


@pytest.mark.parametrize("probability", ["0.5", None, 1, 0.0, float("nan")])
def test_probabilities_of_a_supermask(probability: Any) -> None:
    with pytest.raises(
        ValueError, match=f"probability of pool 'all' is {probability}; expected a number between 0 and 1"
    ):
        P.Supermask(nn.Sequential(nn.Linear(3, 2)), {"all": ["0.weight"]}, probability=probability)
