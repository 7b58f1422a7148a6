"""Documents and queries that nobody should send: all others are ranked, and the next request is as before."""

import math
import threading

import numpy as np
import pytest
from haystack import Document
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy

from haystack_ce_ranker import BM25Retriever, CrossEncoderRanker, HybridScoreJoiner
from haystack_integrations.components.rankers.ce_ranker import documents as ranker_documents
from haystack_integrations.components.routers.ce_ranker import RerankGate


class Wordless:
    """A value that has no text."""

    def __repr__(self):
        raise RuntimeError("no words")

    __str__ = __repr__


def nested(levels=20_000):
    value = {}
    for _ in range(levels):
        value = {"inside": value}
    return value


POISON = {
    "5 MB of one character": {"content": "a" * 5_000_000},
    "5 MB of white space and a word": {"content": " " * 5_000_000 + "hut"},
    "5 MB of marks on a letter": {"content": "a" + "\u0301" * 2_500_000},
    "half a surrogate pair": {"id": "\ud800", "content": "a hut \udfff in the snow \ud800"},
    "control characters": {"content": "".join(map(chr, range(32))) + "hut\x7f\u200b\u202e\ufeff\uffff"},
    "nested meta": {"content": "hut", "meta": {"title": nested()}},
    "meta that is no JSON": {"content": "hut", "meta": {"title": Wordless(), 1: {2, 3}, "lock": threading.Lock()}},
    "a list with a value that has no text": {"content": "hut", "meta": {"title": ["snow", Wordless()]}},
    "NaN in the meta": {"content": "hut", "meta": {"title": math.nan}},
    "NaN embedding": {"content": "hut", "embedding": [math.nan] * 8},
    "NaN embedding of numpy": {"content": "hut", "embedding": np.full(8, math.nan)},
    "an embedding of another size": {"content": "hut", "embedding": [1.0]},
    "a score that is NaN": {"content": "hut", "score": math.nan},
    "a score that is a text": {"content": "hut", "score": "high"},
    "foreign records": {"content": "hut", "meta": {"ce_ranker": {"bm25": {"score": "x"}, "cross_encoder": 7}}},
    "records that are none": {"content": "hut", "meta": {"ce_ranker": "x"}},
    "an id of 1 MB": {"id": "i" * 1_000_000, "content": "hut"},
}
SLOW_TO_READ = {"5 MB of white space and a word", "5 MB of marks on a letter"}
"""Of the long ones, one is enough for the ranker: reading them takes seconds."""
GOOD = [
    Document(id=str(n), content=f"the hut in the snow {n}", score=float(n), embedding=[0.1] * 8, meta={"title": "a"})
    for n in range(1, 5)
]


def poisoned(kind):
    return Document(**{"id": "poison", **POISON[kind]})


def ranking(documents):
    return [(document.id, document.score) for document in documents]


@pytest.fixture(scope="module")
def ranker(tiny_bert):
    return CrossEncoderRanker(model=tiny_bert, meta_fields_to_embed=["title"], return_passages=True, top_k=20)


@pytest.mark.parametrize("kind", [kind for kind in POISON if kind not in SLOW_TO_READ])
def test_the_ranker_scores_all_others_as_without_it(ranker, kind):
    before = dict(ranking(ranker.run("the hut", GOOD)["documents"]))
    found = ranker.run("the hut", [*GOOD[:2], poisoned(kind), *GOOD[2:], poisoned(kind)])
    assert len(found["documents"]) == len(found["passages"]) == len(GOOD) + 1
    scores = dict(ranking(found["documents"]))
    assert {name: scores[name] for name in before} == pytest.approx(before, abs=1e-6)
    assert dict(ranking(ranker.run("the hut", GOOD)["documents"])) == before


@pytest.mark.parametrize("kind", POISON)
def test_the_joiner_joins_all_others(kind):
    joiner = HybridScoreJoiner(weights={"a": 0.5, "b": 0.5})
    before = ranking(joiner.run(a=GOOD, b=GOOD[::-1])["documents"])
    mixed = [*GOOD[:2], poisoned(kind), *GOOD[2:]]
    joined = ranking(joiner.run(a=mixed, b=mixed[::-1])["documents"])
    assert {name for name, _ in joined} == {document.id for document in mixed}
    assert all(math.isfinite(score) for name, score in joined if name in dict(before))
    assert ranking(joiner.run(a=GOOD, b=GOOD[::-1])["documents"]) == before


