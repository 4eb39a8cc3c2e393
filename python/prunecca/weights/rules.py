"""Which parameters of a module are pruned, and in which pool: by its type, or by a rule of the user."""

from __future__ import annotations

import fnmatch
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.utils.hooks import RemovableHandle

CONV, FC, EMBEDDING = "conv", "fc", "embedding"


@dataclass(frozen=True)
class Rule:
    """The parameters of one type of module that are pruned.

    Args:
        types: the modules it holds for, and those derived from them: classes, or names of classes.
        names: of parameters within the module; ``*`` and the like stand for several.
        pool: where they go.
    """

    types: tuple[type[nn.Module] | str, ...]
    names: tuple[str, ...]
    pool: str

    def holds_for(self, module: nn.Module) -> bool:
        """Whether the module is of one of the types."""
        known = {base.__name__ for base in type(module).__mro__}
        return any(kind in known if isinstance(kind, str) else isinstance(module, kind) for kind in self.types)

    def takes(self, name: str) -> bool:
        """Whether a parameter of that name is pruned."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self.names)


_ATTENTION = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight", "in_proj_bias")
# The linear layers of GPT-2 in the transformers library are called Conv1D; nothing of it is imported to know them.
_LAYERS = (Rule((_ConvNd,), ("*",), CONV), Rule((nn.Linear, nn.Bilinear, "Conv1D"), ("*",), FC))
_BUILT_IN = (
    *_LAYERS,
    Rule((nn.MultiheadAttention,), _ATTENTION, FC),
    Rule((nn.RNNBase, nn.RNNCellBase), ("*",), FC),
    Rule((nn.Embedding, nn.EmbeddingBag), ("weight",), EMBEDDING),
)
_OF_THE_USER: OrderedDict[int, Rule] = OrderedDict()


def register_pool_rule(
    module_type: type[nn.Module] | str, names: str | Iterable[str], pool: str = FC
) -> RemovableHandle:
    """Tell ``pools_by_type`` which parameters of a type of module are pruned, and in which pool.

    A rule counts before those that are built in, the latest first. It acts in this process, until it is removed.

    Args:
        module_type: a class, for it and those derived from it; or the name of one.
        names: of parameters, as in ``module.named_parameters()``; ``*`` stands for any characters, and
            ``experts.*.weight`` reaches into submodules. An empty list leaves the module's own parameters out of all pools,
            and out of the warning.
        pool: ``"conv"``, ``"fc"``, or one of your own, which needs a rate of its own.

    Returns:
        A handle: ``remove()`` takes the rule back, and so does the end of a ``with`` block.

    Raises:
        TypeError: the type is neither a class of modules nor a name, or names or pool are no text.

    Example:
        >>> import torch, prunecca as pc
        >>> class Gate(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.mix = torch.nn.Parameter(torch.ones(4, 4))
        >>> with pc.pruning.register_pool_rule(Gate, "mix"):
        ...     pc.pruning.pools_by_type(torch.nn.Sequential(Gate()))
        {'conv': [], 'fc': ['0.mix']}
    """
    if not isinstance(module_type, str) and not (isinstance(module_type, type) and issubclass(module_type, nn.Module)):
        raise TypeError(
            f"module_type is {module_type!r}; expected a class derived from torch.nn.Module, or the name of one"
        )
    wanted = (names,) if isinstance(names, str) else tuple(names)
    for text in (*wanted, pool):
        if not isinstance(text, str) or not text:
            raise TypeError(f"a rule was given {text!r}; expected names of parameters, and the name of a pool")
    handle = RemovableHandle(_OF_THE_USER)
    _OF_THE_USER[handle.id] = Rule((module_type,), wanted, pool)
    return handle


def own_rule(module: nn.Module) -> Rule | None:
    """The user's rule for a module; the latest that holds."""
    return next((rule for rule in reversed(_OF_THE_USER.values()) if rule.holds_for(module)), None)


def built_in_rule(module: nn.Module) -> Rule | None:
    """The rule for a module of torch, or for one of its kind."""
    return next((rule for rule in _BUILT_IN if rule.holds_for(module)), None)


def is_layer(module: nn.Module) -> bool:
    """Whether a module is a convolution or a linear layer, of which the last is the output layer."""
    return any(rule.holds_for(module) for rule in _LAYERS)
