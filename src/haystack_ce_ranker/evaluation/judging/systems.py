"""
One system of results.json, and what is said of several by their figures alone: the best, the cheapest, the fronts.

Compares nothing query by query; that is `comparison.py`'s business, and what follows from it `choosing.py`'s.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from haystack_ce_ranker.evaluation.judging.comparison import MEASURE

LEVEL = 0.05
"""The p below which a difference is no chance."""

WORTH = 0.01
"""nDCG@10 below which a difference is too small to pay for."""

ROUNDING = 1e-9
"""Differences of this size are none."""

SAME_COST = 1.1
"""Latencies whose ratio is below this are the same."""

ALONE, HYBRID, FIRST_STAGE = "cross-encoder", "hybrid", "first stage"

BETTER, WORSE, UNCERTAIN = "better", "worse", "no significant difference"

IDENTITY = ("kind", "first_stage", "model", "backend", "depth", "strategy")
"""The settings that tell one system from another; precision belongs to the backend."""


@dataclass(frozen=True)
class System:
    """One system of results.json, with what the verdict asks of it; None where that is not known."""

    name: str
    figures: Mapping[str, Any]

    @property
    def kind(self) -> str | None:
        """First stage, cross-encoder, hybrid or pipeline."""
        return self._text("kind")

    @property
    def depth(self) -> int | None:
        """How many candidates are re-ranked."""
        depth = self.figures.get("depth")
        return None if depth is None else int(depth)

    @property
    def quality(self) -> float:
        """nDCG@10."""
        return float(self.figures[MEASURE])

    @property
    def median(self) -> float | None:
        """Milliseconds that half of the queries take at most."""
        return self.latency("p50")

    @property
    def joules(self) -> float | None:
        """Per query."""
        joules = self.figures.get("joules_per_query")
        return None if joules is None else float(joules)

    @property
    def source(self) -> str | None:
        """Whether joules were measured or estimated; results.json may go on to say how."""
        source = self._text("energy_source")
        return None if source is None else source.partition(":")[0]

    @property
    def versus(self) -> Mapping[str, Any] | None:
        """The comparison with the baseline."""
        versus: Mapping[str, Any] | None = self.figures.get("versus")
        return versus

    def latency(self, percentile: str) -> float | None:
        """Return milliseconds: p50, p95 or p99."""
        value = (self.figures.get("latency_ms") or {}).get(percentile)
        return None if value is None else float(value)

    def setting(self, key: str) -> str | None:
        """Return what a question is about: `model`, `strategy`, or `backend`, which its precision belongs to."""
        if key != "backend":
            return self._text(key)
        parts = [part for part in (self._text("backend"), self._text("dtype")) if part is not None]
        return " ".join(parts) if parts else None

    def _text(self, key: str) -> str | None:
        value = self.figures.get(key)
        return None if value is None else str(value)

    @property
    def significance(self) -> str | None:
        """Against the baseline."""
        if self.versus is None:
            return None
        if self.versus["p_corrected"] >= LEVEL or self.versus["difference"] == 0:
            return UNCERTAIN
        return BETTER if self.versus["difference"] > 0 else WORSE

    @property
    def is_worth_it(self) -> bool:
        """Better than the baseline, and by enough."""
        return self.versus is not None and self.significance == BETTER and self.versus["difference"] >= WORTH - ROUNDING


def alike(one: System, other: System, but: str) -> bool:
    """Whether two systems differ in nothing but one setting."""
    return all(part(one, key) == part(other, key) for key in IDENTITY if key != but)


def part(one: System, key: str) -> Any:
    return one.kind if key == "kind" else one.depth if key == "depth" else one.setting(key)


def best_of(pool: Iterable[System]) -> System | None:
    """The highest nDCG; among equals the cheapest, then the first."""
    return max(pool, key=lambda one: (one.quality, -cost_of(one)), default=None)


def foremost_of(pool: Iterable[System], kind: str | None) -> System | None:
    """The best of a kind that is worth something, else the best of the kind; None for any kind."""
    some = [one for one in pool if kind is None or one.kind == kind]
    worth = best_of(one for one in some if one.is_worth_it)
    return best_of(some) if worth is None else worth


def cheapest_of(pool: Sequence[System]) -> System | None:
    """The best of those whose median latency is within 10 % of the lowest."""
    if not pool:
        return None
    least = min(cost_of(one) for one in pool)
    return best_of(one for one in pool if cost_of(one) <= least * SAME_COST)


def cost_of(one: System) -> float:
    return float("inf") if one.median is None else one.median


def fronts(systems: Sequence[System]) -> dict[str, Any]:
    """Names on the front of quality against latency, and against energy for each kind of source by itself."""
    sources = sorted({one.source for one in systems if one.source is not None and one.joules is not None})
    energy = {source: [(one, one.joules) for one in systems if one.source == source] for source in sources}
    return {
        "latency": _front([(one, one.median) for one in systems]),
        "energy": {source: _front(costs) for source, costs in energy.items()},
    }


def _front(costs: Sequence[tuple[System, float | None]]) -> list[str]:
    known = [(cost, one.quality, one.name) for one, cost in costs if cost is not None]
    front = set(pareto_front((cost, quality) for cost, quality, _ in known))
    return [name for cost, quality, name in sorted(known) if (cost, quality) in front]


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, quality) that no other one beats in both, the cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front


def short_name(name: str | None) -> str:
    """Return how a setting is shown: a model's folder, or one in a package, by its end, anything else as it is."""
    if name is None:
        return "-"
    return PurePath(name).name if name.startswith(("/", ".", "~", "package:")) else name
