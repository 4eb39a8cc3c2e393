"""Chance taken away, the claims under other measures, and the five sentences that the verdicts become."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from pages import Page
from reports import configuration, store, study_tables

from prunecca.report.claims import FAILS, HOLDS, UNDECIDED, Claim, Subject, judge
from prunecca.report.claims.chance import adjusted, as_adjusted, chance_table, has_chance
from prunecca.report.claims.robustness import Measure, Robustness, judge_again
from prunecca.report.claims.sentences import five_sentences
from prunecca.report.report import write

SUBJECTS = [Subject("digits2", "digits", 2)]


def with_chance(made, chance=0.2):
    return {**made, "similarity": made["similarity"].assign(chance=chance)}


def test_chance_becomes_0_and_equality_stays_1():
    rng = np.random.default_rng(0)
    chance = rng.uniform(0, 0.9, 50)
    for value, expected in ((chance, 0.0), (np.ones(50), 1.0), ((1 + chance) / 2, 0.5)):
        made = adjusted(pd.DataFrame({"metric": "svcca", "value": value, "chance": chance}))
        np.testing.assert_allclose(made, expected, atol=1e-15)
        far = pd.DataFrame({"metric": "cka_distance", "value": 1 - value, "chance": 1 - chance})
        np.testing.assert_allclose(adjusted(far), expected, atol=1e-15)
        np.testing.assert_allclose(as_adjusted(far)["value"], 1 - expected, atol=1e-15)


def test_no_chance_or_nothing_left_to_reach_is_nan():
    rows = pd.DataFrame({"metric": "svcca", "value": [0.5, 1.0, math.nan], "chance": [math.nan, 1.0, 0.2]})
    assert adjusted(rows).isna().all()
    old = study_tables()["similarity"]
    assert not has_chance(old)
    assert not has_chance(old.assign(chance=math.nan))
    assert chance_table(old).empty


def test_the_table_of_chance_has_medians_over_networks():
    table = chance_table(with_chance(study_tables())["similarity"])
    row = table.query("metric == 'svcca' and level == 2 and layer == 'conv2'").iloc[0]
    assert (row["networks"], row["chance"]) == (3, 0.2)
    value = 1 - 0.1 - 0.02 - 0.003
    assert (row["value"], row["adjusted"]) == (pytest.approx(value), pytest.approx((value - 0.2) / 0.8))
    assert table["level"].tolist()[:4] == [1] * 4
    assert set(table.loc[table["control"], "level"]) == {0}


def test_a_verdict_that_is_chance_is_reversed_when_it_is_taken_away():
    made = study_tables(size=(3, 3, 3))
    similarity = made["similarity"]
    # Similarity falls with depth only because chance does.
    depth = similarity["depth"]
    made["similarity"] = similarity.assign(
        chance=0.6 - 0.1 * depth, value=1 - (0.4 + 0.1 * depth) * (0.5 - 0.03 * depth)
    )
    claims = judge(made, SUBJECTS, resamples=50)
    again = judge_again(claims, made, SUBJECTS, "svcca", resamples=50)
    assert again.measures == [
        Measure("svcca", False),
        Measure("svcca", True),
        Measure("linear_cka", False),
        Measure("linear_cka", True),
    ]
    depth_claim = next(claim for claim in claims if claim.claim == "c")
    assert depth_claim.verdict == HOLDS
    assert again.found(Measure("svcca", True), depth_claim).verdict == FAILS
    assert depth_claim in again.decided
    assert again.reversed_by(depth_claim, again.measures) == [Measure("svcca", True), Measure("linear_cka", True)]
    assert not again.stays(depth_claim, again.measures)
    table = again.table()
    assert set(table["claim"]) == {"b", "c", "e", "f", "g", "h", "i", "control"}
    assert table.groupby(["claim", "problem", "statistic"]).size().unique().tolist() == [4]
    last = five_sentences(claims, again, 0.02)[-1].text
    assert "is taken away" in last
    assert "(c) for digits2" in last


def claim(code, problem, verdict, reason="too few", statistic="s", value=0.01):
    return Claim(code, problem, statistic, "> 0", value, value, value, 3, verdict, reason)


def sentences(claims, others=None):
    main = Measure("svcca", False)
    again = Robustness("svcca", {main: [c for c in claims if c.claim != "a"], **(others or {})})
    return [sentence.text for sentence in five_sentences(claims, again, 0.02)]


@pytest.mark.parametrize("verdicts", list(itertools.product((HOLDS, FAILS, UNDECIDED), repeat=2)))
def test_each_verdict_is_said_of_its_problem(verdicts):
    words = {HOLDS: "holds for", FAILS: "does not hold for", UNDECIDED: "is undecided for"}
    text = sentences([claim("f", "one", verdicts[0]), claim("f", "two", verdicts[1])])[3]
    said = text.partition("(f) ")[2].partition(";")[0]
    if verdicts[0] == verdicts[1]:
        assert said == f"{words[verdicts[0]]} one and two" + (" (too few)" if verdicts[0] == UNDECIDED else "")
        return
    for problem, verdict in zip(("one", "two"), verdicts, strict=True):
        assert f"{words[verdict]} {problem}" + (" (too few)" if verdict == UNDECIDED else "") in said


def test_a_claim_in_two_parts_holds_where_both_do():
    for first, second, said in (
        (HOLDS, HOLDS, "(d) holds for one"),
        (HOLDS, FAILS, "(d) does not hold for one"),
        (UNDECIDED, HOLDS, "(d) is undecided for one (too few)"),
        (UNDECIDED, FAILS, "(d) does not hold for one"),
    ):
        assert said in sentences([claim("d", "one", first), claim("d", "one", second)])[2]


def test_the_five_sentences():
    claims = [
        claim("a", "one", HOLDS, value=-0.004),
        claim("a", "two", FAILS, value=-0.05),
        claim("control", "one", UNDECIDED, "1 of the 3 controls a verdict needs"),
        claim("i", "one", HOLDS, "below the controls: all", "conv1: first", 2.0),
        claim("i", "one", FAILS, statistic="fc1: first", value=math.inf),
        claim("h", "one", HOLDS),
    ]
    found = sentences(claims)
    assert len(found) == 5
    assert found[0] == (
        "That at every level accuracy stays within 2 points of the unpruned network’s (a) holds for one (−0.4 points at worst) "
        "and does not hold for two (−5.0 points at worst)."
    )
    assert found[1] == (
        "That pruning changes the layers more than retraining alone does (control) is undecided for one "
        "(1 of the 3 controls a verdict needs); layer by layer (i), for one, conv1 (below it from iteration 2) left the range of the controls "
        "for good and fc1 never did."
    )
    assert "(b) is not asked, for no problem here is of that kind" in found[2]
    assert found[4] == (
        "How much of the similarity is chance cannot be said, for this run did not store what shuffled rows give; "
        "the run has no other metric to judge by."
    )
    other = {Measure("linear_cka", False): [claim("h", "one", FAILS)], Measure("svcca", True): claims}
    assert sentences(claims, other)[4] == (
        "Of the 3 verdicts on similarity that are decided by mean CCA similarity (SVCCA, 99 %), all stay after what shuffled rows "
        "give is taken away; of the 3 verdicts on similarity that are decided by mean CCA similarity (SVCCA, 99 %), none stays under every other metric (linear CKA), 1 is reversed ((h) for one) and "
        "2 become undecided."
    )


def test_the_report_shows_chance_and_every_measure(tmp_path, quick):
    size = (2, 3, 3)
    written = write(store(tmp_path, with_chance(study_tables(size=size)), configuration(size=size)))
    assert [path.name for path in written.tables] == ["claims.csv", "robustness.csv", "chance.csv"]
    robustness, chance = written.tables[1:]
    assert pd.read_csv(chance)["adjusted"].notna().all()
    assert {(m, a) for m, a in pd.read_csv(robustness)[["metric", "adjusted"]].itertuples(index=False)} == {
        (metric, adjusted) for metric in ("svcca", "linear_cka") for adjusted in (False, True)
    }
    assert "chance-digits2" in [path.name for path in written.figures]
    page = Page(written.page)
    assert "linear CKA, less chance" in page.text
    assert "Accuracy. That at every level" in page.text
    old = write(store(tmp_path, study_tables(size=size), configuration(size=size)), tmp_path / "old")
    assert [path.name for path in old.tables] == ["claims.csv", "robustness.csv"]
    assert "What shuffled rows give was not stored in this run" in Page(old.page).text
