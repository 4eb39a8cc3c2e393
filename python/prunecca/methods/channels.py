"""The scope of whole channels: what one index of a weight's first dimension holds, with its bias, stays or goes together."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fractions import Fraction

import torch
from torch import Tensor, nn

_ORIGINAL = re.compile(r"parametrizations\.(\w+)\.original\d*$")
_TINY = 2.0**-149  # the smallest float32 above 0


def channel_groups(names: Sequence[str]) -> list[list[str]]:
    """The names of a pool as groups that are ranked on their own: each weight, followed by its bias if that is there too."""
    partners = {name: _bias_of(name) for name in names}
    known = {_plain(name): name for name in names}
    biases = {known[bias]: name for name, bias in partners.items() if bias in known and known[bias] != name}
    followers: dict[str, list[str]] = {}
    for bias, weight in biases.items():
        followers.setdefault(weight, []).append(bias)
    return [[name, *followers.get(name, [])] for name in names if name not in biases]


def check_outputs_first(model: nn.Module, names: Iterable[str], scope: str) -> None:
    """Refuse weights whose output channels are not along the first dimension, where the scope goes by dimensions.

    Raises:
        ValueError: a transposed convolution, a ``Conv1D`` of the transformers library, or channels of an embedding.
    """
    if scope in ("pool", "layer", "global"):
        return
    pooled = set(names)
    embeddings = (nn.Embedding, nn.EmbeddingBag) if scope == "channel" else ()
    for layer, module in model.named_modules(remove_duplicate=False):
        other = isinstance(module, (nn.modules.conv._ConvTransposeNd, *embeddings))
        if not other and all(base.__name__ != "Conv1D" for base in type(module).__mro__):
            continue
        for own, _ in module.named_parameters(layer):
            if own in pooled and _plain(own).rpartition(".")[2] == "weight":
                raise ValueError(
                    f"scope '{scope}' cannot cut '{own}': the output channels of a {type(module).__name__} are not along the "
                    "first dimension; leave it out of the pools"
                )


def cut_channels(
    names: Sequence[str], scores: Sequence[Tensor], alive: Sequence[Tensor], masks: Sequence[Tensor], rate: Fraction
) -> int:
    """Write the masks of a weight and what follows it: without ``floor(rate * n)`` of its n living channels.

    Those go whose scores have the lowest sum, over the survivors of the weight alone; ties go by position. A sum is exact
    before it is rounded to a float64, so that it depends on the values alone, and not on their order.

    Args:
        names: for errors; the weight first.
        scores: to be compared as they are.
        alive: the survivors so far; a channel lives while any entry of its weight does.
        masks: written; contiguous.
        rate: of the pool.

    Returns:
        0 where the score of a survivor is NaN, otherwise -1; the masks then mean nothing.

    Raises:
        ValueError: what follows does not have one entry for each channel.
    """
    for name, mask in zip(names[1:], masks[1:], strict=True):
        if mask.shape[:1] != masks[0].shape[:1]:
            raise ValueError(
                f"scope 'channel' was given '{names[0]}' of shape {tuple(masks[0].shape)} and '{name}' of shape "
                f"{tuple(mask.shape)}; expected output channels along the first dimension of both, leave the layer out of the pools"
            )
    living = _channels(alive[0])
    has = living.any(1).cpu()
    sums = channel_sums(scores[0], alive[0])
    ranked = sorted((int(c) for c in has.nonzero()), key=lambda c: (sums[c], c))
    kept = has.clone()
    kept[ranked[: math.floor(rate * len(ranked))]] = False
    for before, mask in zip(alive, masks, strict=True):
        channels = kept.to(mask.device).reshape(-1, *[1] * (mask.dim() - 1)) if mask.dim() else kept.reshape(())
        mask.copy_(before & channels)
    return -1 + int(any(math.isnan(sums[c]) for c in ranked))


def scores_of_channels(
    parameters: nn.Module | Mapping[str, Tensor],
    pools: Mapping[str, Sequence[str]],
    found: Mapping[str, Tensor],
    previous: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Scores of all that is pruned, whose sums in each channel are the scores of the channels, to the bit.

    Args:
        parameters: a model, or names with tensors.
        pools: what is pruned. What a bias has does not count: it goes with its channel.
        found: name of a weight -> a score of each of its channels, as from ``fisher_channel_scores``.
        previous: the masks so far. A channel's score stands at the first of its entries that live, with zeros after it, so
            that its sum is the same however many of them do.

    Returns:
        Name -> float64 scores of its shape, for everything in the pools.

    Raises:
        ValueError: a weight has no scores, or not one for each channel.
    """
    if isinstance(parameters, nn.Module):
        parameters = dict(parameters.named_parameters(remove_duplicate=False))
    scores = {}
    for names in pools.values():
        for weight, *followers in channel_groups(names):
            tensor = parameters[weight]
            if weight not in found:
                raise ValueError(
                    f"'{weight}' has no scores of channels; expected weights of linear layers and of convolutions that the "
                    "data passes through, so leave it out of the pools or take another criterion"
                )
            shape, expected = tuple(found[weight].shape), tuple(tensor.shape[:1])
            if shape != expected:
                raise ValueError(
                    f"'{weight}' of shape {tuple(tensor.shape)} has scores of shape {shape}; expected {expected}, one for each channel"
                )
            own = found[weight].to(tensor.device, torch.float64)
            alive = None if previous is None else previous.get(weight)
            living = _channels(torch.ones_like(tensor, dtype=torch.bool) if alive is None else alive.to(tensor.device))
            lines = torch.zeros(living.shape, dtype=torch.float64, device=tensor.device)
            if lines.numel():
                lines.scatter_(1, living.to(torch.uint8).argmax(1, keepdim=True), own[:, None])
            scores[weight] = lines.view(tensor.shape)
            scores |= {name: torch.zeros_like(parameters[name], dtype=torch.float64) for name in followers}
    return scores


def channel_sums(scores: Tensor, alive: Tensor | None = None) -> list[float]:
    """The sum of each channel's scores, exact before it is rounded; of those that live."""
    rows = _channels(scores).cpu()
    living = None if alive is None or bool(alive.all()) else _channels(alive).cpu()
    with _denormals():
        if living is None:
            return [_sum(row.tolist()) for row in rows]
        return [_sum(row[live].tolist()) for row, live in zip(rows, living, strict=True)]


def _channels(tensor: Tensor) -> Tensor:
    """A line for each channel."""
    return tensor.flatten(1) if tensor.dim() > 1 else tensor.reshape(-1, 1)


def _sum(values: list[float]) -> float:
    try:
        return math.fsum(values)
    except OverflowError:  # beyond the largest float64
        return math.copysign(math.inf, math.fsum(value * 2.0**-64 for value in values))
    except ValueError:  # both infinities
        return math.nan


@contextmanager
def _denormals() -> Iterator[None]:
    """Denormals count as what they are, also where this thread takes them for 0."""
    flushed = torch.tensor(_TINY).item() == 0.0
    if flushed:
        torch.set_flush_denormal(False)
    try:
        yield
    finally:
        if flushed:
            torch.set_flush_denormal(True)


def _plain(name: str) -> str:
    """The name that a parameter had before it was parametrised."""
    return _ORIGINAL.sub(r"\1", name)


def _bias_of(name: str) -> str | None:
    """The name of the bias of the same map: of ``conv.weight``, ``attention.in_proj_weight``, ``lstm.weight_hh_l0``."""
    module, dot, own = _plain(name).rpartition(".")
    return f"{module}{dot}{own.replace('weight', 'bias')}" if "weight" in own else None
