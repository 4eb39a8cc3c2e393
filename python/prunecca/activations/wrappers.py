"""Models inside wrappers: DataParallel, torch.compile, averaged copies; and those that hide their layers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.optim.swa_utils import AveragedModel

_COMPILED = "_orig_mod"  # what torch.compile calls the module inside
_WRAPPED = "module"
_SOURCE = "expected the torch.nn.Module that it was made from"
_DELEGATING = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)


def unwrapped(model: Any, label: str) -> nn.Module:
    """The model inside wrappers that only pass their inputs on.

    Args:
        model: what the user gave.
        label: what error messages call it.

    Raises:
        TypeError: no module, one whose layers cannot be watched (scripted, traced, frozen or exported), or one without
            memory.
    """
    while True:
        if isinstance(model, torch.jit.ScriptModule):
            name = type(model).__name__
            raise TypeError(f"{label} is a {name} of torch.jit, whose layers cannot be watched; {_SOURCE}")
        if isinstance(model, torch.export.ExportedProgram) or _exported(model):
            raise TypeError(f"{label} is an exported program, whose layers cannot be watched; {_SOURCE}")
        if not isinstance(model, nn.Module):
            raise TypeError(f"{label} is a {type(model).__name__}; expected a torch.nn.Module")
        inner = model._modules.get(_WRAPPED if isinstance(model, _DELEGATING) else _COMPILED)
        if inner is None:
            _expect_memory(model, label)
            return model
        model = inner


def _expect_memory(model: nn.Module, label: str) -> None:
    tensors = dict((*model.named_parameters(), *model.named_buffers()))
    if tensors and all(tensor.is_meta for tensor in tensors.values()):
        raise TypeError(
            f"{label} has {next(iter(tensors))!r} on the meta device, where it has no memory; move it to the CPU or a CUDA "
            "device with to_empty() and load its weights first"
        )


def _exported(model: Any) -> bool:
    """Whether a graph module was exported: its own operations, where a traced one calls the modules it was made from."""
    if not isinstance(model, fx.GraphModule):
        return False
    nodes = [node for node in model.graph.nodes if node.target != "_guards_fn"]
    overloads = any(isinstance(node.target, torch._ops.OpOverload) for node in nodes)
    return overloads and not any(node.op == "call_module" for node in nodes)


def named_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by name, all names of each, without the parts that wrappers put in: ``module.`` in front, ``_orig_mod.``."""
    front = list(model._modules) == [_WRAPPED] and not isinstance(model, nn.Sequential)
    named: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        short = bare(name, front)
        if short or not name:
            named[short] = module  # of a compiled module and the one inside the latter, which comes later
    return named


def bare(name: str, front: bool = True) -> str:
    """A layer's name without the parts that wrappers put in; ``module.`` only where it stands in ``front``."""
    parts = [part for part in name.split(".") if part != _COMPILED]
    while front and parts and parts[0] == _WRAPPED:
        parts = parts[1:]
    return ".".join(parts)


@contextmanager
def eager(models: Iterable[nn.Module]) -> Iterator[None]:
    """Run what torch.compile has compiled as it was written, so that hooks neither go unseen nor compile it again."""
    if not any(_compiled(module) for model in models for module in model.modules()):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _compiled(module: nn.Module) -> bool:
    return _COMPILED in module._modules or getattr(module, "_compiled_call_impl", None) is not None
