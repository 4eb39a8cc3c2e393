"""Whether a verdict survives: every claim on similarity judged again by every metric of the run, with and without chance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from ..statistics import RESAMPLES
from .chance import as_adjusted, has_chance
from .claim import FAILS, HOLDS, Claim, Subject
from .judge import judge

KEY = ("claim", "problem", "statistic")


@dataclass(frozen=True)
class Measure:
    """What similarity is taken for: a metric, and whether what shuffled rows give was taken away."""

    metric: str
    adjusted: bool


@dataclass(frozen=True)
class Robustness:
    """Every claim on similarity under every measure of a run.

    Args:
        main: the metric of the claims themselves.
        verdicts: by measure, the claims that were judged with it; the first is the main metric as it is.
    """

    main: str
    verdicts: Mapping[Measure, Sequence[Claim]]

    @property
    def measures(self) -> list[Measure]:
        """All measures, the main one first."""
        return list(self.verdicts)

    def found(self, measure: Measure, claim: Claim) -> Claim | None:
        """The same question under another measure; None where that measure cannot be asked."""
        own = self._by_key[measure]
        return own.get(_key(claim))

    def table(self) -> pd.DataFrame:
        """One row per claim, problem, statistic and measure, with all that ``Claim`` has."""
        rows = [
            {**dict.fromkeys(KEY), "metric": measure.metric, "adjusted": measure.adjusted, **dataclasses.asdict(claim)}
            for measure, claims in self.verdicts.items()
            for claim in claims
        ]
        columns = [*KEY, "metric", "adjusted", *(field.name for field in dataclasses.fields(Claim))]
        return pd.DataFrame(rows, columns=list(dict.fromkeys(columns)))

    @property
    def decided(self) -> list[Claim]:
        """The claims with a verdict by the main measure."""
        return [claim for claim in self.verdicts[self.measures[0]] if claim.verdict in (HOLDS, FAILS)]

    def reversed_by(self, claim: Claim, measures: Sequence[Measure]) -> list[Measure]:
        """The measures under which a decided claim has the opposite verdict."""
        opposite = {HOLDS: FAILS, FAILS: HOLDS}[claim.verdict]
        return [m for m in measures if (other := self.found(m, claim)) is not None and other.verdict == opposite]

    def stays(self, claim: Claim, measures: Sequence[Measure]) -> bool:
        """Whether a decided claim has the same verdict under all of these measures."""
        return all((other := self.found(m, claim)) is not None and other.verdict == claim.verdict for m in measures)

    @property
    def _by_key(self) -> dict[Measure, dict[tuple[str, ...], Claim]]:
        return {measure: {_key(claim): claim for claim in claims} for measure, claims in self.verdicts.items()}


def _key(claim: Claim) -> tuple[str, ...]:
    return (claim.claim, claim.problem, claim.statistic)


def judge_again(
    claims: Sequence[Claim],
    tables: Mapping[str, pd.DataFrame],
    subjects: Sequence[Subject],
    main: str,
    *,
    resamples: int = RESAMPLES,
) -> Robustness:
    """Every claim on similarity, by every metric of the run, as it is and with chance taken away where that is known.

    Args:
        claims: as ``judge`` gave them, with the same tables, problems and resamples.
        tables: as ``judge`` takes them.
        subjects: all problems that were asked for.
        main: the metric of the claims.
        resamples: of the bootstrap.
    """
    similarity = tables["similarity"]
    metrics = [] if similarity.empty else [str(name) for name in similarity["metric"].unique()]
    versions = {False: similarity}
    if has_chance(similarity):
        versions[True] = as_adjusted(similarity)
    # Claims on accuracy alone are the same whatever similarity is.
    judged = {**tables, "levels": pd.DataFrame()}
    first = Measure(main, False)
    verdicts = {first: [claim for claim in claims if claim.claim != "a"]}
    for measure in (
        Measure(name, version) for name in sorted(metrics, key=lambda n: n != main) for version in versions
    ):
        version = versions[measure.adjusted]
        with_rows = _problems(version, measure.metric)
        asked = [subject for subject in subjects if subject.problem in with_rows]
        if measure != first and asked:
            found = judge({**judged, "similarity": version}, asked, metric=measure.metric, resamples=resamples)
            verdicts[measure] = [claim for claim in found if claim.claim != "a"]
    return Robustness(main, verdicts)


def _problems(similarity: pd.DataFrame, metric: str) -> set[str]:
    """The problems that have a value of this metric."""
    if similarity.empty:
        return set()
    rows = similarity[(similarity["metric"] == metric) & similarity["value"].notna() & (similarity["level"] > 0)]
    return set(rows["problem"])
