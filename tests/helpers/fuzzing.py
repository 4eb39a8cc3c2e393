"""What the fuzzers share: arrays of every shape, stride, dtype and value, and a run that is short in CI and long on demand.

The long run is ``pytest -m fuzz tests/fuzz``; the variables ``PRUNECCA_FUZZ_EXAMPLES`` and ``PRUNECCA_FUZZ_SEED`` change
its inputs per entry point and their seed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

SEED = int(os.environ.get("PRUNECCA_FUZZ_SEED", "20260917"))
SHORT = 40
LONG = int(os.environ.get("PRUNECCA_FUZZ_EXAMPLES", "10000"))

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
SIZES = (0, 1, 2, 3, 5, 8, 16, 17, 33)
LAYOUTS = ("plain", "transposed", "sliced", "expanded", "negative bit", "numpy", "flipped", "read-only", "misaligned")


def fuzz(**strategies: st.SearchStrategy[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a test of a check: of ``SHORT`` inputs always, and of ``LONG`` where the marker ``fuzz`` is asked for."""

    def wrap(check: Callable[..., None]) -> Callable[..., None]:
        @pytest.mark.parametrize(
            "examples",
            [pytest.param(SHORT, id="short"), pytest.param(LONG, id="long", marks=pytest.mark.fuzz)],
        )
        @pytest.mark.usefixtures("one_thread")
        def test(examples: int) -> None:
            profile = settings(
                max_examples=examples,
                deadline=None,
                database=None,
                suppress_health_check=list(HealthCheck),
                print_blob=True,
            )
            with threadpool_limits(1):  # NumPy's products of small matrices, too
                profile(seed(SEED)(given(**strategies)(check)))()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return wrap


@dataclass
class Drawn:
    """An array as it is given, and what it holds.

    Attributes:
        array: a torch tensor or a NumPy array, laid out in some way.
        values: its values, exactly, as float64.
    """

    array: Any
    values: np.ndarray[Any, np.dtype[np.float64]]

    def __repr__(self) -> str:
        kind = f"{type(self.array).__name__} {self.array.dtype} {self.array.shape}"
        return f"{kind}, strides {getattr(self.array, 'strides', None) or self.array.stride()}: {self.values.tolist()}"


def fill(random: np.random.Generator, shape: tuple[int, ...], kind: str, scale: float) -> np.ndarray:
    """Values of some kind: normal, whole, mostly zero, or alike in every row; times a scale."""
    values = random.integers(-3, 4, shape).astype(np.float64) if kind == "whole" else random.standard_normal(shape)
    if kind == "sparse":
        values = np.where(random.random(shape) < 0.8, np.copysign(0.0, values), values)
    if kind == "constant" and values.ndim and values.size:
        values = np.broadcast_to(values[:1], shape).copy()
    return values * scale


def put(random: np.random.Generator, values: np.ndarray, special: tuple[float, ...]) -> np.ndarray:
    """Some of the special values in random places."""
    values = values.copy()
    if values.size:
        for value in special:
            values.reshape(-1)[random.integers(values.size)] = value
    return values


def as_given(values: np.ndarray, dtype: torch.dtype, layout: str) -> Drawn:
    """Values, rounded to a dtype, as an array of some layout: the same numbers, wherever they lie."""
    tensor = torch.from_numpy(np.ascontiguousarray(values)).reshape(values.shape).to(dtype)
    if layout == "expanded" and tensor.ndim and tensor.shape[0]:
        tensor = tensor[:1].expand(tensor.shape)
    exact = tensor.double().numpy().copy()
    return Drawn(_laid_out(tensor, layout), exact)


def backwards(tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor, its first dimension the innermost in memory."""
    order = list(reversed(range(tensor.ndim)))
    return tensor.permute(order).contiguous().permute(order)


def _laid_out(tensor: torch.Tensor, layout: str) -> Any:
    if layout == "transposed":
        return backwards(tensor)
    if layout == "sliced":
        wide = torch.full([2 * n + 1 for n in tensor.shape], torch.nan, dtype=tensor.dtype)
        view = wide[tuple(slice(1, None, 2) for _ in tensor.shape)]
        view.copy_(tensor)
        return view
    if layout == "negative bit" and tensor.dtype in (torch.float32, torch.float64):
        return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag
    if layout in ("numpy", "flipped", "read-only", "misaligned") and tensor.dtype != torch.bfloat16:
        return _as_numpy(tensor.numpy(), layout)
    return tensor


def _as_numpy(array: np.ndarray, layout: str) -> np.ndarray:
    if layout == "flipped":
        flipped = tuple(slice(None, None, -1) for _ in array.shape)
        return array[flipped].copy()[flipped]
    if layout == "misaligned":
        array = np.frombuffer(b"\0" + array.tobytes(), array.dtype, offset=1).reshape(array.shape)
    if layout == "read-only":
        array = array.view()
        array.flags.writeable = False
    return array


@st.composite
def arrays(
    draw: st.DrawFn,
    shapes: st.SearchStrategy[tuple[int, ...]],
    scales: tuple[float, ...] = (1.0,),
    special: tuple[float, ...] = (),
    dtypes: tuple[torch.dtype, ...] = DTYPES,
    layouts: tuple[str, ...] = LAYOUTS,
) -> Drawn:
    """Any array; ``special`` are values of which some are put into it."""
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    values = fill(
        random,
        draw(shapes),
        draw(st.sampled_from(("normal", "whole", "sparse", "constant"))),
        draw(st.sampled_from(scales)),
    )
    if special:
        values = put(random, values, tuple(draw(st.lists(st.sampled_from(special), max_size=3))))
    return as_given(values, draw(st.sampled_from(dtypes)), draw(st.sampled_from(layouts)))


def is_a_sentence(error: BaseException) -> bool:
    """Whether an error is one line of words, as users are shown."""
    text = str(error)
    return 10 < len(text) < 600 and "\n" not in text
