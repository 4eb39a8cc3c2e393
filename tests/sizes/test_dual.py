"""The dual form: more channels than datapoints, from N x N matrices."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from representations import OF_COVARIANCES
from torch import Tensor

import prunecca as pc
from prunecca.similarity import operands
from prunecca.similarity.registry import find_metrics

pytestmark = pytest.mark.usefixtures("one_thread")

DUAL = [name for name in pc.METRICS if find_metrics(name)[name].metric.dual]
OF_CHANNELS = (
    "pwcca",
    "hard_matching",
    "permutation_matching",
    "soft_matching",
    "soft_matching_distance",
    "maximum_match",
)


def pair(n: int, x: int, y: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two correlated representations of one set of datapoints, float64, with means."""
    make = torch.Generator().manual_seed(seed)
    hidden = torch.randn(n, 12, generator=make, dtype=torch.float64)

    def channels(width: int) -> Tensor:
        mixed = hidden @ torch.randn(12, width, generator=make, dtype=torch.float64)
        return mixed + torch.randn(n, width, generator=make, dtype=torch.float64) + 3.0

    return channels(x), channels(y)


def accumulated(x: Tensor, y: Tensor, block: int, **options: object) -> pc.Covariance:
    acc = pc.DualAccumulator(**options)  # type: ignore[arg-type]
    for index, side in enumerate((x, y)):
        for part in side.split(block, 1):
            acc.add(index, part)
    cov = acc.finalize()
    assert isinstance(cov, pc.Covariance)
    return cov


def reference(x: Tensor, y: Tensor) -> dict[str, float]:
    """Of the definitions, on the features themselves, in NumPy."""
    a, b = (side.numpy() - side.numpy().mean(0) for side in (x, y))
    n = len(a)
    k, m = a @ a.T, b @ b.T
    cka = (k * m).sum() / np.linalg.norm(k) / np.linalg.norm(m)
    left, right = (np.linalg.qr(side.T, mode="r") for side in (a, b))
    nbs = np.linalg.norm(left @ right.T, "nuc") / math.sqrt(np.trace(k) * np.trace(m))
    upper = np.triu_indices(n, 1)
    k_distances, m_distances = (((z[:, None] - z[None]) ** 2).sum(-1)[upper] for z in (a, b))

    def hsic(p: np.ndarray, q: np.ndarray) -> float:  # Song et al. 2012, equation 5
        p, q = p - np.diag(np.diag(p)), q - np.diag(np.diag(q))
        cross = (p @ q).sum() / (n - 2)
        return float(((p * q).sum() + p.sum() * q.sum() / ((n - 1) * (n - 2)) - 2 * cross) / (n * (n - 3)))

    return {
        "linear_cka": float(cka),
        "debiased_cka": hsic(k, m) / math.sqrt(hsic(k, k) * hsic(m, m)),
        "nbs": float(nbs),
        "procrustes": float(nbs**2),
        "rsa": float(np.corrcoef(k_distances, m_distances)[0, 1]),
        "angular_procrustes": math.acos(nbs),
        "cka_distance": math.sqrt(2 - 2 * cka),
        "svcca": svcca(a, b),
    }


def svcca(a: np.ndarray, b: np.ndarray) -> float:
    bases = []
    for side in (a, b):
        u, s, _ = np.linalg.svd(side, full_matrices=False)
        bases.append(u[:, : int((np.cumsum(s**2) < 0.99 * (s**2).sum()).sum()) + 1])
    return float(np.linalg.svd(bases[0].T @ bases[1], compute_uv=False).mean())


