"""The ranker as a component: migration, serialisation, bad input, provenance, report."""

import asyncio
import copy
import logging
import math
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from haystack import Document, Pipeline
from haystack.core.super_component import SuperComponent
from haystack.utils import ComponentDevice

from haystack_ce_ranker import CrossEncoderRanker

TYPE = "haystack_integrations.components.rankers.ce_ranker.cross_encoder_ranker.CrossEncoderRanker"
TEXTS = ["a car", "the hut in the snow", "berlin is a city of germany", "paris", "brake"]
LONG = "the car is in the city. " * 40 + "the hut of berlin. " + "a brake is in the snow. " * 40


def documents(texts=TEXTS, **fields):
    return [Document(id=f"d{place}", content=text, **fields) for place, text in enumerate(texts)]


@pytest.fixture(scope="module")
def ranker(tiny_bert):
    made = CrossEncoderRanker(model=tiny_bert, passage_tokens=32, passage_stride=16)
    made.warm_up()
    return made


def test_changing_the_type_line_migrates_a_pipeline(tiny_bert):
    similarity = pytest.importorskip(
        "haystack_integrations.components.rankers.sentence_transformers", reason="needs the extra 'embedders'"
    )
    theirs = similarity.SentenceTransformersSimilarityRanker(
        model=tiny_bert, top_k=3, query_prefix="a ", document_suffix=" city", meta_fields_to_embed=["title"]
    )
    pipeline = Pipeline()
    pipeline.add_component("ranker", theirs)
    described = pipeline.dumps()
    old = f"{type(theirs).__module__}.{type(theirs).__name__}"
    assert old in described
    migrated = Pipeline.loads(described.replace(old, TYPE))
    given = documents(meta={"title": "germany"})
    data = {"ranker": {"query": "the hut", "documents": given}}
    theirs.warm_up()
    expected = pipeline.run(data)["ranker"]["documents"]
    found = migrated.run(data)["ranker"]["documents"]
    assert [d.id for d in found] == [d.id for d in expected]
    assert [d.score for d in found] == pytest.approx([d.score for d in expected], abs=1e-4)


def test_it_round_trips_through_yaml_with_plain_values(tiny_bert):
    for device in (None, ComponentDevice.from_str("cpu")):
        kwargs = {"attn_implementation": "eager"}
        made = CrossEncoderRanker(model=tiny_bert, device=device, model_kwargs=kwargs, name="second", top_k=3)
        pipeline = Pipeline()
        pipeline.add_component("ranker", made)
        described = pipeline.dumps()
        assert Pipeline.loads(described).dumps() == described
        data = made.to_dict()
        before = copy.deepcopy(data)
        again = CrossEncoderRanker.from_dict(data)
        assert data == before
        assert again.to_dict() == before
        assert (data["init_parameters"]["device"] is None) == (device is None)
        assert kwargs == {"attn_implementation": "eager"}


def test_a_ranking_says_what_was_read_and_changes_no_input(ranker):
    given = [*documents(), Document(id="long", content=LONG, meta={"ce_ranker": {"bm25": {"score": 2.0, "rank": 1}}})]
    before = copy.deepcopy(given)
    found = ranker.run("the hut of berlin", given)
    assert given == before
    ranked, report = found["documents"], found["report"]
    assert [d.score for d in ranked] == sorted((d.score for d in ranked), reverse=True)
    assert set(report["scored"]) == {d.id for d in given}
    assert report["documents"] == 6
    assert report["tokens"] > report["pairs"] >= 6
    assert 1 <= report["batches"] <= report["pairs"]
    assert 0 <= report["padding_share"] < 1
    assert set(report["seconds"]) == {"tokenise", "select", "score"}
    assert report["documents_cut"] == 1
    assert report["tokens_unread"] > 0
    assert report["query_tokens_cut"] == 0
    assert list(report["coverage"]) == ["long"]
    for rank, document in enumerate(ranked, start=1):
        note = document.meta["ce_ranker"]["cross_encoder"]
        assert note["rank"] == rank
        assert document.score == pytest.approx(1 / (1 + math.exp(-note["logit"])))
        assert note["logit"] == report["scored"][document.id]
        assert note["scored"] == 6
        assert note["lowest"] == min(report["scored"].values())
    long = next(d for d in ranked if d.id == "long")
    assert long.meta["ce_ranker"]["bm25"] == {"score": 2.0, "rank": 1}
    note = long.meta["ce_ranker"]["cross_encoder"]
    assert 0 < note["coverage"] < 1
    assert any("berlin" in LONG[part["start"] : part["end"]] for part in note["read"])


