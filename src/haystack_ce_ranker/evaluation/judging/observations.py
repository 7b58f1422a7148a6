"""
What was seen of a system: its description, what it did for each query, and the figures that follow from that.

Plain values throughout, so that a journal can keep them; knows nothing of Haystack or of how a system is run.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from haystack_ce_ranker.evaluation.judging.measures import Measure, averages, per_query, ranked_scores
from haystack_ce_ranker.significance import bootstrap

STAGES = ("retrieve", "tokenise", "score", "join")
QUALITY = "nDCG@10"
READ = 10
"""Of so many documents at the top it is kept what the model read of them."""


@dataclass(frozen=True)
class Observation:
    """
    What one system did for one query, with all that it needed: a ranker's costs hold those of its first stage.

    :ivar ranking: Document ids with scores, best first; a score may be None.
    :ivar stages: Seconds by stage, of those in `STAGES` that it has.
    :ivar joules: Energy; what kind of figure it is, the description's `energy_source` says.
    :ivar tokens: That cross-encoders read.
    :ivar pairs: That cross-encoders scored.
    :ivar content_tokens: Of the documents that were scored.
    :ivar tokens_unread: Of those, how many no pair showed.
    :ivar readings: Of the documents at the top, what the model read: `logit`, `coverage`, and `read`, a list of start,
        end and logit, in characters of the content, best first.
    """

    ranking: list[tuple[str, float | None]]
    stages: dict[str, float]
    joules: float
    tokens: int = 0
    pairs: int = 0
    content_tokens: int = 0
    tokens_unread: int = 0
    readings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Time of all stages."""
        return sum(self.stages.values())

    def plain(self) -> dict[str, Any]:
        """Return plain values, see `restored`."""
        return asdict(self)


def restored(plain: Mapping[str, Any]) -> Observation:
    """Return the observation that `plain` made."""
    return Observation(**{**plain, "ranking": [(name, score) for name, score in plain["ranking"]]})


@dataclass(frozen=True)
class Description:
    """
    What a system is.

    :ivar kind: `first stage`, `cross-encoder`, `hybrid`, or `pipeline` for a stage of a pipeline that was given.
    :ivar first_stage: The name of the system that found its candidates; its own where it is a first stage.
    :ivar depth: How many candidates are re-ranked; None where that is not swept.
    :ivar energy_source: `measured: ...` or `estimated: ...`.
    """

    kind: str
    first_stage: str
    energy_source: str
    model: str | None = None
    backend: str | None = None
    dtype: str | None = None
    device: str | None = None
    depth: int | None = None
    strategy: str | None = None


@dataclass
class System:
    """A system with what it did for each query that was reached, by query id."""

    name: str
    description: Description
    observations: dict[str, Observation] = field(default_factory=dict)

    @property
    def rankings(self) -> dict[str, dict[str, float]]:
        """For each query id, document ids with scores that keep the system's order."""
        return {
            query_id: ranked_scores([name for name, _ in seen.ranking], [score for _, score in seen.ranking])
            for query_id, seen in self.observations.items()
        }

    def by_query(
        self, judgments: Mapping[str, Mapping[str, int]], wanted: tuple[Measure, ...]
    ) -> dict[str, dict[str, float]]:
        """Return each measure's value for each judged query."""
        return per_query(self.rankings, judgments, wanted)

    def figures(
        self, by_query: Mapping[str, Mapping[str, float]], *, peak_memory_mb: float | None = None
    ) -> dict[str, Any]:
        """
        Return what results.json says of the system, as plain values: measures, description and cost.

        :param by_query: Of `by_query`.
        :param peak_memory_mb: Where it was measured.
        """
        quality = bootstrap(np.asarray(list(by_query[QUALITY].values())))
        described = asdict(self.description)
        return {
            **averages(by_query),
            "interval": {QUALITY: [quality.low, quality.high]},
            **{key: described[key] for key in ("kind", "first_stage", "model", "backend", "dtype", "device")},
            **{key: described[key] for key in ("depth", "strategy")},
            **self._costs(),
            "energy_source": described["energy_source"],
            "peak_memory_mb": peak_memory_mb,
            "versus": None,
        }

    def _costs(self) -> dict[str, Any]:
        seen = list(self.observations.values())
        milliseconds = np.asarray([one.seconds for one in seen]) * 1000.0
        percentiles = {f"p{rank}": float(np.percentile(milliseconds, rank)) for rank in (50, 95, 99)} if seen else {}
        content = sum(one.content_tokens for one in seen)
        stages = [stage for stage in STAGES if any(stage in one.stages for one in seen)]
        return {
            "latency_ms": percentiles if seen else dict.fromkeys(("p50", "p95", "p99")),
            "stages_ms": {stage: 1000.0 * _mean([one.stages.get(stage, 0.0) for one in seen]) for stage in stages},
            "tokens_per_query": _mean([one.tokens for one in seen]),
            "pairs_per_query": _mean([one.pairs for one in seen]),
            "joules_per_query": max(_mean([one.joules for one in seen]), 0.0),
            "read_share": 1.0 - sum(one.tokens_unread for one in seen) / content if content else None,
        }


def _mean(values: list[float] | list[int]) -> float:
    return float(np.mean(values)) if values else 0.0