@pytest.mark.parametrize("name", DUAL)
def test_it_is_the_primal_form_where_there_are_fewer_channels(name: str) -> None:
    x, y = pair(80, 20, 15)
    primal = pc.StreamingCovariance(precision="float64", norms=True)
    primal.update(x, y)
    dual = accumulated(x, y, 7)
    assert dual.rotated
    assert float(pc.METRICS[name](dual)) == pytest.approx(float(pc.METRICS[name](primal.finalize())), abs=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("name", list(reference(*pair(8, 9, 10))))
def test_two_arrays_with_more_channels_than_rows(name: str, dtype: torch.dtype) -> None:
    x, y = pair(40, 700, 90)
    value = float(pc.METRICS[name](x.to(dtype), y.to(dtype)))
    assert value == pytest.approx(reference(x.to(dtype).double(), y.to(dtype).double())[name], abs=1e-9)


@pytest.mark.parametrize("name", ["linear_cka", "debiased_cka", "nbs", "rsa", "svcca"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_float32_products_of_many_features(name: str, dtype: torch.dtype) -> None:
    x, y = (side.to(dtype) for side in pair(60, 1100, 900))
    cov = accumulated(x, y, 550)
    assert cov.precision == "float32"
    assert float(pc.METRICS[name](cov)) == pytest.approx(reference(x.double(), y.double())[name], abs=1e-6)


def test_flat_takes_all_positions_for_channels() -> None:
    x, y = (side.reshape(30, -1, 4, 5) for side in pair(30, 200, 140))
    expected = reference(x.flatten(1), y.flatten(1))
    assert pc.linear_cka(x, y, layout="flat") == pytest.approx(expected["linear_cka"], abs=1e-9)
    last = x.contiguous(memory_format=torch.channels_last)
    assert pc.nbs(last.numpy(), y.numpy(), layout="flat") == pytest.approx(expected["nbs"], abs=1e-9)
    cov = operands.paired_covariance(x, y, layout="flat", rotated="chosen")
    assert cov.rotation is not None
    assert (cov.xx.shape[-1], cov.rotation.channels_x, cov.rotation.channels_y) == (29, 200, 140)


def test_positions_are_rows_by_other_layouts() -> None:
    x, y = (side.reshape(5, 2, 3, -1).movedim(-1, 1) for side in pair(30, 80, 70))
    rows = reference(x.movedim(1, -1).flatten(0, 2), y.movedim(1, -1).flatten(0, 2))
    assert pc.linear_cka(x, y) == pytest.approx(rows["linear_cka"], abs=1e-9)
    assert pc.linear_cka(x.movedim(1, 0), y.movedim(1, 0), layout="cnhw") == pytest.approx(rows["linear_cka"], abs=1e-9)


@pytest.mark.parametrize("name", DUAL)
def test_a_representation_and_itself(name: str) -> None:
    x, _ = pair(30, 100, 2)
    own = 0.0 if "distance" in name or "angular" in name or name == "gulp" else 1.0
    assert float(pc.METRICS[name](x, x)) == pytest.approx(own, abs=1e-6)


@pytest.mark.parametrize("name", OF_CHANNELS)
def test_metrics_of_single_channels_refuse_it(name: str) -> None:
    cov = accumulated(*pair(20, 50, 40), 50)
    with pytest.raises(ValueError, match=r"^the covariance is of rotated coordinates .* such as linear_cka$"):
        pc.METRICS[name](cov)
    with pytest.raises(ValueError, match="rotated coordinates"):
        pc.simple_match(cov)


def test_every_metric_refuses_or_takes_it() -> None:
    cov = accumulated(*pair(20, 6, 5), 50)
    for name in set(OF_COVARIANCES) - set(OF_CHANNELS):
        assert math.isfinite(float(pc.METRICS[name](cov))), name


def test_means_and_scales_do_not_matter() -> None:
    x, y = pair(30, 600, 500)
    expected = reference(x, y)["nbs"]
    assert pc.nbs(accumulated((x + 1e5).float(), y.float(), 600)) == pytest.approx(
        expected, abs=1e-3
    )  # as float32 holds
    for scale in (1e200, 1e-200):
        assert pc.nbs(x * scale, y) == pytest.approx(expected, abs=1e-9)
        assert pc.nbs(accumulated(x * scale, y * scale, 200)) == pytest.approx(expected, abs=1e-9)
    rising = x * torch.logspace(0, 280, 600, dtype=torch.float64)
    assert pc.linear_cka(rising, rising) == pytest.approx(1.0, abs=1e-9)


def test_dead_channels_are_told_and_leave_nothing() -> None:
    x, y = pair(30, 60, 50)
    x[:, :10] = 0.1
    result = pc.svcca(x, y)
    assert (result.dead_x, result.dead_y) == (10, 0)
    constant = torch.full((30, 40), 0.1)
    result = pc.svcca(constant, y.float())
    assert (result.dead_x, result.kept_x) == (40, 0)
    assert math.isnan(result.mean)
    for name in DUAL:
        assert math.isnan(float(pc.METRICS[name](constant, y.float()))), name


def test_shares_of_the_features_merge() -> None:
    x, y = pair(25, 90, 60)
    halves = []
    for part in (slice(0, 40), slice(40, None)):
        acc = pc.DualAccumulator()
        acc.update(x[:, part], [y[:, part], x[:, part] * 1e250])
        halves.append(acc)
    halves[0].merge(halves[1])
    first, second = halves[0].finalize()
    assert halves[0].features == (90, 60, 90)
    assert pc.nbs(first) == pytest.approx(reference(x, y)["nbs"], abs=1e-9)
    assert pc.nbs(second) == pytest.approx(1.0, abs=1e-9)
    other = pc.DualAccumulator()
    other.update(x[:3])
    with pytest.raises(ValueError, match=r"^cannot merge 1 representations of 3 datapoints into 3 of 25"):
        halves[0].merge(other)


def test_it_is_saved_and_loaded(tmp_path: Path) -> None:
    cov = accumulated(*pair(20, 50, 40), 50)
    cov.save(tmp_path / "c.safetensors")
    again = pc.Covariance.load(tmp_path / "c.safetensors")
    assert again.rotation == cov.rotation
    assert again.rotated
    assert pc.rsa(again) == pc.rsa(cov)


def test_refusals() -> None:
    acc = pc.DualAccumulator(max_datapoints=10)
    with pytest.raises(ValueError, match=r"^x has 11 datapoints .*at most 10.*minibatch_cka$"):
        acc.update(torch.randn(11, 3))
    with pytest.raises(ValueError, match="there is no representation 0; expected one of none yet"):
        acc.finalize()
    bad = torch.randn(9, 4)
    acc.update(bad, where="layer 'a'")
    bad[2, 3] = torch.nan
    with pytest.raises(ValueError, match=r"^layer 'a', round 2: x holds NaN or infinity, first in channel 7$"):
        acc.update(bad, where="layer 'a', round 2")
    assert acc.features == (4,)
    with pytest.raises(ValueError, match="y has 8 datapoints; expected 9, all of them in every block"):
        acc.update(None, torch.randn(8, 4))
    with pytest.raises(ValueError, match=r"x has shape \(9, 2, 2\); expected \(N, f\)"):
        acc.update(torch.randn(9, 2, 2))
    with pytest.raises(ValueError, match="needs at least 2 datapoints, but 1 were given"):
        pc.nbs(torch.randn(1, 5), torch.randn(1, 5))
    with pytest.raises(ValueError, match="x holds NaN or infinity, first in channel 3"):
        pc.nbs(bad[:3], bad[:3])
    with pytest.raises(ValueError, match="precision is 'half'"):
        pc.DualAccumulator(precision="half")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", pc.METRICS)
def test_what_is_dual_chooses_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def found(*_: object) -> None:
        raise RuntimeError("the dual form")

    monkeypatch.setattr(operands, "dual_covariances", found)
    x, y = pair(12, 9, 14)
    pc.METRICS[name](x, y[:, :10])
    if name in DUAL:
        with pytest.raises(RuntimeError, match="the dual form"):
            pc.METRICS[name](x, y)
    else:
        pc.METRICS[name](x, y)
