"""The paper's claims on tables made here, in which each holds, does not hold, or has too little data."""

import math

import numpy as np
import pandas as pd
import pytest

from prunecca.report import claims, statistics
from prunecca.report.claims import FAILS, HOLDS, UNDECIDED, Subject

SMALL = [("conv1", "conv"), ("conv2", "conv"), ("pool1", "pool"), ("fc1", "fc")]
LARGE = [
    (f"{kind}{n}", kind)
    for block in (1, 2, 3, 4)
    for kind, n in (("conv", 2 * block - 1), ("conv", 2 * block), ("pool", block))
]
LARGE += [("fc1", "fc")]
NOISE = 0.001


def similarity(problem, shape, layers, replicates=4, levels=6, control=False, noise=NOISE):
    """shape(level, depth) -> value; every replicate is shifted a little."""
    rows = [
        (
            problem,
            replicate,
            level,
            control,
            layer,
            kind,
            depth,
            "svcca",
            shape(level, depth) + noise * (replicate - 1.5) if level else 1.0,
        )
        for replicate in range(replicates)
        for level in range(levels + 1)
        for depth, (layer, kind) in enumerate(layers)
    ]
    return pd.DataFrame(
        rows, columns=["problem", "replicate", "level", "control", "layer", "kind", "depth", "metric", "value"]
    )


def controls(problem, value, layers, count=3):
    table = similarity(
        problem, lambda level, depth: value + NOISE * level, layers, replicates=1, levels=count, control=True
    )
    return table[table["level"] > 0]


def levels_table(problem, losses, replicates=4, noise=NOISE):
    rows = [
        (problem, r, level, False, 0.8**level, 0.9 - loss + noise * (r - 1.5) * (level > 0))
        for r in range(replicates)
        for level, loss in enumerate([0.0, *losses])
    ]
    return pd.DataFrame(rows, columns=["problem", "replicate", "level", "control", "density", "test_accuracy"])


def falling(level, depth):
    return 0.95 - 0.03 * level - 0.04 * depth


def rising(level, depth):
    return 0.3 + 0.03 * level + 0.04 * depth


def bowl(level, depth):
    """Bottom at the convolutions of the third of four blocks, hardly moving with the level."""
    return 0.5 + 0.01 * (depth - 6.5) ** 2 - 0.002 * level + 0.05 * (depth % 3 == 2)


def drawn_apart(base):
    """The sign of the effect depends on the replicate."""
    up, down = (
        similarity("cifar2", rising, SMALL, replicates=base),
        similarity("cifar2", falling, SMALL, replicates=base),
    )
    return pd.concat([up, down.assign(replicate=down["replicate"] + base)], ignore_index=True)


@pytest.mark.parametrize(
    ("losses", "verdict"), [([0.0, 0.01], HOLDS), ([0.0, 0.05, 0.0], FAILS), ([0.01, 0.02], UNDECIDED)]
)
def test_accuracy_is_comparable_when_no_level_loses_more_than_the_margin(losses, verdict):
    found = claims.comparable_accuracy(levels_table("cifar2", losses), "cifar2")
    assert found.verdict == verdict
    assert found.value == pytest.approx(-max(losses), abs=2 * NOISE)
    assert found.low <= found.value <= found.high


def test_the_margin_is_the_callers():
    assert claims.comparable_accuracy(levels_table("cifar2", [0.05]), "cifar2", margin=0.1).verdict == HOLDS


@pytest.mark.parametrize("claim", [claims.falls_with_iteration, claims.falls_with_depth])
def test_similarity_falls_with_iteration_and_depth_or_does_not(claim):
    assert claim(similarity("cifar2", falling, SMALL), "cifar2").verdict == HOLDS
    assert claim(similarity("cifar2", falling, SMALL), "cifar2").value == -1
    assert claim(similarity("cifar2", rising, SMALL), "cifar2").verdict == FAILS
    assert claim(similarity("cifar2", lambda level, depth: 0.5, SMALL), "cifar2").verdict == FAILS, (
        "flat is not falling"
    )
    crossing = claim(drawn_apart(2), "cifar2")
    assert crossing.verdict == UNDECIDED
    assert "crosses" in crossing.reason


def test_depth_is_judged_without_the_poolings():
    def pool_spike(level, depth):
        return falling(level, depth) + (0.3 if depth == 2 else 0)

    assert claims.falls_with_depth(similarity("cifar2", pool_spike, SMALL), "cifar2").value == -1


