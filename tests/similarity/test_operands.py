"""What a metric takes: every kind of array, and one sentence for everything else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from representations import covariance, related

import prunecca as pc

pytestmark = pytest.mark.usefixtures("one_thread")


def test_arrays_of_every_kind_give_the_same_value(tmp_path: Path) -> None:
    x, y = (a.astype(np.float32) for a in related(2000, 16, 16))
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = pc.svcca(x, y).mean
    assert pc.svcca(mapped, torch.from_numpy(y)).mean == expected
    assert pc.svcca(torch.from_numpy(x.T.copy()).T, y).mean == pytest.approx(expected, abs=1e-7)
    images = torch.from_numpy(x).reshape(20, 10, 10, 16).permute(0, 3, 1, 2)
    assert pc.svcca(images, torch.from_numpy(y).reshape(20, 10, 10, 16).permute(0, 3, 1, 2)).mean == pytest.approx(
        expected, abs=1e-7
    )


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x, y, c: pc.cca(x), TypeError, "one ndarray was given; expected a Covariance, or two arrays"),
        (lambda x, y, c: pc.cca(c, y), TypeError, "a Covariance alone"),
        (lambda x, y, c: pc.cca(x, "y"), TypeError, "y is a str"),
        (lambda x, y, c: pc.cca(x.astype(int), y), TypeError, "x has dtype int64; expected float16"),
        (lambda x, y, c: pc.cca(x[:-1], y), ValueError, "shape"),
        (lambda x, y, c: pc.cca(x[:1], y[:1]), ValueError, "at least 2"),
        (lambda x, y, c: pc.cca(x * np.nan, y), ValueError, "NaN"),
        (lambda x, y, c: pc.cca(c, tol=1.0), ValueError, "tol is 1.0"),
        (lambda x, y, c: pc.linear_regression(c, tol=-1), ValueError, "tol is -1"),
        (lambda x, y, c: pc.linear_regression(c, target="z"), ValueError, "target is 'z'; expected 'x' or 'y'"),
        (lambda x, y, c: pc.cca(c, trim=0.0), ValueError, "trim is 0.0"),
        (lambda x, y, c: pc.svcca(c, variance=99), ValueError, "variance is 99; expected a fraction"),
        (lambda x, y, c: pc.pwcca(c, side="z"), ValueError, "side is 'z'; expected 'x' or 'y'"),
        (lambda x, y, c: pc.linear_cka(pc.Covariance(50, *c), debiased=True), ValueError, "norms=True"),
        (lambda x, y, c: pc.linear_cka(x[:3], y[:3], debiased=True), ValueError, "at least 4"),
        (lambda x, y, c: pc.cca(pc.Covariance(1, *c)), ValueError, "1 datapoints; expected at least 2"),
        (lambda x, y, c: pc.cca(x, y, precision="half"), ValueError, "expected 'float32' or 'float64'"),
    ],
)
def test_errors_say_what_was_wrong(call: Any, error: type[Exception], words: str) -> None:
    x, y = related(50, 5, 5)
    cov = covariance(x, y)
    if call.__code__.co_consts and "Covariance" in call.__code__.co_names:
        cov = (cov.mean_x, cov.mean_y, cov.xx, cov.yy, cov.xy)
    with pytest.raises(error, match=words):
        call(x, y, cov)
