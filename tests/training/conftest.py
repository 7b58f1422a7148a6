"""What the tests of training share: a teacher that is a function of tokens, and a writer of collections."""

import json

import pytest

from fakes import FakeBackend
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.training.passages import PassageReader
from haystack_ce_ranker.training.teachers import Teacher


@pytest.fixture
def backend():
    return FakeBackend()


@pytest.fixture
def teacher(backend):
    """A teacher that reads 64 tokens, and long documents by windows of 16."""
    policy = ReadingPolicy(passage_tokens=16, passage_stride=8)
    return Teacher("fake", "fake", PassageReader(CrossEncoderScorer(backend, policy)))


@pytest.fixture
def write_collection(tmp_path):
    """A function that writes documents, queries and grades as a collection's folder."""

    def write(documents, queries, judgments, name="small"):
        folder = tmp_path / name
        (folder / "qrels").mkdir(parents=True)
        corpus = [json.dumps({"_id": key, "title": "", "text": text}) for key, text in documents.items()]
        asked = [json.dumps({"_id": key, "text": text}) for key, text in queries.items()]
        (folder / "corpus.jsonl").write_text("\n".join(corpus) + "\n", encoding="utf-8")
        (folder / "queries.jsonl").write_text("\n".join(asked) + "\n", encoding="utf-8")
        rows = [f"{query}\t{one}\t{grade}" for query, grades in judgments.items() for one, grade in grades.items()]
        table = "\n".join(["query-id\tcorpus-id\tscore", *rows, ""])
        (folder / "qrels" / "test.tsv").write_text(table, encoding="utf-8")
        return folder

    return write
