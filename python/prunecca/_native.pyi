from typing import Any, Literal, NewType

# Made by prunecca._arrays.native alone: the address is of memory that a tensor owns.
Array = NewType("Array", tuple[int, tuple[int, ...], tuple[int, ...], int, int])

# info
def build_info() -> dict[str, Any]: ...
def set_cpu_level(name: str) -> None: ...
def emulated_tile_counts() -> tuple[int, int, int]: ...
def device_of(address: int) -> int: ...

# masks
def masked_copy(out: list[Array], source: list[Array], masks: list[Array], threads: int, stream: int) -> None: ...
def count_kept(masks: list[Array], threads: int, stream: int) -> list[int]: ...
def count_kept_into(masks: list[Array], counts: Array, stream: int) -> None: ...
def prune_lowest(
    scores: list[Array], alive: list[Array], masks: list[Array], by_value: bool, count: int, threads: int, stream: int
) -> int: ...

# threshold
def threshold_workspace(sizes: list[int], pools: int) -> int: ...
def survey_scores(
    scores: list[Array],
    alive: list[Array],
    masks: list[Array],
    pools: list[int],
    by_value: bool,
    workspace: Array,
    survey: Array,
    stream: int,
) -> None: ...
def cut_scores(
    scores: list[Array],
    alive: list[Array],
    masks: list[Array],
    pools: list[int],
    by_value: bool,
    workspace: Array,
    wanted: Array,
    stream: int,
) -> None: ...

# optimizers
def adam_step(
    weights: list[Array],
    gradients: list[Array],
    means: list[Array],
    squares: list[Array],
    masks: list[Array | None],
    steps: list[int],
    lr: float,
    beta1: float,
    beta2: float,
    epsilon: float,
    l2: float,
    shrink: float,
    keep_masked: bool,
    threads: int,
    stream: int,
    penalties: list[tuple[Array | None, float, float, float]] = ...,  # anchor, pull, l1, threshold
) -> None: ...
def sgd_step(
    weights: list[Array],
    gradients: list[Array],
    momenta: list[Array],
    masks: list[Array | None],
    first: list[bool],
    lr: float,
    momentum: float,
    dampening: float,
    l2: float,
    nesterov: bool,
    keep_masked: bool,
    threads: int,
    stream: int,
    penalties: list[tuple[Array | None, float, float, float]] = ...,  # anchor, pull, l1, threshold
) -> None: ...

# optimizers, on a CUDA device, with what changes from step to step in its memory
def adam_advance(
    step: Array, rate: Array, beta1: float, beta2: float, decay: float, schedule: Array, stream: int
) -> None: ...
def adam_step_scheduled(
    weights: list[Array],
    gradients: list[Array],
    means: list[Array],
    squares: list[Array],
    masks: list[Array | None],
    schedule: Array,
    beta1: float,
    beta2: float,
    epsilon: float,
    l2: float,
    keep_masked: bool,
    stream: int,
    penalties: list[tuple[Array | None, float, float, float]] = ...,  # their thresholds times the learning rate there
) -> None: ...
def sgd_step_scheduled(
    weights: list[Array],
    gradients: list[Array],
    momenta: list[Array],
    masks: list[Array | None],
    first: list[bool],
    rate: Array,
    momentum: float,
    dampening: float,
    l2: float,
    nesterov: bool,
    keep_masked: bool,
    stream: int,
    penalties: list[tuple[Array | None, float, float, float]] = ...,
) -> None: ...

# covariance
MOST_VIEWS: int  # of one call on a CUDA device

def covariance_workspace(
    views: list[Array],
    channel_axes: list[int],
    pairs: list[tuple[int, int]],
    norms: bool,
    float64: bool,
    threads: int,
    kept: Array | None = ...,
) -> int: ...
def covariance_update(
    views: list[Array],
    channel_axes: list[int],
    pairs: list[tuple[int, int]],
    shifts: list[Array],
    sums: list[Array | None],
    grams: list[Array],
    norms: list[Array],
    float64: bool,
    threads: int,
    workspace: Array,
    counts: list[int] = ...,
    any_range: bool = ...,
    kept: Array | None = ...,
) -> tuple[Literal["", "not finite", "underflow", "off centre"], int, int, list[int]]: ...

# covariance, on a CUDA device; absent from a build without CUDA
def covariance_workspace_cuda(
    views: list[Array],
    channel_axes: list[int],
    pairs: list[tuple[int, int]],
    counted: list[bool],
    norms: bool,
    float64: bool,
) -> int: ...
def covariance_update_cuda(
    views: list[Array],
    channel_axes: list[int],
    pairs: list[tuple[int, int]],
    shifts: list[Array],
    sums: list[Array | None],
    grams: list[Array],
    norms: list[Array],
    float64: bool,
    workspace: Array,
    note: Array,
    batch: int,
    stream: int,
) -> None: ...

# augmentation
def warp(
    images: Array,
    index: Array,
    maps: Array,
    scale: Array,
    offset: Array,
    output: Array,
    workspace: Array,
    threads: int,
) -> None: ...
def warp_workspace(height: int, width: int) -> int: ...

# peaks
def probe_fma(float64: bool, iterations: int, threads: int) -> float: ...
def probe_read(data: Array, threads: int) -> int: ...
def probe_copy(to: Array, from_: Array, threads: int) -> None: ...

# linalg
LARGEST_SIDE: int  # of a matrix that the kernels of a CUDA device take
MOST_SWEEPS: int  # of Jacobi rotations, before a matrix counts as not converging

def eigh(matrices: Array, values: Array, vectors: Array, most_sweeps: int, stream: int) -> None: ...
def singular_values(matrices: Array, values: Array, most_sweeps: int, stream: int) -> None: ...
