"""CKA estimated from minibatches (Nguyen, Raghu and Kornblith 2021), for more channels and datapoints than matrices hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .._arrays import as_tensor

FEWEST = 4  # datapoints of a batch: the unbiased estimate divides by n - 3


class MinibatchCKA:
    """Unbiased estimates of HSIC, averaged over batches, for all pairs of two lists of representations at once.

    ``CKA = sum_b HSIC_1(K_b, L_b) / sqrt(sum_b HSIC_1(K_b, K_b) * sum_b HSIC_1(L_b, L_b))`` with the n x n linear Gram
    matrices K_b and L_b of batch b (Nguyen et al. 2021, equation 2), and HSIC_1 the unbiased estimator of Song et al.
    2012: with the matrices U-centred (Székely and Rizzo 2014) it is their inner product over ``n (n - 3)``. So one Gram matrix
    per representation and batch, and one matrix product for all pairs.

    An estimate: each of the three sums is unbiased for any batch size, their quotient is not quite. It scatters with
    the batches, and they must be drawn at random: batches of one class each measure something else.

    Example:
        >>> import torch
        >>> from prunecca import MinibatchCKA
        >>> estimate = MinibatchCKA()
        >>> for _ in range(4):
        ...     x = torch.randn(32, 8, 6, 6)
        ...     estimate.update([x, x[:, :4], torch.randn(32, 50)])
        >>> table = estimate.finalize()
        >>> table.shape, round(float(table[0, 0]), 6), table[0, 1] > 0.5 > table[0, 2], estimate.batch_sizes
        (torch.Size([3, 3]), 1.0, tensor(True), {32: 4})
    """

    def __init__(self) -> None:
        self._sums: tuple[Tensor, Tensor, Tensor] | None = None
        self._sizes: Counter[int] = Counter()

    @property
    def count(self) -> int:
        """Datapoints seen so far."""
        return sum(size * batches for size, batches in self._sizes.items())

    @property
    def batch_sizes(self) -> dict[int, int]:
        """How many batches there were of each size."""
        return dict(self._sizes)

    def update(self, x: Any, y: Any = None, *, where: str = "") -> None:
        """Add a batch.

        Args:
            x: one representation of n >= 4 datapoints, or a list of several: (n, ...) torch, NumPy, CuPy or numba arrays, all
                dimensions but the first being features.
            y: the same of the other side; None compares those of x with each other.
            where: put in front of error messages.

        Raises:
            ValueError: fewer than 4 datapoints, NaN or infinity, or shapes that do not match.
        """
        where = f"{where}: " if where else ""
        xs = x if isinstance(x, list | tuple) else [x]
        ys = None if y is None else y if isinstance(y, list | tuple) else [y]
        with torch.inference_mode(False), torch.no_grad():
            left = centred_grams(xs, "x", where)
            self.update_grams(left, left if ys is None else centred_grams(ys, "y", where), where=where)

    def update_grams(self, left: Tensor, right: Tensor, *, where: str = "") -> None:
        """Add a batch by what ``centred_grams`` gives of both sides; the same tensor twice for one side.

        Args:
            left: (number of x, n, n) float64.
            right: (number of y, n, n) float64.
            where: put in front of error messages, with a colon.

        Raises:
            ValueError: shapes that do not match.
        """
        with torch.inference_mode(False), torch.no_grad():
            if left.shape[1:] != right.shape[1:]:
                raise ValueError(
                    f"{where}x has {left.shape[1]} datapoints but y has {right.shape[1]}; expected the same"
                )
            n = left.shape[1]
            scale = 1.0 / (n * (n - 3))
            a, b = left.flatten(1), right.flatten(1)
            cross = a @ b.mT * scale
            own_x = cross.diagonal() if left is right else a.square().sum(1) * scale
            own_y = own_x if left is right else b.square().sum(1) * scale
            self._add((cross, own_x, own_y), Counter({n: 1}), where)

    def merge(self, other: MinibatchCKA) -> None:
        """Add the batches that ``other`` has seen; ``other`` is not changed.

        Args:
            other: of the same representations.

        Raises:
            ValueError: of other numbers of representations.
        """
        if other._sums is not None:
            self._add(other._sums, other._sizes, "")

    def finalize(self) -> Tensor:
        """The estimates so far.

        Returns:
            (number of x, number of y) float64; not clipped: unrelated representations scatter around 0. NaN where an estimate
            of a self-similarity is not positive.

        Raises:
            ValueError: no batch was given.
        """
        if self._sums is None:
            raise ValueError("no batch was given; expected at least one of 4 datapoints or more")
        cross, own_x, own_y = self._sums
        x, y = (torch.where(own > 0, own, torch.nan).sqrt() for own in (own_x, own_y))
        return cross / x.unsqueeze(1) / y

    def _add(self, sums: tuple[Tensor, Tensor, Tensor], sizes: Counter[int], where: str) -> None:
        if self._sums is None:
            self._sums = (sums[0].clone(), sums[1].clone(), sums[2].clone())
        elif self._sums[0].shape != sums[0].shape:
            given, expected = (" and ".join(map(str, one[0].shape)) for one in (sums, self._sums))
            raise ValueError(f"{where}{given} representations were given; expected {expected} as before")
        else:
            cross, own_x, own_y = self._sums
            self._sums = (cross + sums[0], own_x + sums[1], own_y + sums[2])
        self._sizes += sizes


class MinibatchEstimate(float):
    """An estimate of CKA, and the batches it was made of.

    Args:
        value: of the estimate.
        batch_sizes: how many batches there were of each size.
        count: datapoints.

    Example:
        >>> import torch
        >>> from prunecca import minibatch_cka
        >>> minibatch_cka(torch.randn(100, 5), torch.randn(100, 5), batch_size=50).batch_sizes
        {50: 2}
    """

    batch_sizes: dict[int, int]
    count: int

    def __new__(cls, value: float, batch_sizes: dict[int, int], count: int) -> MinibatchEstimate:
        new = super().__new__(cls, value)
        new.batch_sizes, new.count = batch_sizes, count
        return new

    def __reduce__(self) -> tuple[Any, ...]:
        return MinibatchEstimate, (float(self), self.batch_sizes, self.count)


def minibatch_cka(x: Any, y: Any, *, batch_size: int = 256) -> MinibatchEstimate:
    """Linear CKA estimated from minibatches (Nguyen et al. 2021): see ``MinibatchCKA``.

    No C x C and no N x N matrix is needed. Where either fits, ``linear_cka(x, y, debiased=True, layout="flat")`` is exact;
    with one batch of all datapoints this is the same number.

    Args:
        x: (N, ...) array, all dimensions but the first being features; in random order.
        y: the same datapoints.
        batch_size: datapoints of a batch, at least 4; the batches are made as equal as they can be.

    Returns:
        The estimate, a float that also tells its batches.

    Raises:
        ValueError: fewer than 4 datapoints, or datapoints that do not match.

    Example:
        >>> import torch
        >>> from prunecca import linear_cka, minibatch_cka
        >>> x = torch.randn(600, 20)
        >>> y = x + torch.randn(600, 20)
        >>> abs(minibatch_cka(x, y, batch_size=200) - linear_cka(x, y, debiased=True)) < 0.1
        True
    """
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 4:
        raise ValueError(f"batch_size is {batch_size!r}; expected a number of datapoints of at least 4")
    left, right = as_tensor(x, "x"), as_tensor(y, "y")
    if left.shape[:1] != right.shape[:1]:
        shapes = f"{tuple(left.shape)} beside {tuple(right.shape)}"
        raise ValueError(f"y has shape {shapes}; both must have the same datapoints")
    batches = max(1, round(left.shape[0] / batch_size)) if left.ndim else 1
    while batches > 1 and left.shape[0] // batches < 4:
        batches -= 1
    estimate = MinibatchCKA()
    for part_x, part_y in zip(left.tensor_split(batches), right.tensor_split(batches), strict=True):
        estimate.update(part_x, part_y)
    return MinibatchEstimate(float(estimate.finalize()), estimate.batch_sizes, estimate.count)


def centred_grams(arrays: Sequence[Any], name: str, where: str) -> Tensor:
    """U-centred Gram matrices of (n, ...) arrays, (number, n, n) float64.

    Features are centred first: that changes nothing but rounding. Products are taken in float32, of float64 features in
    float64.
    """
    grams: list[Tensor] = []
    for k, array in enumerate(arrays):
        called = f"{where}{name}" if len(arrays) == 1 else f"{where}{name}[{k}]"
        tensor = as_tensor(array, called)
        shape = tuple(tensor.shape)
        if tensor.ndim < 2 or shape[0] < FEWEST:
            raise ValueError(f"{called} has shape {shape}; expected (n, ...) with a batch of at least 4 datapoints")
        if grams and shape[0] != grams[0].shape[0]:
            raise ValueError(f"{called} has {shape[0]} datapoints; expected {grams[0].shape[0]}, as the one before")
        # In the order in which they lie in memory, which no product depends on: channels_last takes no copy.
        order = sorted(range(1, tensor.ndim), key=tensor.stride, reverse=True)
        features = tensor.permute(0, *order).flatten(1)
        features = features if features.dtype == torch.float64 else features.float()
        centred = features - features.mean(0)
        grams.append((centred @ centred.mT).double())
    if not grams:
        raise ValueError(f"{where}no representation was given as {name}; expected at least one")
    stack = torch.stack(grams)
    finite = stack.isfinite().flatten(1).all(1)
    if not bool(finite.all()):
        called = name if len(grams) == 1 else f"{name}[{int((~finite).nonzero()[0])}]"
        raise ValueError(f"{where}{called} holds NaN or infinity, or squares beyond its type")
    n = stack.shape[1]
    stack.diagonal(dim1=1, dim2=2).zero_()
    rows = stack.sum(2) / (n - 2)
    total = stack.sum((1, 2)) / ((n - 1) * (n - 2))
    stack -= rows.unsqueeze(1) + rows.unsqueeze(2) - total.view(-1, 1, 1)
    stack.diagonal(dim1=1, dim2=2).zero_()
    return stack
