"""
What long pairs cost, in tokens, seconds and memory: a part of `long_context.py`, each reading in a process of its own.

    python benchmarks/long_context.py cost
"""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from common import in_a_process, peak_gb, resident_gb, serve, use_threads
from haystack_ce_ranker.backends.loading import load
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.backends.protocol import Backend, Batch
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.scoring.scores import ScoringCost
from haystack_ce_ranker.tokenizing.pairs import PackedPair
from speed_tasks import Task, covidqa_tasks

DEFAULT, WINDOW, WHOLE = "default", "one long window", "every window"
READINGS = {
    DEFAULT: lambda length: ReadingPolicy(max_length=length),
    WINDOW: lambda length: ReadingPolicy(
        max_length=length, passage_tokens=length, passage_stride=length // 2, passages_per_document=1
    ),
    WHOLE: lambda length: ReadingPolicy(
        max_length=length, passage_tokens=length, passage_stride=length, long_documents="windows"
    ),
}
"""
What is read of each article, by how long a pair may be. All windows fill the pair but those of the default, which have
64 tokens; a document that fits is read whole by each.
"""


class Counting:
    """A backend that scores nothing, for counting what would be read."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Return a zero for each pair."""
        return np.zeros(len(batch.pairs), dtype=np.float32)


class Cell(NamedTuple):
    """
    What a query's articles cost.

    :ivar length: The most tokens of a pair.
    :ivar seconds: CPU time of all threads.
    :ivar peak: The most memory that the process had, in GB.
    :ivar added: How much of it came with the run.
    """

    length: int
    pairs: int
    tokens: int
    seconds: float
    peak: float
    added: float


class Job(NamedTuple):
    """
    Which articles are read, of how many the time is measured, and by how many threads.

    Those that are timed spread evenly over all, by length. Their time then counts by the share of the tokens.
    """

    data: Path
    articles: int
    timed: int
    threads: int


def count(backend: Backend, reading: str, length: int, task: Task) -> ScoringCost:
    """Return how many pairs and tokens are read of a task, special tokens among them."""
    return _score(CrossEncoderScorer(Counting(backend), READINGS[reading](length)), task)


def measured(model: Path, reading: str, lengths: Sequence[int], job: Job) -> list[Cell]:
    """Return what the lengths cost, measured in a process of its own."""
    found = in_a_process(
        Path(__file__), worker="run", model=model, reading=reading, lengths=lengths, job=[str(job.data), *job[1:]]
    )
    if "failed" in found:
        raise RuntimeError(f"{reading}: {found['failed']}")
    return [Cell(*cell) for cell in found["cells"]]


def run(model: str, reading: str, lengths: list[int], job: list[Any]) -> dict[str, Any]:
    """Measure a reading with one length after the other; what `backend="auto"` chooses runs the model."""
    data, articles, timed, threads = job
    use_threads(threads)
    [task] = covidqa_tasks(Path(data), 1, articles=articles)[1]
    by_length = sorted(task.documents, key=lambda document: len(str(document.content)))
    step = articles // timed
    sample = task._replace(documents=by_length[step // 2 :: step])
    backend = load("auto", ModelOptions(model, device="cpu", threads=threads))
    CrossEncoderScorer(backend).score("a query to warm up", ["warm up " * 1000])
    return {"cells": [_cell(backend, reading, length, task, sample) for length in lengths]}


def _cell(backend: Backend, reading: str, length: int, task: Task, sample: Task) -> Cell:
    whole = count(backend, reading, length, task)
    forget_peak()
    scorer = CrossEncoderScorer(backend, READINGS[reading](length))
    before, start = resident_gb(), time.process_time()
    part = _score(scorer, sample)
    seconds = (time.process_time() - start) * whole.tokens / part.tokens
    return Cell(length, whole.pairs, whole.tokens, seconds, peak_gb(), peak_gb() - before)


def _score(scorer: CrossEncoderScorer, task: Task) -> ScoringCost:
    return scorer.score(task.query, [str(document.content) for document in task.documents])[1]


def forget_peak() -> None:
    """Let the peak of this process's memory count from now on, where Linux lets it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def pair_measured(backend: str, dtype: str | None, model: str, lengths: Sequence[int]) -> list[list[float]]:
    """Return the CPU seconds of a single pair on one thread, and the GB that came with it, by its tokens."""
    job = {"backend": backend, "dtype": dtype, "model": model, "lengths": lengths}
    found = in_a_process(Path(__file__), worker="pair", **job)
    if "failed" in found:
        raise RuntimeError(f"{backend} {dtype}: {found['failed']}")
    measured: list[list[float]] = found["cells"]
    return measured


def pair(backend: str, dtype: str | None, model: str, lengths: list[int]) -> dict[str, Any]:
    """Measure pairs of random tokens, each alone."""
    use_threads(1)
    loaded = load(backend, ModelOptions(model, device="cpu", dtype=dtype, threads=1))
    rng = np.random.default_rng(0)
    cells = []
    for length in lengths:
        forget_peak()
        ids = rng.integers(1000, 20_000, length).astype(np.int32)
        batch = Batch([PackedPair(ids, np.zeros(length, dtype=np.int32))], loaded.tokenizer.pad_id)
        before, start = resident_gb(), time.process_time()
        loaded.logits(batch)
        cells.append([time.process_time() - start, peak_gb() - before])
    return {"cells": cells}


if __name__ == "__main__":
    serve({"run": run, "pair": pair})
