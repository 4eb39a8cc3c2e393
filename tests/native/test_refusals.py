"""The extension, called without the Python that stands before it: what is no array in memory is refused in a sentence."""

from __future__ import annotations

import numpy as np
import pytest

from prunecca import _native

FLOAT32, FLOAT64, BOOL, INT64, UINT8 = 0, 1, 4, 5, 6
CODES = {"f4": FLOAT32, "f8": FLOAT64, "?": BOOL, "i8": INT64, "u1": UINT8}
HUGE = 1 << 40
kept_alive = []


def given(array: np.ndarray, **changes):
    """An array as the extension takes it, with some of it changed."""
    kept_alive.append(array)
    strides = tuple(s // array.itemsize for s in array.strides)
    parts = {
        "pointer": array.ctypes.data,
        "shape": array.shape,
        "strides": strides,
        "dtype": CODES[array.dtype.str.lstrip("<|").replace("b1", "?")],
        "device": -1,
    }
    return tuple((parts | changes).values())


def ones(*shape, dtype="f4", **changes):
    return given(np.ones(shape, dtype), **changes)


NO_ARRAYS = {
    "a null pointer": ({"pointer": 0}, "an array of 6 entries has a null pointer; expected the address of its memory"),
    "a negative size": ({"shape": (-2, 3)}, "dimension 0 of an array has size -2; expected 0 or more"),
    "two negative sizes": ({"shape": (-2, -3)}, "dimension 0 of an array has size -2"),
    "sizes whose product overflows": ({"shape": (1 << 32, 1 << 32)}, "expected an array that fits into memory"),
    "an overflow that a zero hides": ({"shape": (1 << 62, 0)}, "expected an array that fits into memory"),
    "an overflow of bytes": ({"shape": (1 << 61, 1)}, "expected an array that fits into memory"),
    "a size above 64 bits": ({"shape": (1 << 70, 1)}, "a number that does not fit into 64 bits"),
    "a stride that overflows": ({"strides": (1 << 61, 1)}, "has size 2 and stride 2305843009213693952; expected"),
    "the least stride": ({"strides": (-(1 << 63), 1)}, "expected an array that fits into memory"),
    "an unknown dtype": ({"dtype": 7}, "an array has dtype code"),
    "a negative dtype": ({"dtype": -1}, "an array has dtype code"),
    "a huge dtype": ({"dtype": 1 << 32}, "an array has dtype code"),
    "device -2": ({"device": -2}, "an array is on device -2; expected -1 for the host, or 0 and up"),
    "a huge device": ({"device": (1 << 32) - 1}, "an array is on device"),
    "nine dimensions": (
        {"shape": (1,) * 9, "strides": (1,) * 9},
        "an array has 9 dimensions; expected at most 8",
    ),
    "a stride too few": ({"strides": (3,)}, "an array has 2 dimensions and 1 strides; expected one stride for each"),
    "a negative pointer": ({"pointer": -8}, "a number that does not fit into 64 bits"),
    "an odd pointer": ({"pointer": 4097}, "the address of an array is no multiple of its 4 bytes per entry"),
}
# Each binding with one argument that may be anything.
TAKERS = {
    "masked_copy": lambda a: _native.masked_copy([a], [ones(2, 3)], [ones(2, 3, dtype="?")], 1, 0),
    "count_kept": lambda a: _native.count_kept([a], 1, 0),
    "count_kept_into": lambda a: _native.count_kept_into([a], ones(1, dtype="i8"), 0),
    "prune_lowest": lambda a: _native.prune_lowest([a], [], [ones(2, 3, dtype="?")], False, 1, 1, 0),
    "prune_lowest, masks": lambda a: _native.prune_lowest([ones(2, 3)], [], [a], False, 1, 1, 0),
    "survey_scores": lambda a: _native.survey_scores([a], [a], [a], [0], False, a, a, 0),
    "cut_scores": lambda a: _native.cut_scores([a], [a], [a], [0], False, a, a, 0),
    "adam_step": lambda a: adam(weights=[a]),
    "adam_step, masks": lambda a: adam(masks=[a]),
    "sgd_step": lambda a: sgd(gradients=[a]),
    "adam_advance": lambda a: _native.adam_advance(a, a, 0.9, 0.99, 0.0, a, 0),
    "adam_step_scheduled": lambda a: _native.adam_step_scheduled(
        [a], [a], [a], [a], [None], a, 0.9, 0.99, 0.0, 0.0, False, 0
    ),
    "sgd_step_scheduled": lambda a: _native.sgd_step_scheduled(
        [a], [a], [], [a], [True], a, 0.0, 0.0, 0.0, False, False, 0
    ),
    "covariance_workspace": lambda a: _native.covariance_workspace([a], [1], [(0, 0)], False, False, 1),
    "covariance_update": lambda a: covariance(views=[a]),
    "covariance_update, workspace": lambda a: covariance(workspace=a),
    "covariance_update, sums": lambda a: covariance(sums=[a]),
    "covariance_update, kept": lambda a: covariance(kept=a),
    "warp": lambda a: warp(images=a),
    "warp, output": lambda a: warp(output=a),
    "probe_read": lambda a: _native.probe_read(a, 1),
    "probe_copy": lambda a: _native.probe_copy(a, a, 1),
    "eigh": lambda a: _native.eigh(a, a, a, 30, 0),
    "singular_values": lambda a: _native.singular_values(a, a, 30, 0),
}


def call(function, arguments, changes):
    return function(*(arguments | changes).values())


def adam(**changes):
    one = {key: [ones(2, 3)] for key in ("weights", "gradients", "means", "squares")}
    rest = {"masks": [None], "steps": [1], "lr": 0.1, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-8, "l2": 0.0}
    end = {"shrink": 1.0, "keep_masked": False, "threads": 1, "stream": 0}
    return call(_native.adam_step, one | rest | end, changes)


def sgd(**changes):
    one = {key: [ones(2, 3)] for key in ("weights", "gradients", "momenta")}
    rest = {"masks": [None], "first": [True], "lr": 0.1, "momentum": 0.9, "dampening": 0.0, "l2": 0.0}
    return call(_native.sgd_step, one | rest | {"nesterov": False, "keep": False, "threads": 1, "stream": 0}, changes)


def covariance(**changes):
    size = _native.covariance_workspace([ones(20, 3)], [1], [(0, 0)], True, False, 2)
    arguments = {
        "views": [ones(20, 3)],
        "axes": [1],
        "pairs": [(0, 0)],
        "shifts": [ones(3, dtype="f8")],
        "sums": [ones(3, dtype="f8")],
        "grams": [ones(3, 3, dtype="f8")],
        "norms": [ones(7, dtype="f8")],
        "float64": False,
        "threads": 2,
        "workspace": ones(size // 8, dtype="f8"),
        "counts": [],
        "any_range": True,
        "kept": None,
    }
    return call(_native.covariance_update, arguments, changes)


def kept(*rows, dtype="i8"):
    return covariance(kept=given(np.array(rows, dtype)))


def warp(**changes):
    arguments = {
        "images": ones(2, 3, 4, 5, dtype="u1"),
        "index": given(np.array([1, 0, 1])),
        "maps": ones(3, 2, 3),
        "scale": ones(3),
        "offset": ones(3),
        "output": ones(3, 3, 4, 5),
        "workspace": ones(2 * _native.warp_workspace(4, 5)),
        "threads": 2,
    }
    return call(_native.warp, arguments, changes)


@pytest.fixture(autouse=True)
def _release():
    yield
    kept_alive.clear()


@pytest.mark.parametrize("taker", TAKERS)
def test_what_is_no_array_in_memory_is_refused(taker):
    for changes, sentence in NO_ARRAYS.values():
        with pytest.raises(ValueError, match=sentence) as refused:
            TAKERS[taker](given(np.ones((2, 3), "f4"), **changes))
        assert "\n" not in str(refused.value)


def test_all_calls_are_right_without_the_fault():
    adam()
    sgd()
    warp()
    assert covariance() == ("", -1, -1, [])


FAULTS = {
    "a workspace one entry short": (lambda: covariance(workspace=ones(_short(), dtype="f8")), "the workspace has"),
    "a workspace shorter than its alignment": (lambda: covariance(workspace=unaligned(1)), "the workspace has 8 bytes"),
    "no workspace": (lambda: covariance(workspace=ones(0, dtype="f8")), "the workspace has 0 bytes"),
    "a workspace that repeats one entry": (
        lambda: covariance(workspace=ones(1, dtype="f8", shape=(HUGE,), strides=(0,))),
        "contiguous ones on the host",
    ),
    "a workspace on a device": (lambda: covariance(workspace=ones(10**5, dtype="f8", device=0)), "on device 0"),
    "no views": (lambda: covariance(views=[], axes=[], pairs=[], shifts=[], sums=[], grams=[]), "given 0 views"),
    "a view without channels": (lambda: covariance(views=[ones(20, 0)]), "has 0 channels; expected 1 to 4194304"),
    "a view of too many channels": (
        lambda: covariance(views=[ones(1, shape=(2, HUGE), strides=(0, 0))]),
        "expected 1 to 4194304",
    ),
    "a view of one dimension": (
        lambda: covariance(views=[ones(20)]),
        "an activation has 1 dimensions; expected 2 to 4",
    ),
    "a view of integers": (lambda: covariance(views=[ones(20, 3, dtype="i8")]), "must be float32, float64"),
    "an axis too many": (lambda: covariance(axes=[2]), "channel axis 2 of 2 dimensions"),
    "a negative axis": (lambda: covariance(axes=[-1]), "channel axis -1 of 2 dimensions"),
    "a pair of nothing": (lambda: covariance(pairs=[(0, 1)]), r"pair \(0, 1\) names a view that is not there"),
    "a negative pair": (lambda: covariance(pairs=[(-1, 0)]), r"pair \(-1, 0\) names a view that is not there"),
    "a short gram": (lambda: covariance(grams=[ones(2, 3, dtype="f8")]), "a gram must be 9 contiguous float64 values"),
    "a gram of float32": (lambda: covariance(grams=[ones(3, 3)]), "a gram must be 9 contiguous float64 values"),
    "a gram that repeats": (
        lambda: covariance(grams=[ones(3, dtype="f8", shape=(3, 3), strides=(0, 1))]),
        "a gram must be 9 contiguous",
    ),
    "a short sum": (lambda: covariance(sums=[ones(2, dtype="f8")]), "a sum must be 3 contiguous float64 values"),
    "a short shift": (lambda: covariance(shifts=[ones(2, dtype="f8")]), "a shift must be 3"),
    "short norms": (lambda: covariance(norms=[ones(6, dtype="f8")]), "norms must be 7"),
    "a kept row too many": (lambda: kept(0, 20), "row 20 is kept of 20; expected ascending numbers of rows"),
    "a negative kept row": (lambda: kept(-1, 3), "row -1 is kept of 20"),
    "a row kept twice": (lambda: kept(3, 3), "row 3 is kept of 20"),
    "kept rows of bytes": (lambda: kept(1, dtype="u1"), "must be contiguous int64 values on the host"),
    "kept rows on a device": (lambda: covariance(kept=ones(3, dtype="i8", device=0)), "int64 values on the host"),
    "no threads": (lambda: covariance(threads=0), "given 0 threads; expected 1 to 4096"),
    "negative threads": (lambda: adam(threads=-1), "given -1 threads; expected 1 to 4096"),
    "a hundred million threads": (lambda: sgd(threads=10**8), "given 100000000 threads; expected 1 to 4096"),
    "threads of a copy": (lambda: _native.count_kept([ones(2, dtype="?")], 0, 0), "given 0 threads"),
    "step 0": (lambda: adam(steps=[0]), "given step 0; expected the number of the step, from 1"),
    "a short gradient": (lambda: adam(gradients=[ones(2, 2)]), "given a gradient whose shape or memory order"),
    "a gradient of float64": (lambda: sgd(gradients=[ones(2, 3, dtype="f8")]), "a gradient of another dtype"),
    "a short moment": (lambda: sgd(momenta=[ones(2, 2)]), "given a moment whose shape or memory order"),
    "a short mask": (lambda: adam(masks=[ones(2, 2, dtype="?")]), "given a mask whose shape or memory order"),
    "a moment too few": (lambda: adam(squares=[]), "given 0 second moments for 1 tensors; expected one each"),
    "pruning less than nothing": (
        lambda: _native.prune_lowest([ones(3)], [], [ones(3, dtype="?")], False, -1, 1, 0),
        "asked to prune -1 entries",
    ),
    "pruning more than there is": (
        lambda: _native.prune_lowest([ones(3)], [], [ones(3, dtype="?")], False, 4, 1, 0),
        "4",
    ),
    "an index past the images": (lambda: warp(index=given(np.array([0, 1, 2]))), "index 2 is 2; there are 2 images"),
    "a negative index": (lambda: warp(index=given(np.array([0, -1, 1]))), "index 1 is -1; there are 2 images"),
    "a short output": (lambda: warp(output=ones(2, 3, 4, 5)), "output does not have the shape"),
    "a short warp workspace": (lambda: warp(workspace=ones(3)), "workspace has 3 entries; expected at least"),
    "images of less than nothing": (lambda: _native.warp_workspace(-1, 5), "given images of -1 x 5 pixels"),
    "images too large": (lambda: _native.warp_workspace(HUGE, HUGE), "expected 0 to 1048575 of each"),
    "scores of less than nothing": (lambda: _native.threshold_workspace([-5], 1), "given a tensor of -5 scores"),
    "no pools": (lambda: _native.threshold_workspace([5], 0), "given 0 pools; expected 1 to"),
    "negative iterations": (lambda: _native.probe_fma(True, -1, 1), "given -1 iterations; expected at least 1"),
    "no sweeps": (lambda: _native.eigh(*[ones(1, 3, 3, dtype="f8")] * 3, 0, 0), "given at most 0 sweeps"),
    "matrices on the host": (lambda: _native.eigh(*[ones(1, 3, 3, dtype="f8")] * 3, 30, 0), "use torch.linalg"),
}


def _short() -> int:
    """Entries of a workspace that wherever it begins is too small."""
    return (_native.covariance_workspace([ones(20, 3)], [1], [(0, 0)], True, False, 2) - 64) // 8 - 1


def unaligned(size: int):
    """A few entries just past a boundary of 64 bytes."""
    memory = np.ones(64 + size)
    first = next(i for i in range(64) if memory[i:].ctypes.data % 64 == 8)
    return given(memory[first : first + size])


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_are_refused_in_a_sentence(kind):
    call, sentence = FAULTS[kind]
    with pytest.raises(ValueError, match=sentence) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_nothing_to_read_needs_no_memory():
    empty = ones(0, 3, pointer=0)
    _native.masked_copy([empty], [empty], [ones(0, 3, dtype="?", pointer=0)], 1, 0)
    assert _native.count_kept([ones(0, dtype="?", pointer=0)], 1, 0) == [0]
    assert _native.count_kept([], 1, 0) == []
    assert covariance(views=[ones(0, 3, pointer=0)]) == ("", -1, -1, [])
    adam(**{key: [ones(3, 0, strides=(1, 1))] for key in ("weights", "gradients", "means", "squares")})


def test_a_device_that_is_not_there_is_said():
    # A build without CUDA refuses any device by its number; one with CUDA asks the driver, which has not that one.
    with_cuda = hasattr(_native, "covariance_update_cuda")
    error, sentence = (RuntimeError, "choosing the device") if with_cuda else (ValueError, "CUDA device 63")
    with pytest.raises(error, match=sentence):
        adam(**{key: [ones(2, 3, device=63)] for key in ("weights", "gradients", "means", "squares")})
