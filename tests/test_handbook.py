"""The handbook collection keeps its promises: format, counts, judgments, and where the deep answers stand."""

import json
import re

import pytest
import Stemmer
from haystack import Document
from haystack.document_stores.in_memory import InMemoryDocumentStore

from fakes import REPOSITORY
from haystack_ce_ranker import BM25Retriever
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10, ranked_scores

FOLDER = REPOSITORY / "examples" / "handbook"
KINDS = {"ambiguous", "synonym", "code", "deep", "plain"}

# Words that carry no subject: a synonym query may share these with its document, and nothing else.
FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
    a an and am are as at be been by can cannot could did do does for from get had has have how i if in into
    is it its keep keeps me my no not of on one or our out some someone still that the their then there they
    this to too was we what when where which who will with you your
        """,
    )
)


def read_jsonl(name: str) -> list[dict]:
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def read_judgments() -> list[tuple[str, str, int]]:
    rows = (FOLDER / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()
    assert rows[0] == "query-id\tcorpus-id\tscore"
    return [(query, document, int(score)) for query, document, score in (row.split("\t") for row in rows[1:])]


CORPUS = read_jsonl("corpus.jsonl")
QUERIES = read_jsonl("queries.jsonl")
JUDGMENTS = read_judgments()
DOCUMENTS = {document["_id"]: document for document in CORPUS}
DEEP = [query for query in QUERIES if query["metadata"]["kind"] == "deep"]
SYNONYM = [query for query in QUERIES if query["metadata"]["kind"] == "synonym"]


def stems(text: str) -> set[str]:
    words = [word for word in re.findall(r"\w+", text.lower()) if word not in FUNCTION_WORDS]
    return set(Stemmer.Stemmer("english").stemWords(words))


def relevant(query_id: str) -> list[str]:
    return [document for query, document, score in JUDGMENTS if query == query_id and score > 0]


def test_documents_have_the_fields_of_beir():
    for document in CORPUS:
        assert set(document) == {"_id", "title", "text", "metadata"}
        assert all(isinstance(document[field], str) and document[field].strip() for field in ("_id", "title", "text"))


def test_the_stated_word_counts_are_true():
    assert [d["metadata"]["words"] for d in CORPUS] == [len(d["text"].split()) for d in CORPUS]


def test_queries_have_text_and_a_known_kind():
    for query in QUERIES:
        assert set(query) == {"_id", "text", "metadata"}
        assert query["text"].strip()
        assert query["metadata"]["kind"] in KINDS
    assert {query["metadata"]["kind"] for query in QUERIES} == KINDS


def test_ids_and_texts_are_unique():
    assert len(DOCUMENTS) == len(CORPUS)
    assert len({document["text"] for document in CORPUS}) == len(CORPUS)
    assert len({query["_id"] for query in QUERIES}) == len(QUERIES)
    assert len({query["text"].lower() for query in QUERIES}) == len(QUERIES)
    assert len({(query, document) for query, document, _ in JUDGMENTS}) == len(JUDGMENTS)


def test_the_collection_is_as_large_as_promised():
    assert len(CORPUS) >= 60
    assert len(QUERIES) >= 30
    assert sum(len(document["text"].split()) > 1500 for document in CORPUS) >= 8


def test_judgments_point_at_existing_queries_and_documents_with_grades_1_or_2():
    query_ids = {query["_id"] for query in QUERIES}
    for query, document, score in JUDGMENTS:
        assert query in query_ids
        assert document in DOCUMENTS
        assert score in {1, 2}


def test_every_query_has_a_fully_relevant_document():
    assert {query for query, _, score in JUDGMENTS if score == 2} == {query["_id"] for query in QUERIES}


def test_every_long_document_answers_a_deep_query():
    long = {document["_id"] for document in CORPUS if len(document["text"].split()) > 1500}
    assert long <= {document for query in DEEP for document in relevant(query["_id"])}


@pytest.mark.parametrize("query", DEEP, ids=lambda query: query["_id"])
def test_a_deep_answer_stands_after_the_first_600_words_of_a_long_document(query):
    answer = query["metadata"]["answer"]
    holders = [
        DOCUMENTS[document]["text"] for document in relevant(query["_id"]) if answer in DOCUMENTS[document]["text"]
    ]
    assert len(holders) == 1
    assert len(holders[0].split()) > 1500
    assert len(holders[0][: holders[0].index(answer)].split()) >= 600


@pytest.mark.parametrize("query", SYNONYM, ids=lambda query: query["_id"])
def test_a_synonym_query_shares_no_content_word_with_its_documents(query):
    for document in relevant(query["_id"]):
        assert not stems(query["text"]) & stems(f"{DOCUMENTS[document]['title']} {DOCUMENTS[document]['text']}")


def bm25_rankings() -> dict[str, list[str]]:
    store = InMemoryDocumentStore()
    store.write_documents([Document(id=d["_id"], content=f"{d['title']}\n{d['text']}") for d in CORPUS])
    retriever = BM25Retriever(store, top_k=10)
    return {query["_id"]: [d.id for d in retriever.run(query["text"])["documents"]] for query in QUERIES}


def test_bm25_alone_neither_solves_the_collection_nor_fails_on_it():
    rankings = {query: ranked_scores(found) for query, found in bm25_rankings().items()}
    assert 0.5 < mean(ndcg_at_10(rankings, load_collection(FOLDER).judgments)) < 0.9


def test_bm25_finds_the_codes_and_none_of_the_synonyms():
    found = bm25_rankings()
    codes = [query["_id"] for query in QUERIES if query["metadata"]["kind"] == "code"]
    first = sum(found[query][0] in relevant(query) for query in codes)
    assert first >= 0.75 * len(codes)
    assert not any(set(found[query["_id"]]) & set(relevant(query["_id"])) for query in SYNONYM)


def test_the_readme_states_the_counts_of_the_files():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    long = sum(len(document["text"].split()) > 1500 for document in CORPUS)
    assert f"{len(CORPUS)} documents, {long} of them longer than 1,500 words" in readme
    assert f"{len(QUERIES)} queries, {len(JUDGMENTS)} judgments" in readme
    for kind in KINDS:
        count = sum(query["metadata"]["kind"] == kind for query in QUERIES)
        assert re.search(rf"^\| {kind} \| {count} \|", readme, flags=re.MULTILINE)
