"""
What was seen of a system: its description, what it did for each query, and the figures that follow from that.

Plain values throughout, so that a journal can keep them; knows nothing of Haystack or of how a system is run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from haystack_ce_ranker.evaluation.judging.comparison import Evidence, Versus
from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10, averages, ranked_scores
from haystack_ce_ranker.evaluation.judging.systems import Description, Latency, Stage, System
from haystack_ce_ranker.machine.units import WORLD, Grid, in_standard_units
from haystack_ce_ranker.significance import bootstrap

READ = 10  # documents at the top that are kept with what the model read of them


@dataclass(frozen=True)
class Observation:
    """
    What one system did for one query, with all that it needed: a ranker's costs hold those of its first stage.

    :ivar ranking: Document ids with scores, best first; a score may be None.
    :ivar stages: Seconds by stage.
    :ivar joules: Energy; the description's `energy_source` says what kind of figure it is.
    :ivar tokens: That cross-encoders read.
    :ivar pairs: That cross-encoders scored.
    :ivar content_tokens: Of the documents that were scored.
    :ivar tokens_unread: Of those, how many no pair showed.
    :ivar readings: What the model read of the documents at the top, by document id.
    :ivar flops: Of the models that reported them, for the tokens alone; None if one of them does not know.
    :ivar padding_flops: The same for the padding.
    """

    ranking: list[tuple[str, float | None]]
    stages: dict[Stage, float]
    joules: float
    tokens: int = 0
    pairs: int = 0
    content_tokens: int = 0
    tokens_unread: int = 0
    readings: dict[str, Evidence] = field(default_factory=dict)
    flops: float | None = 0.0
    padding_flops: float = 0.0

    @property
    def seconds(self) -> float:
        """Time of all stages."""
        return sum(self.stages.values())

    def plain(self) -> Any:
        """Return plain values, see `restored`."""
        return _OBSERVATION.dump_python(self, mode="json")


_OBSERVATION = TypeAdapter(Observation)


def restored(plain: Any) -> Observation:
    """Return the observation that `plain` made."""
    return _OBSERVATION.validate_python(plain)


@dataclass
class Observed:
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

    @property
    def readings(self) -> dict[str, dict[str, Evidence]]:
        """What the model read, by query id and document id."""
        return {query_id: seen.readings for query_id, seen in self.observations.items()}

    def figures(
        self,
        by_query: Mapping[str, Mapping[str, float]],
        *,
        versus: Versus | None = None,
        peak_memory_mb: float | None = None,
        grid: Grid = WORLD,
    ) -> System:
        """
        Return the system's figures: what its rankings are worth, and what they cost.

        :param by_query: For each measure, values by query id.
        :param versus: The comparison with the baseline; None for the baseline.
        :param peak_memory_mb: Where it was measured.
        :param grid: What a kilowatt-hour emits.
        """
        seen = list(self.observations.values())
        quality = bootstrap(np.asarray(list(by_query[NDCG_AT_10].values())))
        milliseconds = [1000.0 * one.seconds for one in seen]
        content = sum(one.content_tokens for one in seen)
        joules = max(_mean([one.joules for one in seen]), 0.0)
        work = [(one.flops, one.padding_flops) for one in seen]
        return System(
            **vars(self.description),
            name=self.name,
            measures=averages(by_query),
            interval={NDCG_AT_10: (quality.low, quality.high)},
            latency_ms=Latency(*map(float, np.percentile(milliseconds, (50, 95, 99)))) if seen else Latency(),
            stages_ms={
                stage: 1000.0 * _mean([one.stages.get(stage, 0.0) for one in seen])
                for stage in Stage
                if any(stage in one.stages for one in seen)
            },
            tokens_per_query=_mean([one.tokens for one in seen]),
            pairs_per_query=_mean([one.pairs for one in seen]),
            joules_per_query=joules,
            units=in_standard_units(quality.mean, work, joules=joules, grid=grid),
            read_share=1.0 - sum(one.tokens_unread for one in seen) / content if content else None,
            peak_memory_mb=peak_memory_mb,
            versus=versus,
        )


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