def test_valley_holds_where_the_bottom_is_in_the_third_block():
    depth, place = claims.valley(similarity("cifar8", bowl, LARGE), "cifar8")
    assert (depth.verdict, place.verdict) == (HOLDS, HOLDS)
    assert place.value == 3
    assert depth.value == pytest.approx(bowl(0, 12) - bowl(0, 6), abs=1e-9)


def test_valley_fails_where_similarity_only_falls_or_bottoms_elsewhere():
    depth, place = claims.valley(similarity("cifar8", falling, LARGE), "cifar8")
    assert (depth.verdict, place.verdict) == (FAILS, FAILS)
    assert place.value == 4
    early = similarity("cifar8", lambda level, depth: 0.5 + 0.03 * abs(depth - 1), LARGE)
    assert [claim.verdict for claim in claims.valley(early, "cifar8")] == [HOLDS, FAILS]
    no_rise = similarity("cifar8", lambda level, depth: bowl(level, min(depth, 6)), LARGE)
    assert claims.valley(no_rise, "cifar8")[0].verdict == FAILS


def test_valley_needs_three_blocks():
    for claim in claims.valley(similarity("cifar6", falling, SMALL), "cifar6"):
        assert claim.verdict == UNDECIDED
        assert math.isnan(claim.value)
        assert "three blocks" in claim.reason


def test_spread_is_smaller_in_the_larger_problems():
    wide, narrow = similarity("cifar2", falling, SMALL), similarity("cifar8", bowl, LARGE)
    found = claims.smaller_spread(pd.concat([wide, narrow]), ["cifar2"], ["cifar8"])
    assert found.verdict == HOLDS
    assert found.value == pytest.approx(5 * 0.002 - 5 * 0.03)
    swapped = pd.concat([wide.assign(problem="cifar8"), narrow.assign(problem="cifar2")])
    assert claims.smaller_spread(swapped, ["cifar2"], ["cifar8"]).verdict == FAILS
    alone = claims.smaller_spread(wide, ["cifar2"], [])
    assert alone.verdict == UNDECIDED
    assert "missing" in alone.reason


def test_spread_is_taken_over_the_levels_that_all_problems_have():
    wide, longer = similarity("cifar2", falling, SMALL, levels=3), similarity("cifar8", falling, LARGE, levels=6)
    found = claims.smaller_spread(pd.concat([wide, longer]), ["cifar2"], ["cifar8"])
    assert found.value == pytest.approx(0)


@pytest.mark.parametrize(("gain", "verdict"), [(0.02, HOLDS), (-0.02, FAILS)])
def test_poolings_gain_over_the_convolution_before(gain, verdict):
    def shape(level, depth):
        return 0.5 + (gain if depth == 2 else 0)

    found = claims.pooling_gain(similarity("cifar2", shape, SMALL), "cifar2")
    assert found.verdict == verdict
    assert found.value == pytest.approx(gain)
    no_pool = [layer for layer in SMALL if layer[1] != "pool"]
    assert claims.pooling_gain(similarity("cifar2", falling, no_pool), "cifar2").verdict == UNDECIDED


def test_control_tells_pruning_from_retraining():
    pruned = similarity("cifar2", falling, SMALL)
    last = np.mean([falling(6, depth) for depth in range(4)])
    for value, verdict in ((0.95, HOLDS), (0.3, FAILS)):
        found = claims.below_control(pd.concat([pruned, controls("cifar2", value, SMALL)]), "cifar2")
        assert found.verdict == verdict
        assert found.value == pytest.approx(value - last, abs=3 * NOISE)
    one = claims.below_control(pd.concat([pruned, controls("cifar2", 0.95, SMALL, count=1)]), "cifar2")
    assert (one.verdict, one.reason) == (UNDECIDED, "1 of the 3 controls a verdict needs")
    assert claims.below_control(pruned, "cifar2").reason == "no network was retrained without pruning"


def test_fewer_than_three_replicates_are_not_enough():
    two = claims.falls_with_iteration(similarity("cifar2", falling, SMALL, replicates=2), "cifar2")
    assert (two.verdict, two.value) == (UNDECIDED, -1)
    one = claims.falls_with_iteration(similarity("cifar2", falling, SMALL, replicates=1), "cifar2")
    assert one.verdict == UNDECIDED
    assert math.isnan(one.low)
    assert claims.falls_with_iteration(similarity("cifar2", falling, SMALL, levels=2), "cifar2").verdict == UNDECIDED


