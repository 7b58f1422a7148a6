"""Documents and queries without text: not scored, below all that is, counted, and no harm to the others."""

import asyncio
import copy
import math
import time
from functools import lru_cache

import numpy as np
import pytest
from haystack import Document, Pipeline
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import FORMATS, FakeBackend, logits
from haystack_ce_ranker import CrossEncoderRanker, HybridScoreJoiner, RerankGate
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.provenance import with_record
from haystack_ce_ranker.reading.documents import DocumentText
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.cache import ScoreCache
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer

NOTHING = ["", " ", "\n\t ", "\u200b", "\ufeff\u200d\u2060", "\x00\x07", "\u00a0\u3000", "\u202e\u200f", "\u2028"]
TOKENIZERS = ["bert_tokenizer", "roberta", "xlm_roberta", "modernbert"]
LONG = "the hut in the snow of berlin " * 30
SHORT = "hut"


@lru_cache  # training one again may give other ids
def tokenizer_of(name):
    return PairTokenizer(FORMATS[name]())


def backend(tokenizer="bert_tokenizer"):
    made = FakeBackend()
    made.tokenizer = tokenizer_of(tokenizer)
    made.seen = []
    score = made.logits

    def counted(batch):
        made.seen += [pair.texts().document for pair in batch.pairs]
        return score(batch)

    made.logits = counted
    return made


def scorer(made=None, **options):
    policy = {name: options.pop(name) for name in list(options) if name in ReadingPolicy.__dataclass_fields__}
    return CrossEncoderScorer(made if made is not None else backend(), ReadingPolicy(**policy), **options)


@pytest.fixture(params=TOKENIZERS)
def ranker(request, monkeypatch):
    """Makes rankers with a tokenizer of each kind."""
    monkeypatch.setattr(loading, "load", lambda name, options: backend(request.param))
    return lambda **parameters: CrossEncoderRanker(model="fake", max_length=64, **parameters)


def documents(*texts, **fields):
    return [Document(id=f"d{place}", content=text, **fields) for place, text in enumerate(texts)]


def ids(found):
    return [document.id for document in found]


def why(document):
    return document.meta["ce_ranker"]["cross_encoder"].get("why_unscored")


@pytest.mark.parametrize("query", [SHORT, LONG])
@pytest.mark.parametrize("nothing", [None, *NOTHING])
def test_a_document_without_text_stands_below_all_that_were_read_and_ends_no_query(ranker, query, nothing):
    given = documents(nothing, "a car", nothing, "the hut in the snow")
    found = ranker().run(query, given)
    assert sorted(ids(found["documents"][:2])) == ["d1", "d3"]
    assert ids(found["documents"][2:]) == ["d0", "d2"]
    assert [document.score for document in found["documents"][2:]] == [None, None]
    assert [why(document) for document in found["documents"]] == [None, None, "no_text", "no_text"]
    alone = ranker().run(query, documents("a car", "the hut in the snow"))
    assert [d.score for d in found["documents"][:2]] == [d.score for d in alone["documents"]]
    report = found["report"]
    assert report["unscored"] == ["d0", "d2"]
    assert report["why_unscored"] == {"no_text": 2}
    assert (report["pairs"], report["cached"], report["documents_cut"]) == (2, 0, alone["report"]["documents_cut"])


def test_the_record_says_what_was_not_read_and_nothing_that_is_no_number(ranker):
    [found] = ranker().run(SHORT, documents(""))["documents"]
    assert found.meta["ce_ranker"]["cross_encoder"] == {
        "logit": None,
        "read": [],
        "coverage": 0.0,
        "why_unscored": "no_text",
        "rank": 1,
        "scored": 0,
        "lowest": None,
    }


