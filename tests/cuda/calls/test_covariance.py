"""The way from StreamingCovariance to the CUDA binding, walked on the host with the CPU kernels behind the binding's names."""

import types

import pytest
import torch

from prunecca import _native
from prunecca._arrays import native
from prunecca.covariance import cuda
from prunecca.covariance.accumulator import CovarianceAccumulator
from prunecca.covariance.cuda import Watch
from prunecca.covariance.view import Call, View


@pytest.fixture
def calls(monkeypatch):
    """The calls that reached the binding; each is done by the CPU kernels."""
    seen = []

    def update(views, axes, pairs, shifts, sums, grams, norms, exact, workspace, note, batch, stream):
        seen.append(
            types.SimpleNamespace(
                views=len(views),
                pairs=pairs,
                sums=sums,
                batch=batch,
                shapes=[v[1] for v in views],
                stream=stream,
                workspace=workspace[0],
            )
        )
        scratch = torch.empty(
            _native.covariance_workspace(views, axes, pairs, bool(norms), exact, 1) // 8 + 1, dtype=torch.float64
        )
        _native.covariance_update(views, axes, pairs, shifts, sums, grams, norms, exact, 1, native(scratch))

    fake = types.SimpleNamespace(covariance_update_cuda=update, covariance_workspace_cuda=lambda *_: 64)
    monkeypatch.setattr(cuda, "_native", fake)
    return seen


def _update(views, pairs, norms=False):
    channels = [v.shape[1] for v in views]
    shifts = [torch.zeros(c, dtype=torch.float64) for c in channels]
    sums = [torch.zeros_like(s) for s in shifts]
    grams = [torch.zeros(channels[i], channels[j], dtype=torch.float64) for i, j in pairs]
    kept = [torch.zeros(1 + channels[i] + channels[j], dtype=torch.float64) for i, j in pairs] if norms else []
    named = [View(view, 1, f"view {v}", "here: ") for v, view in enumerate(views)]
    cuda.update(Call(named, pairs, shifts, sums, grams, kept, exact=True), Watch(torch.device("cpu")))
    return sums, grams, kept


def test_many_views_go_in_several_calls_and_each_sum_and_pair_once(calls):
    views = [torch.randn(50, 3 + v) for v in range(21)]
    pairs = [(k, k) for k in range(21)] + [(0, k) for k in range(1, 21)]
    sums, grams, norms = _update(views, pairs, norms=True)
    assert len(calls) > 1
    assert max(call.views for call in calls) <= 8
    assert [call.batch for call in calls] == list(range(len(calls)))
    for view, total in zip(views, sums, strict=True):
        torch.testing.assert_close(total, view.double().sum(0))
    for (i, j), gram, norm in zip(pairs, grams, norms, strict=True):
        want = views[i].double().T @ views[j].double()
        torch.testing.assert_close(gram, want.triu() if i == j else want)
        torch.testing.assert_close(
            norm[0], (views[i].double().square().sum(1) * views[j].double().square().sum(1)).sum()
        )


def test_two_streams_at_once_share_nothing(calls, monkeypatch):
    kept, current = [], iter([7, 9, 7, 9])
    make = torch.empty
    monkeypatch.setattr(cuda, "stream_of", lambda tensor: next(current))
    # What a stream still uses is not handed out again on another.
    monkeypatch.setattr(torch, "empty", lambda *a, **o: kept.append(make(*a, **o)) or kept[-1])
    x, y = torch.randn(50, 3), torch.randn(50, 4)
    results = [_update([x, y], [(0, 1)]) for _ in range(4)]
    assert [call.stream for call in calls] == [7, 9, 7, 9]
    assert len({call.workspace for call in calls}) == 4
    for _, (gram,), _ in results:
        torch.testing.assert_close(gram, x.double().T @ y.double())


def test_wide_views_go_in_several_calls(calls):
    views = [torch.randn(2, 4096) for _ in range(6)]
    pairs = [(0, k) for k in range(1, 6)]
    seen = []
    named = [View(view, 1, f"view {v}", "") for v, view in enumerate(views)]
    zeros = [torch.zeros(4096, dtype=torch.float64) for _ in views]
    grams = [torch.zeros(1, dtype=torch.float64) for _ in pairs]
    for part in cuda._parts(Call(named, pairs, zeros, [z.clone() for z in zeros], grams, [], exact=True)):
        assert sum(v.channels for v in part.views) <= 1 << 14
        seen += [next(k for k, g in enumerate(grams) if g is product) for product in part.products]
    assert sorted(seen) == list(range(5))


