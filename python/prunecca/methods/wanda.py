"""Wanda: weights are scored with how large their inputs are (Sun et al. 2023)."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

_SYMMETRIC = 1e-5
_ROUNDING = 1e-9  # of a mean square that is 0, relative to the largest


def wanda_scores(parameters: nn.Module | Mapping[str, Tensor], moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``|W|`` times the root mean square of the input that it is multiplied with, to be given to ``prune``.

    Args:
        parameters: a model, or names with tensors.
        moments: as from ``prunecca.second_moments``: (d, d), or (groups, d, d) for a grouped convolution; or as from
            ``prunecca.mean_squares``, (groups, d). Where no model is given, (d, d) are mean squares if it is not symmetric.

    Returns:
        Name of the weight -> float64 scores of its shape, for every name of ``moments``. With ``scope="row"``, as in the
        paper, or ``"2:4"``, ``prune`` takes them in the place of the weights.

    Raises:
        ValueError: a moment without weight, of another number of inputs, or with a NaN, infinity or negative mean square.

    Example:
        >>> import torch, prunecca as pc
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 3))
        >>> scores = pc.pruning.wanda_scores(model, pc.second_moments(model, torch.tensor([[9.0, 0.1], [-9.0, 0.1]])))
        >>> pc.pruning.prune(scores, {"all": ["0.weight"]}, 0.5, scope="row")["0.weight"].sum(1).tolist()
        [1, 1, 1]
    """
    named = dict(parameters.named_parameters()) if isinstance(parameters, nn.Module) else parameters
    groups = _groups(parameters) if isinstance(parameters, nn.Module) else {}
    scores = {}
    for name, moment in moments.items():
        if name not in named:
            raise ValueError(f"moment '{name}' has no weight of that name; expected those of the same network")
        weight = named[name].detach()
        squares = _squares(moment, groups.get(name))
        odd = groups.get(name, len(squares)) != len(squares)
        if odd or weight.dim() < 2 or weight[0].numel() != squares.shape[-1] or len(weight) % max(1, len(squares)):
            raise ValueError(
                f"moment '{name}' has shape {tuple(moment.shape)}; expected that of the inputs of its weight, "
                f"{tuple(weight.shape)}"
            )
        scores[name] = _scored(name, weight, squares)
    return scores


def _groups(model: nn.Module) -> dict[str, int]:
    """Into how many groups the inputs of each weight are divided."""
    own = {id(p): getattr(module, "groups", 1) for module in model.modules() for p in module._parameters.values()}
    return {name: own[id(p)] for name, p in model.named_parameters()}


def _squares(moment: Tensor, groups: int | None) -> Tensor:
    """The mean squares of each group's inputs, (groups, d); of none where it is neither form."""
    if moment.dim() == 3 and moment.shape[1] == moment.shape[2]:
        return moment.diagonal(dim1=1, dim2=2)
    if moment.dim() != 2:
        return moment.new_zeros(0, 0)
    # A depthwise convolution may have as many groups as a patch of it has entries.
    matrix = moment.shape[0] == moment.shape[1] and (_symmetric(moment) if groups is None else groups == 1)
    return moment.diagonal()[None] if matrix else moment


def _symmetric(moment: Tensor) -> bool:
    """Up to the rounding of a product in float32."""
    return bool(((moment - moment.T).abs() <= _SYMMETRIC * moment.abs().max()).all()) or not moment.isfinite().all()


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
        scores[name] = _scored(name, weight, squares[name]) if name in squares else weight.double().abs()
    return scores


def _scored(name: str, weight: Tensor, squares: Tensor) -> Tensor:
    """Magnitudes times the root mean squares of each group's inputs."""
    if not squares.isfinite().all() or (squares < -_ROUNDING * squares.abs().max()).any():
        raise ValueError(
            f"the mean squares of the inputs of '{name}' hold a NaN, infinity or negative number; check the data"
        )
    lines: Tensor = torch.sqrt(squares.clamp(min=0)).to(weight.device)
    return weight.double().abs() * lines.repeat_interleave(len(weight) // len(lines), 0).view(weight.shape)
