"""A replica: one loaded model that scores shards, in whatever process it stands."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.bulk.shards import Asked, Shard, ShardScores
from haystack_ce_ranker.checks import choice
from haystack_ce_ranker.reading.documents import content_key
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.training.teachers import contents_key

RUNTIMES = tuple(name for name, runtime in loading.BACKENDS.items() if not runtime.takes_key)
"""The backends of replicas: those that run a model themselves. A server has replicas of its own."""


def loaded(model: "Model") -> CrossEncoderScorer:
    """Load a model."""
    return CrossEncoderScorer(loading.load(model.backend, model.options), model.policy, model_name=model.options.model)


@dataclass(frozen=True)
class Model:
    """
    What all replicas load.

    :ivar options: Its threads are those of each replica. Other numbers of threads can give other bits.
    :ivar policy: What the model may read.
    :ivar load: What loads it.
    :raises ValueError: If there is no such backend.
    """

    options: ModelOptions
    backend: str = "torch"
    policy: ReadingPolicy = field(default_factory=ReadingPolicy)
    load: Callable[["Model"], CrossEncoderScorer] = loaded

    def __post_init__(self) -> None:
        """Check the backend."""
        choice("backend", self.backend, RUNTIMES)

    def key(self) -> str:
        """
        Return what names all that the scores depend on beside the texts: the model's files, and how they are used.

        :raises ModelNotFoundError: If the model is not there.
        """
        options = self.options
        files = contents_key(options.model, options.revision)
        how = (self.backend, options.dtype, options.device, options.threads, options.label, options.prompt)
        return content_key(files, *map(str, how), repr(self.policy)).hex()


class Replica:
    """
    A model that is loaded with its first shard. Ray makes actors of it, and calls them with rows.

    :param model: What to load.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._scorer: CrossEncoderScorer | None = None

    def score(self, shard: Shard) -> ShardScores:
        """
        Score a shard, in batches of its own.

        :raises ValueError: If the model cannot be used, or gives something else than numbers.
        :raises OSError: If it is not there.
        :raises ImportError: If its runtime is not installed.
        :raises MemoryError: If a single pair does not fit into memory.
        """
        if self._scorer is None:
            self._scorer = self._model.load(self._model)
        loaded = self._scorer.backend
        started, busy = time.perf_counter(), time.process_time()
        found, _ = self._scorer.score_many(shard.requests)
        return ShardScores.of(
            found,
            how=f"{loaded.name} {loaded.dtype} on {loaded.device}",
            seconds=time.perf_counter() - started,
            cpu_seconds=time.process_time() - busy,
        )

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """
        Score the shard of a row, and return a row with its scores, both as JSON: no library changes a bit of that.

        An error that a user can mend comes back as a row, too. Ray would show its own traceback instead.
        """
        number = int(row["number"])
        try:
            return {"number": number, "scores": json.dumps(self.score(from_row(row)).plain(), allow_nan=False)}
        except (ValueError, OSError, ImportError, MemoryError) as error:
            return {"number": number, "error": str(error)}


def row_of(shard: Shard) -> dict[str, Any]:
    """Return a shard as the row that a replica takes: its queries and texts alone."""
    return {"number": shard.number, "asked": json.dumps(shard.requests)}


def from_row(row: Mapping[str, Any]) -> Shard:
    """Return the shard of a row, without the ids."""
    asked = (Asked("", query, (), tuple(texts), ()) for query, texts in json.loads(row["asked"]))
    return Shard(int(row["number"]), tuple(asked))
