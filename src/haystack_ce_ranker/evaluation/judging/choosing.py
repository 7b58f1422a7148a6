"""
Decides from figures: which system to use, whether re-ranking is worth it, at which depth. Says nothing in words.

- A system is *better* than the baseline where the randomisation test's p, corrected for the number of systems, is below
  0.05; it is *worth* something where it is also better by 0.01 nDCG@10 at least.
- A system is *as good as* the best where it is at most 0.01 below it and the test, query by query, does not find it
  worse (p below 0.05, not corrected: in doubt the dearer one is kept).
- The choice is the cheapest system, by the median latency, that is as good as the best one within the budgets and
  itself worth something; latencies within 10 % are the same, and the better system is taken. Where nothing is worth
  something, the choice is the baseline.
- A budget of milliseconds is held by the 95th percentile, so that 19 of 20 queries are answered in time; one of joules
  by the mean.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from haystack_ce_ranker.evaluation.judging.comparison import MEASURE, Comparison, compare
from haystack_ce_ranker.evaluation.judging.systems import (
    ALONE,
    BETTER,
    FIRST_STAGE,
    HYBRID,
    LEVEL,
    ROUNDING,
    UNCERTAIN,
    WORTH,
    System,
    alike,
    best_of,
    cheapest_of,
)

PERCENTILE = "p95"
"""Of the latencies: what a budget of milliseconds is held by."""

YES, HYBRID_ONLY, TOO_SMALL, NO, NOTHING = ("yes", "hybrid only", "too small", "no", "nothing to compare")

WORTH_IT = (YES, HYBRID_ONLY, TOO_SMALL, UNCERTAIN, NO, NOTHING)
"""
What `decide_worth` may say. `yes`: the cross-encoder alone is worth it (or, where no cross-encoder was measured alone,
the hybrid or pipeline is). `hybrid only`: not alone, but joined with the first stage. `too small`: better, but by less
than 0.01. `no significant difference`: better on average, but it may be chance. `no`: not better, or surely by less
than 0.01, or another first stage is as good. `nothing to compare`: a single system, or no baseline.
"""


@dataclass(frozen=True)
class Judge:
    """What all questions need: the systems, the baseline, and how two systems compare."""

    found: Mapping[str, Any]

    @cached_property
    def systems(self) -> tuple[System, ...]:
        """All, in their order."""
        return tuple(System(name, figures) for name, figures in self.found["systems"].items())

    @cached_property
    def baseline(self) -> System | None:
        """What the others are compared with."""
        return next((one for one in self.systems if one.name == self.found.get("baseline")), None)

    @cached_property
    def rerankers(self) -> tuple[System, ...]:
        """What the question is about: cross-encoders and hybrids; where there are none, whatever else there is."""
        known = tuple(one for one in self.others if one.kind in (ALONE, HYBRID))
        return known if known else tuple(one for one in self.others if one.kind != FIRST_STAGE)

    @cached_property
    def others(self) -> tuple[System, ...]:
        """All but the baseline."""
        return tuple(one for one in self.systems if one is not self.baseline)

    @cached_property
    def choice(self) -> System | None:
        """The choice without a budget."""
        return self.choose(self.systems)

    @cached_property
    def best(self) -> System | None:
        """The best of all."""
        return self.top(self.systems)

    @cached_property
    def subject(self) -> System | None:
        """The re-ranking system worth a closer look: the choice, else the best."""
        if self.choice is not None and self.choice in self.rerankers:
            return self.choice
        return best_of(self.rerankers)

    def direct(self, one: System, other: System) -> Comparison | None:
        """Compare `other` with `one` query by query; None where values by query are missing."""
        key = (one.name, other.name)
        if key not in self._compared:
            self._compared[key] = self._compare(one, other)
        return self._compared[key]

    @cached_property
    def _compared(self) -> dict[tuple[str, str], Comparison | None]:
        return {}

    def _compare(self, one: System, other: System) -> Comparison | None:
        by_query = self.found.get("by_query") or {}
        if one.name not in by_query or other.name not in by_query:
            return None
        old, new = by_query[one.name][MEASURE], by_query[other.name][MEASURE]
        return compare(old, new) if old and old.keys() == new.keys() else None

    def as_good(self, one: System, best: System) -> bool:
        """Whether a system is hardly below the best and not found to be worse; untested without values by query."""
        if one.quality >= best.quality:
            return True
        if best.quality - one.quality > WORTH + ROUNDING:
            return False
        found = self.direct(best, one)
        return found is None or found.p >= LEVEL

    def top(self, pool: Sequence[System]) -> System | None:
        """The best of those that are worth something, else the baseline, else (the baseline is not there) the best."""
        worth = [one for one in pool if one.is_worth_it]
        if worth:
            return best_of(worth)
        return self.baseline if self.baseline in pool else best_of(pool)

    def choose(self, pool: Sequence[System]) -> System | None:
        """The cheapest that is as good as the best of the pool."""
        best = self.top(pool)
        if best is None or best is self.baseline:
            return best
        candidates = [one for one in pool if self.as_good(one, best) and (one.is_worth_it or not best.is_worth_it)]
        return cheapest_of(candidates)


def decide_worth(judge: Judge) -> str:
    """Return one of `WORTH_IT`."""
    compared = [one for one in judge.rerankers if one.versus is not None]
    if judge.baseline is None or not compared:
        return NOTHING
    if judge.choice is not None and judge.choice is not judge.baseline and judge.choice.kind == FIRST_STAGE:
        return NO
    alone = [one for one in compared if one.kind == ALONE]
    if any(one.is_worth_it for one in alone):
        return YES
    if any(one.is_worth_it for one in compared):
        return HYBRID_ONLY if alone else YES
    if any(one.significance == BETTER for one in compared):
        return TOO_SMALL
    against = [one.versus for one in compared if one.versus is not None]
    hopeless = all(versus["difference"] <= 0 or versus["high"] < WORTH for versus in against)
    return NO if hopeless else UNCERTAIN


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

    def as_data(self) -> dict[str, Any]:
        """Return what results.json holds of it."""
        curve = [{"depth": one.depth, MEASURE: one.quality, "system": one.name} for one in self.curve]
        return {"chosen": self.chosen.depth, "best": self.top.depth, "falls": self.falls, "curve": curve}


def find_depth(judge: Judge, worth_it: str) -> Depth | None:
    """Return the subject's curve with the smallest depth that is as good as the best; None without a curve."""
    looked_at = judge.subject
    if looked_at is None or looked_at.depth is None:
        return None
    curve = sorted((one for one in judge.rerankers if alike(one, looked_at, "depth")), key=lambda one: one.depth or 0)
    if len(curve) < 2:
        return None
    top = max(curve, key=lambda one: (one.quality, -(one.depth or 0)))
    best = judge.best if worth_it in (YES, HYBRID_ONLY) and judge.best in judge.rerankers else None
    best = top if best is None else best
    chosen = next((one for one in curve if judge.as_good(one, best)), top)
    deepest = curve[-1]
    falls = not judge.as_good(deepest, top)
    tested = judge.direct(top, deepest)
    return Depth(tuple(curve), top, chosen, best, falls, tested)


