"""
Decides from figures: which system to use, whether re-ranking is worth it, at which depth. Says nothing in words.

- A system is *better* than the baseline where the randomisation test's p, corrected for the number of systems, is below
  0.05. It is *worth* something where it is also better by at least 0.01 nDCG@10.
- A system is *as good as* the best where it is at most 0.01 below it and the test, query by query, does not find it
  worse (p below 0.05, not corrected: in doubt the dearer one is kept).
- The choice is the cheapest system, by the median latency, that is as good as the best one within the limits and itself
  worth something; latencies within 10 % are the same, and the better system is taken. Where nothing is worth something,
  the choice is the baseline.
- Re-ranking is *not to be done* where it is not worth it and the best system that re-ranks is, on average, below a
  first stage alone, or above it by less than 0.01: such a gain would not pay even if it were sure. It must be below
  where a stage of a pipeline stands for the first stage, since that may re-rank itself.
- A limit of milliseconds is held by the 95th percentile, so that 19 of 20 queries are answered in time; one of joules
  by the mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Literal

from pydantic import Field

from haystack_ce_ranker import checks
from haystack_ce_ranker.evaluation.judging.comparison import LEVEL, ByQuery, Comparison, compare
from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10
from haystack_ce_ranker.evaluation.judging.systems import WORTH, Finding, Kind, System, best_of, cheapest_of
from haystack_ce_ranker.significance import SAME

PERCENTILE = "p95"  # of the latencies: what a limit of milliseconds is held by


class WorthIt(StrEnum):
    """
    Whether re-ranking is worth it. `yes`: the cross-encoder alone is (where none was measured alone, the hybrid or the
    pipeline is). `hybrid only`: not alone, but joined with the first stage. `too small`: better, but by less than 0.01.
    `no significant difference`: better on average, but it may be chance. `no`: not better, or surely by less than 0.01,
    or another first stage is as good. `nothing to compare`: a single system, or no baseline.
    """

    YES = "yes"
    HYBRID_ONLY = "hybrid only"
    TOO_SMALL = "too small"
    UNCERTAIN = "no significant difference"
    NO = "no"
    NOTHING = "nothing to compare"


@dataclass(frozen=True)
class Limits:
    """The most that a query may cost (null: no limit): `ms` is held by the percentile named, `joules` by the mean."""

    ms: float | None = None
    percentile: str = PERCENTILE
    joules: float | None = None

    def __post_init__(self) -> None:
        checks.number("budget_ms", self.ms, above=0, optional=True)
        checks.number("budget_joules", self.joules, above=0, optional=True)


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Limit:
    """
    The most that a query may cost of one thing.

    :ivar how: How it is held.
    :ivar known: What a system must have that is held against it.
    """

    key: Literal["budget_ms", "budget_joules"]
    most: float
    unit: str
    how: str
    known: str
    cost: Callable[[System], float | None]

    def fits(self, one: System) -> bool:
        """Whether a system is known to cost no more."""
        cost = self.cost(one)
        return cost is not None and cost <= self.most


@dataclass(frozen=True)
class Judge:
    """What all questions need: the systems, the baseline, how two systems compare, and what a query may cost."""

    systems: tuple[System, ...]
    baseline_name: str | None
    by_query: ByQuery
    allowed: Limits = NO_LIMITS
    _compared: dict[tuple[str, str], Comparison] = field(default_factory=dict)

    @cached_property
    def baseline(self) -> System | None:
        """What the others are compared with."""
        return next((one for one in self.systems if one.name == self.baseline_name), None)

    @cached_property
    def others(self) -> tuple[System, ...]:
        """All but the baseline."""
        return tuple(one for one in self.systems if one is not self.baseline)

    @cached_property
    def rerankers(self) -> tuple[System, ...]:
        """What the question is about: cross-encoders and hybrids; where there are none, whatever else there is."""
        known = tuple(one for one in self.others if one.kind in (Kind.CROSS_ENCODER, Kind.HYBRID))
        return known if known else tuple(one for one in self.others if one.kind != Kind.FIRST_STAGE)

    @cached_property
    def limits(self) -> tuple[Limit, ...]:
        """The limits one by one; joules are held by what was measured, where anything was, else by estimates."""
        found = []
        if (most := self.allowed.ms) is not None:
            found.append(Limit("budget_ms", most, "ms", PERCENTILE, "a latency", lambda one: one.latency_ms.p95))
        if self.allowed.joules is not None:
            sources = {one.source for one in self.systems if one.joules_per_query is not None}
            source = "measured" if "measured" in sources else "estimated"
            held = ("J", f"{source}, mean", f"{source} joules")
            measured = {one.name: one.joules_per_query for one in self.systems if one.source == source}
            found.append(Limit("budget_joules", self.allowed.joules, *held, lambda one: measured.get(one.name)))
        return tuple(found)

    def within(self, limits: Sequence[Limit]) -> tuple[System, ...]:
        """Return the systems that keep all of some limits."""
        return tuple(one for one in self.systems if all(limit.fits(one) for limit in limits))

    @cached_property
    def free_choice(self) -> System | None:
        """The choice without limits."""
        return self.choose(self.systems)

    @cached_property
    def choice(self) -> System | None:
        """The choice within the limits."""
        return self.choose(self.within(self.limits))

    @cached_property
    def foremost(self) -> System | None:
        """The re-ranking system that questions without limits are about: the choice if it re-ranks, else the best."""
        return self.free_choice if self.free_choice in self.rerankers else best_of(self.rerankers)

    @cached_property
    def subject(self) -> System | None:
        """The re-ranking system whose segments and queries are worth showing: the choice if it re-ranks."""
        return self.choice if self.choice in self.rerankers else self.foremost

    def direct(self, one: System, other: System) -> Comparison | None:
        """Compare `other` with `one` query by query; None where values by query are missing."""
        pair = one.name, other.name
        old, new = (self.by_query.get(name, {}).get(NDCG_AT_10, {}) for name in pair)
        if not old or old.keys() != new.keys():
            return None
        if pair not in self._compared:
            self._compared[pair] = compare(old, new)
        return self._compared[pair]

    def as_good(self, one: System, best: System) -> bool:
        """Whether a system is hardly below the best and not found to be worse; untested without values by query."""
        if one.quality >= best.quality:
            return True
        if best.quality - one.quality > WORTH + SAME:
            return False
        found = self.direct(best, one)
        return found is None or found.p >= LEVEL

    def top(self, pool: Sequence[System]) -> System | None:
        """The best of those that are worth something, else the baseline, else (the baseline is not there) the best."""
        if worth := [one for one in pool if one.is_worth_it]:
            return best_of(worth)
        return self.baseline if self.baseline in pool else best_of(pool)

    def choose(self, pool: Sequence[System]) -> System | None:
        """The cheapest that is as good as the best of the pool."""
        best = self.top(pool)
        if best is None or best is self.baseline:
            return best
        worth = [one for one in pool if one.is_worth_it or not best.is_worth_it]
        return cheapest_of([one for one in worth if self.as_good(one, best)])

    @cached_property
    def worth_it(self) -> WorthIt:
        """Whether re-ranking is worth it, whatever a query may cost."""
        compared = [(one, one.versus) for one in self.rerankers if one.versus is not None]
        if self.baseline is None or not compared:
            return WorthIt.NOTHING
        chosen = self.free_choice
        if chosen is not None and chosen is not self.baseline and chosen.kind == Kind.FIRST_STAGE:
            return WorthIt.NO
        alone = [one for one, _ in compared if one.kind == Kind.CROSS_ENCODER]
        if any(one.is_worth_it for one in alone):
            return WorthIt.YES
        if any(one.is_worth_it for one, _ in compared):
            return WorthIt.HYBRID_ONLY if alone else WorthIt.YES
        if any(one.significance == Finding.BETTER for one, _ in compared):
            return WorthIt.TOO_SMALL
        hopeless = all(versus.difference <= 0 or versus.high < WORTH for _, versus in compared)
        return WorthIt.NO if hopeless else WorthIt.UNCERTAIN

    @property
    def recommends(self) -> bool:
        """Whether re-ranking is worth it, in one form or another."""
        return self.worth_it in (WorthIt.YES, WorthIt.HYBRID_ONLY)

    @cached_property
    def better_alone(self) -> tuple[System, System] | None:
        """The best first stage and the best re-ranking system, where the second does not pay; else None."""
        kinds = (Kind.CROSS_ENCODER, Kind.HYBRID)
        best = best_of(one for one in self.systems if one.kind in kinds or one in self.rerankers)
        firsts = (one for one in self.systems if one.kind == Kind.FIRST_STAGE or one is self.baseline)
        alone = best_of(one for one in firsts if one.kind not in kinds)
        if alone is None or best is None or self.recommends:
            return None
        least = WORTH - SAME if alone.kind == Kind.FIRST_STAGE else -SAME
        return (alone, best) if best.quality - alone.quality < least else None


@dataclass(frozen=True)
class DepthPoint:
    """A place on the curve of depths."""

    depth: int
    quality: Annotated[float, Field(alias=NDCG_AT_10)]
    system: str


@dataclass(frozen=True)
class DepthCurve:
    """The smallest depth that is as good as the best, the best, and whether the deepest is worse than the best."""

    chosen: int
    best: int
    falls: bool
    curve: tuple[DepthPoint, ...]


@dataclass(frozen=True)
class Depth:
    """
    A curve, its top, and the place chosen on it.

    :ivar best: What the place chosen is as good as: the curve's top, or a better system that is not on it.
    :ivar falls: Whether the deepest is not as good as the top.
    :ivar fall: The deepest compared with the top.
    """

    curve: tuple[System, ...]
    top: System
    chosen: System
    best: System
    falls: bool
    fall: Comparison | None

    def as_data(self) -> DepthCurve:
        """Return what results.json holds of it."""
        points = tuple(DepthPoint(_depth(one), one.quality, one.name) for one in self.curve)
        return DepthCurve(_depth(self.chosen), _depth(self.top), self.falls, points)


def find_depth(judge: Judge) -> Depth | None:
    """Return the foremost's curve with the smallest depth that is as good as the best; None without a curve."""
    foremost = judge.foremost
    if foremost is None or foremost.depth is None:
        return None
    wanted = foremost.identity(but="depth")
    curve = sorted((one for one in judge.rerankers if one.identity(but="depth") == wanted), key=_depth)
    if len(curve) < 2:
        return None
    top = max(curve, key=lambda one: (one.quality, -_depth(one)))
    overall = judge.top(judge.systems)
    best = overall if overall is not None and judge.recommends and overall in judge.rerankers else top
    chosen = next((one for one in curve if judge.as_good(one, best)), top)
    deepest = curve[-1]
    return Depth(tuple(curve), top, chosen, best, not judge.as_good(deepest, top), judge.direct(top, deepest))