def test_passages_hold_only_what_the_model_liked_best(tiny_bert):
    made = CrossEncoderRanker(model=tiny_bert, return_passages=True, passage_tokens=32, passage_stride=16)
    given = [Document(id="long", content=LONG, meta={"page": 3}), Document(id="none", content=None)]
    found = made.run("the hut of berlin", given)
    passage = next(p for p in found["passages"] if p.meta["parent_id"] == "long")
    assert passage.content == LONG[passage.meta["passage_start"] : passage.meta["passage_end"]]
    assert len(passage.content) < len(LONG) / 5
    assert passage.meta["page"] == 3
    assert len(found["passages"]) == 2


def test_top_k_threshold_and_scale_at_run_time(ranker):
    given = documents()
    raw = ranker.run("the hut", given, scale_score=False)["documents"]
    assert [d.score for d in raw] == [d.meta["ce_ranker"]["cross_encoder"]["logit"] for d in raw]
    assert len(ranker.run("the hut", given, top_k=2)["documents"]) == 2
    middle = raw[2].score
    kept = ranker.run("the hut", given, scale_score=False, score_threshold=middle)["documents"]
    assert [d.id for d in kept] == [d.id for d in raw[:3]]


def test_ties_keep_the_incoming_order_and_the_better_duplicate_stays(ranker):
    same = [Document(id=name, content="the hut") for name in "cab"]
    assert [d.id for d in ranker.run("the hut", same)["documents"]] == ["c", "a", "b"]
    twice = [
        Document(id="x", content="low", score=None),
        Document(id="x", content="high", score=0.5),
        Document(id="x", content="nan", score=float("nan")),
    ]
    found = ranker.run("the hut", twice)
    assert [d.content for d in found["documents"]] == ["high"]
    assert found["report"]["duplicates"] == 2


@pytest.mark.parametrize("content", [None, "", "  \n"])
def test_documents_without_text_are_scored_as_empty(ranker, content):
    (found,) = ranker.run("the hut", [Document(id="x", content=content)])["documents"]
    assert found.meta["ce_ranker"]["cross_encoder"]["coverage"] == 1.0


def test_no_documents_and_an_empty_query(ranker):
    found = ranker.run("the hut", [])
    assert found["documents"] == []
    assert found["report"]["scored"] == {}
    assert len(ranker.run("", documents())["documents"]) == 5


def test_scores_that_come_in_as_nan_do_not_matter(ranker):
    given = [Document(id=str(n), content=t, score=float("nan")) for n, t in enumerate(TEXTS)]
    assert all(math.isfinite(d.score) for d in ranker.run("the hut", given)["documents"])


@pytest.mark.parametrize("top_k", [0, -1, True, 1.5])
def test_top_k_must_be_a_positive_number(ranker, top_k):
    with pytest.raises(ValueError, match="top_k must be > 0"):
        CrossEncoderRanker(top_k=top_k)
    with pytest.raises(ValueError, match="top_k must be > 0"):
        ranker.run("q", [], top_k=top_k)


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"backend": "jax"}, "backend must be one of"),
        ({"on_truncation": "cut"}, "on_truncation must be one of"),
        ({"name": ""}, "name must not be empty"),
        ({"batch_size": 0}, "batch_size must be >= 1"),
        ({"batch_tokens": 0}, "batch_tokens must be >= 1"),
        ({"long_documents": "tail"}, "long_documents must be one of"),
    ],
)
def test_parameters_out_of_range_are_errors(parameters, message):
    with pytest.raises(ValueError, match=message):
        CrossEncoderRanker(**parameters)


