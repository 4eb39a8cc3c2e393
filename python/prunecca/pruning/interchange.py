"""Masks as other tools keep them: beside the weights or as zeros, in a network or a file."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune as torch_prune

from .._arrays import resolved
from ..methods.pooled import pooled_names
from ..storage.reparametrised import plain_weights
from ..storage.state_dicts import Misfit, StateDict
from ..storage.weights import Checkpoint, read_checkpoint
from ..weights.names import copies_of, first_names, some, without_wrappers
from .masks import Masks, apply_masks, fitting_mask
from .packing import unpack, unpack_stored

Source = nn.Module | Mapping[str, Any] | str | os.PathLike[str]


def masks_from(source: Source, network: nn.Module | None = None) -> Masks:
    """The masks that ``torch.nn.utils.prune``, a masking parametrisation or a study of prunecca has left.

    A weight of zero is not taken for a pruned one: only masks count. For zeros there is ``masks_from_zeros``.

    Args:
        source: a pruned network, its state_dict (also nested, and with the prefixes of DataParallel and
            ``torch.compile``), or a file: of safetensors or torch, whole or in shards, of ``save_masks``, or
            ``masks.safetensors`` of a run directory. ``checkpoint.pt:ema`` names one of several networks.
        network: by whose names the masks are called; None takes the names of the source, without prefixes of wrappers.
            ``masks.safetensors`` of a run directory needs it, for the shapes.

    Returns:
        Parameter name -> ``torch.bool`` of the parameter's shape, True where a weight is kept.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there are no masks, or they do not fit the network; the sentence says what was found.

    Example:
        >>> import torch, prunecca as pc
        >>> from torch.nn.utils import prune
        >>> layer = torch.nn.Linear(2, 1)
        >>> _ = prune.custom_from_mask(layer, "weight", torch.tensor([[1, 0]]))
        >>> pc.pruning.masks_from(layer)
        {'weight': tensor([[ True, False]])}
    """
    content, network = _opened(source, network)
    bits = _all_of(torch.uint8, content.content)
    if bits is not None:
        stored = unpack_stored(bits, content.metadata)
        if stored is not None:
            return stored if network is None else _fitting(stored, network)
        if network is None:
            raise ValueError(f"{content.where} holds masks as bits, which have no shape; give the network too")
        return unpack(bits, network)
    plain = _all_of(torch.bool, content.content)
    if plain is not None:
        return plain if network is None else _fitting(plain, network)
    state = _state(content, network)
    if not state.masks:
        raise ValueError(
            f"{content.where} holds no masks; expected weight_orig and weight_mask, as torch.nn.utils.prune keeps them "
            "before prune.remove"
        )
    return state.masks


def masks_from_zeros(
    source: Source, network: nn.Module | None = None, *, pools: Mapping[str, Sequence[str]] | None = None
) -> Masks:
    """The masks that prune what is zero in a network, as ``torch.nn.utils.prune.remove`` and other tools leave it.

    Args:
        source: a network, its state_dict, or a file of weights, as for ``masks_from``: safetensors or torch, whole or in
            shards (``model.safetensors.index.json``, or the folder). Weights that are kept apart from their masks are
            multiplied by these first.
        network: by whose names the masks are called; None takes the names of the source, without prefixes of wrappers.
        pools: which weights have masks, as from ``pools_by_type``; None takes all of two or more dimensions, as biases
            are often zero from the start.

    Returns:
        Parameter name -> ``torch.bool`` of the parameter's shape, False where a weight is +0 or -0; all True where it has
        no zeros. A weight of several names has one mask, under the first.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there are no weights, they do not fit the network, or a pool names one that does not exist.

    Example:
        >>> import torch, prunecca as pc
        >>> pc.pruning.masks_from_zeros({"weight": torch.tensor([[0.5, 0.0]]), "bias": torch.zeros(1)})
        {'weight': tensor([[ True, False]])}
    """
    content, network = _opened(source, network)
    tensors = {name: t for name, t in _state(content, network).tensors.items() if isinstance(t, Tensor)}
    first = first_names(tensors)
    if pools is not None:
        wanted = pooled_names(pools)
        for name in wanted:
            if name not in first:
                raise ValueError(f"{content.where} has no weight '{name}', which a pool names; it has {some(first)}")
        names = list(dict.fromkeys(first[name] for name in wanted))
    else:
        own = tensors if network is None else _plain_parameters(network)
        names = [name for name, t in tensors.items() if first[name] == name and name in own and _is_matrix(t)]
    return {name: _nonzero(name, tensors[name]) for name in names}


def masks_to(network: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Put masks into a network as ``torch.nn.utils.prune`` keeps them: ``weight_orig``, ``weight_mask`` and a hook.

    ``torch.nn.utils.prune.remove(module, name)`` makes the weights plain again, and ``masks_from`` reads the masks back. torch's ``nn.MultiheadAttention`` calls no hooks of its ``out_proj``: to train on, leave that one to
    ``masked`` or ``MaskedAdam``.

    Args:
        network: changed in place. What torch has pruned in it stays pruned.
        masks: parameter name -> ``torch.bool`` of the parameter's shape. Names may lack the prefixes of DDP and
            ``torch.compile``. A weight that several modules share is masked in all of them.

    Raises:
        ValueError: a mask has no parameter of its name, or another shape; nothing is changed then.

    Example:
        >>> import torch, prunecca as pc
        >>> layer = torch.nn.Linear(2, 1)
        >>> pc.pruning.masks_to(layer, {"weight": torch.tensor([[True, False]])})
        >>> sorted(layer.state_dict())
        ['bias', 'weight_mask', 'weight_orig']
    """
    known = _plain_parameters(network)
    known = without_wrappers(known) | known
    chosen = []
    for name, mask in masks.items():
        if name not in known:
            raise ValueError(f"mask '{name}' has no parameter of that name; expected one of {some(known)}")
        chosen.append((known[name], fitting_mask(name, mask, known[name])))
    for parameter, mask in chosen:
        for module in list(network.modules()):
            held = [key for key, p in module.named_parameters(recurse=False, remove_duplicate=False) if p is parameter]
            for key in held:
                pruned = f"{key.removesuffix('_orig')}_mask" in dict(module.named_buffers(recurse=False))
                torch_prune.custom_from_mask(module, key.removesuffix("_orig") if pruned else key, mask)  # type: ignore[no-untyped-call]  # torch leaves it unannotated


