"""What a channel is worth: the L1 norm of its weights, or the loss that its removal costs, by the Fisher information."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..activations.evaluation_mode import evaluating
from ..activations.hooks import capturing
from ..activations.inputs import Batch, input_batches
from ..activations.layers import Layer, choose_layers
from ..activations.layouts import chosen_layout
from ..activations.outputs import first_tensor
from ..activations.trace import trace
from ..activations.wrappers import eager, unwrapped
from ..methods.channels import channel_sums
from .layers import by_channel, channel_layers

Loss = Callable[[Any, Any], Tensor]


def l1_channel_scores(model: nn.Module, pools: Mapping[str, Sequence[str]] | None = None) -> dict[str, Tensor]:
    """The sum of the magnitudes of the weights of each output channel (Li et al. 2017).

    Args:
        model: any module.
        pools: whose convolutions and linear layers are scored; by default those of ``pools_by_type``: all but the output
            layer.

    Returns:
        Name of the weight -> float64 score of each of its output channels.

    Raises:
        ValueError: the pools name no weight of a convolution or linear layer, or a weight is NaN.

    Example:
        >>> import torch, prunecca as pc
        >>> model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 1))
        >>> model[0].weight.data = torch.tensor([[1.0, -3.0], [0.5, 0.0]])
        >>> pc.pruning.l1_channel_scores(model)
        {'0.weight': tensor([4.0000, 0.5000], dtype=torch.float64)}
    """
    scores = {}
    for name, layer in channel_layers(model, pools).items():
        sums = torch.tensor(channel_sums(by_channel(layer).abs()), dtype=torch.float64)
        if sums.isnan().any():
            raise ValueError(f"parameter '{name}' has a NaN; expected finite weights, check the training")
        scores[name] = sums
    return scores


def fisher_channel_scores(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    pools: Mapping[str, Sequence[str]] | None = None,
    loss: Loss | None = None,
    max_inputs: int | None = None,
    device: torch.device | str | None = None,
    for_each: bool = False,
) -> dict[str, Tensor]:
    """What the loss would rise by without each channel, to second order, by the Fisher information, in one pass.

    ``1 / (2 N) sum_n (sum a dL_n/da)^2``, the inner sum over all positions of the channel's activation ``a`` (Theis et al.
    2018; Crowley et al. 2018). ``a`` is the output of the activation function after the layer, through normalisations and
    residual sums, as in ``find_layers``; the layer's own output where no activation follows. The state is one float64 for
    each channel.

    Args:
        model, device: as in ``compare``; the model runs in eval mode, and no gradient is left behind.
        loader: batches of inputs and labels, or of whatever ``loss`` takes.
        pools: as in ``l1_channel_scores``.
        loss: ``loss(output, batch)``, the sum of the losses of the datapoints; None: the cross-entropy with the second
            element of the batch.
        max_inputs: that are used; None for all.
        for_each: layers whose outputs are summed before their activation share it. True: each has its scores, as pruning in
            place takes them; False: the first alone, as ``narrowed``, which sums what can only go together.

    Returns:
        Name of the weight -> float64 score of each of its output channels, on the CPU. Layers that the data did not pass
        through are left out.

    Raises:
        ValueError: an empty loader, batches without labels, scores that are not finite, a loss that is no single number, or
            an activation that has not the rows of one datapoint after the other, such as frames before datapoints.

    Example:
        >>> import torch, prunecca as pc
        >>> model, images = pc.models.build("digits4", seed=0), torch.zeros(2, 3, 32, 32)
        >>> scores = pc.pruning.fisher_channel_scores(model, [(images, torch.tensor([0, 3]))])
        >>> scores["conv1.0.weight"].shape
        torch.Size([8])
    """
    model = unwrapped(model, "the model")
    wanted = channel_layers(model, pools)
    sums: dict[str, Tensor] = {}
    count = 0
    chosen: dict[Layer, tuple[str, ...]] | None = None
    with evaluating({"the model": model}, device) as target, torch.enable_grad(), eager([model]), _trained(model):
        for number, given, _ in input_batches(loader, max_inputs, (0, 1)):
            batch = given.private(target)
            chosen = _activations(model, wanted, batch, for_each) if chosen is None else chosen
            weights = [wanted[name].weight for name in dict.fromkeys(itertools.chain(*chosen.values()))]
            for name, products in _products(model, batch, chosen, weights, loss or _cross_entropy).items():
                if not products.isfinite().all():
                    raise ValueError(
                        f"batch {number} gives '{name}' a gradient that is not finite; expected finite losses"
                    )
                sums[name] = sums.get(name, 0) + products.square().sum(0)
            count += batch.count
    if not count:
        raise ValueError("the loader gave no inputs; expected at least one batch")
    return {name: (total / (2 * count)).cpu() for name, total in sums.items()}


def _activations(
    model: nn.Module, wanted: Mapping[str, nn.Module], batch: Batch, for_each: bool
) -> dict[Layer, tuple[str, ...]]:
    """The activations, each with the names of the weights whose scores it makes."""
    names = {module: name for name, module in wanted.items()}
    modules = dict(model.named_modules(remove_duplicate=False))
    events = trace(model, batch.few())
    of_event = {}
    for event in events:
        own = [names[modules[layer]] for layer in event.ends if modules.get(layer) in names]
        if own:
            of_event[event.name, event.call] = tuple(dict.fromkeys(own)) if for_each else (own[0],)
    calls = [f"{event.name}#{event.call}" for event in events if (event.name, event.call) in of_event]
    if not calls:
        raise ValueError(f"the data pass through none of {', '.join(map(repr, wanted))}; expected one layer at least")
    return {layer: of_event[layer.module, layer.call] for layer in choose_layers(model, events, calls)}


def _products(
    model: nn.Module, batch: Batch, chosen: Mapping[Layer, tuple[str, ...]], weights: list[Any], loss: Loss
) -> dict[str, Tensor]:
    """The sum of activation times gradient, of each datapoint and channel, over positions and calls."""
    products: dict[str, Tensor] = {}
    folded: dict[str, tuple[Tensor, int]] = {}  # activations that have other rows than the batch, along which dimension

    def consume(layer: Layer, activation: Tensor) -> None:
        word = chosen_layout("infer", layer.name, activation.ndim, layer.layout)
        if activation.shape[word.index("n")] != batch.count and activation.requires_grad:
            folded[chosen[layer][0]] = activation, word.index("n")
        value = activation.detach().clone() if layer.overwritten else activation.detach()

        def multiply(gradient: Tensor) -> None:
            product = (value.double() * gradient.double()).movedim((word.index("n"), word.index("c")), (0, 1))
            product = product.flatten(2).sum(2) if product.ndim > 2 else product
            product = product.reshape(batch.count, -1, product.shape[1]).sum(1)
            for name in chosen[layer]:
                products[name] = products[name] + product if name in products else product

        if activation.requires_grad:
            activation.register_hook(multiply)  # type: ignore[no-untyped-call]

    with capturing(model, list(chosen), consume):
        output = batch.call(model)
    _check_order(output, folded, batch)
    products.clear()  # what the gradients of that left
    total = loss(output, batch.content)
    if not isinstance(total, Tensor) or total.numel() != 1 or not total.requires_grad:
        shown = f"a tensor of shape {tuple(total.shape)}" if isinstance(total, Tensor) else f"a {type(total).__name__}"
        raise ValueError(
            f"the loss is {shown}; expected one number with a gradient, the sum of the losses of the datapoints"
        )
    torch.autograd.grad(total, weights, allow_unused=True)
    return products


def _check_order(output: Any, folded: Mapping[str, tuple[Tensor, int]], batch: Batch) -> None:
    """Refuse activations whose rows are not those of one datapoint after another, such as frames before datapoints.

    Raises:
        ValueError: an activation that mixes datapoints, or has other rows.
    """
    given = first_tensor(output)
    if batch.count == 1:
        return
    for name, (activation, axis) in folded.items():
        rows = activation.shape[axis]
        apart = rows % batch.count == 0
        if apart and given is not None and given.shape[:1] == (batch.count,):
            (reached,) = torch.autograd.grad(given[0].sum(), activation, retain_graph=True, allow_unused=True)
            first = rows // batch.count
            apart = reached is None or not bool(reached.narrow(axis, first, rows - first).any())
        if not apart:
            raise ValueError(
                f"the activation of '{name}' has {rows} rows for {batch.count} datapoints, which are not those of one after "
                "the other; give batches of one datapoint, or leave the layer out of the pools"
            )


def _cross_entropy(output: Any, content: Any) -> Tensor:
    logits = first_tensor(output)
    if not isinstance(content, tuple | list) or len(content) < 2 or logits is None:
        raise ValueError("a batch of the loader has no labels; expected pairs of inputs and labels, or loss=")
    return nn.functional.cross_entropy(logits, content[1].to(logits.device), reduction="sum")


@contextmanager
def _trained(model: nn.Module) -> Iterator[None]:
    """Frozen parameters take gradients meanwhile."""
    frozen = [p for p in model.parameters() if not p.requires_grad and p.is_floating_point()]
    try:
        for parameter in frozen:
            parameter.requires_grad_(True)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