@pytest.mark.parametrize("kind", POISON)
def test_the_gate_decides_by_the_other_scores(kind):
    gate = RerankGate(threshold=0.3)
    alone = gate.run(query="hut", documents=GOOD)["report"]
    found = gate.run(query="hut", documents=[*GOOD, poisoned(kind), poisoned(kind)])
    assert len(found[found["report"]["decision"]]) == len(GOOD) + 2
    assert found["report"]["usable"] == len(GOOD)
    assert gate.run(query="hut", documents=GOOD)["report"] == alone


class SharingStore:
    """A store that is not copied, and tells nothing but how many documents it has."""

    def __init__(self):
        self.storage = {}

    def count_documents(self):
        return len(self.storage)

    def filter_documents(self, filters=None):
        return list(self.storage.values())


@pytest.mark.parametrize("kind", POISON)
@pytest.mark.parametrize("make", [InMemoryDocumentStore, SharingStore])
def test_the_retriever_finds_all_others(make, kind):
    store = make()
    store.storage.update({document.id: document for document in [*GOOD[:2], poisoned(kind), *GOOD[2:]]})
    for refresh in ("auto", "every_run"):
        retriever = BM25Retriever(store, meta_fields_to_index=["title"], refresh=refresh)
        for _ in range(2):
            found = ranking(retriever.run("hut")["documents"])
            assert {document.id for document in GOOD} <= {name for name, _ in found}
            assert all(math.isfinite(score) for _, score in found)


@pytest.mark.parametrize("kind", ["nested meta", "NaN embedding of numpy"])
def test_a_poisoned_document_that_is_written_again_is_one_that_changed(kind):
    store = InMemoryDocumentStore()
    store.storage.update({document.id: document for document in [poisoned(kind), *GOOD]})
    retriever = BM25Retriever(store)
    retriever.run("hut")
    store.storage["poison"] = Document(**{**POISON[kind], "id": "poison", "content": "goose"})  # in its old place
    assert [document.id for document in retriever.run("goose")["documents"]] == ["poison"]


def test_a_field_without_text_is_left_out_and_said_once(ranker, caplog):
    ranker_documents._warn_of_no_text.cache_clear()
    with_field = Document(id="a", content="a hut", meta={"title": Wordless()})
    for _ in range(2):
        [found] = ranker.run("the hut", [with_field])["documents"]
    assert found.score == ranker.run("the hut", [Document(id="a", content="a hut")])["documents"][0].score
    assert [record.getMessage() for record in caplog.records if "Wordless" in record.getMessage()] != []
    assert len(caplog.records) == 1


QUERIES = {
    "100,000 words": " ".join(f"word{number} hut" for number in range(50_000)),
    "zero-width characters": "hut\u200b\u200d \ufeff \u2060snow",
    "zero-width characters alone": "\u200b\u200d\ufeff\u2060",
    "markup": "<script>alert(1)</script> <b>hut</b> &lt; {{hut}} ${jndi:ldap://x} '; DROP TABLE documents; --",
    "special tokens": "[CLS] hut [SEP] [PAD] [MASK] [UNK] </s> <s> <pad> <|endoftext|> <|im_start|>",
    "special tokens alone": "[SEP] [PAD] [PAD] [SEP]",
    "padding beyond the model": "[PAD] " * 300,
    "surrogates": "hut \ud800\udc00 \udfff",
    "control characters": "hut\x00\x1b[2J\r\n\t\u2028\u202e",
}


@pytest.mark.parametrize("kind", QUERIES)
def test_a_hostile_query_is_answered_and_the_next_one_is_as_before(ranker, kind):
    query = QUERIES[kind]
    store = InMemoryDocumentStore()
    store.write_documents(GOOD, DuplicatePolicy.SKIP)
    retriever = BM25Retriever(store)

    def answers(query):
        return (
            ranking(ranker.run(query, GOOD)["documents"]),
            ranking(retriever.run(query)["documents"]),
            RerankGate(threshold=0.3).run(query=query, documents=GOOD)["report"],
        )

    before = answers("the hut")
    ranked, found, _ = answers(query)
    assert len(ranked) == len(GOOD)
    assert all(score is None or 0.0 <= score <= 1.0 for _, score in ranked)
    assert bool(found) == ("hut" in query)
    assert ranking(ranker.run(query, GOOD)["documents"]) == ranked
    assert answers("the hut") == before