def pruned_state(source: Source, masks: Mapping[str, Tensor] | None = None) -> dict[str, Any]:
    """A pruned network as a plain state_dict, for any tool: weights by their own names, with zeros where they are pruned.

    Args:
        source: a network, its state_dict, or a file of weights, as for ``masks_from``; masks beside weights are applied.
        masks: parameter name -> ``torch.bool``, applied too.

    Returns:
        Copies, by the names of the network without prefixes of DDP and ``torch.compile``.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: there are no weights, or a mask does not fit.

    Example:
        >>> import torch, prunecca as pc
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> state = pc.pruning.pruned_state(layer, {"weight": torch.tensor([[False, False]])})
        >>> state
        {'weight': tensor([[0., 0.]])}
    """
    state = copies_of(_state(*_opened(source, None)).tensors)
    apply_masks({name: t for name, t in state.items() if isinstance(t, Tensor)}, masks or {})
    return state


def _opened(source: Source, network: nn.Module | None) -> tuple[Checkpoint, nn.Module | None]:
    """What there is to read, and the network by whose names: a network itself goes by its own."""
    if isinstance(source, nn.Module):
        inside = _unwrapped(source)
        return Checkpoint("the state_dict", inside.state_dict(), {}), inside if network is None else network
    if isinstance(source, Mapping):
        return Checkpoint("the state_dict", source, {}), network
    return read_checkpoint(source), network


def _unwrapped(network: nn.Module) -> nn.Module:
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
    while isinstance(network, wrappers) or hasattr(network, "_orig_mod"):
        inside: nn.Module = network.module if isinstance(network, wrappers) else network._orig_mod  # type: ignore[assignment]  # always a module
        network = inside
    return network


def _state(content: Checkpoint, network: nn.Module | None) -> StateDict:
    if network is None:
        return content.state()
    plain, _ = plain_weights(network.state_dict())
    shapes = {name: value.shape if isinstance(value, Tensor) else None for name, value in plain.items()}
    try:
        return content.state(shapes)
    except Misfit:
        # Files of safetensors hold a weight of several names once.
        first = first_names(network.state_dict())
        once = {name: shape for name, shape in shapes.items() if first.get(name, name) == name}
        try:
            return content.state(once)
        except ValueError:
            pass
        raise


def _plain_parameters(network: nn.Module) -> dict[str, Tensor]:
    """Parameters by all of their names, those that torch has pruned by their plain ones."""
    buffers = dict(network.named_buffers())
    return {
        name.removesuffix("_orig") if f"{name.removesuffix('_orig')}_mask" in buffers else name: parameter
        for name, parameter in network.named_parameters(remove_duplicate=False)
    }


def _is_matrix(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dim() > 1


def _nonzero(name: str, tensor: Tensor) -> Tensor:
    dense = tensor.detach() if tensor.layout is torch.strided else tensor.detach().to_dense()
    dense = resolved(dense.float() if dense.element_size() == 1 else dense, f"weight '{name}'")
    return (dense != 0).contiguous()


def _fitting(masks: Mapping[str, Tensor], network: nn.Module) -> Masks:
    parameters = dict(network.named_parameters())
    for name in masks:
        if name not in parameters:
            raise ValueError(f"mask '{name}' has no parameter of that name; expected one of {some(parameters)}")
    return {name: fitting_mask(name, mask, parameters[name]) for name, mask in masks.items()}


def _all_of(dtype: torch.dtype, content: object) -> dict[str, Tensor] | None:
    """The tensors of a file that holds nothing else than tensors of that dtype."""
    if not isinstance(content, Mapping) or not content:
        return None
    return dict(content) if all(isinstance(t, Tensor) and t.dtype == dtype for t in content.values()) else None
