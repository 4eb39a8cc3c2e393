"""The uncentred second moments of what the layers of a network take in, in one pass over the data."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .activations.evaluation_mode import evaluating
from .activations.inputs import Forward, input_batches
from .activations.outputs import first_input
from .activations.wrappers import eager, unwrapped
from .covariance.covariance import Covariance
from .covariance.streaming import StreamingCovariance

_PIECE = 32  # inputs whose squares are taken at once: they are float64


def second_moments(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    max_inputs: int | None = None,
    forward: Forward | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Tensor]:
    """The mean of ``x x^T`` over all inputs ``x`` of each linear layer and each convolution of one or two dimensions.

    What OBS, SparseGPT (times 2) and Wanda (its diagonal) are made of. An ``x`` is what one row of the weight is multiplied
    with: for a convolution a patch of all its input channels, one for each position, in the order of ``weight.flatten(1)``.
    The products are summed in float64; the memory is that of the matrices, whatever the number of inputs.

    Args:
        model, loader, forward, device: as in ``compare``; the model runs in eval mode.
        max_inputs: that are used; None for all.

    Returns:
        Name of the weight, as in ``model.named_parameters()`` -> (d, d) float64, symmetric and positive semi-definite up to
        rounding; (groups, d, d) of a grouped convolution. A weight that several layers share has the inputs of all of
        them. Layers that the data did not pass through, and those whose weight is computed from others, are left out.

    Raises:
        ValueError: an empty loader, inputs that are not finite, or a layer that has seen fewer than two ``x``.

    Example:
        >>> import torch, prunecca as pc
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3))
        >>> moments = pc.second_moments(model, torch.tensor([[1.0, 2.0], [3.0, 0.0]]))
        >>> moments["0.weight"].tolist()
        [[5.0, 1.0], [1.0, 2.0]]
    """
    sums: dict[str, list[StreamingCovariance]] = {}

    def add(name: str, features: list[Tensor]) -> None:
        parts = sums.setdefault(name, [StreamingCovariance(precision="float64") for _ in features])
        for part, rows in zip(parts, features, strict=True):
            part.update(rows, layout="nc" if rows.ndim == 2 else "ncl", where=f"the input of '{name}'")

    _watch(model, loader, add, max_inputs, forward, device)
    return {name: _together([_uncentred(name, part) for part in parts]) for name, parts in sums.items()}


def mean_squares(model: nn.Module, loader: Iterable[Any]) -> dict[str, Tensor]:
    """The diagonals of ``second_moments`` alone, whose memory is that of the weights.

    Args:
        model, loader: as in ``second_moments``.

    Returns:
        Name of the weight -> (groups, d) float64; one group for all but grouped convolutions.

    Raises:
        ValueError: an empty loader, or inputs that are not finite.

    Example:
        >>> import torch, prunecca as pc
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3))
        >>> pc.mean_squares(model, torch.tensor([[1.0, 2.0], [3.0, 0.0]]))["0.weight"].tolist()
        [[5.0, 2.0]]
    """
    sums: dict[str, tuple[int, Tensor]] = {}

    def add(name: str, features: list[Tensor]) -> None:
        number, sum_before = sums.get(name, (0, torch.zeros(())))
        rows = [f if f.ndim == 3 else f[:, :, None] for f in features]
        squares = torch.stack([_squares(f) for f in rows])
        if not squares.isfinite().all():
            raise ValueError(f"the input of '{name}' is not finite; check the training and the data")
        sums[name] = (number + rows[0].shape[0] * rows[0].shape[2], squares + sum_before.to(squares.device))

    _watch(model, loader, add, None, None, None)
    return {name: total / number for name, (number, total) in sums.items() if number}


def _squares(rows: Tensor) -> Tensor:
    """The sums of the squares of each feature of (N, d, positions), in float64."""
    total = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
    for piece in torch.split(rows, _PIECE):
        total += piece.double().square_().sum(dim=(0, 2))
    return total


def _watch(
    model: nn.Module,
    loader: Iterable[Any],
    add: Callable[[str, list[Tensor]], None],
    max_inputs: int | None,
    forward: Forward | None,
    device: torch.device | str | None,
) -> None:
    """Pass all inputs through the model; ``add`` takes what each layer's weight is multiplied with."""
    model = unwrapped(model, "the model")
    with evaluating({"the model": model}, device) as target, torch.no_grad(), eager([model]):
        hooks = [
            layer.register_forward_pre_hook(_adding(name, add), with_kwargs=True) for name, layer in _layers(model)
        ]
        empty = True
        try:
            for _, batch, _ in input_batches(loader, max_inputs, (0, 1), forward):
                empty = False
                batch.private(target).call(model)
        finally:
            for hook in hooks:
                hook.remove()
    if empty:
        raise ValueError("the loader gave no inputs; expected at least one batch")


def _layers(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """The layers with the first name of their weight."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv1d | nn.Conv2d) and layer._parameters.get("weight") in names:
            yield names[layer.weight], layer


def _adding(name: str, add: Callable[[str, list[Tensor]], None]) -> Callable[..., None]:
    def hook(layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        x = first_input(args, kwargs)
        if x.numel():
            add(name, _features(layer, x.detach()))

    return hook


def _features(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """What the rows of a weight are multiplied with: (N, d), or (N, d, positions) for each group of a convolution."""
    if not isinstance(layer, nn.Conv1d | nn.Conv2d):
        return [x.reshape(-1, x.shape[-1])]
    dimensions = len(layer.kernel_size)
    x = x if x.dim() == dimensions + 2 else x[None]
    around = layer._reversed_padding_repeated_twice
    x = nn.functional.pad(x, around, mode="constant" if layer.padding_mode == "zeros" else layer.padding_mode)
    line = dimensions == 1  # an image of one row
    kernel, dilation, stride = ((1, *p) if line else p for p in (layer.kernel_size, layer.dilation, layer.stride))
    patches = nn.functional.unfold(x[:, :, None] if line else x, kernel, dilation=dilation, stride=stride)
    return list(patches.chunk(layer.groups, dim=1))


def _uncentred(name: str, part: StreamingCovariance) -> Tensor:
    if part.count < 2:
        raise ValueError(f"the layer of '{name}' has seen {part.count} inputs; expected at least two, give more data")
    found = part.finalize()
    if not isinstance(found, Covariance):
        raise TypeError(f"the inputs of '{name}' gave several covariances; expected one")
    moment = found.xx * ((found.count - 1) / found.count) + torch.outer(found.mean_x, found.mean_x)
    return (moment + moment.T) / 2


def _together(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.stack(parts)