@pytest.mark.parametrize("query", [SHORT, LONG])
@pytest.mark.parametrize("options", [{}, {"deadline_ms": 1e9}, {"max_tokens_per_query": 1000}, {"cache_size": 9}])
def test_nothing_but_documents_without_text_is_no_error(ranker, query, options):
    made = ranker(**options)
    for _ in range(2):
        found = made.run(query, documents(*NOTHING))
        assert ids(found["documents"]) == ids(documents(*NOTHING))
        assert found["report"]["why_unscored"] == {"no_text": len(NOTHING)}
        assert (found["report"]["pairs"], found["report"]["batches"], found["report"]["cached"]) == (0, 0, 0)


def test_what_stands_around_every_document_is_no_text_of_one(ranker):
    around = {"document_prefix": "passage: ", "document_suffix": " city", "embedding_separator": " . "}
    made = ranker(**around, meta_fields_to_embed=["title", "tags"])
    given = [
        Document(id="nothing", content=""),
        Document(id="empty title", content=None, meta={"title": "", "tags": []}),
        Document(id="blank title", content="\u200b", meta={"title": " \n"}),
        Document(id="title", content="", meta={"title": "the hut"}),
        Document(id="zero", content="", meta={"title": 0}),
        Document(id="text", content="a car"),
    ]
    for query in (SHORT, LONG):
        found = made.run(query, given)
        assert set(found["report"]["scored"]) == {"title", "zero", "text"}
        assert found["report"]["unscored"] == ["nothing", "empty title", "blank title"]
    made = ranker(**around)
    assert made.run(SHORT, given)["report"]["unscored"] == ["nothing", "empty title", "blank title", "title", "zero"]


def test_a_field_without_text_adds_no_separator(monkeypatch):
    made = backend()
    monkeypatch.setattr(loading, "load", lambda name, options: made)
    ranker = CrossEncoderRanker(model="fake", meta_fields_to_embed=["a", "b", "c"], embedding_separator=" | ")
    ranker.run(SHORT, [Document(content="text", meta={"a": "x", "b": " ", "c": []}), Document(content="text")])
    assert sorted(made.seen) == ["text", "x | text"]


def test_top_k_and_threshold_and_scale(ranker):
    given = documents("", "a car", "the hut")
    assert ids(ranker(top_k=2).run(SHORT, given)["documents"]) == ids(ranker().run(SHORT, given[1:])["documents"])
    for threshold in (0.0, -math.inf):
        found = ranker(score_threshold=threshold).run(SHORT, given)["documents"]
        assert "d0" not in ids(found)
    raw = ranker(scale_score=False).run(SHORT, given)["documents"]
    assert raw[-1].score is None
    assert all(document.score == document.meta["ce_ranker"]["cross_encoder"]["logit"] for document in raw)


def test_passages_keep_the_document_without_text(ranker):
    found = ranker(return_passages=True).run(SHORT, documents(None, "a car"))
    assert [(p.meta["parent_id"], p.content, p.score) for p in found["passages"]][1] == ("d0", "", None)


def test_asynchronous_runs_do_the_same(ranker):
    made, given = ranker(), documents("", "a car", "\u200b")
    assert asyncio.run(made.run_async(LONG, given))["documents"] == made.run(LONG, given)["documents"]


def test_a_document_without_text_takes_its_place_of_the_depth(ranker):
    found = ranker(depth=2).run(SHORT, documents("", "a car", "the hut", ""))
    assert ids(found["documents"]) == ["d1", "d0", "d2", "d3"]
    assert [why(document) for document in found["documents"]] == [None, "no_text", "beyond_depth", "beyond_depth"]
    assert found["report"]["why_unscored"] == {"no_text": 1, "beyond_depth": 2}


def test_a_deadline_does_not_hide_that_there_was_no_text():
    texts = ["", "the hut", "", "a car"]
    in_time, _ = scorer().score(SHORT, texts, deadline=time.monotonic() + 1000)
    assert [document.why_unscored for document in in_time.documents] == ["no_text", None, "no_text", None]
    assert not in_time.out_of_time
    late, _ = scorer().score(SHORT, texts, deadline=time.monotonic() - 1)
    assert [document.why_unscored for document in late.documents] == ["deadline"] * 4


