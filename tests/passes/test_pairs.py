"""Every layer against every layer: the right values, each representation once, and passes over the data that a budget asks for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from networks import IMAGES, cut, network, values
from numpy.typing import NDArray
from torch import Tensor, nn

import prunecca as pc
from prunecca.covariance import accumulator, state
from prunecca.covariance.view import View

pytestmark = pytest.mark.usefixtures("one_thread")

INPUTS = torch.randn(500, 6, generator=torch.Generator().manual_seed(3))
METRICS = ["svcca", "linear_cka", "debiased_cka", "linear_regression"]


def dense(seed: int, widths: tuple[int, ...] = (6, 9, 7, 5)) -> nn.Sequential:
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        parts += [nn.Linear(a, b), nn.Tanh()]
    return nn.Sequential(*parts)


def stored(model: nn.Module, layers: list[str], inputs: Tensor) -> dict[str, Tensor]:
    """What layers give for all inputs, as a user would store it."""
    kept: dict[str, Tensor] = {}
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _m, _a, y, name=name: kept.update({name: y.clone()}))
        for name in layers
    ]
    with torch.no_grad():
        model.eval()(inputs)
    for handle in handles:
        handle.remove()
    return kept


def cka(x: Tensor, y: Tensor) -> float:
    """Linear CKA in float64 of rows by channels; of images every position is a row."""
    a, b = rows(x), rows(y)
    cross = np.linalg.norm(a.T @ b) ** 2
    return float(cross / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b)))


def rows(x: Tensor) -> NDArray[np.float64]:
    matrix = x.double().movedim(1, -1).reshape(-1, x.shape[1]).numpy()
    return matrix - matrix.mean(0)


def found(result: pc.Comparison, metric: str = "linear_cka") -> dict[tuple[str, str, str], float]:
    chosen = result.table[result.table["metric"] == metric]
    return {(row.candidate, row.layer, row.layer_y): row.value for row in chosen.itertuples()}


def test_all_pairs_agree_with_the_full_activations() -> None:
    model, others = dense(0), {"a": dense(1), "wide": dense(2, (6, 20, 7, 5, 4))}
    layers = ["1", "3", "5"]
    result = pc.compare(model, others, INPUTS, layers, METRICS, pairs="all")
    mine = stored(model, layers, INPUTS)
    truth = {
        (name, x, y): cka(mine[x], theirs)
        for name, other in others.items()
        for x in layers
        for y, theirs in stored(other, layers, INPUTS).items()
    }
    assert found(result) == pytest.approx(truth, abs=1e-7)
    assert list(found(result)) == list(truth)
    row = result.table.iloc[-1]
    assert (row["layer_y"], row["depth"], row["depth_y"], row["channels_x"], row["channels_y"]) == ("5", 2, 2, 5, 5)


def test_namesakes_have_the_same_values_alone_and_among_all_pairs() -> None:
    model, other = network(), network(1, width=9)
    alone = pc.compare(model, other, cut(IMAGES, 16), metrics=METRICS)
    layers = {name: [name] for name in alone.table["layer"].unique()}
    listed = pc.compare(model, other, cut(IMAGES, 16), metrics=METRICS, pairs=list(layers.items()))
    together = pc.compare(model, other, cut(IMAGES, 16), metrics=METRICS, pairs="all", resize="pool")
    assert values(listed.table) == pytest.approx(values(alone.table), abs=1e-6)
    own = together.table[together.table["layer"] == together.table["layer_y"]]
    assert values(own) == pytest.approx(values(alone.table), abs=1e-6)
    assert len(together.table) == len(METRICS) * len(layers) ** 2


def test_larger_sizes_are_averaged() -> None:
    model, other = network(), network(1, width=9)
    result = pc.compare(model, other, cut(IMAGES, 16), ["2", "5", "8"], "linear_cka", pairs="all", resize="pool")
    mine, theirs = (stored(each, ["2", "5", "8"], IMAGES) for each in (model, other))

    def halved(x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.double().reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))

    truth = {
        ("candidate", "2", "2"): cka(mine["2"], theirs["2"]),
        ("candidate", "2", "5"): cka(halved(mine["2"]), theirs["5"]),
        ("candidate", "5", "2"): cka(mine["5"], halved(theirs["2"])),
        ("candidate", "5", "5"): cka(mine["5"], theirs["5"]),
        ("candidate", "2", "8"): cka(mine["2"].double().mean((2, 3)), theirs["8"]),
        ("candidate", "5", "8"): cka(mine["5"].double().mean((2, 3)), theirs["8"]),
        ("candidate", "8", "2"): cka(mine["8"], theirs["2"].double().mean((2, 3))),
        ("candidate", "8", "5"): cka(mine["8"], theirs["5"].double().mean((2, 3))),
        ("candidate", "8", "8"): cka(mine["8"], theirs["8"]),
    }
    assert found(result) == pytest.approx(truth, abs=1e-6)


def test_sizes_that_differ_are_an_error_that_says_what_to_do() -> None:
    sentence = (
        "layer '2' of the reference has 12 x 12 positions and layer '3' of candidate 'candidate' 6 x 6 positions; expected the "
        "same, or resize='pool'"
    )
    with pytest.raises(ValueError, match=sentence):
        pc.compare(network(), network(1), IMAGES, pairs=[("2", "2"), ("2", "3")])
    with pytest.raises(ValueError, match="'8' of candidate 'candidate' no positions; expected the same, or resize"):
        pc.compare(network(), network(1), IMAGES, pairs=[("8", "8"), ("5", "8")])
    with pytest.raises(ValueError, match="resize is 'crop'; expected 'pool'"):
        pc.compare(network(), network(1), IMAGES, resize="crop")  # type: ignore[arg-type]


@pytest.mark.parametrize("metrics", ["linear_cka", METRICS])
def test_a_small_budget_takes_more_passes_and_gives_the_same(metrics: Any) -> None:
    model, others = network(), {"a": network(1), "b": network(2, width=9)}
    options: dict[str, Any] = {"metrics": metrics, "pairs": "all", "resize": "pool"}
    whole = pc.compare(model, others, cut(IMAGES, 16), **options)
    passes = []
    parts = pc.compare(
        model, others, cut(IMAGES, 16), budget=1000, progress=lambda done, _: passes.append(done), **options
    )
    assert len(passes) / 4 > 10  # four batches a pass
    assert list(parts.table.columns) == list(whole.table.columns)
    same = ["candidate", "layer", "layer_y", "metric", "count", "kept_x", "kept_y"]
    assert parts.table[same].equals(whole.table[same])
    np.testing.assert_allclose(parts.table["value"], whole.table["value"], atol=1e-12)


def test_passes_over_data_that_can_be_read_once_are_refused() -> None:
    batches: Iterator[Any] = iter(cut(IMAGES, 16))
    with pytest.raises(ValueError, match=r"need \d+ passes .* the loader is an iterator"):
        pc.compare(network(), network(1), batches, pairs="all", resize="pool", budget=1000)


def test_passes_over_data_that_change_are_refused() -> None:
    class Drawn:
        def __init__(self) -> None:
            self.passes = 0

        def __iter__(self) -> Iterator[Tensor]:
            self.passes += 1
            yield torch.randn(40, 6, generator=torch.Generator().manual_seed(self.passes))

    with pytest.raises(ValueError, match="the loader gave other data in a later pass"):
        pc.compare(dense(0), dense(1), Drawn(), pairs="all", budget=100)


def test_each_representation_is_multiplied_with_itself_once_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    own = []
    accumulate = state.accumulate

    def noting(members: Any, views: Any, pairs: Any, *rest: Any) -> Any:
        own.extend(views[i].name for i, j in pairs if i == j)
        return accumulate(members, views, pairs, *rest)

    monkeypatch.setattr(state, "accumulate", noting)
    pc.compare(dense(0), {"a": dense(1), "b": dense(2)}, INPUTS.repeat(5, 1).split(1250), ["1", "3", "5"], pairs="all")
    assert len(own) == 2 * 3 * 3


def test_many_pairs_at_once_agree_with_few(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = dense(0, (6, *range(7, 15))), dense(1, (6, *range(7, 15)))
    many = pc.compare(model, other, INPUTS, metrics=METRICS, pairs="all")
    assert len(many.table) == 8 * 8 * len(METRICS)  # above what one native call takes
    monkeypatch.setattr(accumulator, "_TOGETHER", 1000)
    few = pc.compare(model, other, INPUTS, metrics=METRICS, pairs="all")
    np.testing.assert_allclose(many.table["value"], few.table["value"], atol=1e-7)


def test_pairs_and_layers_in_every_form() -> None:
    def pairs(**options: Any) -> list[tuple[str, str, str]]:
        table = pc.compare(dense(0), {"a": dense(1), "b": dense(2)}, INPUTS, metrics="linear_cka", **options).table
        return [(row.candidate, row.layer, row.layer_y) for row in table.itertuples()]

    assert pairs(pairs=[("1", "3"), ("3", "*[135]")], layers=None) == [
        (name, x, y) for name in "ab" for x, y in (("1", "3"), ("3", "1"), ("3", "3"), ("3", "5"))
    ]
    assert pairs(pairs={"a": [("1", "3")], "b": "same"}, layers=["1", "3"]) == [
        ("a", "1", "3"), ("b", "1", "1"), ("b", "3", "3")
    ]  # fmt: skip
    assert pairs(layers={"1": ["3", "5"], "3": "1"}) == [
        (name, x, y) for name in "ab" for x, y in (("1", "3"), ("1", "5"), ("3", "1"))
    ]
    assert pairs(layers=[("1", "3"), ("1", "5")]) == [(name, "1", y) for name in "ab" for y in ("3", "5")]
    assert pairs(layers={"a": {"1": "3"}, "b": {"5": "5"}}) == [("a", "1", "3"), ("b", "5", "5")]
    assert pairs(layers={"[15]": "[35]"}) == [(name, x, y) for name in "ab" for x, y in (("1", "3"), ("5", "5"))]
    assert pairs(layers={nn.Tanh: nn.Tanh}, pairs="all") == [(n, x, y) for n in "ab" for x in "135" for y in "135"]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"pairs": "every"}, "pairs is 'every'; expected 'same', 'all', a list of"),
        ({"pairs": [("1", "3", "5")]}, r"pairs holds \('1', '3', '5'\); expected 'same'"),
        ({"pairs": []}, "there are no pairs for candidate 'candidate'"),
        ({"pairs": {"other": "all"}}, "pairs are given for 'other'; expected names of candidates: 'candidate'"),
        ({"pairs": [("1", "13")]}, "there is no layer '13'; expected a layer such as"),
        ({"layers": {"other": {"1": "1"}}}, "layers are given by candidate, but not for 'candidate'"),
        ({"layers": [("1", "3", "5")]}, "expected pairs, a layer of the reference and its counterpart"),
        ({"layers": {"[13]": "1"}}, "'\\[13\\]' is 2 layers of the reference but '1' is 1 of candidate"),
    ],
)
def test_what_is_no_choice_of_pairs_is_a_sentence(options: Any, sentence: str) -> None:
    with pytest.raises((ValueError, TypeError), match=sentence):
        pc.compare(dense(0), dense(1), INPUTS, **options)


def test_covariances_are_kept_by_both_layers() -> None:
    result = pc.compare(dense(0), dense(1), INPUTS, ["1", "3"], pairs="all", keep_covariances=True)
    assert list(result.covariances) == [("candidate", x, y) for x in "13" for y in "13"]
    assert float(pc.linear_cka(result.covariances["candidate", "1", "3"])) == pytest.approx(
        cka(*(stored(dense(seed), [name], INPUTS)[name] for seed, name in ((0, "1"), (1, "3")))), abs=1e-7
    )
    same = pc.compare(dense(0), dense(1), INPUTS, ["1", "3"], keep_covariances=True)
    assert list(same.covariances) == [("candidate", "1"), ("candidate", "3")]


def test_what_is_overwritten_later_is_taken_as_it_was() -> None:
    model, other = network(), network(1)  # the rectifier writes to the output of the normalisation
    result = pc.compare(model, other, cut(IMAGES, 16), ["1", "2"], "linear_cka", pairs="all")
    plain = [network(), network(1)]
    for each in plain:
        each[2] = nn.ReLU()
    mine, theirs = (stored(each, ["1", "2"], IMAGES) for each in plain)
    truth = {("candidate", x, y): cka(mine[x], theirs[y]) for x in mine for y in theirs}
    assert found(result) == pytest.approx(truth, abs=1e-6)


def test_batches_of_few_rows_are_joined_and_their_errors_name_them() -> None:
    whole = pc.compare(dense(0), {"a": dense(1), "b": dense(2)}, [INPUTS], metrics=METRICS, pairs="all")
    parts = pc.compare(dense(0), {"a": dense(1), "b": dense(2)}, INPUTS.split(7), metrics=METRICS, pairs="all")
    np.testing.assert_allclose(parts.table["value"], whole.table["value"], atol=1e-6)
    broken = INPUTS.clone()
    broken[33] = torch.nan
    with pytest.raises(ValueError, match="layer '1' of the reference, batch 4: the reference holds NaN or infinity"):
        pc.compare(dense(0), dense(1), broken.split(7), metrics="linear_cka", pairs="all")


def test_batches_of_no_rows_that_count_are_passed_over() -> None:
    counts = torch.ones(500, dtype=torch.bool)
    counts[100:200] = False
    options = {"layers": ["1", "3"], "metrics": "linear_cka", "pairs": "all"}
    table = pc.compare(dense(0), dense(1), INPUTS.split(50), rows=counts, **options).table
    expected = pc.compare(dense(0), dense(1), INPUTS[counts].split(50), **options).table
    np.testing.assert_allclose(table["value"], expected["value"], atol=1e-9)


class Scaled(nn.Module):
    """Leaves numbers of any size behind it, and the next layers what they would have had."""

    def __init__(self, factors: Any) -> None:
        super().__init__()
        self.register_buffer("factors", torch.as_tensor(factors, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factors.to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_layer_of_another_range_leaves_the_others_as_they_are(dtype: torch.dtype) -> None:
    """Of many pairs in several native calls: one layer beyond the squares of float64, or that float32 does not hold."""
    widths = (6, *range(7, 15))
    models = [dense(seed, widths).to(dtype) for seed in (0, 1)]
    scale = 1e200 if dtype == torch.float64 else 1e-30
    spread = [nn.Sequential(*list(model)[:8], Scaled(scale), Scaled(1 / scale), *list(model)[8:]) for model in models]
    layers = [str(k) for k in (1, 3, 5, 8, 11, 13, 15)]
    data = (INPUTS.to(dtype) * torch.linspace(1, 3, 500)[:, None].to(dtype)).repeat(6, 1).split(1100)
    found_pairs = found(pc.compare(*spread, data, layers, ["linear_cka"], pairs="all", layout="nc"))
    names = dict(zip(layers, (str(k) for k in (1, 3, 5, 7, 9, 11, 13)), strict=True))
    plain = found(pc.compare(*models, data, list(names.values()), ["linear_cka"], pairs="all"))
    assert found_pairs == pytest.approx({(c, x, y): plain[c, names[x], names[y]] for c, x, y in found_pairs}, abs=1e-6)


def test_a_constant_channel_does_not_make_a_layer_slow() -> None:
    x = torch.randn(3000, 6, generator=torch.Generator().manual_seed(0))
    x[:, 2] = 0.1
    acc = accumulator.CovarianceAccumulator()
    acc.add_references([View.of(x, "x")])
    assert not acc.members[0].wide
    assert not acc.members[0].exact
