"""Rivals in turns, on a clock that counts, and what is made of their samples."""

import time

import pytest

from prunecca.bench.timing import Contest, HostClock, Work, ratio, run, take_turns


class Steps:
    """Each call takes one second."""

    def sample(self, call):
        call()
        return 1.0


def test_rivals_take_turns_and_warm_up_once():
    order = []
    rivals = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    taken = take_turns(rivals, Steps(), 0.0, (3, 9))
    assert "".join(order) == "ab" + "ab" * 3
    assert taken == {"a": [1.0] * 3, "b": [1.0] * 3}


def test_rounds_end_with_the_time_or_at_the_most():
    ends = []
    taken = take_turns({"a": lambda: None}, Steps(), 60.0, (2, 7), lambda: ends.append(1), warmup=0)
    assert len(taken["a"]) == len(ends) == 7
    assert len(take_turns({"a": lambda: time.sleep(0.01)}, Steps(), 0.0, (2, 7))["a"]) == 2


def test_a_short_call_is_repeated_and_a_long_one_is_not():
    calls = []
    assert 0 < HostClock(rest=0.0, short=0.05, fill=0.01).sample(lambda: calls.append(1)) < 1e-3
    assert len(calls) > 10
    calls.clear()
    HostClock(rest=0.0, short=0.0).sample(lambda: calls.append(1))
    assert len(calls) == 1
    assert HostClock(rest=0.0, short=0.001).sample(lambda: time.sleep(0.01)) >= 0.01


def test_the_clock_waits_for_the_device_before_and_after():
    order = []
    HostClock(rest=0.0, short=0.0, wait=lambda: order.append("wait")).sample(lambda: order.append("call"))
    assert order == ["wait", "call", "wait"]


def test_a_ratio_is_the_median_of_the_ratios_within_the_rounds():
    seconds = {"ours": [1.0, 10.0, 2.0], "other": [3.0, 20.0, 8.0], "once": [6.0]}
    assert ratio(seconds, "other", "ours") == 3.0
    assert ratio(seconds, "once", "ours") == 3.0


def test_an_outcome_has_a_row_per_rival():
    ended = []
    rivals = {"prunecca": lambda: 1, "slow": lambda: time.sleep(0.002) or 1}

    def check(results):
        assert results == {"prunecca": 1, "slow": 1}
        return {"difference": 0.0}

    work = Work(operations=1e6, bytes=8.0, rows=4)
    outcome = run(Contest(rivals, check, work, cleanup=lambda: ended.append(1)), seconds=0.0, rounds=(1, 1))
    ours, slow = outcome.row("prunecca"), outcome.row("slow")
    assert ours["difference"] == 0.0
    assert "difference" not in slow
    assert slow["ours_times_faster"] > 1
    assert slow["rounds"] == len(outcome.peaks) == 1
    assert slow["gflops"] == pytest.approx(1e-3 / slow["seconds"])
    assert slow["fraction_of_peak"] == pytest.approx(slow["gflops"] / outcome.peaks[0])
    assert slow["rows_per_second"] == pytest.approx(4 / slow["seconds"])
    assert ended == [1]


def test_rivals_that_disagree_are_not_timed():
    def check(results):
        raise AssertionError("off")

    ended = []
    with pytest.raises(AssertionError, match="off"):
        run(Contest({"prunecca": lambda: 1}, check, cleanup=lambda: ended.append(1)))
    assert ended == [1]