def test_a_shared_budget_is_spent_on_documents_with_text():
    texts = ["", "the hut", "\u200b", "a car", "snow in berlin"]
    made, small = backend(), backend()
    whole, _ = scorer(made, max_tokens_per_query=1000).score(SHORT, texts)
    assert logits(whole) == logits(scorer().score(SHORT, texts)[0])
    part, _ = scorer(small, max_tokens_per_query=14).score(SHORT, texts)
    reasons = [document.why_unscored for document in part.documents]
    assert reasons[:3] == ["no_text", None, "no_text"]
    assert set(reasons[3:]) <= {None, "budget"}
    assert "budget" in reasons
    assert sum(map(len, small.fed)) <= 14


def test_many_queries_at_once_and_pairs(monkeypatch):
    requests = [(SHORT, ["", "a car"]), (LONG, [""]), ("  ", ["a car"]), ("berlin", ["snow", "\n"])]
    seen = []
    results, _ = scorer().score_many(requests, progress=lambda done, every: seen.append((done, every)))
    assert [[one.why_unscored for one in result.documents] for result in results] == [
        ["no_text", None],
        ["no_text"],
        ["no_query"],
        [None, "no_text"],
    ]
    assert seen[-1] == (6, 6)
    empty = []
    scorer().score_many([(SHORT, ["", " "])], progress=lambda done, every: empty.append((done, every)))
    assert empty[-1] == (2, 2)
    found = scorer().score_pairs([SHORT, SHORT], ["", "a car"])
    assert np.isnan(found).tolist() == [True, False]


def test_kept_scores_of_documents_without_text_do_not_count_as_kept():
    made = scorer(scores=ScoreCache(10))
    for cached in (0, 1):
        found, _ = made.score(SHORT, ["", "a car", " "])
        assert found.cached == cached
        assert [one.why_unscored for one in found.documents] == ["no_text", None, "no_text"]


@pytest.mark.parametrize("query", NOTHING)
@pytest.mark.parametrize("around", [{}, {"query_prefix": "query: ", "query_suffix": "?"}])
def test_a_query_without_text_leaves_the_documents_in_their_order(ranker, query, around):
    given = documents("the hut", "", "a car")
    found = ranker(**around).run(query, given)
    assert ids(found["documents"]) == ids(given)
    assert [(d.score, why(d)) for d in found["documents"]] == [(None, "no_query")] * 3
    assert found["report"]["why_unscored"] == {"no_query": 3}
    assert found["report"]["pairs"] == 0


def test_a_prompt_of_the_model_is_no_query():
    made = backend()
    made.query_prompt = "query: "
    found, _ = scorer(made).score(" ", ["the hut"])
    assert [one.why_unscored for one in found.documents] == ["no_query"]
    assert made.fed == []


def test_a_document_whose_meta_leaves_no_room_does_not_end_the_query(ranker):
    made = ranker(meta_fields_to_embed=["title"])
    given = [
        Document(id="huge title", content="a car", meta={"title": "the car " * 90}),
        Document(id="title that fits", content="a car", meta={"title": "the hut"}),
    ]
    found = made.run(SHORT, given)
    assert ids(found["documents"]) == ["title that fits", "huge title"]
    assert [why(document) for document in found["documents"]] == [None, "no_room"]
    assert found["report"]["documents_cut"] == 1
    assert found["report"]["coverage"] == {"huge title": 0.0}
    with pytest.raises(ValueError, match="1 of 2 documents do not fit .* huge title"):
        ranker(meta_fields_to_embed=["title"], on_truncation="error").run(SHORT, given)


def test_a_prefix_that_leaves_no_room_is_an_error_that_names_it(ranker):
    with pytest.raises(ValueError, match="document_prefix and document_suffix take .* which leaves none for a text"):
        ranker(document_prefix="the car " * 90).run(SHORT, documents("a car"))
    assert ranker(document_prefix="the car " * 90).run(SHORT, documents(""))["report"]["unscored"] == ["d0"]


