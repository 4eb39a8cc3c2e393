"""What was measured on a device, in words and numbers."""

import json
import math

import pytest
from benchmarks.cuda.table import Aim, NotMeasured, as_table


def test_figures_are_medians_and_medians_of_ratios(make_row):
    row = make_row(operations=4e8)
    assert row.ours == 2e-4
    assert row.of_copy == pytest.approx(0.5)
    numbers = row.numbers()
    assert numbers["rivals"]["torch"] == {
        "median_seconds": 8e-4,
        "least_seconds": 2e-4,
        "rounds": 3,
        "ours_times_faster": pytest.approx(2.0),
    }
    assert numbers["bytes_per_second"] == pytest.approx(5e9)
    assert numbers["operations_per_second"] == pytest.approx(2e12)
    json.dumps(numbers, allow_nan=False)


def test_a_table_names_what_was_missed_and_what_failed(make_row):
    rows = [
        make_row(aims=(Aim("of copy", 0.5, 0.8), Aim("times", 3.5, 3.0))),
        NotMeasured("that", "AssertionError: off", failed=True),
        NotMeasured("those", "the time was over", failed=False),
    ]
    lines = as_table(rows).splitlines()
    assert lines[2] == (
        "| it | 200 us | 5 GB/s = 50 % of copy | torch 2.00x | MISSED: of copy 0.50 (at least 0.8), met: times 3.50 (at least 3) |"
    )
    assert lines[3].startswith("| that | FAILED | | AssertionError: off |")
    assert lines[4].startswith("| those | not run | | the time was over |")
    assert not Aim("x", math.nan, 0.0).met
