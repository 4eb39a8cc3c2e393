"""Networks of the study out of files that other tools made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from prunecca import models
from prunecca.cli.main import app
from prunecca.errors import ConfigurationError
from prunecca.study.resolve import load_network

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_network_that_torch_pruned_in_parallel_computes_the_same(tmp_path: Path) -> None:
    model = models.build("digits2", seed=1).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            prune.l1_unstructured(module, "weight", amount=0.3)
    torch.save({"epoch": 3, "state_dict": nn.DataParallel(model).state_dict()}, tmp_path / "x.pt")
    _, loaded = load_network(tmp_path / "x.pt", "digits2")
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.eval()(images), model(images))


def test_weights_of_another_network_are_named(tmp_path: Path) -> None:
    state = models.build("digits2").state_dict()
    torch.save(state, tmp_path / "x.pt")
    with pytest.raises(ConfigurationError) as caught:
        load_network(tmp_path / "x.pt", "digits4")
    assert str(caught.value) == (
        f"{tmp_path}/x.pt does not fit the network of digits4: output.weight has shape (2, 64), in the network (4, 64) "
        "(and 1 more differ); give the right --problem"
    )
    with pytest.raises(ConfigurationError, match=r"x.pt does not say whose network it is; give --problem, such as "):
        load_network(tmp_path / "x.pt")


def test_one_of_several_networks_is_compared(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    states = [models.build("digits2", seed=seed).state_dict() for seed in (0, 1)]
    torch.save({"state_dict": states[0], "state_dict_ema": states[1]}, tmp_path / "x[|y].pt")
    path = str(tmp_path / "x[|y].pt")
    command = ["compare", f"{path}:state_dict", f"{path}:state_dict_ema", f"{path}:state_dict"]
    more = ["--problem", "digits2", "--images", "60", "--metrics", "linear_cka", "--layers", "fc1", "--device", "cpu"]
    out = tmp_path / "t.csv"
    result = CliRunner().invoke(app, [*command, *more, "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    import pandas as pd

    other, same = pd.read_csv(out)["value"]
    assert same == pytest.approx(1)
    assert other < 0.99
