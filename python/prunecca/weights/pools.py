"""Which parameters may be pruned, and together with which others."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from ..errors import UnpooledWarning
from .averages import averages, inside
from .computed import stand_ins
from .names import some
from .rules import CONV, EMBEDDING, FC, Rule, built_in_rule, is_layer, own_rule

Pools = dict[str, list[str]]

# Each scales or shifts a channel: to prune one is to prune the channel.
_NORMALISATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def pools_by_type(model: nn.Module, *, include_output: bool = False, include_embeddings: bool = False) -> Pools:
    """The paper's two pools, by module type: a BatchNorm is never in one, whatever its name.

    Weights **and** biases of all convolutions, transposed ones too, form one pool, those of all linear maps the other
    (Ansuini et al. 2020, section 4.3): linear and bilinear layers, the projections of ``nn.MultiheadAttention``, recurrent
    layers and cells, and the ``Conv1D`` of the transformers library. Other modules need a rule: ``register_pool_rule``.

    Frozen parameters (``requires_grad`` is False) stay out, unless all are frozen: then the network is not in training,
    and they are taken like others. Where a parametrisation computes a weight, its original is taken if zeros in it are
    zeros in the weight, as with ``spectral_norm``. Otherwise (``weight_norm``, which divides zero by zero where a row is
    empty, ``orthogonal``, ...) the layer is in neither pool: make the weight plain first
    (``torch.nn.utils.parametrize.remove_parametrizations``), or make pools of your own.

    Args:
        model: any module.
        include_output: also the output layer, taken to be the last convolution or linear layer in the order of
            ``model.modules()``, other than the projections of an ``nn.MultiheadAttention``.
        include_embeddings: also the weights of ``nn.Embedding`` and ``nn.EmbeddingBag``, in a pool of their own.

    Returns:
        ``{"conv": [...], "fc": [...]}``, names as in ``model.named_parameters()``; with embeddings also ``"embedding"``,
        and the pools of rules of your own that hold for a module of the model. A parameter shared by several modules is
        listed once.

    Raises:
        ValueError: a lazy layer has not seen data yet, a layer is pruned by ``torch.nn.utils.prune``, or a module has no
            parameter that your rule names.

    Warns:
        UnpooledWarning: there are matrices of weights in no pool, other than those of the output layer: embeddings, frozen
            and computed weights, modules without a rule, and averages of the network that are part of it.

    Example:
        >>> import prunecca as pc
        >>> pc.pruning.pools_by_type(pc.models.build("digits4"))["fc"]
        ['fc1.0.weight', 'fc1.0.bias']
    """
    skipped = averages(model)
    modules = [(name, module) for name, module in model.named_modules() if not inside(name, skipped)]
    output = None if include_output else _output_layer(modules)
    found = _Found(frozen=_frozen(model))
    found.left_out.update(id(p) for p in (output.parameters() if output else ()))
    for name, module in modules:
        rule = built_in_rule(module)
        wanted = rule and module is not output and (include_embeddings or rule.pool != EMBEDDING)
        if rule and wanted and own_rule(module) is None:
            found.take(name, module, rule)
    for name, module in modules:  # later, as a rule of the user may reach into modules that have one
        rule = own_rule(module)
        if rule and module is not output:
            found.take_by_names(name, module, rule)
    pools: Pools = {pool: [] for pool in (CONV, FC, EMBEDDING) if pool != EMBEDDING or include_embeddings}
    for name, parameter in model.named_parameters():
        pool = found.pool_of.get(id(parameter))
        if pool is None or id(parameter) in found.left_out | found.frozen:
            continue
        if isinstance(parameter, nn.UninitializedParameter):
            raise ValueError(f"parameter '{name}' has no shape yet; run one batch through the model before pruning it")
        pools.setdefault(pool, []).append(name)
    _warn_of_unpooled(model, modules, skipped, found)
    return pools


@dataclass
class _Found:
    """What the rules have found, parameters by their ``id``.

    Args:
        frozen: parameters that are not trained.
        left_out: those that stay in no pool by intention.
        pool_of: the pool of each of the others.
        computed: layers whose weight is computed, and how.
    """

    frozen: set[int]
    left_out: set[int] = field(default_factory=set)
    pool_of: dict[int, str] = field(default_factory=dict)
    computed: dict[str, str] = field(default_factory=dict)

    def take(self, name: str, module: nn.Module, rule: Rule) -> None:
        """The parameters of a layer, or the reason why none of them."""
        parameters, how = stand_ins(name, module)
        if is_layer(module) and not how and parameters and "weight" not in parameters:
            how = "other parameters"
        if how:
            self.computed[name] = how
            return
        self.pool_of |= {id(p): rule.pool for key, p in parameters.items() if rule.takes(key)}

    def take_by_names(self, name: str, module: nn.Module, rule: Rule) -> None:
        """What a rule of the user names, in the module and below it."""
        own, _ = stand_ins(name, module)
        if not rule.names:
            self.left_out |= {id(p) for p in own.values()}
            return
        known = dict(module.named_parameters()) | own
        taken = {id(p): rule.pool for key, p in known.items() if rule.takes(key)}
        if not taken:
            raise ValueError(
                f"module '{name}' ({type(module).__name__}) has no parameter {' or '.join(rule.names)}, which its pool rule "
                f"names; expected some of {some(known) or '(none)'}"
            )
        self.pool_of |= taken


def _output_layer(modules: list[tuple[str, nn.Module]]) -> nn.Module | None:
    attention = [name for name, module in modules if isinstance(module, nn.MultiheadAttention)]
    layers = [module for name, module in modules if is_layer(module) and not inside(name, attention)]
    return layers[-1] if layers else None


def _frozen(model: nn.Module) -> set[int]:
    frozen = {id(p) for p in model.parameters() if not p.requires_grad}
    return frozen if any(p.requires_grad for p in model.parameters()) else set()


def _warn_of_unpooled(
    model: nn.Module, modules: list[tuple[str, nn.Module]], skipped: list[str], found: _Found
) -> None:
    known = (found.pool_of.keys() - found.frozen) | found.left_out
    unpooled: dict[int, Tensor] = {}
    reasons = [f"{name!r} (its weight is computed by {how})" for name, how in found.computed.items()]
    for name, module in modules:
        if inside(name, list(found.computed)):
            unpooled |= _by_id(module.parameters(recurse=False), known)
            continue
        own = dict(module.named_parameters(recurse=False))
        own = {key: p for key, p in own.items() if id(p) not in known | unpooled.keys() and _is_matrix(p)}
        if own and not isinstance(module, _NORMALISATIONS):
            unpooled |= _by_id(own.values(), known)
            shown = ", ".join(f"{name}.{key}".lstrip(".") for key in own)
            frozen = ", frozen" if own and all(id(p) in found.frozen for p in own.values()) else ""
            reasons.append(f"{name!r} ({shown}{frozen})")
    reasons += [f"{name!r} (an average of the network; mask it with apply_masks)" for name in skipped]
    for name in skipped:
        unpooled |= _by_id(model.get_submodule(name).parameters(), known)
    if reasons:
        total = sum(p.numel() for p in _by_id(model.parameters(), set()).values())
        share = sum(p.numel() for p in unpooled.values()) / total
        warnings.warn(
            f"no pool takes {some(reasons)}; they stay unpruned, {_percent(share)} of all parameters, unless you name "
            "their parameters in pools of your own or register a rule (register_pool_rule)",
            UnpooledWarning,
            stacklevel=3,
        )


def _by_id(parameters: Iterable[Tensor], known: set[int]) -> dict[int, Tensor]:
    """The parameters that are not known, and have a shape."""
    return {id(p): p for p in parameters if id(p) not in known and not isinstance(p, nn.UninitializedParameter)}


def _percent(share: float) -> str:
    return f"{share:.1%}".replace("%", " %") if share >= 0.0005 else "less than 0.1 %"


def _is_matrix(parameter: Tensor) -> bool:
    return not isinstance(parameter, nn.UninitializedParameter) and parameter.dim() > 1 and parameter.numel() > 1
