"""Plain definitions in float64 NumPy, on the full matrices: what the kernels and metrics are held against.

Rows are datapoints, columns are channels. Nothing here is fast or clever.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]


def rows(x: Any, channel_axis: int = 1) -> Matrix:
    """An activation such as (N, C, H, W) as its (N * H * W, C) matrix, float64."""
    x = np.asarray(x, np.float64)
    return np.moveaxis(x, channel_axis, -1).reshape(-1, x.shape[channel_axis])


def centred(x: Any) -> Matrix:
    x = np.asarray(x, np.float64)
    return x - x.mean(0)


def covariance(x: Any, y: Any) -> dict[str, Any]:
    """The fields of ``prunecca.Covariance``, as NumPy arrays."""
    a, b = centred(x), centred(y)
    n = len(a)
    p, q = (a * a).sum(1), (b * b).sum(1)
    return {
        "count": n,
        "mean_x": np.mean(np.asarray(x, np.float64), 0),
        "mean_y": np.mean(np.asarray(y, np.float64), 0),
        "xx": a.T @ a / (n - 1),
        "yy": b.T @ b / (n - 1),
        "xy": a.T @ b / (n - 1),
        "norms": np.array([p @ p, q @ q, p @ q]),
    }


def principal(x: Any, tol: float, variance: float = 1.0) -> Matrix:
    """Orthonormal basis (N, k) of the leading principal directions: a full SVD, cut by ``tol`` and ``variance``."""
    left, s, _ = np.linalg.svd(centred(x), full_matrices=False)
    energy = s * s
    rank = int((energy > tol * energy[0]).sum())
    held = np.cumsum(energy)
    return left[:, : min(rank, int((held < variance * held[-1]).sum()) + 1)]


def cca(x: Any, y: Any, tol: float, variance: float = 1.0) -> Matrix:
    """Canonical correlations: cosines of the principal angles (Bjorck and Golub 1973); SVCCA when ``variance`` < 1."""
    cosines = np.linalg.svd(principal(x, tol, variance).T @ principal(y, tol, variance), compute_uv=False)
    return np.clip(cosines, 0.0, 1.0)


def trimmed_mean(correlations: Matrix, trim: float) -> float:
    """The mean that google/svcca takes: of the shortest prefix whose sum reaches ``trim`` of the whole sum."""
    for k in range(1, len(correlations) + 1):
        if correlations[:k].sum() / correlations.sum() >= trim:
            return float(correlations[:k].mean())
    return float(correlations.mean())


def pwcca(x: Any, y: Any, tol: float) -> float:
    """Morcos et al. 2018: weights from the projections of x's channels on x's canonical variates."""
    basis_x, basis_y = principal(x, tol), principal(y, tol)
    left, s, _ = np.linalg.svd(basis_x.T @ basis_y, full_matrices=False)
    weights = np.abs((basis_x @ left).T @ centred(x)).sum(1)
    return float(weights @ s / weights.sum())


def hsic_biased(k: Matrix, m: Matrix) -> float:
    n = len(k)
    h = np.eye(n) - 1 / n
    return float(np.trace(k @ h @ m @ h) / (n - 1) ** 2)


def hsic_unbiased(k: Matrix, m: Matrix) -> float:
    """Song et al. 2012, equation 5, letter by letter."""
    n = len(k)
    k, m, one = k - np.diag(np.diag(k)), m - np.diag(np.diag(m)), np.ones(n)
    mixed = one @ k @ one * (one @ m @ one) / ((n - 1) * (n - 2))
    return float((np.trace(k @ m) + mixed - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3)))


def linear_cka(x: Any, y: Any, debiased: bool = False) -> float:
    """CKA from the N x N Gram matrices of the rows, not centred beforehand."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    hsic, k, m = hsic_unbiased if debiased else hsic_biased, x @ x.T, y @ y.T
    return hsic(k, m) / float(np.sqrt(hsic(k, k) * hsic(m, m)))


