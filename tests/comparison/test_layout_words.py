"""Words that are no layout are refused, also where no output has as many dimensions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import prunecca as pc


@pytest.mark.parametrize("word", ["foo", "nchh", "nl", "n,c", "", None, 3])
@pytest.mark.parametrize("by_layer", [False, True])
def test_what_is_no_layout(word: Any, by_layer: bool) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"layout is .*; expected 'infer', a letter for each dimension with c for the"):
        pc.compare(model, model, torch.randn(50, 3), layout={"*": word} if by_layer else word)


@pytest.mark.parametrize("word", ["nc", "nlc", "lnc", "nchw", "infer", "auto"])
def test_a_layout_of_other_dimensions_is_for_other_layers(word: Any) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    table = pc.compare(model, model, torch.randn(50, 3), layout=word, metrics=("linear_cka",)).table
    assert table["layout"].tolist() == ["nc"]
