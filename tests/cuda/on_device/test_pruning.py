"""Masks, selection and optimizers on a CUDA device give what they give on the host."""

import copy
import math

import pytest
import torch
from torch import nn

import prunecca as pc
from prunecca import _native
from prunecca._arrays import native, stream_of
from prunecca.ops import masked_weight
from prunecca.pruning import threshold

pytestmark = pytest.mark.cuda
SIZES = [(), (0,), (7,), (4096,), (4097,), (64, 32, 3, 3), (300, 70)]


def _pools(dtype, scores=torch.randn):
    pools = []
    for shapes in (SIZES, SIZES[::-1]):
        alive = [torch.rand(shape) < 0.7 for shape in shapes]
        pools.append(
            threshold.RankedGroup(
                [scores(shape).to(dtype) for shape in shapes], alive, [torch.empty_like(a) for a in alive]
            )
        )
    return pools


def _on_device(pools):
    return [threshold.RankedGroup(*([t.cuda() for t in part] for part in (p.scores, p.alive, p.masks))) for p in pools]


@pytest.mark.parametrize("by_value", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_masks_are_those_of_the_host_bit_for_bit(dtype, by_value):
    def few_values(shape):
        return torch.randint(-3, 4, shape).double() / 4

    for scores in (torch.randn, torch.zeros, few_values):
        host = _pools(dtype, scores)
        device = _on_device(host)
        for rate in (0.0, 0.1, 0.5, 1.0):

            def wanted(_, survivors, rate=rate):
                return math.floor(rate * survivors)

            assert threshold.prune_lowest(host, by_value, wanted) == [-1, -1]
            assert threshold.prune_lowest(device, by_value, wanted) == [-1, -1]
            for there, here in zip(device, host, strict=True):
                for got, expected in zip(there.masks, here.masks, strict=True):
                    assert torch.equal(got.cpu(), expected)


def test_nan_names_its_tensor():
    pools = _on_device(_pools(torch.float32))
    pools[1].scores[1][3, 1, 1, 1] = torch.nan
    pools[1].alive[1][3, 1, 1, 1] = True
    assert threshold.prune_lowest(pools, False, lambda pool, survivors: 5) == [-1, 1]


def test_counts():
    masks = [torch.rand(shape) < 0.5 for shape in SIZES]
    assert threshold.count_kept([m.cuda() for m in masks]) == [int(m.sum()) for m in masks]
    assert threshold.count_kept([masks[3], masks[4].cuda()]) == [int(masks[3].sum()), int(masks[4].sum())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_masked_copy_selects(dtype):
    source = [torch.randn(shape, dtype=dtype, device="cuda") for shape in SIZES]
    source[3][5] = torch.nan
    masks = [torch.rand(shape, device="cuda") < 0.5 for shape in SIZES]
    masks[3][5] = False
    out = [torch.full_like(s, 9) for s in source]
    arrays = [[native(t) for t in part] for part in (out, source, masks)]
    _native.masked_copy(*arrays, threads=1, stream=stream_of(out[0]))
    _native.masked_copy(arrays[1], arrays[1], arrays[2], threads=1, stream=stream_of(out[0]))
    for got, in_place, mask in zip(out, source, masks, strict=True):
        torch.testing.assert_close(got, in_place, rtol=0, atol=0)
        assert not got[~mask].any()


def _train(optimizer_class, device, dtype, steps=5, penalty=None, **options):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).to(device, dtype)
    pools = pc.pruning.pools_by_type(model, include_output=True)
    with torch.no_grad():  # the same start on every device
        for p in model.parameters():
            p.copy_(torch.randn(p.shape).to(p) * 0.1)
    masks = pc.pruning.prune(model, pools, 0.5)
    optimizer = optimizer_class(model.named_parameters(), masks, lr=1e-2, **options)
    if penalty:
        optimizer.set_penalty(penalty, 0.2, ["0.weight", "3.weight"])
    if penalty == "admm":
        optimizer.update_duals(lambda values: pc.pruning.prune(values, {"all": list(values)}, 0.7))
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=generator).to(p)
        optimizer.step()
    return model, masks, optimizer


@pytest.mark.parametrize("penalty", [None, "l1", "l1_loss", "admm"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (pc.pruning.MaskedAdam, {"weight_decay": 5e-4}),
        (pc.pruning.MaskedAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True, "pruned": "frozen"}),
        (pc.pruning.MaskedSGD, {"momentum": 0.9, "nesterov": True, "weight_decay": 5e-4}),
        (pc.pruning.MaskedSGD, {}),
    ],
)
def test_steps_are_those_of_the_host(optimizer, options, dtype, penalty):
    here, masks, _ = _train(optimizer, "cpu", dtype, penalty=penalty, **options)
    there, same_masks, stepped = _train(optimizer, "cuda", dtype, penalty=penalty, **options)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 1e-2}[dtype]
    for name, expected in here.named_parameters():
        got = there.get_parameter(name)
        assert torch.equal(same_masks[name].cpu(), masks[name])
        torch.testing.assert_close(got.cpu(), expected, rtol=tolerance, atol=tolerance)
        if options.get("pruned") != "frozen":
            assert not got[~same_masks[name]].any()
        for key, moment in stepped.state[got].items():
            if key != "step" and moment is not None:
                assert not moment[~same_masks[name]].any()


