"""Supermasks: which weights of an untrained network stay is learned, the weights never are (Zhou et al. 2019, section 5)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..seeds import derive
from .pooled import pooled_names

SAMPLING = {
    "bernoulli": "each weight is kept with the probability sigmoid(score), drawn anew in each forward pass",
    "threshold": "a weight is kept where its probability is 1/2 or more",
}


class Supermask(nn.Module):
    """A network whose weights are frozen and multiplied with masks that have learnable scores, one for each weight.

    Any optimizer trains the scores. The gradient passes through the mask as if it were its probability: with
    ``p = sigmoid(score)`` it is ``dL/d(effective weight) * weight * p * (1 - p)``. The network is never written to: the
    effective weights exist during a forward pass alone, whatever module reads them. ``state_dict`` holds weights, scores
    and how many masks were drawn, from which all further ones follow.

    In eval mode the masks are those of the next training step, so that an evaluation sees one network and changes nothing.

    Args:
        network: at its initialisation. Its parameters are frozen (``requires_grad`` is False) from here on.
        pools: names of the parameters that have masks, as from ``pools_by_type``.
        probability: that a weight is kept at first, between 0 and 1; one number, or one for each pool.
        sampling: ``"bernoulli"``, drawn in each forward pass, or ``"threshold"``, kept where the probability is at least 1/2.
        rescale: whether the kept weights of each tensor are multiplied with its entries over those kept (dynamic weight
            rescaling). No gradient passes through that factor.
        seed: of what is drawn.

    Attributes:
        network: the network.
        draws: how many masks were drawn.

    Raises:
        ValueError: a pool names no parameter, a probability is not between 0 and 1, or there is no such sampling.
        TypeError: the network is no module, pools are no lists of names, or a parameter holds no real numbers.

    Example:
        >>> import torch, prunecca as pc
        >>> network = torch.nn.Sequential(torch.nn.Linear(4, 2))
        >>> pools = {"all": ["0.weight"]}
        >>> supermask = pc.pruning.Supermask(network, pools)
        >>> optimizer = torch.optim.Adam(supermask.scores.values(), lr=0.1)
        >>> supermask(torch.ones(3, 4)).square().sum().backward()
        >>> optimizer.step()
        >>> masks = pc.pruning.prune(supermask.scores, pools, 0.75, criterion="score")
        >>> int(masks["0.weight"].sum()), sorted(supermask.state(masks))
        (2, ['0.bias', '0.weight'])
    """

    def __init__(
        self,
        network: nn.Module,
        pools: Mapping[str, Sequence[str]],
        *,
        probability: float | Mapping[str, float] = 0.5,
        sampling: str = "bernoulli",
        rescale: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"network is a {type(network).__name__}; expected a torch.nn.Module")
        check_sampling(sampling)
        begun = _scores_at_first(network, pools, probability)
        self.network = network.requires_grad_(False)
        self.sampling, self.rescale, self.seed, self.draws = sampling, rescale, seed, 0
        self._names = list(begun)
        self.learned = nn.ParameterList(begun.values())  # names of parameters have dots, which no ParameterDict takes

    @property
    def scores(self) -> dict[str, nn.Parameter]:
        """Parameter name of the network -> its scores: what an optimizer trains, and what ``prune`` ranks."""
        return dict(zip(self._names, self.learned, strict=True))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the network gives with masked weights."""
        weights = dict(self.network.named_parameters())
        masked = {name: weights[name] * mask.to(weights[name].dtype) for name, mask in self._masks().items()}
        if self.training:
            self.draws += 1
        return functional_call(self.network, masked, args, kwargs)

    @torch.no_grad()
    def state(self, masks: Mapping[str, Tensor]) -> dict[str, Any]:
        """The ``state_dict`` of the network with these masks in the place of the scores.

        Args:
            masks: parameter name -> ``torch.bool``, such as an exact number of them from ``prune``.

        Returns:
            Copies: the weights of the initialisation where a mask keeps them, times the factor of ``rescale``; else 0.

        Raises:
            ValueError: the masks are not those of the scores.
        """
        if masks.keys() != set(self._names):
            odd = sorted(masks.keys() ^ set(self._names))[0]
            raise ValueError(f"masks and scores differ in '{odd}'; expected a mask for each of the scores")
        weights = dict(self.network.named_parameters())
        changed = {}
        for name, mask in masks.items():
            weight = weights[name]
            if mask.dtype != torch.bool or mask.shape != weight.shape:
                raise ValueError(
                    f"mask '{name}' is {mask.dtype} of shape {tuple(mask.shape)}; expected torch.bool of shape "
                    f"{tuple(weight.shape)}"
                )
            kept = mask.to(weight.device)
            factor = self._factor(kept)
            changed[id(weight)] = torch.where(kept, weight * factor, torch.zeros_like(weight))
        # A shared weight has several names in the state.
        known = {name: id(p) for name, p in self.network.named_parameters(remove_duplicate=False)}
        state = self.network.state_dict()
        return {
            name: changed[known[name]] if known.get(name) in changed else _copied(value)
            for name, value in state.items()
        }

    def get_extra_state(self) -> Tensor:
        """How many masks were drawn."""
        return torch.tensor(self.draws)

    def set_extra_state(self, state: Any) -> None:
        """Go on drawing after that many masks."""
        self.draws = int(state)

    def _masks(self) -> dict[str, Tensor]:
        """Zeros and ones, scaled if asked for, through which gradients reach the scores."""
        scores = self.scores
        device = next(iter(scores.values())).device
        generator = torch.Generator(device).manual_seed(derive(self.seed, "supermask", self.draws))
        masks = {}
        for name, score in scores.items():
            probability = score.sigmoid()
            if self.sampling == "bernoulli":
                drawn = torch.rand(score.shape, dtype=score.dtype, device=device, generator=generator)
                hard = drawn.to(score.device) < probability.detach()
            else:
                hard = score.detach() >= 0
            # The second term is exactly 0, and has the gradient of the probability.
            mask = hard.to(score.dtype) + (probability - probability.detach())
            masks[name] = mask * self._factor(hard) if self.rescale else mask
        return masks

    def _factor(self, kept: Tensor) -> Tensor | float:
        return kept.numel() / kept.sum().clamp(min=1).double() if self.rescale else 1.0


