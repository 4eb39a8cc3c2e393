"""One summary per level, from tables made here."""

import math

import pandas as pd
import pytest
from reports import study_tables

from prunecca.report.levels import summarise


def test_a_level_is_summarised_by_its_medians_and_by_its_first_least_and_last_layer():
    tables = study_tables()
    tables["similarity"].loc[tables["similarity"]["layer"] == "conv2", "value"] -= 0.5
    summaries = summarise(tables, "digits2", "svcca")
    assert [summary.name for summary in summaries] == ["unpruned", "level 1", "level 2", "level 3", "control 1"]
    assert [summary.networks for summary in summaries] == [1, 3, 3, 3, 1]
    third = summaries[3]
    assert (third.density, third.parameters_left) == (pytest.approx(0.8**3), 512)
    assert third.accuracy == pytest.approx(0.9 - 0.012 + 0.001)
    assert (third.least_accuracy, third.greatest_accuracy) == (pytest.approx(0.888), pytest.approx(0.89))
    assert third.first == pytest.approx(1 - 0.15 - 0.003)
    assert third.least == pytest.approx(1 - 0.15 - 0.02 - 0.003 - 0.5)
    assert third.last == pytest.approx(1 - 0.15 - 0.06 - 0.003)


def test_what_is_not_known_is_nan():
    tables = study_tables()
    assert summarise({"levels": pd.DataFrame(), "similarity": pd.DataFrame()}, "digits2", "svcca") == []
    for similarity in (pd.DataFrame(), tables["similarity"].query("level == 0")):
        last = summarise({**tables, "similarity": similarity}, "digits2", "svcca")[3]
        assert last.accuracy > 0.8
        assert math.isnan(last.first)
        assert math.isnan(last.least)
        assert math.isnan(last.last)