def test_only_complete_replicates_count():
    table = similarity("cifar2", falling, SMALL)
    unfinished = table[(table["replicate"] < 2) | (table["level"] < 4)]
    found = claims.falls_with_iteration(unfinished, "cifar2")
    assert (found.replicates, found.verdict) == (2, UNDECIDED)


def test_a_layer_whose_metric_is_undefined_is_left_aside():
    table = similarity("cifar2", falling, SMALL)
    table.loc[(table["layer"] == "conv2") & (table["level"] == 3), "value"] = math.nan
    curves = statistics.similarity_curves(table, "cifar2", "svcca")
    assert curves.layers == ("conv1", "pool1", "fc1")
    assert claims.falls_with_iteration(table, "cifar2").value == -1


def test_judge_asks_of_each_problem_what_the_paper_says_of_it():
    tables = {
        "levels": pd.concat([levels_table("cifar2", [0.0]), levels_table("cifar8", [0.0])]),
        "similarity": pd.concat([similarity("cifar2", falling, SMALL), similarity("cifar8", bowl, LARGE)]),
    }
    subjects = [Subject("cifar2", "cifar10", 2), Subject("cifar8", "cifar10", 8)]
    found = claims.judge(tables, subjects, resamples=50)
    asked = [(claim.claim, claim.problem) for claim in found]
    assert asked == [
        ("a", "cifar2"),
        ("a", "cifar8"),
        ("b", "cifar2"),
        ("c", "cifar2"),
        ("d", "cifar8"),
        ("d", "cifar8"),
        ("e", "cifar8 against cifar2"),
        ("f", "cifar2"),
        ("f", "cifar8"),
        ("g", "cifar2"),
        ("g", "cifar8"),
        ("h", "cifar2"),
        ("h", "cifar8"),
        ("control", "cifar2"),
        ("control", "cifar8"),
        ("i", "cifar2"),
        ("i", "cifar8"),
    ]
    assert found == claims.judge(tables, subjects, resamples=50), "the bootstrap is seeded"
    assert all(claim.statement for claim in found)


def test_judge_takes_problems_by_their_classes_and_leaves_other_networks_to_the_claims_about_all():
    empty = {"levels": pd.DataFrame(), "similarity": pd.DataFrame()}
    found = claims.judge(
        empty, [Subject("digits4", "digits", 4), Subject("digits6", "digits", 6), Subject("resnet18", "any", None)]
    )
    judged = {
        problem: [f.claim for f in found if f.problem == problem] for problem in ("digits4", "digits6", "resnet18")
    }
    assert judged == {
        "digits4": ["a", "b", "c", "f", "g", "h", "control", "i"],
        "digits6": ["a", "d", "d", "f", "g", "h", "control", "i"],
        "resnet18": ["a", "f", "g", "h", "control", "i"],
    }
    assert {claim.verdict for claim in found} == {UNDECIDED}
    assert claims.judge(empty, []) == []


def test_problems_are_compared_with_those_of_their_data_set():
    empty = {"levels": pd.DataFrame(), "similarity": pd.DataFrame()}
    subjects = [Subject("one", "digits", 4), Subject("two", "cifar10", 6), Subject("three", "digits", 8)]
    pairs = [claim.problem for claim in claims.judge(empty, subjects) if claim.claim == "e"]
    assert pairs == ["three against one", "two against smaller"]


def test_the_interval_is_that_of_resampled_medians():
    values = np.array([1.0, 2.0, 4.0])
    curves = statistics.Curves(values[:, None, None], (1,), ("x",), ("conv",), "p")
    found = statistics.bootstrap(curves, lambda medians: medians[..., 0, 0], resamples=4000)
    assert (found.value, found.low, found.high) == (2, 1, 4), "three replicates: from the least to the greatest"
    # Among all 27 draws of three, the median is 1 in 7, 2 in 13 and 4 in 7.
    medians = curves.medians(resamples=4000)[1:, 0, 0]
    np.testing.assert_allclose([(medians == v).mean() for v in values], [7 / 27, 13 / 27, 7 / 27], atol=0.025)


def test_kendall_counts_rises_and_falls():
    assert statistics.kendall(np.array([1.0, 2, 3]), 0) == 1
    assert statistics.kendall(np.array([3.0, 2, 1]), 0) == -1
    assert statistics.kendall(np.array([1.0, 1, 1]), 0) == 0
    assert statistics.kendall(np.array([1.0, 3, 2]), 0) == pytest.approx(1 / 3)
