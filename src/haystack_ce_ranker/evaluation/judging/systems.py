"""
One system of results.json, and what is said of several by their figures alone: the best, the cheapest, the fronts.

Compares nothing query by query; `comparison.py` does, and `choosing.py` draws the conclusions.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, WithJsonSchema

from haystack_ce_ranker.evaluation.judging.comparison import LEVEL, Amount, Bounds, Share, Versus
from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10
from haystack_ce_ranker.machine.units import UNKNOWN, Units
from haystack_ce_ranker.significance import SAME

WORTH = 0.01  # nDCG@10 below which a difference is too small to pay for
SAME_COST = 1.1  # latencies whose ratio is below this are the same

IDENTITY = ("kind", "first_stage", "model", "backend", "depth", "strategy", "weights")
"""The settings that tell one system from another; precision belongs to the backend."""

Known = Annotated[float | None, WithJsonSchema({"type": "number", "minimum": 0})]
"""A figure that results.json always has; None only for a system that was never asked."""

Source = Annotated[str | None, WithJsonSchema({"type": "string", "pattern": "^(measured|estimated)(: .+)?$"})]


class Kind(StrEnum):
    """A first stage, a cross-encoder alone, a hybrid of both, or a stage of a pipeline that was given."""

    FIRST_STAGE = "first stage"
    CROSS_ENCODER = "cross-encoder"
    HYBRID = "hybrid"
    PIPELINE = "pipeline"


class Weights(StrEnum):
    """How a hybrid weighs its lists: by fixed weights, or by weights that follow the query (`adapt_weights`)."""

    FIXED = "fixed"
    ADAPTIVE = "adaptive"


class Stage(StrEnum):
    """What a query's time is spent on."""

    RETRIEVE = "retrieve"
    TOKENISE = "tokenise"
    SCORE = "score"
    JOIN = "join"


class Finding(StrEnum):
    """A system against the baseline."""

    BETTER = "better"
    WORSE = "worse"
    UNCERTAIN = "no significant difference"


@dataclass(frozen=True)
class Description:
    """
    What a system is.

    :ivar kind: What it is.
    :ivar first_stage: The system whose candidates it re-ranks; its own name for one that retrieves.
    :ivar energy_source: `measured: ...` or `estimated: ...`, and by what. Do not compare figures of the two.
    :ivar model: The cross-encoder; null where there is none or it is not known.
    :ivar backend: What runs the model.
    :ivar dtype: What it computes in.
    :ivar device: Where it runs.
    :ivar depth: How many candidates are re-ranked; null for first stages and pipelines.
    :ivar strategy: How long documents are read; null for first stages and pipelines.
    :ivar weights: How a hybrid weighs its lists; null for all others.
    """

    kind: Kind
    first_stage: str | None
    energy_source: Source
    model: str | None = None
    backend: str | None = None
    dtype: str | None = None
    device: str | None = None
    depth: Annotated[int, Field(ge=1)] | None = None
    strategy: str | None = None
    weights: Weights | None = None


@dataclass(frozen=True)
class Latency:
    """Milliseconds that 50, 95 and 99 % of the queries take at most, for this stage and all that it needs."""

    p50: Known = None
    p95: Known = None
    p99: Known = None


