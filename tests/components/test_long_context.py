"""A model that can read much: it reads 512 tokens of a pair by default, and says what it could have read."""

import pytest
from haystack import Document

from haystack_ce_ranker import CrossEncoderRanker
from zoo import MODERNBERT, ZOO, Specimen

LONG = {**ZOO["modernbert, modular"].config, "max_position_embeddings": 8192}
TEXT = "the hut is in the snow. " * 300


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("long") / "model"
    return Specimen("ModernBert", MODERNBERT, LONG, form="modular").save(place)


def report_of(folder, *, limit=8192, **parameters):
    kwargs = {"model_max_length": limit}
    ranker = CrossEncoderRanker(model=folder, backend="torch", tokenizer_kwargs=kwargs, **parameters)
    return ranker.run(query="where is the hut?", documents=[Document(id="a", content=TEXT)])["report"]


def test_it_reads_512_tokens_by_default_and_says_what_it_could_read(folder):
    report = report_of(folder)
    assert (report["max_length"], report["model_max_length"]) == (512, 8192)
    assert report["content_tokens"] > 1000
    assert report["documents_cut"] == 1
    assert report["tokens"] <= 512
    assert report["coverage"]["a"] < 0.5


def test_a_document_of_more_than_512_tokens_is_read_whole_if_max_length_allows_it(folder):
    report = report_of(folder, max_length=8192)
    assert (report["max_length"], report["pairs"], report["documents_cut"]) == (8192, 1, 0)
    assert report["tokens"] > report["content_tokens"]


def test_one_window_of_any_size_can_be_chosen(folder):
    sizes = {"max_length": 1000, "passage_tokens": 900, "passage_stride": 450, "passages_per_document": 1}
    report = report_of(folder, **sizes)
    assert report["pairs"] == report["documents_cut"] == 1
    assert 900 < report["tokens"] <= 1000


def test_the_tokenizers_limit_counts_if_it_is_less(folder):
    report = report_of(folder, limit=256)
    assert (report["max_length"], report["model_max_length"]) == (256, 256)


def test_more_than_the_model_can_read_is_an_error(folder):
    with pytest.raises(ValueError, match="max_length must be at most 8192, the model's own limit, but got 9000"):
        report_of(folder, max_length=9000)
