"""First stages: our BM25, a bi-encoder, and both in turns."""

import numpy as np
import pytest
import torch

from fakes import bert_tokenizer
from haystack_ce_ranker.bm25.analysis import Analysis
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.data.collections import Collection, Text
from haystack_ce_ranker.training.candidates import BiEncoder, Found, first_stage

TEXTS = {"d1": "snow on the hut", "d2": "the brake of a car", "d3": "snow", "d4": "a hut", "d5": "snow and snow"}
COLLECTION = Collection(
    "small",
    {key: Text(key, "", text) for key, text in TEXTS.items()},
    {"q1": "snow", "d4": "a hut"},
    {"q1": {"d1": 1}, "d4": {"d1": 1}},
)
ANGLES = {"winter": 0.0, "d1": 0.5, "d2": 0.1, "d3": 0.4, "d4": 3.0, "d5": 0.4}


class FakeModel:
    """A bi-encoder whose embeddings are angles in a plane, by text."""

    max_seq_length = 3

    def __init__(self):
        self.angles = {TEXTS.get(key, key): angle for key, angle in ANGLES.items()}
        self.embedded = []

    def encode_query(self, texts, **options):
        return self.encode_document(texts, **options)

    def encode_document(self, texts, *, convert_to_tensor, show_progress_bar):
        assert convert_to_tensor
        assert not show_progress_bar
        self.embedded.append(len(texts))
        angles = torch.tensor([self.angles.get(text, 9.0) for text in texts])
        return torch.stack([angles.cos(), angles.sin()], dim=1)

    def similarity(self, one, other):
        return one @ other.T

    def tokenizer(self, texts, *, truncation, padding, verbose):
        assert not truncation
        assert not padding
        return {"input_ids": [text.split() for text in texts]}


def test_bm25_finds_what_our_index_finds():
    found = first_stage(COLLECTION, {"q1": "snow", "other": "car hut", "none": "zebra"}, "bm25", 3)
    hits = BM25Index.build(TEXTS.values()).search("snow", 3)
    places = [list(TEXTS)[place] for place in hits.positions]
    assert found["q1"] == [Found(*one, "bm25") for one in zip(places, hits.scores.tolist(), strict=True)]
    assert len(found["q1"]) == 3
    assert {one.document_id for one in found["other"]} == {"d1", "d2", "d4"}
    assert found["none"] == []


def test_a_query_that_is_a_document_does_not_find_itself_and_still_finds_as_many():
    found = first_stage(COLLECTION, COLLECTION.queries, "bm25", 1)
    assert [one.document_id for one in found["d4"]] == ["d1"]
    other = first_stage(COLLECTION, {"made": "a hut"}, "bm25", 1)
    assert [one.document_id for one in other["made"]] == ["d4"]


def test_a_bi_encoder_finds_by_similarity_and_keeps_the_order_of_equal_ones():
    found = first_stage(COLLECTION, {"q1": "winter"}, "dense", 4, BiEncoder(FakeModel()))
    assert [one.document_id for one in found["q1"]] == ["d2", "d3", "d5", "d1"]
    assert [one.score for one in found["q1"]] == pytest.approx(np.cos([0.1, 0.4, 0.4, 0.5]).tolist(), abs=1e-6)
    assert {one.source for one in found["q1"]} == {"dense"}


def test_both_take_turns_and_say_who_found_what():
    model = FakeModel()
    model.angles["brake hut"] = 0.0
    bm25 = [one.document_id for one in first_stage(COLLECTION, {"q1": "brake hut"}, "bm25", 5)["q1"]]
    assert bm25 == ["d2", "d4", "d1"]  # by the bi-encoder: d2, d3, d5, d1, d4
    found = first_stage(COLLECTION, {"q1": "brake hut"}, "both", 4, BiEncoder(model))
    assert [(one.document_id, one.source) for one in found["q1"]] == [
        ("d2", "both"),
        ("d4", "both"),
        ("d3", "dense"),
        ("d1", "both"),
    ]
    assert found["q1"][1].score == first_stage(COLLECTION, {"q1": "brake hut"}, "bm25", 5)["q1"][1].score


def test_documents_are_embedded_in_parts_with_their_progress():
    model, told = FakeModel(), []
    texts = [f"text {number}" for number in range(2500)]
    BiEncoder(model).search(["snow"], [*texts, *texts], 5, progress=lambda done, total: told.append((done, total)))
    assert model.embedded == [1, 1024, 1024, 452]
    assert told == [(1024, 2500), (2048, 2500), (2500, 2500)]
    assert BiEncoder(model).search([], texts, 5) == []
    assert BiEncoder(model).search(["snow"], [], 5) == [[]]


def test_documents_longer_than_the_bi_encoder_reads_are_counted():
    model = FakeModel()
    assert BiEncoder(model).cut(list(TEXTS.values())) == 2
    model.max_seq_length = float("inf")
    assert BiEncoder(model).cut(list(TEXTS.values())) == 0


def test_a_bi_encoder_is_loaded_from_a_folder(tmp_path):
    from sentence_transformers import SentenceTransformer
    from transformers import BertConfig, BertModel

    tokenizer = bert_tokenizer()
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(tmp_path / "plain")
    tokenizer.save_pretrained(tmp_path / "plain")
    made = SentenceTransformer(str(tmp_path / "plain"), device="cpu")
    made.max_seq_length = 16
    made.save(str(tmp_path / "made"))
    loaded = BiEncoder.load(str(tmp_path / "made"))
    found = first_stage(COLLECTION, COLLECTION.queries, "dense", 5, loaded)
    similarities = made.similarity(made.encode_query(["snow"]), made.encode_document(list(TEXTS.values())))[0]
    expected = sorted(zip(TEXTS, similarities.tolist(), strict=True), key=lambda one: -one[1])
    assert [one.document_id for one in found["q1"]] == [key for key, _ in expected]
    assert [one.score for one in found["q1"]] == pytest.approx([score for _, score in expected], abs=1e-5)
    assert loaded.cut(["a hut", "the hut in the snow " * 4]) == 1
    with pytest.raises(OSError, match="was not found"):
        BiEncoder.load(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("kind", "depth", "bi_encoder", "told"),
    [
        ("sparse", 5, None, "kind must be one of 'bm25', 'dense', 'both', but got 'sparse'"),
        ("bm25", 0, None, "depth must be a whole number >= 1, but got 0"),
        ("dense", 5, None, "the first stage 'dense' needs a bi-encoder: name one, or use 'bm25'"),
        ("both", 5, None, "the first stage 'both' needs a bi-encoder"),
        ("bm25", 5, BiEncoder(FakeModel()), "the first stage 'bm25' uses no bi-encoder: omit it"),
    ],
)
def test_what_does_not_fit_together_is_refused(kind, depth, bi_encoder, told):
    with pytest.raises(ValueError, match=told):
        first_stage(COLLECTION, COLLECTION.queries, kind, depth, bi_encoder)


def test_bm25_reads_other_languages_by_their_analysis():
    texts = {"d1": "die Hütten", "d2": "ein Bett"}
    german = Collection("g", {key: Text(key, "", text) for key, text in texts.items()}, {}, {})
    assert first_stage(german, {"q": "Hütte"}, "bm25", 5)["q"] == []
    found = first_stage(german, {"q": "Hütte"}, "bm25", 5, analysis=Analysis("german"))
    assert [one.document_id for one in found["q"]] == ["d1"]