def test_the_current_stream_is_the_one_that_works():
    model, masks, optimizer = _train(pc.pruning.MaskedAdam, "cuda", torch.float32)
    before = copy.deepcopy(model.state_dict())
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # the step below must wait for this
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
    assert not stream.query()
    stream.synchronize()
    assert any(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in masks.items())


def _gradients(model, number):
    """The same gradients of a step, in the same memory, as a captured graph needs them."""
    generator = torch.Generator().manual_seed(number)
    for p in model.parameters():
        values = (torch.randn(p.shape, generator=generator) * 0.1).to(p)
        p.grad = values if p.grad is None else p.grad.copy_(values)


def _small():
    model = nn.Sequential(nn.Linear(70, 60), nn.Linear(60, 5)).cuda()
    with torch.no_grad():
        for k, p in enumerate(model.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(k)) * 0.1)
    masks = {
        name: torch.rand(p.shape, generator=torch.Generator().manual_seed(9)).cuda() < 0.5
        for name, p in model.named_parameters()
    }
    return model, masks


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (pc.pruning.MaskedAdam, {"weight_decay": 5e-4}),
        (pc.pruning.MaskedAdam, {"weight_decay": 0.1, "decoupled_weight_decay": True}),
        (pc.pruning.MaskedSGD, {"momentum": 0.9}),
    ],
)
@pytest.mark.parametrize("rate_on_device", [False, True])
@pytest.mark.parametrize("penalty", [None, "l1", "admm"])
def test_a_step_in_a_graph_is_a_step(make, options, rate_on_device, penalty):
    def draw(optimizer, begin=False):
        if penalty and begin:
            optimizer.set_penalty(penalty, 0.2)
        if penalty == "admm":
            optimizer.update_duals(lambda values: pc.pruning.prune(values, {"all": list(values)}, 0.5))

    rates = [0.01, 0.01, 0.02, 0.005] if rate_on_device else [0.01] * 4
    plain, masks = _small()
    stepwise = make(plain.named_parameters(), masks, lr=rates[0], **options)
    draw(stepwise, begin=True)
    for number, rate in enumerate(rates):
        if number == 2:
            draw(stepwise)
        stepwise.param_groups[0]["lr"] = rate
        _gradients(plain, number)
        stepwise.step()

    model, masks = _small()
    lr = torch.tensor(rates[0], device="cuda") if rate_on_device else rates[0]
    optimizer = make(model.named_parameters(), masks, lr=lr, capturable=True, **options)
    draw(optimizer, begin=True)
    _gradients(model, 0)
    optimizer.step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step()
    for number, rate in enumerate(rates[1:], 1):
        if number == 2:
            draw(optimizer)  # which the graph reads where it was
        if rate_on_device:
            lr.fill_(rate)
        _gradients(model, number)
        graph.replay()
    for (name, got), expected in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
        assert not got[~masks[name]].any()
    if make is pc.pruning.MaskedAdam:
        assert all(int(state["step"]) == len(rates) for state in optimizer.state.values())


def test_what_a_graph_would_repeat_wrongly_is_refused():
    model, masks = _small()
    _gradients(model, 0)
    for make, capturable, words in (
        (pc.pruning.MaskedAdam, False, "capturable=True"),
        (pc.pruning.MaskedAdam, True, "one step before"),
        (lambda *a, **o: pc.pruning.MaskedSGD(*a, momentum=0.9, **o), True, "one step before"),
    ):
        optimizer = make(model.named_parameters(), masks, lr=0.1, capturable=capturable)
        torch.cuda.synchronize()
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            # Of an empty graph torch warns, and the warning would leave every later test on the capture's stream.
            next(model.parameters()).grad.add_(0)
            with pytest.raises(RuntimeError, match=words):
                optimizer.step()


def test_masked_weight_forward_and_backward():
    weight = torch.randn(300, 70, device="cuda", requires_grad=True)
    mask = torch.rand(300, 70, device="cuda") < 0.5
    out = masked_weight(weight, mask)
    gradient = torch.randn_like(out)
    out.backward(gradient)
    assert torch.equal(out.detach(), torch.where(mask, weight.detach(), 0.0))
    assert torch.equal(weight.grad, torch.where(mask, gradient, 0.0))


def test_the_last_device():
    last = f"cuda:{torch.cuda.device_count() - 1}"  # another than the current one where there are several
    model = nn.Linear(70, 60).to(last)
    pools = pc.pruning.pools_by_type(model, include_output=True)
    masks = pc.pruning.prune(model, pools, 0.5)
    here = pc.pruning.prune({n: p.detach().cpu() for n, p in model.named_parameters()}, pools, 0.5)
    assert all(torch.equal(mask.cpu(), here[name]) for name, mask in masks.items())
    for capturable in (False, True):
        optimizer = pc.pruning.MaskedAdam(model.named_parameters(), masks, capturable=capturable)
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        assert not model.weight[~masks["weight"]].any()
    assert torch.cuda.current_device() == 0
