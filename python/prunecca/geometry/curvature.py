"""How a representation bends: curvatures of quadratic fits to the nearest neighbours of every point."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .._arrays import as_tensor
from ..dimension import distinct_rows, intrinsic_dimension
from ..linalg.neighbours import nearest
from .rows import scale_of

_PER_COEFFICIENT = 2  # neighbours for each coefficient of a fit
_FEWEST = 20  # neighbours
_BLOCK_BYTES = 1 << 24  # of neighbourhoods at a time


@dataclass(frozen=True, eq=False)
class Curvature:
    """Curvatures at every distinct point of a representation; lengths are in units of the representation.

    Attributes:
        dimension: of the fitted manifold, d.
        neighbours: that each fit is made to.
        principal: (points, d) float64, in 1/length: the principal curvatures along the normal in which the manifold bends
            most, ascending. The normal points to where their sum is not negative.
        mean: (points,) float64, in 1/length: the length of the mean curvature vector, 1/d times the trace of the second
            fundamental form.
        sectional: (points,) float64, in 1/length squared: the mean sectional curvature, from the Riemann curvature that
            Gauss's equation gives; NaN for curves (d = 1), which have none.
        positions: (points,) int64: which row of the representation each point is; repeated rows are left out.

    Example:
        >>> import torch, prunecca as pc
        >>> sphere = 2.0 * torch.nn.functional.normalize(torch.randn(2000, 3, dtype=torch.float64))
        >>> bent = pc.curvature(sphere, dimension=2)
        >>> round(float(bent.principal.median()), 1), round(float(bent.sectional.median()), 2)
        (0.5, 0.25)
    """

    dimension: int
    neighbours: int
    principal: Tensor
    mean: Tensor
    sectional: Tensor
    positions: Tensor

    @property
    def largest(self) -> Tensor:
        """(points,) float64: the largest absolute principal curvature of each point."""
        return self.principal.abs().amax(1)

    @property
    def mean_absolute(self) -> Tensor:
        """(points,) float64: the mean absolute principal curvature of each point."""
        return self.principal.abs().mean(1)


def curvature(x: Any, *, dimension: int | None = None, neighbours: int | None = None) -> Curvature:
    """Principal and sectional curvatures of the manifold that a representation samples (after Yu et al. 2018).

    The paper compares the Riemann and sectional curvatures of layers, taken from local fits. What it leaves to the reader is
    chosen here: around every point, the d leading principal axes of its nearest neighbours are the tangent coordinates t; all
    other coordinates are fitted by least squares, with equal weights, with a constant, linear terms and a quadratic form
    in t. With J the linear terms and H_a the quadratic form of normal coordinate a, the second fundamental form is H in
    orthonormal frames of the tilted tangent space (metric ``1 + J' J``) and of its complement (``1 + J J'``). All curvatures follow
    from it; the sectional ones by Gauss's equation, ``R_ijkl = sum_a h_a,ik h_a,jl - h_a,il h_a,jk``.

    They do not change by isometries, and are divided by s where the representation is multiplied by s (sectional ones by its
    square). Noise bends: what scatters by e off a manifold of neighbourhoods of radius r adds up to about ``e / r**2``.

    Args:
        x: (N, ...) float16 to float64; one datapoint per row, the other dimensions are flattened.
        dimension: of the manifold, below the number of features; None takes the nearest integer to
            ``intrinsic_dimension(x)``, at least 1.
        neighbours: of each point that a fit is made to, at least as many as its ``1 + d + d (d + 1) / 2`` coefficients; None
            takes twice as many, and 20 at least.

    Returns:
        The curvatures at every distinct point. Time is that of N decompositions of neighbours by features, besides
        ``N**2`` times the features.

    Raises:
        ValueError: a dimension that is not below the number of features, fewer neighbours than coefficients, fewer points than
            neighbours, NaN or infinity.

    Example:
        >>> import torch, prunecca as pc
        >>> u, v = torch.rand(2, 500, dtype=torch.float64)
        >>> plane = torch.stack([u, v, 2 * u - v, u + v], 1)
        >>> bool(pc.curvature(plane, dimension=2).largest.max() < 1e-6)
        True
    """
    points = as_tensor(x, "x")
    if points.ndim < 2:
        raise ValueError(f"x has shape {tuple(points.shape)}; expected (datapoints, ...)")
    points = points.flatten(1).double()
    if not bool(torch.isfinite(points).all()):
        raise ValueError("x holds NaN or infinity; expected finite activations")
    positions = torch.tensor(distinct_rows(points), dtype=torch.int64, device=points.device)
    points = points[positions]
    dimension = _dimension(points, dimension)
    neighbours = _neighbours(len(points), dimension, neighbours)
    scale = scale_of(points)
    points = points * scale
    found = nearest(points, neighbours)[1]
    step = max(1, _BLOCK_BYTES // (8 * neighbours * points.shape[1]))
    blocks = torch.split(torch.arange(len(points), device=points.device), step)
    fits = [_fit(points, rows, found[rows], dimension) for rows in blocks]
    principal, mean, sectional = (torch.cat(parts) for parts in zip(*fits, strict=True))
    return Curvature(dimension, neighbours, principal * scale, mean * scale, sectional * scale**2, positions)


def _dimension(points: Tensor, given: int | None) -> int:
    features = points.shape[1]
    if given is None:
        estimate = intrinsic_dimension(points, resamples=0).dimension
        if math.isnan(estimate):
            raise ValueError(
                f"x holds {len(points)} distinct points, whose dimension cannot be estimated; give dimension="
            )
        given = max(1, min(round(estimate), features - 1))
    if not 1 <= given < features:
        raise ValueError(f"dimension is {given}; expected 1 or more, and less than the {features} features of x")
    return given


def _neighbours(count: int, dimension: int, given: int | None) -> int:
    coefficients = 1 + dimension + dimension * (dimension + 1) // 2
    wanted = max(_PER_COEFFICIENT * coefficients, _FEWEST) if given is None else given
    if wanted < coefficients:
        raise ValueError(
            f"neighbours is {wanted}; expected at least {coefficients}, the coefficients of a fit of dimension {dimension}"
        )
    if wanted >= count:
        raise ValueError(
            f"x holds {count} distinct points, too few for fits to {wanted} neighbours; give more points, a smaller dimension or "
            "fewer neighbours"
        )
    return wanted


def _fit(points: Tensor, rows: Tensor, found: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor]:
    """Principal, mean and mean sectional curvatures at some points, from the neighbours found of each."""
    around = points[found] - points[rows].unsqueeze(1)
    middle = around.mean(1, keepdim=True)
    axes = torch.linalg.svd(around - middle, full_matrices=False).Vh
    coordinates = torch.cat([torch.zeros_like(around[:, :1]), around], 1) @ axes.mT  # the point itself is one of them
    radius = coordinates.norm(dim=2).amax(1)[:, None, None]
    tangent, normal = (coordinates / radius).split([d, axes.shape[1] - d], 2)
    i, j = torch.triu_indices(d, d, device=points.device)
    # Of the quadratic form t'Ht / 2.
    squares = tangent[..., i] * tangent[..., j] * torch.where(i == j, 0.5, 1.0)
    terms = torch.cat([torch.ones_like(tangent[..., :1]), tangent, squares], 2)
    solution = torch.linalg.pinv(terms) @ normal
    slopes, forms = solution[:, 1 : d + 1].mT, solution.new_zeros(len(rows), normal.shape[2], d, d)
    forms[..., i, j] = forms[..., j, i] = solution[:, d + 1 :].mT
    forms = _in_frames(forms, slopes) / radius.unsqueeze(3)
    return _curvatures(forms)


def _in_frames(forms: Tensor, slopes: Tensor) -> Tensor:
    """Second derivatives (..., a, i, j) of a graph with these slopes (..., a, i), in orthonormal frames."""
    u, s, vh = torch.linalg.svd(slopes, full_matrices=False)
    shrink = (1.0 + s.square()).rsqrt() - 1.0
    # (1 + JJ')**-1/2 and (1 + J'J)**-1/2: the identity but in the directions of the slopes.
    tangent = torch.eye(slopes.shape[2], dtype=slopes.dtype, device=slopes.device) + (vh.mT * shrink.unsqueeze(1)) @ vh
    flat = forms.flatten(2)
    flat = flat + u @ (shrink.unsqueeze(2) * (u.mT @ flat))
    framed: Tensor = tangent.unsqueeze(1) @ flat.view_as(forms) @ tangent.unsqueeze(1)
    return framed


def _curvatures(forms: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    d = forms.shape[-1]
    traces = forms.diagonal(dim1=2, dim2=3).sum(2)
    total = traces.square().sum(1)
    mean = total.sqrt() / d
    scalar = total - forms.square().sum((1, 2, 3))
    sectional = scalar / (d * (d - 1)) if d > 1 else torch.full_like(scalar, torch.nan)
    _, sizes, most = torch.linalg.svd(forms.flatten(2), full_matrices=False)
    along = (sizes[:, :1] * most[:, 0]).view(-1, d, d)
    principal = torch.linalg.eigvalsh(along)
    return torch.where(principal.sum(1, keepdim=True) < 0, -principal.flip(1), principal), mean, sectional
