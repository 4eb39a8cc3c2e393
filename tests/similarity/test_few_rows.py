"""Metrics that fit directions say so when there are too few rows for them, once."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from representations import OF_COVARIANCES

import prunecca as pc
from prunecca.errors import FewRows
from prunecca.similarity.registry import find_metrics

pytestmark = pytest.mark.usefixtures("one_thread")
FITTED = ("cca", "svcca", "pwcca", "mean_squared_cca", "yanai", "pillai", "linear_regression", "shape_distance")


def arrays(n: int, channels: int = 6) -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(n)
    return torch.randn(n, channels, generator=make), torch.randn(n, channels, generator=make)


def call(name: str, *given: object) -> object:
    options = {"alpha": 0.0} if name == "shape_distance" else {"variance": 1.0} if name == "svcca" else {}
    return pc.METRICS[name](*given, **options)


@pytest.mark.parametrize("name", FITTED)
def test_each_warns_of_no_more_rows_than_directions(name: str) -> None:
    directions = 7 if name == "linear_regression" else 12  # a fit has a mean
    with pytest.warns(FewRows) as told:
        call(name, *arrays(directions))
    assert [str(one.message) for one in told] == [
        f"{name}: no more rows than directions, so that the value means nothing (any two representations get about 1); "
        f"there are {directions} rows for {directions} directions. Give more datapoints, or use a metric that keeps no "
        "directions (linear_cka)"
    ]
    assert told[0].filename == __file__


@pytest.mark.parametrize("name", FITTED)
def test_each_tells_what_is_chance_and_then_nothing(name: str) -> None:
    acc = pc.StreamingCovariance()
    acc.update(*arrays(50))
    with pytest.warns(
        FewRows, match=r": fewer than 10 rows a direction, so that part of the value is chance; there are 50 "
    ):
        call(name, acc.finalize())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call(name, *arrays(120))


@pytest.mark.parametrize("name", set(OF_COVARIANCES) - set(FITTED) | {"shape_distance"})
def test_others_do_not(name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pc.METRICS[name](*arrays(10))


def test_a_batch_is_told_once() -> None:
    acc = pc.StreamingCovariance()
    x, y = arrays(10)
    acc.update(x, [y, 2 * y])
    one, two = acc.finalize()
    batch = dataclasses.replace(
        one,
        **{name: torch.stack([getattr(one, name), getattr(two, name)]) for name in ("mean_y", "yy", "xy", "error_y")},
    )
    with pytest.warns(FewRows, match="10 rows for 12 directions") as told:
        pc.cca(batch)
    assert len(told) == 1


def test_a_table_is_told_by_whoever_makes_it() -> None:
    acc = pc.StreamingCovariance()
    acc.update(*arrays(10))
    chosen = find_metrics({"cca": {}, "mine": pc.cca})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for score in chosen.values():
            score(acc.finalize())
    network = torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.ReLU())
    with pytest.warns(FewRows) as told:
        pc.compare(network, network, arrays(10)[0], metrics=["cca", "yanai"])
    assert len(told) == 1


def test_files_are_told_once(tmp_path) -> None:
    for name, array in zip("ab", arrays(10), strict=True):
        np.save(tmp_path / f"{name}.npy", array.numpy())
    with pytest.warns(FewRows, match="^cca, yanai: no more rows than directions.* 10 rows for 12 directions") as told:
        pc.compare_files(tmp_path / "a.npy", [tmp_path / "b.npy"] * 2, ["cca", "yanai", "linear_cka"])
    assert len(told) == 1
    assert told[0].filename == __file__