def test_a_query_must_be_a_text(ranker):
    with pytest.raises(ValueError, match="query must be a text, but got None"):
        ranker.run(None, [])


def test_a_query_longer_than_the_model_is_reported(ranker):
    report = ranker.run("the hut " * 200, documents([LONG]))["report"]
    assert 0 < report["query_tokens_cut"] < report["query_tokens"]


def test_truncation_can_warn_or_be_refused(tiny_bert, caplog):
    with caplog.at_level(logging.WARNING):
        CrossEncoderRanker(model=tiny_bert, on_truncation="warn").run("the hut", documents([LONG, "a"]))
    assert "1 of 2 documents were not read whole, 0 of them not at all" in caplog.text
    strict = CrossEncoderRanker(model=tiny_bert, on_truncation="error")
    with pytest.raises(ValueError, match=r"1 of 2 documents do not fit .* d0 "):
        strict.run("the hut", documents([LONG, "a"]))
    assert len(strict.run("the hut", documents(["a"]))["documents"]) == 1


def test_embedded_fields_that_leave_no_room_are_an_error(tiny_bert):
    made = CrossEncoderRanker(model=tiny_bert, meta_fields_to_embed=["title"])
    with pytest.raises(ValueError, match="meta_fields_to_embed"):
        made.run("q", [Document(content="a", meta={"title": "the car " * 90})])


def test_a_shared_budget_leaves_the_rest_below_in_order(tiny_bert):
    made = CrossEncoderRanker(model=tiny_bert, max_tokens_per_query=90)
    found = made.run("the hut", documents([LONG] * 5))
    assert found["report"]["tokens"] <= 90
    unscored = found["report"]["unscored"]
    assert unscored
    assert [d.id for d in found["documents"]][-len(unscored) :] == unscored
    assert all(d.score is None for d in found["documents"] if d.id in unscored)


def test_errors_of_loading_are_clear(monkeypatch, two_label_bert, tmp_path):
    with pytest.raises(OSError, match="no/such-model"):
        CrossEncoderRanker(model="no/such-model").warm_up()
    with pytest.raises(ValueError, match="2 output labels"):
        CrossEncoderRanker(model=two_label_bert).warm_up()
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"\[onnx\]"):
        CrossEncoderRanker(model=str(tmp_path), backend="onnx").warm_up()


def test_async_threads_and_copies_give_the_same(ranker):
    given = documents()

    def ids(found):
        return [d.id for d in found["documents"]]

    expected = ids(ranker.run("the hut", given))
    assert ids(asyncio.run(ranker.run_async("the hut", given))) == expected
    with ThreadPoolExecutor(8) as pool:
        assert all(ids(found) == expected for found in pool.map(lambda _: ranker.run("the hut", given), range(24)))
    assert ids(copy.deepcopy(ranker).run("the hut", given)) == expected


def test_two_rankers_keep_their_own_records_inside_a_super_component(tiny_bert):
    pipeline = Pipeline()
    pipeline.add_component("one", CrossEncoderRanker(model=tiny_bert, name="one"))
    pipeline.add_component("two", CrossEncoderRanker(model=tiny_bert, name="two", top_k=2))
    pipeline.connect("one.documents", "two.documents")
    both = SuperComponent(
        pipeline,
        input_mapping={"query": ["one.query", "two.query"], "documents": ["one.documents"]},
        output_mapping={"two.documents": "documents"},
    )
    found = both.run(query="the hut", documents=documents())["documents"]
    assert len(found) == 2
    assert set(found[0].meta["ce_ranker"]) == {"one", "two"}
