"""Wanda: weights are scored with how large their inputs are (Sun et al. 2023)."""

from __future__ import annotations

from collections.abc import Mapping

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
        rms = moment.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt().to(weight.device)
        lines = rms.reshape(-1, rms.shape[-1])
        if weight.dim() < 2 or weight[0].numel() != lines.shape[1] or len(weight) % len(lines):
            raise ValueError(
                f"moment '{name}' has shape {tuple(moment.shape)}; expected that of the inputs of its weight, "
                f"{tuple(weight.shape)}"
            )
        scores[name] = weight.double().abs() * lines.repeat_interleave(len(weight) // len(lines), 0).view(weight.shape)
    return scores