def _depth(one: System) -> int:
    return 0 if one.depth is None else one.depth


def variants(judge: Judge, key: str) -> list[System]:
    """Return systems that differ in one setting only, the best first: the foremost's, else the best such group's."""
    for first in sorted(judge.rerankers, key=lambda one: (one is not judge.foremost, -one.quality)):
        wanted = first.identity(but=key)
        group = [one for one in judge.rerankers if one.identity(but=key) == wanted and one.setting(key) is not None]
        if len({one.setting(key) for one in group}) > 1:
            return sorted(group, key=lambda one: -one.quality)
    return []


def gain_per_100_ms(judge: Judge, one: System) -> float | None:
    """Return nDCG@10 gained against the baseline for each 100 ms of median latency more; None where it is no slower."""
    return _gain(judge, one, lambda system: system.latency_ms.p50, unit=100.0)


def gain_per_joule(judge: Judge, one: System) -> float | None:
    """Return nDCG@10 gained for each joule more; None where it takes no more, or only one of the two was measured."""
    same = judge.baseline is not None and one.source == judge.baseline.source
    return _gain(judge, one, lambda system: system.joules_per_query) if same else None


def _gain(judge: Judge, one: System, cost: Callable[[System], float | None], unit: float = 1.0) -> float | None:
    base = judge.baseline
    if base is None or (new := cost(one)) is None or (old := cost(base)) is None or new <= old:
        return None
    return unit * (one.quality - base.quality) / (new - old)
