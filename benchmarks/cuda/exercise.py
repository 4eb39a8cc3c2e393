"""Every CUDA kernel once or twice, on small odd shapes, against the host: what a memory checker is run on.

    PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 9 python benchmarks/cuda/exercise.py

Each tensor is then an allocation of its own, so that a kernel that leaves one is seen to.
"""

from __future__ import annotations

import torch
from torch import Tensor

import prunecca as pc
from prunecca.linalg import batched
from prunecca.ops import masked_weight
from prunecca.pruning import threshold


def covariances() -> None:
    """Both orientations, both panel widths, every dtype, with norms; views that are sliced and not aligned."""
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        for shape, other in (((9, 16, 7, 5), (9, 13, 7, 5)), ((300, 70), (300, 33))):
            x, y = torch.randn(shape).to(dtype), torch.randn(other).to(dtype)
            for change in (lambda t: t, _channels_last, lambda t: t[1:, 1:]):
                _covariance(change(x), change(y))


def _covariance(x: Tensor, y: Tensor) -> None:
    device, host = pc.StreamingCovariance(norms=True), pc.StreamingCovariance(norms=True)
    for _ in range(2):
        device.update(x.cuda(), y.cuda())
        host.update(x, y)
    got, expected = device.finalize(), host.finalize()
    for name in ("xx", "yy", "xy"):
        torch.testing.assert_close(getattr(got, name).cpu(), getattr(expected, name), rtol=1e-4, atol=1e-6)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def masks() -> None:
    """Selection with ties, counting, masked copies, in whole chunks and in parts of one."""
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        scores = [torch.randint(-9, 9, (n,)).to(dtype) / 4 for n in (4096, 5000, 3)]
        alive = [torch.rand(len(s)) < 0.7 for s in scores]
        pools = [
            threshold.RankedGroup(
                [s.to(d) for s in scores], [a.to(d) for a in alive], [torch.empty_like(a).to(d) for a in alive]
            )
            for d in ("cpu", "cuda")
        ]
        for pool in pools:
            threshold.prune_lowest([pool], False, lambda _, survivors: survivors // 3)
        for here, there in zip(pools[0].masks, pools[1].masks, strict=True):
            assert torch.equal(here, there.cpu())
        assert threshold.count_kept(pools[1].masks) == threshold.count_kept(pools[0].masks)
        weight = scores[1].cuda()
        assert torch.equal(masked_weight(weight, pools[1].masks[1]), weight * pools[1].masks[1] + 0)


def optimizers() -> None:
    """Adam and SGD, with numbers of the host and with numbers of the device."""
    shapes = [(4096,), (65, 64), (3,)]
    for make in (pc.pruning.MaskedAdam, lambda *a, **o: pc.pruning.MaskedSGD(*a, momentum=0.9, **o)):
        for capturable, penalty in ((False, "none"), (True, "none"), (False, "l1"), (True, "l1"), (True, "admm")):
            weights = {str(k): torch.nn.Parameter(torch.randn(s, device="cuda")) for k, s in enumerate(shapes)}
            kept = {name: torch.rand(w.shape, device="cuda") < 0.5 for name, w in weights.items()}
            optimizer = make(weights.items(), kept, lr=0.1, capturable=capturable)
            optimizer.set_penalty(penalty, float(penalty != "none"))
            if penalty == "admm":
                optimizer.update_duals(lambda values: pc.pruning.prune(values, {"all": list(values)}, 0.5))
            for _ in range(2):
                for weight in weights.values():
                    weight.grad = torch.randn_like(weight)
                optimizer.step()
            assert not any(bool(w[~kept[name]].any()) for name, w in weights.items())


def decompositions() -> None:
    """Every size of tile, and one above."""
    for n, count in ((5, 3), (16, 2), (33, 2), (64, 2), (100, 1), (160, 4)):
        x = torch.randn(count, 2 * n, n, dtype=torch.float64, device="cuda")
        values, vectors = batched.eigh(x.mT @ x)
        torch.testing.assert_close((vectors * values.unsqueeze(-2)) @ vectors.mT, x.mT @ x, rtol=0, atol=1e-10)
        found = batched.svdvals(x[:, :n])
        torch.testing.assert_close(found.cpu(), torch.linalg.svdvals(x[:, :n].cpu()), rtol=0, atol=1e-11)


if __name__ == "__main__":
    torch.manual_seed(0)
    for exercise in (covariances, masks, optimizers, decompositions):
        exercise()
        torch.cuda.synchronize()
        print(f"{exercise.__name__}: as on the host", flush=True)
