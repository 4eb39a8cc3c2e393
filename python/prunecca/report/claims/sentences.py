"""The verdicts in plain words: five sentences for a reader who reads nothing else.

Each is made of verdicts alone and names the claims it comes from. What is undecided is said as undecided, with the reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...similarity.registry import METRIC_NAMES
from .claim import FAILS, HOLDS, UNDECIDED, Claim
from .robustness import Measure, Robustness

_MANY = 6  # names that are listed one by one
_SAID = {
    "b": "similarity falls with the pruning iteration in problems of up to 4 classes",
    "c": "it falls with depth there",
    "d": "in problems of more classes it bottoms around the third block and rises to the fully connected layer",
    "e": "it varies less over the iterations in problems of more classes",
    "f": "a pooling is more similar than the convolution before it",
    "g": "similarity is low where intrinsic dimension is high",
    "h": "the fully connected layer (or the last layer of a head without one) is more similar than the last convolution",
    "control": "pruning changes the layers more than retraining alone does",
}


@dataclass(frozen=True)
class Sentence:
    """A sentence, and what it is about."""

    topic: str
    text: str


def five_sentences(claims: Sequence[Claim], again: Robustness, margin: float) -> list[Sentence]:
    """What the verdicts say of accuracy, of pruning against retraining, of trends, of the pivot, and of other measures.

    Args:
        claims: all, as they were judged.
        again: the same claims under other measures.
        margin: the loss of accuracy that still counts as comparable.
    """
    trends = [_claimed(claims, code) for code in ("b", "c", "d", "e")]
    places = [_claimed(claims, code) for code in ("h", "f", "g")]
    return [
        Sentence("Accuracy", _sentence([_accuracy(claims, margin)])),
        Sentence("Pruning against retraining", _sentence([_claimed(claims, "control"), _layers(claims)])),
        Sentence("Along iterations and depth", _sentence(trends)),
        Sentence("Pivot, poolings and dimension", _sentence(places)),
        Sentence("Chance and other measures", _sentence([_chance(again), _others(again)])),
    ]


def _sentence(parts: Iterable[str]) -> str:
    text = "; ".join(part for part in parts if part)
    return f"{text[:1].upper()}{text[1:]}."


def _accuracy(claims: Sequence[Claim], margin: float) -> str:
    what = f"at every level accuracy stays within {100 * margin:g} points of the unpruned network’s"
    worst = {
        claim.problem: f"{100 * claim.value:+.1f} points at worst".replace("-", "−")
        for claim in claims
        if claim.claim == "a" and claim.verdict != UNDECIDED
    }
    return f"that {what} (a) {_where(_verdicts(claims, 'a'), worst)}"


def _claimed(claims: Sequence[Claim], code: str) -> str:
    letter = "control" if code == "control" else code
    return f"that {_SAID[code]} ({letter}) {_where(_verdicts(claims, code))}"


def _verdicts(claims: Sequence[Claim], code: str) -> dict[str, tuple[str, str]]:
    """By problem, the verdict and its reason; a claim in several parts holds where all do, and fails where one does."""
    found: dict[str, tuple[str, str]] = {}
    for claim in claims:
        if claim.claim != code:
            continue
        before = found.get(claim.problem)
        rank = [FAILS, UNDECIDED, HOLDS]
        if before is None or rank.index(claim.verdict) < rank.index(before[0]):
            found[claim.problem] = (claim.verdict, claim.reason)
    return found


def _where(verdicts: dict[str, tuple[str, str]], numbers: dict[str, str] | None = None) -> str:
    """Where a claim holds, where it does not, and where it is undecided, with why."""
    if not verdicts:
        return "is not asked, for no problem here is of that kind"
    named = {p: f"{p} ({numbers[p]})" if numbers and p in numbers else p for p in verdicts}
    parts = []
    for verdict, words in ((HOLDS, "holds for"), (FAILS, "does not hold for")):
        problems = [named[problem] for problem, (found, _) in verdicts.items() if found == verdict]
        if problems:
            parts.append(f"{words} {listed(problems)}")
    reasons = dict.fromkeys(reason for found, reason in verdicts.values() if found == UNDECIDED)
    for reason in reasons:
        problems = [problem for problem, (found, why) in verdicts.items() if found == UNDECIDED and why == reason]
        parts.append(f"is undecided for {listed(problems)} ({reason})")
    return listed(parts)


def _layers(claims: Sequence[Claim]) -> str:
    """Which layers leave the range of the controls, problem by problem."""
    own = [claim for claim in claims if claim.claim == "i"]
    told = []
    for problem in dict.fromkeys(claim.problem for claim in own):
        layers = [claim for claim in own if claim.problem == problem]
        parts = []
        left = [claim for claim in layers if claim.verdict == HOLDS]
        if left:
            # Above the controls, pruning changed a layer less than retraining did: the side must be told.
            sides = [claim.reason.partition(" the controls:")[0] for claim in left]
            names = [
                f"{_layer(c)} ({side} it from iteration {c.value:.0f})" for c, side in zip(left, sides, strict=True)
            ]
            parts.append(f"{_some(names, 'layers')} left the range of the controls for good")
        if stayed := [_layer(claim) for claim in layers if claim.verdict == FAILS]:
            parts.append(
                f"{_some(stayed, 'layers')} never did"
                if left
                else f"{_some(stayed, 'layers')} never left the range of the controls"
            )
        if unclear := [claim for claim in layers if claim.verdict == UNDECIDED]:
            # Before the colon stands what kind of reason it is, after it the numbers of one layer.
            why = " or ".join(dict.fromkeys(claim.reason.partition(":")[0] for claim in unclear))
            names = [_layer(claim) for claim in unclear]
            everything = len(unclear) == len(layers) > 1
            who = f"all {len(layers)} layers" if everything else _some(names, "layers")
            parts.append(f"{who} {'is' if len(names) == 1 else 'are'} undecided ({why})")
        told.append(f"for {problem}, {listed(parts)}")
    return f"layer by layer (i), {'; '.join(told)}" if told else ""


def _layer(claim: Claim) -> str:
    return claim.statistic.partition(":")[0] if ":" in claim.statistic else "every layer"


def _chance(again: Robustness) -> str:
    adjusted = [measure for measure in again.measures if measure.adjusted and measure.metric == again.main]
    words = METRIC_NAMES.get(again.main, again.main)
    if not adjusted:
        return "how much of the similarity is chance cannot be said, for this run did not store what shuffled rows give"
    if not again.decided:
        return f"no claim on similarity is decided by {words}, so none can be lost to chance"
    return f"of the {_count(again)} by {words}, {_survival(again, adjusted, 'after what shuffled rows give is taken away')}"


def _others(again: Robustness) -> str:
    others = [measure for measure in again.measures if not measure.adjusted and measure.metric != again.main]
    if not others:
        return "the run has no other metric to judge by"
    words = [METRIC_NAMES.get(measure.metric, measure.metric) for measure in others]
    if not again.decided:
        return f"no verdict on similarity is decided that {listed(words)} could overturn"
    same = f"of the {_count(again)} by {METRIC_NAMES.get(again.main, again.main)}"
    return f"{same}, {_survival(again, others, f'under every other metric ({listed(words)})')}"


def _count(again: Robustness) -> str:
    return f"{len(again.decided)} verdicts on similarity that are decided"


def _survival(again: Robustness, measures: Sequence[Measure], when: str) -> str:
    """How many verdicts stay, which are reversed, and how many are left undecided."""
    decided = again.decided
    stay = sum(again.stays(claim, measures) for claim in decided)
    turned = {claim: found for claim in decided if (found := again.reversed_by(claim, measures))}
    number = "all" if stay == len(decided) else str(stay or "none")
    parts = [f"{number} {'stays' if stay <= 1 and number != 'all' else 'stay'} {when}"]
    if turned:
        names = [_named(claim, found if len(measures) > 1 else []) for claim, found in turned.items()]
        parts.append(f"{len(turned)} {'is' if len(turned) == 1 else 'are'} reversed ({_some(names, 'of them')})")
    if open_ := len(decided) - stay - len(turned):
        parts.append(f"{open_} {'becomes' if open_ == 1 else 'become'} undecided")
    return listed(parts)


def _named(claim: Claim, measures: Sequence[Measure]) -> str:
    where = f"({claim.claim}) for {claim.problem}" + (f", {_layer(claim)}" if claim.claim == "i" else "")
    if not measures:
        return where
    if len(measures) > 2:
        return f"{where} under {len(measures)} of them"
    return f"{where} under {listed([METRIC_NAMES.get(measure.metric, measure.metric) for measure in measures])}"


def _some(names: Sequence[str], noun: str) -> str:
    """The names, or of many the first ones and how many more."""
    if len(names) <= _MANY:
        return listed(names)
    return f"{', '.join(names[: _MANY - 1])} and {len(names) - _MANY + 1} more {noun}"


def listed(names: Sequence[str]) -> str:
    """a; a and b; a, b and c.

    Example:
        >>> from prunecca.report.claims.sentences import listed
        >>> listed(["a", "b", "c"])
        'a, b and c'
    """
    return f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else "".join(names)
