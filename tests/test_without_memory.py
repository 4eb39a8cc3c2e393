"""Tensors without memory at every public entry point: one sentence that names the array, never a crash."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import prunecca as pc

ROWS = 20


def meta(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to("meta")


def fake(tensor: torch.Tensor) -> torch.Tensor:
    return FakeTensorMode().from_tensor(tensor)


def sparse(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to_sparse()


def csr(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(1, -1).to_sparse_csr()


REMOVALS = {
    meta: "a meta tensor, which has no memory",
    fake: "a fake tensor, which has no memory",
    sparse: "a tensor of layout torch.sparse_coo",
    csr: "a tensor of layout torch.sparse_csr",
}
removals = pytest.mark.parametrize("remove", REMOVALS, ids=lambda f: f.__name__)
x, y = torch.randn(ROWS, 4), torch.randn(ROWS, 3)
weight, mask = torch.randn(10), torch.arange(10) % 2 == 0
pools = {"all": ["w"]}
METRICS = {
    name: getattr(pc, name)
    for name in (
        *("cca", "svcca", "pwcca", "linear_cka", "nbs", "procrustes", "linear_regression"),
        *("rbf_cka", "spearman_rsa", "mutual_knn", "cknna", "jaccard"),
    )
}


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@removals
@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS.keys())
def test_metrics(metric, remove):
    with pytest.raises(TypeError, match=f"^x is {REMOVALS[remove]}; expected a dense tensor"):
        metric(remove(x), y)
    with pytest.raises(TypeError, match=f"^y is {REMOVALS[remove]}; expected a dense tensor"):
        metric(x, remove(y))


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@removals
def test_streams(remove):
    stream = pc.StreamingCovariance()
    with pytest.raises(TypeError, match=REMOVALS[remove]):
        stream.update(remove(x), y)
    stream.update(x, y)
    with pytest.raises(TypeError, match=REMOVALS[remove]):
        stream.update(x, [remove(y)])
    assert stream.finalize().count == ROWS
    with pytest.raises(TypeError, match=f"^x is {REMOVALS[remove]}"):
        pc.intrinsic_dimension(remove(x))


def test_networks():
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    abstract = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).to("meta")
    with pytest.raises(TypeError, match=r"the reference has '0\.weight\' on the meta device"):
        pc.compare(abstract, {"a": abstract}, torch.randn(10, 4))
    with pytest.raises(TypeError, match=r"candidate 'a' has '0\.weight\' on the meta device"):
        pc.compare(network, {"a": abstract}, torch.randn(10, 4))
    with pytest.raises(TypeError, match=r"the model has '0\.weight\' on the meta device"):
        pc.intrinsic_dimensions(abstract, torch.randn(10, 4))
    with pytest.raises(TypeError, match=r"^parameter '.*weight' is a meta tensor"):
        pc.pruning.prune(abstract, pc.pruning.pools_by_type(abstract), 0.5)


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@removals
@pytest.mark.parametrize("criterion", pc.pruning.CRITERIA)
def test_criteria(criterion, remove):
    options = {"criterion": criterion, "initial": {"w": weight}}
    with pytest.raises(TypeError, match=f"^parameter 'w' is {REMOVALS[remove]}"):
        pc.pruning.prune({"w": remove(weight)}, pools, 0.5, **options)
    with pytest.raises(TypeError, match=f"^mask 'w' is {REMOVALS[remove]}"):
        pc.pruning.prune({"w": weight}, pools, 0.5, {"w": remove(mask)}, **options)
    if pc.pruning.CRITERIA[criterion].reads_initial:
        with pytest.raises(TypeError, match=f"^initial value of 'w' is {REMOVALS[remove]}"):
            pc.pruning.prune({"w": weight}, pools, 0.5, criterion=criterion, initial={"w": remove(weight)})


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@removals
def test_masks(remove):
    P = pc.pruning
    with pytest.raises(TypeError, match=f"^parameter 'w' is {REMOVALS[remove]}"):
        P.apply_masks({"w": remove(weight)}, {"w": mask})
    removed = remove(mask)
    for take in (P.density, P.density_per_layer, P.pack, lambda masks: P.apply_masks({"w": weight}, masks)):
        with pytest.raises(TypeError, match=f"^mask 'w' is {REMOVALS[remove]}"):
            take({"w": removed})
    packed = P.pack({"w": mask})["w"]
    if remove is not csr:  # of another shape
        with pytest.raises(TypeError, match=f"^packed mask 'w' is {REMOVALS[remove]}"):
            P.unpack({"w": remove(packed)}, {"w": weight})


def optimizers(parameter, masks):
    P = pc.pruning
    named = [("w", parameter)]
    yield P.MaskedAdam(named, masks)
    yield P.MaskedSGD(named, masks)
    yield P.MaskedSGD(named, masks, momentum=0.9)


@pytest.mark.parametrize("remove", [meta, fake, sparse], ids=["meta", "fake", "sparse"])
def test_optimizers(remove):
    parameter = nn.Parameter(weight.clone())
    for optimizer in optimizers(parameter, {"w": mask}):
        before = parameter.detach().clone()
        with pytest.raises(TypeError, match=f"^mask 'w' is {REMOVALS[remove]}"):
            optimizer.set_masks({"w": remove(mask)})
        parameter.grad = torch.ones(10)
        wrong = remove(torch.ones(10))
        if remove is not meta:  # torch refuses a gradient on another device
            parameter.grad = wrong
            with pytest.raises(TypeError, match=r"^gradient of 'w' is (sparse|a fake tensor)"):
                optimizer.step()
        assert torch.equal(parameter, before)


@pytest.mark.parametrize("remove", [meta, fake], ids=["meta", "fake"])
def test_optimizers_of_parameters_without_memory(remove):
    parameter = nn.Parameter(remove(weight))
    for optimizer in optimizers(parameter, {}):
        parameter.grad = remove(torch.ones(10))
        with pytest.raises(TypeError, match=f"^parameter 'w' is {REMOVALS[remove]}"):
            optimizer.step()
    with pytest.raises(TypeError, match=f"^parameter 'w' is {REMOVALS[remove]}"):
        pc.pruning.MaskedAdam([("w", parameter)], {"w": mask})


def test_the_operator_answers_abstract_tensors_abstractly():
    out = pc.ops.masked_weight(meta(weight), meta(mask))
    assert out.is_meta
    assert out.shape == weight.shape
    mode = FakeTensorMode()
    with mode:
        out = pc.ops.masked_weight(mode.from_tensor(weight), mode.from_tensor(mask))
    assert out.shape == weight.shape
    with pytest.raises(TypeError, match=r"^weight is of layout torch.sparse_coo; expected a dense tensor"):
        pc.ops.masked_weight(sparse(weight), mask)


def test_what_is_no_tensor_or_of_another_dtype_is_refused_by_name():
    P = pc.pruning
    for take in (
        lambda: P.prune({"w": weight.numpy()}, pools, 0.5),
        lambda: P.apply_masks({"w": weight.numpy()}, {"w": mask}),
    ):
        with pytest.raises(TypeError, match=r"^parameter 'w' is a ndarray; expected a torch tensor"):
            take()
    with pytest.raises(TypeError, match=r"^packed mask 'w' is a ndarray; expected a torch tensor"):
        P.unpack({"w": P.pack({"w": mask})["w"].numpy()}, {"w": weight})
    with pytest.raises(TypeError, match=r"^weight is a ndarray; expected a torch tensor"):
        pc.ops.masked_weight(weight.numpy(), mask)
    for dtype in (torch.int32, torch.complex64, torch.float8_e4m3fn):
        with pytest.raises(TypeError, match=f"^parameter 'w' has dtype {dtype}; expected one of torch.float32"):
            P.apply_masks({"w": weight.to(dtype)}, {"w": mask})
        with pytest.raises(TypeError, match=f"^parameter 'w' has dtype {dtype}; expected float16"):
            P.prune({"w": weight.to(dtype)}, pools, 0.5)
    parameter = nn.Parameter(weight.to(torch.complex64))
    parameter.grad = torch.ones_like(parameter)
    for optimizer in optimizers(parameter, {}):
        with pytest.raises(TypeError, match=r"^parameter 'w' has dtype torch.complex64; expected float16, bfloat16"):
            optimizer.step()


def test_memory_that_is_not_aligned_is_written_out():
    values = torch.arange(10.0)
    odd = torch.frombuffer(bytearray(b"\0" + values.numpy().tobytes()), dtype=torch.float32, offset=1)
    assert torch.equal(pc.ops.masked_weight(odd, mask), values * mask)
    assert torch.equal(pc.pruning.prune({"w": odd}, pools, 0.5)["w"], values >= 5)
    pc.pruning.apply_masks({"w": odd}, {"w": mask})
    assert torch.equal(odd, values * mask)


def test_negative_views_are_read_for_their_values():
    values = torch.randn(ROWS, 8, dtype=torch.complex128)
    view = values.conj().imag
    assert pc.linear_cka(view, y.double()) == pc.linear_cka(-values.imag, y.double())
    flat, kept = view.reshape(-1)[:10], -values.imag.reshape(-1)[:10]
    assert flat.is_neg()
    for criterion in ("large_final", "large_final_same_sign", "movement"):
        options = {"criterion": criterion, "initial": {"w": weight}}
        got, right = (pc.pruning.prune({"w": w}, pools, 0.5, **options)["w"] for w in (flat, kept))
        assert torch.equal(got, right)
    assert torch.equal(pc.ops.masked_weight(flat, mask), kept * mask)
    pc.pruning.apply_masks({"w": flat}, {"w": mask})
    assert torch.equal(flat, kept * mask)


def test_steps_read_negative_gradients_for_their_values():
    gradient = torch.randn(10, dtype=torch.complex64).conj().imag
    assert gradient.is_neg()
    ours, theirs = nn.Parameter(weight.clone()), nn.Parameter(weight.clone())
    ours.grad, theirs.grad = gradient, gradient.clone()
    pc.pruning.MaskedSGD([("w", ours)], lr=0.5).step()
    torch.optim.SGD([theirs], lr=0.5).step()
    assert torch.equal(ours, theirs)
