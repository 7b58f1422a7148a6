"""
How `token_balance.py` scores: one model, fixed candidates, each pair of query and piece scored once.

    python benchmarks/token_balance.py
"""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from common import CannotRun, Report, collection_folder, located_model
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.configuration import load_tokenizer
from haystack_ce_ranker.backends.model_files import ModelOptions, locate
from haystack_ce_ranker.backends.protocol import Backend, Batch
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.data.collections import Collection, load_collection, load_run
from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10, ranked_scores
from haystack_ce_ranker.reading.documents import DocumentText
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.scoring.scores import QueryScores, ScoringCost
from haystack_ce_ranker.tokenizing.pairs import PackedPair
from kept import ScoreStore

DEPTHS = {"covidqa": 10, "dl19-long": 50, "dl19": 50, "cacm": 10, "med": 10, "stackfaq": 10, "qmsum-dev": 20}
DEFAULT = ReadingPolicy()
Found = Mapping[str, Sequence[str]]
Scores = Mapping[str, Mapping[str, float]]
AGGREGATES: dict[str, Callable[[Sequence[float], Sequence[float]], float]] = {
    "max": lambda logits, _: max(logits),
    "mean_top2": lambda logits, _: float(np.mean(sorted(logits)[-2:])),
    "logsumexp": lambda logits, _: float(np.logaddexp.reduce(np.asarray(logits))),
    "evidence": lambda logits, evidence: max(
        logit + (math.log(max(one / max(evidence), 0.01)) if max(evidence) > 0 else 0.0)
        for logit, one in zip(logits, evidence, strict=True)
    ),
}
"""`evidence` weighs a window's logit with the logarithm of its share of the best window's lexical evidence."""


class Remembering:
    """A backend that scores each pair once, for settings that share most of their pairs."""

    def __init__(self, backend: Backend, model: str, store: ScoreStore) -> None:
        self.forgetful = backend
        self.model = model
        self._store = store
        self._salt = f"{model}|{backend.name}|{backend.dtype}".encode()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.forgetful, name)

    def logits(self, batch: Batch) -> Any:
        """Return the logits of all pairs; those that are kept are not computed."""
        keys = [self._key(pair) for pair in batch.pairs]

        def compute(places: list[int]) -> Sequence[float]:
            values: Sequence[float] = self.forgetful.logits(Batch([batch.pairs[one] for one in places], batch.pad_id))
            return values

        return np.asarray(self._store.numbers(keys, compute), dtype=np.float32)

    def _key(self, pair: PackedPair) -> bytes:
        ids, types = np.asarray(pair.ids, dtype=np.int32), np.asarray(pair.types, dtype=np.int32)
        return self._store.key(self._salt, ids.tobytes(), types.tobytes())


def backend_of(arguments: argparse.Namespace) -> Remembering:
    """Return the model that was asked for; all parts share it."""
    return loaded(arguments.backend, located_model(arguments), arguments.threads, arguments.cache)


@cache
def loaded(backend: str, model: str, threads: int, folder: Path) -> Remembering:
    """Return a model that scores each pair once; the same object for the same arguments."""
    forgetful = loading.load(backend, ModelOptions(model=model, threads=threads))
    return Remembering(forgetful, model, ScoreStore(folder))


def candidates(folder: Path, collection: Collection, depth: int | None = None) -> dict[str, list[str]]:
    """Document ids for each query, best first: the collection's own run where it has one, else our BM25."""
    depth = DEPTHS[folder.name] if depth is None else depth
    if (folder / "run.bm25.tsv").is_file():
        run = load_run(folder / "run.bm25.tsv", collection=collection, depth=depth)
        return {query_id: list(run[query_id]) for query_id in collection.queries}
    ids = list(collection.documents)
    index = BM25Index.build(text.content for text in collection.documents.values())
    return {
        query_id: [ids[position] for position in index.search(query, depth).positions]
        for query_id, query in collection.queries.items()
    }


def score(
    backend: Backend, policy: ReadingPolicy, collection: Collection, found: Found
) -> tuple[dict[str, QueryScores], ScoringCost]:
    scores, cost = CrossEncoderScorer(backend, policy).score_many(requests(collection, found))
    return dict(zip(found, scores, strict=True)), cost


def requests(collection: Collection, found: Found) -> list[tuple[str, list[DocumentText]]]:
    return [
        (collection.queries[query_id], [DocumentText(collection.documents[one].content) for one in ids])
        for query_id, ids in found.items()
    ]


def logits(found: Found, scores: Mapping[str, QueryScores]) -> dict[str, dict[str, float]]:
    return {
        query_id: {one: s.logit for one, s in zip(ids, scores[query_id].documents, strict=True) if s.logit is not None}
        for query_id, ids in found.items()
    }


def quality(found: Scores, collection: Collection) -> float:
    run = {}
    for query_id, of_query in found.items():
        order = sorted(of_query, key=lambda one: -of_query[one])
        run[query_id] = ranked_scores(order, [of_query[one] for one in order])
    judged = {query_id: collection.judgments[query_id] for query_id in found if query_id in collection.judgments}
    return mean(ndcg_at_10(run, judged))


def only(found: Found, queries: int) -> dict[str, Sequence[str]]:
    return dict(list(found.items())[:queries])


def collections(
    arguments: argparse.Namespace, report: Report, names: str, queries: int | None
) -> Iterator[tuple[str, Collection, Found]]:
    """
    Give each collection that is there with its candidates.

    :param queries: At most this many queries, drawn with seed 0; None takes all. `--queries` overrides it.
    """
    there = False
    for name in (arguments.collections or names).split(","):
        with report.or_left_out(name):
            folder = collection_folder(arguments, name)
            there = True
            collection = load_collection(folder).sample(queries if arguments.queries is None else arguments.queries)
            yield name, collection, candidates(folder, collection)
    if not there:
        raise CannotRun(f"none of {names} is there")


def plain_logits(backend: Any, collection: Collection, found: Found) -> dict[str, dict[str, float]]:
    """The logits of pairs as the model's own tokenizer packs and truncates them."""
    tokenizer = load_tokenizer(locate(backend.model), ModelOptions(model=backend.model))
    result: dict[str, dict[str, float]] = {}
    for query_id, ids in found.items():
        texts = [collection.documents[one].content for one in ids]
        packed = tokenizer([collection.queries[query_id]] * len(ids), texts, truncation="only_second", max_length=512)
        pairs = [
            PackedPair(np.asarray(tokens, dtype=np.int32), np.asarray(types, dtype=np.int32))
            for tokens, types in zip(packed["input_ids"], packed["token_type_ids"], strict=True)
        ]
        values = backend.logits(Batch(pairs, backend.tokenizer.pad_id))
        result[query_id] = dict(zip(ids, map(float, values), strict=True))
    return result


def aggregated(
    found: Found, scores: Mapping[str, QueryScores], join: Callable[[Sequence[float], Sequence[float]], float]
) -> dict[str, dict[str, float]]:
    return {
        query_id: {
            one: join([part.logit for part in s.read], [part.evidence for part in s.read])
            for one, s in zip(ids, scores[query_id].documents, strict=True)
        }
        for query_id, ids in found.items()
    }


def mean_of(values: Iterable[float]) -> float:
    """Return the mean of some values."""
    return float(np.mean(list(values)))