def nbs(x: Any, y: Any) -> float:
    """Fidelity of the two N x N Gram matrices over the root of the product of their traces."""
    left, s, _ = np.linalg.svd(centred(x), full_matrices=False)
    # Fidelity tr sqrt(sqrt(K) L sqrt(K)) is the sum of the singular values of sqrt(K) Y, where L = YY'.
    fidelity = np.linalg.svd((left * s) @ left.T @ centred(y), compute_uv=False).sum()
    return float(fidelity / np.sqrt((s * s).sum() * (centred(y) ** 2).sum()))


def linear_regression(x: Any, y: Any) -> float:
    """R squared of y on x, by least squares."""
    a, b = centred(x), centred(y)
    fit = np.linalg.lstsq(a, b, rcond=None)[0]
    return float(1 - ((b - a @ fit) ** 2).sum() / (b * b).sum())


def rsa(x: Any, y: Any) -> float:
    """Pearson's correlation of the squared distances of all pairs i < j."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    i, j = np.triu_indices(len(x), 1)
    return float(np.corrcoef(((x[i] - x[j]) ** 2).sum(1), ((y[i] - y[j]) ** 2).sum(1))[0, 1])


def shape_distance(x: Any, y: Any, alpha: float, tol: float = 1e-11) -> float:
    """Williams et al. 2021 on matrices whose directions have a mean square of 1, the rotation found explicitly."""
    whitened = []
    for z in (centred(x), centred(y)):
        values, vectors = np.linalg.eigh(z.T @ z)
        vectors, values = vectors[:, values > tol * values[-1]], values[values > tol * values[-1]]
        z = z @ vectors / np.sqrt(values.mean())
        scale = alpha + (1 - alpha) * (values / values.mean()) ** -0.5
        z = z * scale @ vectors.T
        whitened.append(z / np.linalg.norm(z))
    a, b = whitened
    wide = max(a.shape[1], b.shape[1])
    a, b = (np.pad(z, ((0, 0), (0, wide - z.shape[1]))) for z in (a, b))
    left, _, right = np.linalg.svd(a.T @ b)
    return float(np.arccos(np.clip((a @ left @ right * b).sum(), 0, 1)))


def gulp(x: Any, y: Any, ridge: float) -> float:
    """Frobenius distance of the N x N matrices that map targets to the fits of two ridge regressions."""
    fits = []
    for z in (centred(x), centred(y)):
        kernel = z @ z.T / (z**2).sum()
        fits.append(kernel @ np.linalg.inv(kernel + ridge * np.eye(len(z))))
    return float(np.linalg.norm(fits[0] - fits[1]))


def correlations(x: Any, y: Any) -> Matrix:
    """Between the channels of two sides; those without variance are left out."""
    a, b = (centred(z)[:, np.std(z, 0) > 1e-9] for z in (x, y))
    return (a / np.linalg.norm(a, axis=0)).T @ (b / np.linalg.norm(b, axis=0))


def soft_matching(x: Any, y: Any) -> float:
    """By an assignment of copies: as many of each unit as make the two numbers equal."""
    from scipy.optimize import linear_sum_assignment

    r = correlations(x, y)
    copies = np.lcm(*r.shape)
    r = np.repeat(np.repeat(r, copies // r.shape[0], 0), copies // r.shape[1], 1)
    return float(r[linear_sum_assignment(-r)].mean())


def maximum_match(x: Any, y: Any, epsilon: float) -> tuple[list[int], list[int]]:
    """Wang et al. 2018, algorithm 1, by least squares on the vectors: one unit after the other is taken out."""
    sides = [np.asarray(x, np.float64), np.asarray(y, np.float64)]
    left = [list(range(z.shape[1])) for z in sides]

    def far(side: int, unit: int) -> bool:
        z, others = sides[side][:, unit], sides[1 - side][:, left[1 - side]]
        fit = others @ np.linalg.lstsq(others, z, rcond=None)[0] if others.shape[1] else 0 * z
        return bool(np.linalg.norm(z - fit) > epsilon * np.linalg.norm(z) + 1e-9)

    while strays := [(side, unit) for side in (0, 1) for unit in left[side] if far(side, unit)]:
        left[strays[0][0]].remove(strays[0][1])
    return left[0], left[1]
