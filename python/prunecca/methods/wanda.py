"""Wanda: weights are scored with how large their inputs are (Sun et al. 2023)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn


def wanda_scores(parameters: nn.Module | Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``|W|`` times the root mean square of the input that it is multiplied with, to be given to ``prune``.

    Args:
        parameters: a model, or names with tensors.
        moments: as from ``prunecca.second_moments``: (d, d), or (groups, d, d) for a grouped convolution.

    Returns:
        Name of the weight -> float64 scores of its shape, for every name of ``moments``. With ``scope="row"``, as in the
        paper, or ``"2:4"``, ``prune`` takes them in the place of the weights.

    Raises:
        ValueError: a moment without weight, or of another number of inputs.

    Example:
        >>> import torch, prunecca as pc
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3))
        >>> scores = pc.pruning.wanda_scores(model, pc.second_moments(model, torch.tensor([[9.0, 0.1], [-9.0, 0.1]])))
        >>> pc.pruning.prune(scores, {"all": ["0.weight"]}, 0.5, scope="row")["0.weight"].sum(1).tolist()
        [1, 1, 1]
    """
    named = dict(parameters.named_parameters()) if isinstance(parameters, nn.Module) else parameters
    scores = {}
    for name, moment in moments.items():
        if name not in named:
            raise ValueError(f"moment '{name}' has no weight of that name; expected those of the same network")
        weight = named[name].detach()
        squares = moment.diagonal(dim1=-2, dim2=-1)
        squares = squares.reshape(-1, squares.shape[-1])
        if weight.dim() < 2 or weight[0].numel() != squares.shape[1] or len(weight) % len(squares):
            raise ValueError(
                f"moment '{name}' has shape {tuple(moment.shape)}; expected that of the inputs of its weight, "
                f"{tuple(weight.shape)}"
            )
        scores[name] = _scored(weight, squares)
    return scores


def scores_of_pools(
    parameters: nn.Module | Mapping[str, Tensor], names: Collection[str], squares: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The scores of all that is pruned, from the mean squares of what layers take in.

    Args:
        parameters: a model, or names with tensors.
        names: what is pruned. The input of a bias is the constant 1, so that its score is its magnitude.
        squares: as from ``input_moments.mean_squares``.

    Returns:
        Name -> float64 scores of its shape, for each of ``names``.

    Raises:
        ValueError: a matrix of weights has no mean squares.
    """
    if isinstance(parameters, nn.Module):  # a weight that layers share has inputs under its first name alone
        first = {id(p): name for name, p in parameters.named_parameters()}
        parameters = dict(parameters.named_parameters(remove_duplicate=False))
        squares = {name: squares[first[id(p)]] for name, p in parameters.items() if first[id(p)] in squares}
    scores = {}
    for name in names:
        weight = parameters[name].detach()
        if name not in squares and weight.dim() > 1:
            raise ValueError(
                f"the criterion 'wanda' has no inputs of '{name}'; expected weights of linear layers and of convolutions that "
                "the data passes through, so leave it out of the pools or take another criterion"
            )
        scores[name] = _scored(weight, squares[name]) if name in squares else weight.double().abs()
    return scores


def _scored(weight: Tensor, squares: Tensor) -> Tensor:
    """Magnitudes times the root mean squares of each group's inputs."""
    lines: Tensor = torch.sqrt(squares.clamp(min=0)).to(weight.device)
    return weight.double().abs() * lines.repeat_interleave(len(weight) // len(lines), 0).view(weight.shape)