@pytest.mark.parametrize(
    ("channels", "pairs", "sentence"),
    [
        ((16385,), [], "here: x has 16385 channels; expected at most 16384 together on a CUDA device"),
        ((9000, 8000), [(0, 1)], "here: x and y have 9000 and 8000 channels; expected at most 16384 together"),
        ((8192, 8192, 8193), [(0, 1), (0, 2)], "here: x and z have 8192 and 8193 channels; expected at most 16384"),
    ],
)
def test_too_many_channels_are_one_sentence_before_any_work(calls, channels, pairs, sentence):
    views = [View(torch.zeros(2, c), 1, name, "here: ") for c, name in zip(channels, "xyz", strict=False)]
    shifts = [torch.zeros(c, dtype=torch.float64) for c in channels]
    grams = [torch.zeros(1, dtype=torch.float64) for _ in pairs]
    with pytest.raises(ValueError, match=f"^{sentence}"):
        cuda.update(Call(views, pairs, shifts, list(shifts), grams, [], exact=True), Watch(torch.device("cpu")))
    assert calls == []


def test_as_many_channels_as_fit_are_no_error():
    views = [View(torch.zeros(1, 8192), 1, name, "") for name in "xyz"]
    cuda.check_channels(views, [(0, 1), (0, 2)])


def test_views_of_two_dtypes_are_brought_to_the_wider(calls):
    x, y = torch.randn(20, 3).half(), torch.randn(20, 2)
    _, grams, _ = _update([x, y], [(0, 1)])
    torch.testing.assert_close(grams[0], x.double().T @ y.double())


def test_views_that_the_kernels_cannot_nest_are_made_contiguous(calls, monkeypatch):
    sizes = iter([0, 64])
    monkeypatch.setattr(cuda._native, "covariance_workspace_cuda", lambda *_: next(sizes))
    x = torch.randn(4, 6, 5, 3).permute(2, 1, 3, 0)[:, ::2]
    _, grams, _ = _update([x], [(0, 0)])
    rows = x.movedim(1, -1).reshape(-1, 3).double()
    torch.testing.assert_close(grams[0], (rows.T @ rows).triu())


def test_a_build_without_cuda_says_so(monkeypatch):
    monkeypatch.setattr(cuda, "_native", types.SimpleNamespace())
    with pytest.raises(RuntimeError, match="built without CUDA"):
        _update([torch.zeros(3, 2)], [(0, 0)])


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (1 << 40 | 1 << 32 | 41, r"^conv2, batch 1: NaN, .* y, first in channel 41$"),
        (1 << 39 | 1 << 32, "^conv2, batch 0: NaN, .* x or y$"),
    ],
)
def test_a_note_names_its_batch_and_view(code, message):
    watch = Watch(torch.device("cpu"))
    watch.check()
    for batch in range(2):
        assert watch.number(f"conv2, batch {batch}: ", ["x", "y"]) == batch
    watch.note.fill_(code)
    with pytest.raises(ValueError, match=message):
        watch.check()


def test_many_watches_are_read_at_once():
    watches = [Watch(torch.device("cpu")) for _ in range(3)]
    Watch.check_all([])
    Watch.check_all(watches)
    for k, watch in enumerate(watches):
        watch.number(f"candidate {k}: ", ["x", "y"])
    watches[2].note.fill_(1 << 32 | 5)
    with pytest.raises(ValueError, match=r"^candidate 2: NaN, .* y, first in channel 5$"):
        Watch.check_all(watches)


def test_a_result_asks_the_device_once_for_all_candidates(monkeypatch):
    asked = []
    monkeypatch.setattr(Watch, "check_all", staticmethod(asked.append))
    accumulator = CovarianceAccumulator()
    for _ in range(2):
        accumulator.add(View.of(torch.randn(300, 3), "x"), [View.of(torch.randn(300, 2), f"y{k}") for k in range(4)])
    members = accumulator.members
    shared = Watch(torch.device("cpu"))
    for member, watch in zip(members, [shared, shared, Watch(torch.device("cpu")), None, None], strict=True):
        member.watch = watch
    assert len(accumulator.finalize()) == 4
    assert asked == [[members[0].watch, members[2].watch]]


def test_places_are_not_kept_for_ever(monkeypatch):
    monkeypatch.setattr(cuda, "_CHECK_EVERY", 3)
    watch = Watch(torch.device("cpu"))
    assert [watch.number("", ["x"]) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


if hasattr(_native, "covariance_update_cuda"):

    def test_the_binding_refuses_host_memory():
        x = native(torch.zeros(3, 2))
        with pytest.raises(ValueError, match="expected all on one CUDA device"):
            _native.covariance_workspace_cuda([x], [1], [(0, 0)], [True], False, False)