def check_sampling(sampling: str) -> None:
    """Refuse what is no way of making masks from scores.

    Raises:
        ValueError: there is no such sampling.
    """
    if sampling not in SAMPLING:
        raise ValueError(f"sampling is '{sampling}'; expected one of {', '.join(SAMPLING)}")


def _scores_at_first(
    network: nn.Module, pools: Mapping[str, Sequence[str]], probability: float | Mapping[str, float]
) -> dict[str, nn.Parameter]:
    """Constant scores of every pooled weight, under its first name."""
    pooled_names(pools)
    every = dict(network.named_parameters(remove_duplicate=False))
    first = {id(p): name for name, p in network.named_parameters()}
    given = dict(probability) if isinstance(probability, Mapping) else dict.fromkeys(pools, probability)
    if given.keys() != pools.keys():
        odd = sorted(given.keys() ^ pools.keys())[0]
        raise ValueError(f"pools and probabilities differ in '{odd}'; expected one probability for each pool")
    scores: dict[str, nn.Parameter] = {}
    pool_of: dict[str, str] = {}
    for pool, names in pools.items():
        if not isinstance(given[pool], Real) or not 0 < given[pool] < 1:
            raise ValueError(f"probability of pool '{pool}' is {given[pool]}; expected a number between 0 and 1")
        start = math.log(given[pool] / (1 - given[pool]))
        for name in names:
            if name not in every:
                raise ValueError(
                    f"pooled parameter '{name}' does not exist; expected names of the network's parameters"
                )
            weight = every[name]
            if isinstance(weight, nn.UninitializedParameter):
                raise ValueError(f"parameter '{name}' has no shape yet; run one batch through the network first")
            if not weight.is_floating_point():
                raise TypeError(f"parameter '{name}' has dtype {weight.dtype}; expected a real floating-point one")
            known = first[id(weight)]
            if pool_of.setdefault(known, pool) != pool:
                raise ValueError(
                    f"parameter '{name}' is in the pools '{pool_of[known]}' and '{pool}'; expected one pool"
                )
            dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
            scores[known] = nn.Parameter(torch.full_like(weight, start, dtype=dtype, requires_grad=False))
    if not scores:
        raise ValueError("no pool names a parameter; expected at least one weight to have a mask")
    return scores


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value