def variants(judge: Judge, key: str) -> list[System]:
    """Return systems that differ in one setting only, the best first: the subject's, else the best such group's."""
    ordered = sorted(judge.rerankers, key=lambda one: (one is not judge.subject, -one.quality))
    for first in ordered:
        group = [one for one in judge.rerankers if alike(one, first, key) and one.setting(key) is not None]
        if len({one.setting(key) for one in group}) > 1:
            return sorted(group, key=lambda one: -one.quality)
    return []


@dataclass(frozen=True)
class Limit:
    """
    The most that a query may cost of one thing.

    :ivar how: How it is held.
    :ivar known: What a system must have that is held against it.
    """

    key: str
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
class Budget:
    """Which systems stay within what a query may cost."""

    judge: Judge
    limits: tuple[Limit, ...]

    @classmethod
    def of(cls, judge: Judge, milliseconds: float | None, joules: float | None) -> "Budget":
        """Make one; joules are held by what was measured, where anything was, and by estimates else."""
        limits = []
        if milliseconds is not None:
            held = ("ms", PERCENTILE, "a latency")
            limits.append(Limit("budget_ms", milliseconds, *held, lambda one: one.latency(PERCENTILE)))
        if joules is not None:
            sources = {one.source for one in judge.systems if one.joules is not None} - {None}
            source = "measured" if "measured" in sources else "estimated"
            held = ("J", f"{source}, mean", f"{source} joules")
            limits.append(
                Limit("budget_joules", joules, *held, lambda one: one.joules if one.source == source else None)
            )
        return cls(judge, tuple(limits))

    @cached_property
    def pool(self) -> tuple[System, ...]:
        """The systems that stay within all limits."""
        return tuple(one for one in self.judge.systems if all(limit.fits(one) for limit in self.limits))

    def parts(self) -> list["Budget"]:
        """Each limit by itself, where there are two."""
        return [Budget(self.judge, (limit,)) for limit in self.limits] if len(self.limits) > 1 else []


def gain_per_100_ms(judge: Judge, one: System) -> float | None:
    """Return nDCG@10 gained against the baseline for each 100 ms of median latency more; None where it is no slower."""
    base = judge.baseline
    if base is None or one is base or one.median is None or base.median is None:
        return None
    more = one.median - base.median
    return 100.0 * (one.quality - base.quality) / more if more > 0 else None


def gain_per_joule(judge: Judge, one: System) -> float | None:
    """Return nDCG@10 gained for each joule more; None where it takes no more, or only one of the two was measured."""
    base = judge.baseline
    if base is None or one is base or one.joules is None or base.joules is None or one.source != base.source:
        return None
    more = one.joules - base.joules
    return (one.quality - base.quality) / more if more > 0 else None
