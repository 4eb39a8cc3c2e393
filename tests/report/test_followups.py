"""Claims g, h and i on tables made here, beside SciPy, all permutations, and counting by hand."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from prunecca.report import statistics
from prunecca.report.claims import (
    FAILS,
    HOLDS,
    UNDECIDED,
    dimension_against_similarity,
    leaves_the_controls,
    pivot,
)
from prunecca.report.claims.followups import chance_of_one_side

LAYERS = [("conv1", "conv"), ("conv2", "conv"), ("pool1", "pool"), ("conv3", "conv"), ("conv4", "conv"), ("fc1", "fc")]
NIN = [("conv1", "conv"), ("pool1", "pool"), ("nin1", "conv"), ("nin2", "conv")]


def table(shape, layers=LAYERS, replicates=3, levels=4, control=False, metric="svcca"):
    """shape(replicate, level, depth) -> value."""
    numbers = [(0, level) for level in range(1, replicates + 1)] if control else None
    numbers = numbers or [(r, level) for r in range(replicates) for level in range(1, levels + 1)]
    rows = [
        ("p", r, level, control, layer, kind, depth, metric, shape(r, level, depth))
        for r, level in numbers
        for depth, (layer, kind) in enumerate(layers)
    ]
    columns = ["problem", "replicate", "level", "control", "layer", "kind", "depth", "metric", "value"]
    return pd.DataFrame(rows, columns=columns)


def dimensions(shape, layers=LAYERS, **size):
    return table(shape, layers, **size).rename(columns={"value": "dimension"}).drop(columns="metric")


def bell(_replicate, _level, depth):
    return 10.0 - (depth - 2.4) ** 2


def test_similarity_is_low_where_dimension_is_high():
    low_there = table(lambda r, level, d: 0.9 - 0.05 * bell(r, level, d) + 1e-4 * r - 0.01 * level)
    found = dimension_against_similarity(low_there, dimensions(bell), "p")
    assert (found.verdict, found.value, found.low, found.high) == (HOLDS, -1, -1, -1)
    assert found.expected == "< -0.6", "of 720 orders of 6 layers, 20 have a tau below -0.6 and 49 one of at most that"
    high_there = table(lambda r, level, d: 0.05 * bell(r, level, d) + 1e-4 * r)
    assert dimension_against_similarity(high_there, dimensions(bell), "p").verdict == FAILS


def test_the_correlation_is_scipys_and_its_median_over_levels():
    rng = np.random.default_rng(3)
    value, size = rng.uniform(size=(3, 4, 6)), rng.uniform(5, 9, size=(3, 4, 6))
    found = dimension_against_similarity(
        table(lambda r, level, d: value[r, level - 1, d]), dimensions(lambda r, level, d: size[r, level - 1, d]), "p"
    )
    middle = [np.median(cube, axis=0) for cube in (value, size)]
    expected = np.median([kendalltau(middle[0][level], middle[1][level]).statistic for level in range(4)])
    assert found.value == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("count", [2, 3, 4, 5, 6])
def test_the_chance_of_a_correlation_is_that_of_all_shuffles(count):
    taus = sorted(kendalltau(range(count), order).statistic for order in itertools.permutations(range(count)))
    edge = min(t for t in taus if np.mean(np.array(taus) <= t + 1e-9) > 0.05)
    assert statistics.chance_of_kendall(count) == pytest.approx(edge, abs=1e-12)


def test_too_few_layers_or_a_weak_order_are_no_verdict():
    few = [LAYERS[0], LAYERS[3], LAYERS[5]]
    opposite = table(lambda r, level, d: 0.9 - 0.1 * d, few), dimensions(lambda r, level, d: 4.0 + d, few)
    found = dimension_against_similarity(*opposite, "p")
    assert (found.verdict, found.value) == (UNDECIDED, -1)
    assert found.reason == "3 layers are too few: even a perfect order of them is chance in 1 of 6 cases"
    order = [0, 5, 1, 4, 2, 3]  # against 0..5: 9 pairs in order and 6 not
    weak = table(lambda r, level, d: -order[d]), dimensions(lambda r, level, d: float(d))
    found = dimension_against_similarity(*weak, "p")
    assert found.value == pytest.approx(-kendalltau(order, range(6)).statistic)
    assert (found.verdict, found.reason) == (
        UNDECIDED,
        "the whole interval is within what shuffling these 6 layers gives",
    )
    assert (
        dimension_against_similarity(weak[0], pd.DataFrame(), "p").reason == "intrinsic dimensions were not estimated"
    )


def test_a_layer_without_a_dimension_is_left_aside():
    sizes = dimensions(bell)
    sizes.loc[(sizes["layer"] == "conv2") & (sizes["level"] == 2), "dimension"] = math.nan
    curves = statistics.dimension_beside_similarity(table(lambda r, level, d: 0.5), sizes, "p", "svcca")
    names = ("conv1", "pool1", "conv3", "conv4", "fc1")
    assert curves.layers == names + names
    np.testing.assert_array_equal(curves.values[0, 0, 5:], [bell(0, 0, d) for d in (0, 2, 3, 4, 5)])


@pytest.mark.parametrize(("gain", "verdict"), [(0.1, HOLDS), (-0.1, FAILS)])
def test_the_pivot_is_the_fully_connected_layer_against_the_last_convolution(gain, verdict):
    found = pivot(table(lambda r, level, d: 0.5 + 0.01 * r + (gain if d == 5 else 0) + (0.3 if d == 2 else 0)), "p")
    assert (found.verdict, found.statistic.split(" minus")[0]) == (verdict, "fully connected layer")
    assert found.value == pytest.approx(gain)
    assert found.reason.startswith("fc1 against conv4: ")


def test_the_head_of_a_network_in_network_is_asked_in_its_place():
    found = pivot(table(lambda r, level, d: (0.6, 0.9, 0.1, 0.8)[d], NIN), "p")
    assert (found.verdict, found.value) == (HOLDS, pytest.approx(0.2))
    assert "1x1 convolution of the head, which has no fully connected layer" in found.statistic
    assert found.reason.startswith("nin2 against conv1: ")
    none = pivot(table(lambda r, level, d: 0.5, NIN[:2]), "p")
    assert (none.verdict, none.reason) == (UNDECIDED, "there is no fully connected layer to compare")


def leaving(r, level, depth):
    """conv1 is below from level 3 on, conv2 never, pool1 at level 2 only, conv3 above from the first, conv4 with two of three."""
    return {
        0: 0.8 + 0.01 * r - 0.3 * (level >= 3),
        1: 0.8 + 0.01 * r,
        2: 0.8 + 0.01 * r - 0.3 * (level == 2),
        3: 0.95 + 0.001 * r,
        4: 0.8 - 0.3 * (r < 2),
        5: 0.8 - 0.3 * (level == 4),
    }[depth]


def test_the_first_level_outside_of_the_controls_is_found_per_layer():
    controls = table(lambda r, level, d: 0.77 + 0.03 * level, control=True)  # 0.80 to 0.86
    found = {claim.statistic.partition(":")[0]: claim for claim in leaves_the_controls(both(leaving, controls), "p")}
    assert list(found) == [name for name, _ in LAYERS]
    assert [found[name].value for name, _ in LAYERS] == [3, math.inf, 2, 1, math.inf, 4]
    verdicts = [found[name].verdict for name, _ in LAYERS]
    assert verdicts == [HOLDS, FAILS, UNDECIDED, HOLDS, UNDECIDED, UNDECIDED]
    assert (found["conv1"].low, found["conv1"].high, found["conv1"].expected) == (3, 3, "< 5")
    assert found["conv1"].reason.startswith("below the controls: all 3 replicates from there on; ")
    assert (
        found["conv3"].reason == "above the controls: all 3 replicates from there on; at one iteration, "
        "as many networks of one kind lie on one side in 10 % of cases"
    )
    assert found["pool1"].reason == "back among the controls: all outside at iteration 2, but not at iteration 3"
    assert found["conv4"].low == 1, "resamples without the one that stays"
    assert "outside at the last iteration only: all are below the controls" in found["fc1"].reason


def both(shape, controls):
    return pd.concat([table(shape), controls], ignore_index=True)


def test_leaving_needs_controls():
    (found,) = leaves_the_controls(table(leaving), "p")
    assert (found.verdict, found.reason) == (UNDECIDED, "no network was retrained without pruning")
    two = table(lambda r, level, d: 0.77 + 0.03 * level, control=True, replicates=2)
    reasons = {claim.reason for claim in leaves_the_controls(both(leaving, two), "p")}
    assert reasons == {"2 of the 3 controls a verdict needs"}


def test_replicates_around_the_controls_have_not_left_them():
    controls = table(lambda r, level, d: 0.79 + 0.005 * level, control=True)
    around = both(lambda r, level, d: 0.9 if r else 0.1, controls)
    for claim in leaves_the_controls(around, "p"):
        assert (claim.value, claim.verdict) == (1, UNDECIDED)
        assert claim.reason.startswith("on both sides of the controls")


@pytest.mark.parametrize(("replicates", "controls"), [(3, 3), (2, 3), (4, 3), (1, 2)])
def test_how_often_all_lie_on_one_side_by_chance_is_counted(replicates, controls):
    places = list(itertools.combinations(range(replicates + controls), controls))
    apart = sum(place[-1] == controls - 1 or place[0] == replicates for place in places)
    assert chance_of_one_side(replicates, controls) == pytest.approx(apart / len(places))


def test_a_distance_is_judged_as_a_similarity():
    far = table(lambda r, level, d: 0.1 if d == 5 else 0.4, metric="procrustes_distance")
    found = pivot(far, "p", "procrustes_distance")
    assert (found.verdict, found.value) == (HOLDS, pytest.approx(0.3))
