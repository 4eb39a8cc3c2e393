"""At which densities runs meet, and the labels they have."""

import pandas as pd
import pytest
from reports import configuration

from prunecca.report.alignment import meet, summarise
from prunecca.report.labels import labels
from prunecca.report.run import ReportedRun
from prunecca.study.options import Options


def levels_of(**runs):
    rows = [
        (run, 0, level, False, density) for run, densities in runs.items() for level, density in enumerate(densities)
    ]
    return pd.DataFrame(rows, columns=["run", "replicate", "level", "control", "density"])


def met(found):
    return [
        (round(rows["shared"].iloc[0], 3), dict(zip(rows["run"], rows["level"], strict=True)))
        for _, rows in found.groupby("meeting")
    ]


def test_runs_meet_where_their_densities_are_about_equal():
    found = meet(levels_of(a=[1, 0.8, 0.64, 0.512], b=[1, 0.5], c=[1, 0.79, 0.4]))
    assert met(found) == [(0.8, {"a": 1, "c": 1}), (0.512, {"a": 3, "b": 1})]
    assert found["density"].tolist() == [0.8, 0.79, 0.512, 0.5]


def test_the_nearest_level_is_taken_and_none_twice():
    found = meet(levels_of(a=[1, 0.90, 0.88, 0.86], b=[1, 0.875]))
    assert met(found) == [(0.88, {"a": 2, "b": 1})]


def test_a_meeting_has_the_density_that_most_have():
    assert met(meet(levels_of(a=[1, 0.51], b=[1, 0.5], c=[1, 0.5])))[0][0] == 0.5


@pytest.mark.parametrize(("density", "meets"), [(0.5 * 1.05, True), (0.5 / 1.05, True), (0.5 * 1.051, False)])
def test_densities_five_percent_apart_are_the_last_that_meet(density, meets):
    assert len(met(meet(levels_of(a=[1, 0.5], b=[1, density])))) == meets


def test_runs_without_pruned_networks_or_weights_meet_nowhere():
    assert meet(levels_of(a=[1], b=[1])).empty
    assert meet(levels_of(a=[1, 0], b=[1, 0])).empty


def test_the_unpruned_network_counts_once_and_controls_are_one_group():
    rows = [("a", 0, 0, False, 0.9), ("a", 1, 0, False, 0.9), ("a", 0, 1, False, 0.7), ("a", 1, 1, False, 0.8)]
    rows += [("a", 0, 1, True, 0.5), ("a", 0, 2, True, 0.7)]
    table = pd.DataFrame(rows, columns=["run", "replicate", "level", "control", "test_accuracy"])
    found = summarise(table, [], "test_accuracy")
    assert found["networks"].tolist() == [1, 2, 2]
    assert found["median"].tolist() == pytest.approx([0.9, 0.75, 0.6])
    assert found["greatest"].tolist() == [0.9, 0.8, 0.7]
    assert found["level"].isna().tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ([{}, {"recipe": "fine_tuning"}], ["weight_rewinding", "fine_tuning"]),
        ([{}, {"scope": "2:4"}], ["scope pool", "scope 2:4"]),
        ([{"seed": 0}, {"seed": 1}], ["seed 0", "seed 1"]),
        ([{}, {"epochs": 7}], ["epochs 3", "epochs 7"]),
        (
            [{}, {"recipe": "admm"}, {"recipe": "admm", "penalty_strength": 0.5}],
            ["weight_rewinding", "admm", "admm, penalty strength 0.5"],
        ),
        ([{}, {"images": 7}], ["run0", "run1"]),
        ([{}, {"images": 7}, {"seed": 3}], ["weight_rewinding (run0)", "weight_rewinding (run1)", "seed 3"]),
        (
            [{"conv_rate": 0.0, "fc_rate": 0.0}, {}],
            ["no_pruning, conv rate 0.0, fc rate 0.0", "weight_rewinding, conv rate 0.1, fc rate 0.2"],
        ),
    ],
)
def test_labels_say_in_what_runs_differ(flags, expected):
    runs = []
    for number, own in enumerate(flags):
        config = configuration(options=Options.from_flags(**own), epochs=own.get("epochs", 3))
        runs.append(ReportedRun(f"run{number}", config, [], {}, []))
    assert labels(runs) == expected