@dataclass(frozen=True, kw_only=True)
class System(Description):
    """
    One system: what it is, what its rankings are worth, and what they cost, its first stage included.

    :ivar name: Its name.
    :ivar measures: Means over the queries, by measure.
    :ivar interval: 95 % bootstrap intervals over the queries, by measure.
    :ivar latency_ms: Milliseconds a query.
    :ivar stages_ms: Mean milliseconds a query, by each stage that the system has.
    :ivar tokens_per_query: Mean tokens that cross-encoders read, special tokens included, padding not.
    :ivar pairs_per_query: Mean pairs of query and passage that were scored.
    :ivar joules_per_query: Mean energy; `energy_source` says how it was found.
    :ivar read_share: Share of the candidates' tokens that the model read; null where nothing is read.
    :ivar peak_memory_mb: Peak memory of a process that scores with the model; null where it was not measured.
    :ivar versus: Compared with the baseline; null for the baseline itself.
    :ivar units: The costs in standard units.
    """

    name: str
    measures: dict[str, Share]
    interval: dict[str, Bounds]
    latency_ms: Latency
    stages_ms: dict[Stage, Amount]
    tokens_per_query: Amount
    pairs_per_query: Amount
    joules_per_query: Known
    read_share: Share | None
    peak_memory_mb: Amount | None
    versus: Versus | None
    units: Units = UNKNOWN

    @property
    def quality(self) -> float:
        """nDCG@10."""
        return self.measures[NDCG_AT_10]

    @property
    def source(self) -> str | None:
        """`measured` or `estimated`: where joules come from."""
        return None if self.energy_source is None else self.energy_source.partition(":")[0]

    def setting(self, key: str) -> Any:
        """Return one of `IDENTITY`; the backend with its precision."""
        if key != "backend":
            return getattr(self, key)
        return " ".join(part for part in (self.backend, self.dtype) if part is not None) or None

    def identity(self, *, but: str) -> tuple[Any, ...]:
        """Return all settings but one."""
        return tuple(self.setting(key) for key in IDENTITY if key != but)

    @property
    def significance(self) -> Finding | None:
        """Against the baseline."""
        if self.versus is None:
            return None
        if self.versus.p_corrected >= LEVEL or self.versus.difference == 0:
            return Finding.UNCERTAIN
        return Finding.BETTER if self.versus.difference > 0 else Finding.WORSE

    @property
    def is_worth_it(self) -> bool:
        """Better than the baseline, and by enough."""
        against = self.versus
        return against is not None and self.significance == Finding.BETTER and against.difference >= WORTH - SAME


def best_of(pool: Iterable[System]) -> System | None:
    """The highest nDCG; among equals the cheapest, then the first."""
    return max(pool, key=lambda one: (one.quality, -_cost(one)), default=None)


def foremost_of(pool: Iterable[System], kind: Kind) -> System | None:
    """The best of a kind that is worth something, else the best of the kind."""
    some = [one for one in pool if one.kind == kind]
    worth = best_of(one for one in some if one.is_worth_it)
    return best_of(some) if worth is None else worth


def cheapest_of(pool: Sequence[System]) -> System | None:
    """The best of those whose median latency is within 10 % of the lowest."""
    least = min(map(_cost, pool), default=0.0)
    return best_of(one for one in pool if _cost(one) <= least * SAME_COST)


def _cost(one: System) -> float:
    return float("inf") if one.latency_ms.p50 is None else one.latency_ms.p50


@dataclass(frozen=True)
class Fronts:
    """Systems that none beats in both quality and cost, the cheapest first; measured and estimated joules apart."""

    latency: tuple[str, ...]
    energy: dict[Literal["measured", "estimated"], tuple[str, ...]]


def fronts(systems: Sequence[System]) -> Fronts:
    """Return the fronts of quality against latency and against energy."""
    energy: dict[Any, tuple[str, ...]] = {}
    for source in sorted({one.source for one in systems if one.source is not None}):
        energy[source] = _front([(one, one.joules_per_query) for one in systems if one.source == source])
    latency = _front([(one, one.latency_ms.p50) for one in systems])
    return Fronts(latency, {source: names for source, names in energy.items() if names})


def _front(costs: Sequence[tuple[System, float | None]]) -> tuple[str, ...]:
    known = [(cost, one.quality, one.name) for one, cost in costs if cost is not None]
    front = set(pareto_front((cost, quality) for cost, quality, _ in known))
    return tuple(name for cost, quality, name in sorted(known) if (cost, quality) in front)


def pareto_front(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points (cost, quality) that no other one beats in both, the cheapest first."""
    front: list[tuple[float, float]] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -point[1])):
        if not front or quality > front[-1][1]:
            front.append((cost, quality))
    return front