def test_a_title_alone_may_fill_the_pair():
    made = scorer(max_length=16)
    title = DocumentText("", header="a b c d e f g h i j k l ")
    [found] = made.score("hut", [title])[0].documents
    assert found.logit is not None
    [found] = made.score("hut", [title._replace(header=title.header + "m ")])[0].documents
    assert found.why_unscored == "no_room"


def test_an_unreadable_document_counts_as_one_that_the_ranker_lacks_in_a_join(ranker):
    first = [
        Document(id=name, content=text, meta=with_record({}, "bm25", {"score": score, "rank": rank}))
        for rank, (name, text, score) in enumerate(
            [("empty", "", 9.0), ("hut", "the hut", 5.0), ("car", "a car", 4.0)], start=1
        )
    ]
    pipeline = Pipeline()
    pipeline.add_component("ranker", ranker())
    pipeline.add_component("joiner", HybridScoreJoiner(weights={"cross_encoder": 0.9, "bm25": 0.1}))
    pipeline.connect("ranker.documents", "joiner.cross_encoder")
    for connected in (False, True):
        if connected:
            pipeline.connect("ranker.report", "joiner.cross_encoder_report")
        found = pipeline.run({"ranker": {"query": SHORT, "documents": first}, "joiner": {"bm25": first}})["joiner"]
        assert set(ids(found["documents"])) == {"empty", "hut", "car"}
        assert all(math.isfinite(document.score) for document in found["documents"])
        inputs = {d.id: d.meta["ce_ranker"]["hybrid"]["inputs"]["cross_encoder"] for d in found["documents"]}
        assert inputs["empty"]["score"] is None
        assert inputs["empty"]["normalized"] == min(inputs[name]["normalized"] for name in ("hut", "car"))
    drop = HybridScoreJoiner(weights={"cross_encoder": 0.9, "bm25": 0.1}, missing="drop")
    ranked = ranker().run(SHORT, first)["documents"]
    assert drop.run(cross_encoder=ranked, bm25=first)["report"]["dropped"] == ["empty"]


def test_a_gate_before_and_a_haystack_joiner_behind_take_it(ranker):
    from haystack.components.joiners import DocumentJoiner

    gate = RerankGate(threshold=math.inf, stage=None)
    routed = gate.run(SHORT, documents("", "a car", "the hut", score=1.0))["rerank"]
    found = ranker().run(SHORT, routed)["documents"]
    assert ids(found)[-1] == "d0"
    assert set(ids(DocumentJoiner().run([found, documents("x")])["documents"])) == {"d0", "d1", "d2"}


def test_nothing_that_came_in_is_changed(ranker):
    given = documents("", "a car", meta={"title": " "})
    before = copy.deepcopy(given)
    ranker(meta_fields_to_embed=["title"]).run(SHORT, given)
    assert given == before


texts = st.one_of(st.sampled_from([*NOTHING, "a car", "the hut", LONG]), st.text(max_size=12))


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(TOKENIZERS), st.sampled_from([SHORT, LONG]), st.lists(texts, max_size=6))
def test_whatever_the_texts_are_each_is_scored_alike_beside_any_others(tokenizer, query, texts):
    made = backend(tokenizer)
    found, cost = scorer(made).score(query, texts)
    alone = [scorer(backend(tokenizer)).score(query, [text])[0].documents[0] for text in texts]
    assert logits(found) == [one.logit for one in alone]
    assert [one.why_unscored for one in found.documents] == [one.why_unscored for one in alone]
    assert all((one.logit is None) == (one.why_unscored == "no_text") for one in found.documents)
    assert all(one.why_unscored is None for text, one in zip(texts, found.documents, strict=True) if text.isalnum())
    assert cost.pairs == len(made.fed)
