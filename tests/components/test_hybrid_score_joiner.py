"""The joiner in and out of pipelines: inputs by name, where scores come from, cut lists, what each document keeps."""

import asyncio
import copy
import itertools
import logging
import math
import pickle
from typing import Any

import numpy as np
import pytest
from haystack import Document, Pipeline, SuperComponent, component
from haystack.components.joiners import DocumentJoiner
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from hypothesis import given, settings
from hypothesis import strategies as st

from haystack_ce_ranker import HybridScoreJoiner as LazyJoiner
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever
from haystack_integrations.components.routers.ce_ranker import RerankGate

WEIGHTS = {"cross_encoder": 0.8, "bm25": 0.2}


def documents(scores: dict[str, float | None]) -> list[Document]:
    return [Document(id=i, content=f"text of {i}", score=score) for i, score in scores.items()]


def retrieved(scores: dict[str, float]) -> list[Document]:
    """As BM25Retriever returns them."""
    return [
        Document(
            id=i, content=f"text of {i}", score=score, meta={"ce_ranker": {"bm25": {"score": score, "rank": rank}}}
        )
        for rank, (i, score) in enumerate(scores.items(), start=1)
    ]


def reranked(candidates: list[Document], logits: dict[str, float], top_k: int, name: str = "cross_encoder") -> Any:
    """As CrossEncoderRanker returns them: probabilities as scores, logits in the records, a report of all it scored."""
    best = sorted(candidates, key=lambda document: -logits[document.id])
    kept = [
        Document(
            id=document.id,
            content=document.content,
            score=1 / (1 + math.exp(-logits[document.id])),
            meta={
                **document.meta,
                "ce_ranker": {
                    **document.meta.get("ce_ranker", {}),
                    name: {
                        "logit": logits[document.id],
                        "rank": rank,
                        "scored": len(candidates),
                        "lowest": min(logits[other.id] for other in candidates),
                    },
                },
            },
        )
        for rank, document in enumerate(best[:top_k], start=1)
    ]
    return {"documents": kept, "report": {"name": name, "scored": {d.id: logits[d.id] for d in candidates}}}


def ids(result: dict[str, Any]) -> list[str]:
    return [document.id for document in result["documents"]]


def noted(result: dict[str, Any], identifier: str, key: str = "hybrid") -> dict[str, Any]:
    return next(d.meta["ce_ranker"][key] for d in result["documents"] if d.id == identifier)


def test_the_package_offers_the_same_class() -> None:
    assert LazyJoiner is HybridScoreJoiner


def test_joins_on_logits_even_where_the_score_is_a_probability() -> None:
    found = retrieved({"a": 5.0, "b": 9.0})
    ranked = reranked(found, {"a": 9.0, "b": 7.0}, top_k=2)["documents"]
    assert ranked[0].score - ranked[1].score < 0.001
    result = HybridScoreJoiner(WEIGHTS).run(cross_encoder=ranked, bm25=found)
    assert ids(result) == ["a", "b"]
    assert result["documents"][0].score == pytest.approx(0.8 * 9 + 0.2 * 5 * math.log(6))


def test_each_document_keeps_how_its_score_came_about_and_what_others_noted() -> None:
    found = retrieved({"b": 9.0, "a": 5.0, "c": 1.0})
    ranked = reranked(found, {"a": 3.0, "b": 1.0, "c": -4.0}, top_k=2)["documents"]
    result = HybridScoreJoiner(WEIGHTS, normalize="none").run(cross_encoder=ranked, bm25=found)
    assert noted(result, "a") == {
        "score": pytest.approx(3.4),
        "rank": 1,
        "inputs": {
            "bm25": {
                "score": 5.0,
                "rank": 2,
                "normalized": 5.0,
                "weight": pytest.approx(0.2),
                "contribution": pytest.approx(1.0),
            },
            "cross_encoder": {
                "score": 3.0,
                "rank": 1,
                "normalized": 3.0,
                "weight": pytest.approx(0.8),
                "contribution": pytest.approx(2.4),
            },
        },
    }
    assert noted(result, "c")["inputs"]["cross_encoder"] == {
        "score": None,
        "rank": None,
        "normalized": -4.0,
        "weight": pytest.approx(0.8),
        "contribution": pytest.approx(-3.2),
    }
    for document in result["documents"]:
        contributions = [value["contribution"] for value in noted(result, document.id)["inputs"].values()]
        assert math.fsum(contributions) == document.score
        assert type(document.score) is float
        assert all(type(value) is float for value in contributions)
        assert noted(result, document.id, "bm25")["score"] in (9.0, 5.0, 1.0)
    assert noted(result, "a", "cross_encoder")["logit"] == 3.0


CANDIDATES = {f"d{i:02d}": 20.0 - 0.1 * i for i in range(50)}
LOGITS = {identifier: 8.0 if i >= 40 else -10.0 - 0.01 * i for i, identifier in enumerate(CANDIDATES)}
LOGITS |= {f"d{i}": 8.0 - 0.5 * (i - 40) for i in range(40, 50)}


def test_the_trap_what_the_ranker_cut_does_not_come_back_with_the_tenth_best_logit() -> None:
    """The ranker returns 10 of 50; BM25 likes the 40 that it rejected. Neither way of telling lets them overtake."""
    found = retrieved(CANDIDATES)
    answer = reranked(found, LOGITS, top_k=10)
    joiner = HybridScoreJoiner(WEIGHTS)
    truth = joiner.run(cross_encoder=reranked(found, LOGITS, top_k=50)["documents"], bm25=found)
    by_record = joiner.run(cross_encoder=answer["documents"], bm25=found)
    by_report = joiner.run(cross_encoder=answer["documents"], cross_encoder_report=answer["report"], bm25=found)
    kept = {f"d{i}" for i in range(40, 50)}
    assert set(ids(truth)[:10]) == set(ids(by_record)[:10]) == set(ids(by_report)[:10]) == kept
    assert ids(by_report) == ids(truth)
    assert [d.score for d in by_report["documents"]] == [d.score for d in truth["documents"]]
    assert noted(by_report, "d05")["inputs"]["cross_encoder"]["score"] == LOGITS["d05"]
    assert noted(by_report, "d05")["inputs"]["cross_encoder"]["rank"] == 16
    assert noted(by_record, "d05")["inputs"]["cross_encoder"]["normalized"] == min(LOGITS.values())
    assert by_report["report"]["inputs"]["cross_encoder"]["known"] == 50
    # What a joiner without either does: the lowest returned logit for what was rejected.
    bare = [Document(id=d.id, score=LOGITS[d.id]) for d in answer["documents"]]
    naive = joiner.run(cross_encoder=bare, bm25=found)
    assert set(ids(naive)[:10]) != kept


def test_a_foreign_ranker_whose_list_looks_cut_is_warned_about_once(caplog: pytest.LogCaptureFixture) -> None:
    found = retrieved(CANDIDATES)
    bare = [Document(id=d.id, score=LOGITS[d.id]) for d in reranked(found, LOGITS, 10)["documents"]]
    joiner = HybridScoreJoiner(WEIGHTS)
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            joiner.run(cross_encoder=bare, bm25=found)
        assert caplog.messages == []  # twice may be chance
        for _ in range(3):
            joiner.run(cross_encoder=bare, bm25=found)
        answer = reranked(found, LOGITS, 10)
        HybridScoreJoiner(WEIGHTS).run(cross_encoder=answer["documents"], bm25=found)
    assert sum("top_k cut the rest" in message for message in caplog.messages) == 1


def test_a_list_that_is_short_because_little_matched_is_not_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    found = documents(dict(CANDIDATES))
    joiner = HybridScoreJoiner({"bm25": 0.8, "embedding": 0.2})
    with caplog.at_level(logging.WARNING):
        for count in (7, 3, 3, 3, 3, 3):
            joiner.run(bm25=found[:count], embedding=found)
    assert caplog.messages == []


def test_reports_alone_score_the_documents_of_other_inputs() -> None:
    found = retrieved({"a": 5.0, "b": 9.0})
    report = reranked(found, {"a": 9.0, "b": -7.0}, top_k=1)["report"]
    assert ids(HybridScoreJoiner(WEIGHTS).run(bm25=found, cross_encoder_report=report)) == ["a", "b"]


def test_documents_that_the_ranker_left_unscored_are_not_taken_by_their_probability_or_bm25_score() -> None:
    found = retrieved({"a": 5.0, "b": 4.0, "c": 3.0})
    scored = reranked(found[:2], {"a": -1.0, "b": 2.0}, top_k=2)["documents"]
    result = HybridScoreJoiner(WEIGHTS).run(cross_encoder=[*scored, found[2]], bm25=found)
    assert noted(result, "c")["inputs"]["cross_encoder"]["score"] is None
    assert noted(result, "c")["inputs"]["cross_encoder"]["normalized"] == -1.0
    assert ids(result) == ["b", "a", "c"]


def test_copies_of_a_document_are_merged_without_erasing() -> None:
    one = Document(
        id="a", content="x", score=3.0, meta={"from": "bm25", "page": 1, "ce_ranker": {"bm25": {"score": 3.0}}}
    )
    stale = {"score": 1.0}
    two = Document(
        id="a",
        content="x",
        score=0.9,
        meta={
            "from": "ranker",
            "ce_ranker": {"bm25": stale, "embedding": {"score": 0.5}, "cross_encoder": {"logit": 2.0}},
        },
    )
    result = HybridScoreJoiner(WEIGHTS).run(cross_encoder=[two], bm25=[one])
    meta = result["documents"][0].meta
    assert set(meta["ce_ranker"]) == {"bm25", "embedding", "cross_encoder", "hybrid"}
    assert meta["ce_ranker"]["bm25"] == {"score": 3.0}  # that input's own copy is right about it
    assert (meta["from"], meta["page"]) == ("ranker", 1)
    assert set(one.meta["ce_ranker"]) == {"bm25"}
    assert set(two.meta["ce_ranker"]) == {"bm25", "embedding", "cross_encoder"}
    assert (one.score, two.score) == (3.0, 0.9)


def test_of_two_documents_with_one_id_in_a_list_the_higher_counts_and_its_content_comes_back() -> None:
    pair = [Document(id="a", content="low", score=1.0), Document(id="a", content="high", score=4.0)]
    result = HybridScoreJoiner({"bm25": 1.0}, normalize="none").run(bm25=pair)
    assert [(d.content, d.score) for d in result["documents"]] == [("high", 4.0)]
    assert result["report"]["inputs"]["bm25"]["duplicates"] == 1


def test_every_copy_is_counted() -> None:
    pairs = [
        Document(id=name, content=name, score=score) for name, score in zip("xyxy", (1.0, 2.0, 3.0, None), strict=True)
    ]
    assert HybridScoreJoiner({"a": 1.0}).run(a=pairs)["report"]["inputs"]["a"]["duplicates"] == 2


def test_copies_are_counted_where_the_scores_come_from_a_report() -> None:
    twice = [Document(id=name, content=name, score=0.5) for name in "aba"]
    report = {"scored": {"a": 2.0, "b": 1.0, "c": -3.0}}
    result = HybridScoreJoiner(WEIGHTS).run(cross_encoder=twice, cross_encoder_report=report)
    entry = result["report"]["inputs"]["cross_encoder"]
    assert (entry["documents"], entry["known"], entry["duplicates"]) == (3, 3, 1)


def test_two_joiners_in_a_row_keep_both_records() -> None:
    first = HybridScoreJoiner({"bm25": 0.5, "embedding": 0.5}, normalize="none", name="first_stage")
    second = HybridScoreJoiner({"cross_encoder": 0.5, "first_stage": 0.5})
    middle = first.run(bm25=documents({"a": 2.0, "b": 1.0}), embedding=documents({"b": 3.0}))["documents"]
    result = second.run(first_stage=middle, cross_encoder=documents({"a": 5.0, "b": 1.0}))
    assert noted(result, "b", "first_stage")["score"] == 2.0
    assert noted(result, "b")["inputs"]["first_stage"]["score"] == 2.0


def test_a_second_ranker_and_a_bi_encoder_join_by_their_own_logits_and_reports() -> None:
    found = retrieved({"a": 5.0, "b": 4.0, "c": 3.0, "d": 2.0})
    first = reranked(found, {"a": 1.0, "b": 2.0, "c": 3.0, "d": 9.0}, top_k=2)
    second = reranked(found, {"a": 7.0, "b": -1.0, "c": -2.0, "d": -3.0}, top_k=1, name="large")
    joiner = HybridScoreJoiner(
        {"cross_encoder": 0.4, "large": 0.3, "bm25": 0.2, "embedding": 0.1},
        normalize={"embedding": {"name": "theoretical", "low": 0.0, "high": 0.1}},
    )
    result = joiner.run(
        cross_encoder=first["documents"],
        cross_encoder_report=first["report"],
        large=second["documents"],
        large_report=second["report"],
        bm25=found,
        embedding=documents({"b": 0.8, "e": 0.7}),
    )
    expected = {
        "a": 0.4 * 1.0 + 0.3 * 7.0 + 0.2 * 5.0 + 0.1 * 7.0,  # what the bi-encoder lacks counts as its lowest
        "b": 0.4 * 2.0 + 0.3 * -1.0 + 0.2 * 4.0 + 0.1 * 8.0,
        "d": 0.4 * 9.0 + 0.3 * -3.0 + 0.2 * 2.0 + 0.1 * 7.0,
        "e": 0.4 * 1.0 + 0.3 * -3.0 + 0.2 * 2.0 + 0.1 * 7.0,
    }
    scores = {document.id: document.score for document in result["documents"]}
    assert {name: scores[name] for name in expected} == pytest.approx(expected)
    for document in result["documents"]:
        inputs = noted(result, document.id)["inputs"]
        assert set(inputs) == {"cross_encoder", "large", "bm25", "embedding"}
        assert math.fsum(value["contribution"] for value in inputs.values()) == document.score
    assert noted(result, "d")["inputs"]["large"]["score"] == -3.0  # cut by its top_k, known from its report


@component
class Source:
    """Gives fixed documents."""

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores = scores

    @component.output_types(documents=list[Document])
    def run(self, query: str) -> dict[str, Any]:
        return {"documents": documents(dict(self.scores))}


def test_neither_order_of_components_nor_their_names_matter() -> None:
    lists = {
        "bm25": {"a": 3.0, "b": 2.0, "c": 1.0},
        "cross_encoder": {"b": 4.0, "d": 2.5},
        "embedding": {"c": 0.9, "a": 0.1},
    }
    weights = {"bm25": 0.2, "cross_encoder": 0.7, "embedding": 0.1}
    seen = set()
    for order in itertools.permutations(lists):
        for names in (("x", "y", "z"), ("z", "y", "x")):
            pipeline = Pipeline()
            pipeline.add_component("joiner", HybridScoreJoiner({name: weights[name] for name in order}))
            for sender, name in zip(names, order, strict=True):
                pipeline.add_component(sender, Source(lists[name]))
                pipeline.connect(f"{sender}.documents", f"joiner.{name}")
            result = pipeline.run({sender: {"query": "q"} for sender in names})["joiner"]
            seen.add(tuple((d.id, d.score) for d in result["documents"]))
    assert len(seen) == 1


@component
class Skip:
    """Sends nothing one way or the other."""

    @component.output_types(ranked=list[Document], unranked=list[Document])
    def run(self, documents: list[Document], rank: bool) -> dict[str, Any]:
        return {"ranked" if rank else "unranked": documents}


@component
class Constant:
    @component.output_types(documents=list[Document], report=dict[str, Any])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        return reranked(documents, {d.id: float(i) for i, d in enumerate(documents)}, top_k=1)


@pytest.mark.parametrize(("rank", "expected"), [(True, ["c", "b", "a"]), (False, ["a", "b", "c"])])
def test_a_branch_that_a_router_skipped_is_not_an_error(rank: bool, expected: list[str]) -> None:
    pipeline = Pipeline()
    pipeline.add_component("bm25", Source({"a": 1.2, "b": 1.1, "c": 1.0}))
    pipeline.add_component("gate", Skip())
    pipeline.add_component("ranker", Constant())
    pipeline.add_component("joiner", HybridScoreJoiner(WEIGHTS))
    pipeline.connect("bm25.documents", "gate.documents")
    pipeline.connect("bm25.documents", "joiner.bm25")
    pipeline.connect("gate.ranked", "ranker.documents")
    pipeline.connect("ranker.documents", "joiner.cross_encoder")
    pipeline.connect("ranker.report", "joiner.cross_encoder_report")
    result = pipeline.run({"bm25": {"query": "q"}, "gate": {"rank": rank}})["joiner"]
    assert ids(result) == expected
    assert result["report"]["absent"] == ([] if rank else ["cross_encoder"])


def test_nothing_arriving_gives_nothing() -> None:
    joiner = HybridScoreJoiner(WEIGHTS)
    for lists in ({}, {"bm25": None, "cross_encoder": None}, {"bm25": [], "cross_encoder": []}):
        result = joiner.run(**lists)
        assert result["documents"] == []
        assert result["report"]["absent"] == ["bm25", "cross_encoder"]


def test_weights_top_k_and_threshold_at_run_time() -> None:
    joiner = HybridScoreJoiner(WEIGHTS, top_k=1, score_threshold=100.0)
    lists = {"bm25": documents({"a": 9.0, "b": 0.5}), "cross_encoder": documents({"b": 3.0, "a": 1.0})}
    assert joiner.run(**lists)["report"] | {"inputs": {}} == {
        "inputs": {},
        "absent": [],
        "dropped": [],
        "below_threshold": 2,
        "cut": 0,
        "adapted": None,
    }
    result = joiner.run(weights={"cross_encoder": 1.0, "bm25": 0.0}, score_threshold=0.0, **lists)
    assert ids(result) == ["b"]
    assert result["report"]["cut"] == 1
    assert ids(joiner.run(weights={"cross_encoder": 0, "bm25": 1}, top_k=2, score_threshold=0.5, **lists)) == ["a", "b"]
    assert joiner.weights == WEIGHTS
    assert ids(joiner.run(top_k=5, score_threshold=0.0, **lists)) == ["a", "b"]


def test_dropped_documents_are_named() -> None:
    result = HybridScoreJoiner(WEIGHTS, missing="drop").run(
        bm25=documents({"a": 1.0, "b": 2.0}), cross_encoder=documents({"a": 1.0})
    )
    assert ids(result) == ["a"]
    assert result["report"]["dropped"] == ["b"]


@pytest.mark.parametrize(
    "name", ["weights", "top_k", "score_threshold", "self", "bm25_report", "hybrid", "my-input", "", "class", "2nd", 3]
)
def test_reserved_or_impossible_input_names_give_a_clear_error(name: Any) -> None:
    with pytest.raises(ValueError, match=rf"weights: .*{name!r}"):
        HybridScoreJoiner({name: 1.0, "bm25": 0.5})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weights": {}}, "weights must map"),
        ({"weights": {"a": -0.1}}, "weight of 'a' must be a finite number >= 0, but got -0.1"),
        ({"method": "rrf"}, "method must be one of 'weighted_sum', 'reciprocal_rank', but got 'rrf'"),
        ({"missing": None}, "missing must be one of 'min', 'zero', 'drop', 'impute', but got None"),
        ({"normalize": "l2"}, "normalize must be one of 'none', .*, but got 'l2'"),
        ({"normalize": {"other": "none"}}, "normalize names other, but the inputs are bm25, cross_encoder"),
        ({"normalize": {"bm25": "l2"}}, r"normalize\['bm25'\] must be one of"),
        ({"normalize": 3}, "normalize must be a name or"),
        ({"top_k": 0}, "top_k must be a whole number >= 1 or None, but got 0"),
        ({"top_k": True}, "but got True"),
        ({"name": None}, "name must be a text, but got None"),
        ({"score_threshold": float("nan")}, "score_threshold must be a number or None, but got nan"),
        ({"rank_constant": -1}, "rank_constant must be a finite number >= 0, but got -1"),
        ({"adapt_weights": "true"}, "adapt_weights must be True or False, but got 'true'"),
        ({"adapt_weights": {"by": "x"}}, "adapt_weights: by must be one of 'cross_encoder', 'bm25', but got 'x'"),
        ({"adapt_weights": True, "method": "reciprocal_rank"}, "adapt_weights needs scores: .*'reciprocal_rank'"),
        ({"adapt_weights": True, "normalize": "z_score"}, "normalize names 'z_score' for 'cross_encoder': omit normal"),
        ({"adapt_weights": True, "normalize": {"bm25": "auto"}}, "normalize names 'none' for 'cross_encoder'"),
    ],
)
def test_wrong_parameters_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        HybridScoreJoiner(**{"weights": WEIGHTS, **arguments})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"top_k": -1}, ValueError, "top_k must be a whole number >= 1, but got -1"),
        ({"score_threshold": "1"}, ValueError, "but got '1'"),
        ({"weights": {"bm25": 1.0}}, ValueError, "the inputs are bm25, cross_encoder, but got weights for bm25"),
        ({"embedding": []}, ValueError, "'embedding' is not an input of this joiner; its inputs: bm25, cross_encoder"),
        ({"bm25": "text"}, TypeError, "bm25 must be a list of Documents, but got 'text'"),
        ({"bm25": [{"id": "a"}]}, TypeError, "bm25 must be a list of Documents"),
        ({"bm25_report": {"name": "x"}}, TypeError, "bm25_report must be the report of a CrossEncoderRanker"),
    ],
)
def test_wrong_input_at_run_time_is_named(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        HybridScoreJoiner(WEIGHTS).run(**arguments)


def test_odd_scores_are_survived_and_reported() -> None:
    result = HybridScoreJoiner(WEIGHTS).run(
        bm25=documents({"a": None, "b": float("nan"), "c": 0.0, "d": float("inf"), "e": 2.0}),
        cross_encoder=documents({"a": None, "b": None}),
    )
    assert result["report"]["inputs"]["bm25"]["unusable"] == 3
    assert result["report"]["inputs"]["bm25"]["known"] == 3  # infinity is the highest score
    assert result["report"]["inputs"]["cross_encoder"]["assumed"] == "no scores"
    assert {d.id for d in result["documents"]} == set("abcde")
    assert all(d.score is not None and math.isfinite(d.score) for d in result["documents"])


LOGISTIC = {"name": "logistic", "slope": 0.5, "intercept": -1.0}


def test_probabilities_that_were_fitted_on_another_precision_raise_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    fitted = {**LOGISTIC, "fitted_on": "minilm, float32, best_passages, 512 tokens"}
    joiner = HybridScoreJoiner({"ce": 1.0, "bm25": 0.0}, normalize={"ce": fitted})
    assert HybridScoreJoiner.from_dict(joiner.to_dict()).normalizations["ce"].fitted_on == fitted["fitted_on"]
    told = {"model": "/models/minilm", "strategy": "best_passages", "max_length": 512, "scored": {"a": 1.0}}
    documents = [Document(id="a", score=1.0)]
    with caplog.at_level(logging.WARNING):
        joiner.run(ce=documents, ce_report={**told, "dtype": "float32"})
        joiner.run(ce=documents, ce_report={"scored": {"a": 1.0}})  # it does not say what scored it
        joiner.run(ce=documents)
        assert caplog.messages == []
        for _ in range(2):
            found = joiner.run(ce=documents, ce_report={**told, "dtype": "int8"})["documents"]
    assert len(caplog.messages) == 1
    assert "'ce' were fitted on minilm, float32, best_passages, 512 tokens" in caplog.messages[0]
    assert "minilm, int8, best_passages, 512 tokens has scored it" in caplog.messages[0]
    assert "tune --probabilities" in caplog.messages[0]
    assert found[0].score == pytest.approx(1 / (1 + math.exp(0.5)))
    with pytest.raises(ValueError, match="fitted_on must be a text or None, but got 8"):
        HybridScoreJoiner({"ce": 1.0}, normalize={**LOGISTIC, "fitted_on": 8})
    with pytest.raises(ValueError, match="'log' has no parameter 'fitted_on'"):
        HybridScoreJoiner({"ce": 1.0}, normalize={"name": "log", "fitted_on": "minilm"})


@pytest.mark.parametrize("changed", [{"strategy": "head"}, {"model": "/models/other"}, {"max_length": 256}])
def test_another_model_and_another_reading_are_another_scorer(
    changed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    fitted = {**LOGISTIC, "fitted_on": "minilm, int8, best_passages, 512 tokens"}
    told = {"model": "minilm", "dtype": "int8", "strategy": "best_passages", "max_length": 512, "scored": {"a": 1.0}}
    with caplog.at_level(logging.WARNING):
        HybridScoreJoiner({"ce": 1.0}, normalize=fitted).run(ce=[Document(id="a")], ce_report=told | changed)
    assert len(caplog.messages) == 1


def test_probabilities_below_the_threshold_for_no_answer_leave_no_document() -> None:
    joiner = HybridScoreJoiner({"ce": 1.0}, normalize={**LOGISTIC, "best": 0.2}, score_threshold=0.5)
    assert joiner.run(ce=[Document(id="a", score=1.0), Document(id="b", score=-3.0)])["documents"] == []
    kept = joiner.run(ce=[Document(id="a", score=4.0), Document(id="b", score=-3.0)])["documents"]
    assert [document.id for document in kept] == ["a"]
    assert kept[0].score == pytest.approx(1 / (1 + math.exp(-(0.5 * 4 + 0.2 * 4 - 1))))


def test_saturated_probabilities_raise_one_warning_that_says_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    saturated = documents({"a": 0.9999, "b": 0.9991, "c": 0.999, "d": 0.3, "e": 0.0001})
    joiner = HybridScoreJoiner(WEIGHTS, normalize={"bm25": "log"})
    undone = HybridScoreJoiner(WEIGHTS, normalize={"cross_encoder": "logit"})
    with caplog.at_level(logging.WARNING):
        undone.run(cross_encoder=saturated, bm25=documents({"a": 1.0}))
        HybridScoreJoiner(WEIGHTS).run(cross_encoder=saturated, bm25=documents({"a": 1.0}))  # undoes it itself
        assert caplog.messages == []
        joiner.run(cross_encoder=saturated, bm25=documents({"a": 1.0}))
        joiner.run(cross_encoder=saturated, bm25=documents({"a": 1.0}))
    assert len(caplog.messages) == 1
    assert 'normalize={"cross_encoder": "logit"}' in caplog.messages[0]
    logit = noted(undone.run(cross_encoder=saturated), "a")["inputs"]["cross_encoder"]["normalized"]
    assert logit == pytest.approx(math.log(0.9999 / 0.0001))


def test_cosines_beside_logits_are_warned_about_once_unless_they_are_brought_to_scale(
    caplog: pytest.LogCaptureFixture,
) -> None:
    weights = {"cross_encoder": 0.8, "embedding": 0.2}
    scale = {"name": "theoretical", "low": 0.0, "high": 0.05}
    lists = {
        "cross_encoder": documents({f"d{i}": 9.0 - 3 * i for i in range(7)}),
        "embedding": documents({f"d{i}": 0.7 - 0.05 * i for i in range(7)}),
    }
    joiner = HybridScoreJoiner(weights, normalize="none")
    scaled = HybridScoreJoiner(weights, normalize={"embedding": scale})
    with caplog.at_level(logging.WARNING):
        result = scaled.run(**lists)
        HybridScoreJoiner(weights).run(**lists)  # brings them to scale itself
        assert caplog.messages == []
        joiner.run(**lists)
        joiner.run(**lists)
    assert len(caplog.messages) == 1
    assert "'embedding' counts for next to nothing" in caplog.messages[0]
    assert 'normalize={"embedding": "auto"}' in caplog.messages[0]
    assert noted(result, "d0")["inputs"]["embedding"]["normalized"] == pytest.approx(14.0)


@pytest.mark.parametrize("method", ["weighted_sum", "reciprocal_rank"])
def test_a_list_whose_scores_rise_is_warned_about_once_as_distances_do(
    method: str, caplog: pytest.LogCaptureFixture
) -> None:
    distances = documents({f"d{i}": 0.2 + 0.1 * i for i in range(6)})
    joiner = HybridScoreJoiner({"dense": 0.5, "bm25": 0.5}, method=method)
    with caplog.at_level(logging.WARNING):
        joiner.run(dense=distances[:4], bm25=retrieved({"d0": 3.0}))
        joiner.run(dense=[*distances, *distances[:1]], bm25=retrieved({"d0": 3.0}))
        joiner.run(dense=distances[::-1], bm25=retrieved({f"d{i}": 1.0 + i for i in range(6)}))
        assert caplog.messages == []
        for _ in range(2):
            joiner.run(dense=distances, bm25=retrieved({"d0": 3.0}))
    assert len(caplog.messages) == 1
    assert "scores of input 'dense' rise from its first document to its last (0.2 to 0.7)" in caplog.messages[0]


def test_no_warning_for_logits_behind_saturated_probabilities(caplog: pytest.LogCaptureFixture) -> None:
    found = retrieved({f"d{i}": 20.0 - i for i in range(8)})
    ranked = reranked(found, {f"d{i}": 12.0 - 3 * i for i in range(8)}, top_k=8)["documents"]
    with caplog.at_level(logging.WARNING):
        HybridScoreJoiner(WEIGHTS).run(cross_encoder=ranked, bm25=found)
    assert caplog.messages == []


def test_yaml_round_trip_keeps_every_parameter_and_the_callers_dictionaries() -> None:
    normalize = {"cross_encoder": {"name": "theoretical", "low": -12, "high": 12}, "bm25": "min_max"}
    joiner = HybridScoreJoiner(
        WEIGHTS,
        method="weighted_sum",
        normalize=normalize,
        missing="impute",
        top_k=3,
        score_threshold=0.0,
        rank_constant=20,
        name="mixed",
    )
    pipeline = Pipeline()
    pipeline.add_component("joiner", joiner)
    loaded = Pipeline.loads(pipeline.dumps()).get_component("joiner")
    assert loaded.to_dict() == joiner.to_dict()
    assert joiner.to_dict()["init_parameters"]["normalize"] == normalize
    assert joiner.to_dict()["init_parameters"]["normalize"] is not normalize
    assert joiner.to_dict()["type"] == (
        "haystack_integrations.components.joiners.ce_ranker.hybrid_score_joiner.HybridScoreJoiner"
    )
    sockets = Pipeline.loads(pipeline.dumps()).inputs()["joiner"]
    assert set(sockets) == {
        "bm25",
        "bm25_report",
        "cross_encoder",
        "cross_encoder_report",
        "weights",
        "top_k",
        "score_threshold",
    }
    assert not any(socket["is_mandatory"] for socket in sockets.values())


def test_adapted_weights_stand_in_every_record_and_in_the_report_and_contributions_add_up() -> None:
    joiner = HybridScoreJoiner({"cross_encoder": 0.8, "bm25": 0.1, "dense": 0.1}, adapt_weights=True)
    found = retrieved({"a": 9.0, "b": 7.0, "c": 5.0, "d": 1.0})
    logits = {"a": -3.0, "b": -1.0, "c": -5.5, "d": -6.0}
    ranked = reranked(found, logits, 4)["documents"]
    result = joiner.run(cross_encoder=ranked, bm25=found, dense=documents({"a": 0.8, "b": 0.6, "e": 0.3, "d": 0.31}))
    adapted = result["report"]["adapted"]
    assert adapted["by"] == "cross_encoder"
    assert adapted["doubt"] == pytest.approx(sum(1 / (1 + math.exp(logit)) for logit in logits.values()) / 4)
    assert adapted["kept_because"] is None
    assert set(adapted["agreement"]) == {"bm25", "dense"}
    assert set(adapted["agreement"]["bm25"]) == {"correlation", "overlap"}
    weights = {name: one["weight"] for name, one in result["report"]["inputs"].items()}
    assert sum(weights.values()) == pytest.approx(1.0)
    assert weights["cross_encoder"] < 0.5
    for document in result["documents"]:
        record = document.meta["ce_ranker"]["hybrid"]
        assert record["doubt"] == adapted["doubt"]
        assert {name: one["weight"] for name, one in record["inputs"].items()} == weights
        assert document.score == math.fsum(one["contribution"] for one in record["inputs"].values())
    assert {document.id for document in result["documents"]} == set("abcde")


def test_without_logits_the_given_weights_count_and_the_report_says_why() -> None:
    lists = {"bm25": retrieved({"a": 9.0, "b": 7.0, "c": 5.0}), "cross_encoder": documents({"a": 0.7, "b": 0.72})}
    kept = HybridScoreJoiner(WEIGHTS, adapt_weights=True).run(**lists)
    fixed = HybridScoreJoiner(WEIGHTS).run(**lists)
    assert kept["report"] | {"adapted": None} == fixed["report"]
    assert [document.score for document in kept["documents"]] == [document.score for document in fixed["documents"]]
    reason = {"by": None, "doubt": None, "agreement": {}, "kept_because": "no input has logits"}
    assert kept["report"]["adapted"] == reason
    assert "doubt" not in fixed["documents"][0].meta["ce_ranker"]["hybrid"]
    assert kept["documents"][0].meta["ce_ranker"]["hybrid"]["doubt"] is None


@pytest.mark.parametrize(
    "adapt", [True, np.True_, {"by": "cross_encoder", "slope": np.float64(0.5), "intercept": 2}, {}]
)
def test_adapted_weights_survive_yaml_copies_and_pickles(adapt: Any) -> None:
    joiner = HybridScoreJoiner(WEIGHTS, adapt_weights=adapt)
    pipeline = Pipeline()
    pipeline.add_component("joiner", joiner)
    loaded = Pipeline.loads(pipeline.dumps()).get_component("joiner")
    assert loaded.to_dict() == joiner.to_dict()
    found = retrieved({"a": 9.0, "b": 7.0, "c": 5.0, "d": 1.0})
    ranked = reranked(found, {"a": -3.0, "b": -1.0, "c": -5.5, "d": -6.0}, 4)["documents"]
    expected = joiner.run(cross_encoder=ranked, bm25=found)
    assert expected["report"]["adapted"]["by"] == "cross_encoder"
    for other in (loaded, copy.deepcopy(joiner), pickle.loads(pickle.dumps(joiner))):
        assert other.run(cross_encoder=ranked, bm25=found) == expected


def test_numpy_s_numbers_are_taken_and_become_plain() -> None:
    normalize = {"cross_encoder": {"name": "theoretical", "low": np.float64(-12), "high": np.float64(12)}}
    numbers = {"top_k": np.int64(1), "score_threshold": np.float32(-0.5), "rank_constant": np.int32(20)}
    weights = {name: np.float64(weight) for name, weight in WEIGHTS.items()}
    joiner = HybridScoreJoiner(weights, normalize=normalize, **numbers)
    plain = HybridScoreJoiner(WEIGHTS, normalize=normalize, top_k=1, score_threshold=-0.5, rank_constant=20)
    pipeline = Pipeline()
    pipeline.add_component("joiner", joiner)
    loaded = Pipeline.loads(pipeline.dumps()).get_component("joiner")
    assert loaded.to_dict() == plain.to_dict()
    assert [type(getattr(loaded, name)) for name in numbers] == [int, float, int]
    lists = {"bm25": documents({"a": 9.0, "b": 1.0}), "cross_encoder": documents({"b": 3.0, "a": 1.0})}
    assert joiner.run(**lists) == plain.run(**lists)
    given = {"top_k": np.int64(2), "score_threshold": np.float64(-9)}
    assert joiner.run(**given, **lists) == plain.run(top_k=2, score_threshold=-9.0, **lists)


def test_numpy_s_numbers_count_in_records_and_reports() -> None:
    found = retrieved({"a": 5.0, "b": 9.0})
    ranked = reranked(found, {"a": 9.0, "b": 7.0}, top_k=1)
    expected = HybridScoreJoiner(WEIGHTS).run(cross_encoder=ranked["documents"], bm25=found)
    noted_by_ranker = ranked["documents"][0].meta["ce_ranker"]["cross_encoder"]
    noted_by_ranker |= {"logit": np.float32(9.0), "lowest": np.float32(7.0)}
    result = HybridScoreJoiner(WEIGHTS).run(cross_encoder=ranked["documents"], bm25=found)
    assert [document.score for document in result["documents"]] == [d.score for d in expected["documents"]]


# Before Haystack 3, pipelines only warm up, and only in turn.
LIFECYCLE = [name for name in ("warm_up", "warm_up_async", "close", "close_async") if hasattr(Pipeline, name)]


@pytest.mark.parametrize("call", LIFECYCLE)
def test_a_pipeline_may_call_every_step_of_the_lifecycle_at_any_time(call: str) -> None:
    joiner = HybridScoreJoiner(WEIGHTS)
    pipeline = Pipeline()
    pipeline.add_component("joiner", joiner)
    lists = {"bm25": documents({"a": 9.0, "b": 1.0}), "cross_encoder": documents({"b": 3.0, "a": 1.0})}
    expected = HybridScoreJoiner(WEIGHTS).run(**lists)
    for _ in range(2):
        assert hasattr(joiner, call)
        called = getattr(pipeline, call)()
        if call.endswith("_async"):
            asyncio.run(called)
        assert pipeline.run({"joiner": lists})["joiner"] == expected


def test_run_async_equals_run() -> None:
    lists = {"bm25": documents({"a": 9.0, "b": 1.0}), "cross_encoder": documents({"b": 3.0, "a": 1.0})}
    joiner = HybridScoreJoiner(WEIGHTS)
    assert asyncio.run(joiner.run_async(top_k=1, **lists)) == joiner.run(top_k=1, **lists)


def test_inside_a_super_component() -> None:
    pipeline = Pipeline()
    pipeline.add_component("bm25", Source({"a": 1.0, "b": 0.5}))
    pipeline.add_component("joiner", HybridScoreJoiner(WEIGHTS))
    pipeline.connect("bm25.documents", "joiner.bm25")
    wrapped = SuperComponent(pipeline, input_mapping={"query": ["bm25.query"]})
    assert ids(wrapped.run(query="q")) == ["a", "b"]


@settings(max_examples=40)
@given(st.lists(st.permutations("abcdefgh"), min_size=2, max_size=2), st.integers(1, 8), st.integers(1, 8))
def test_reciprocal_rank_has_the_order_of_haystacks_joiner(orders: list[list[str]], first: int, second: int) -> None:
    lists = [
        [Document(id=i, score=float(9 - place)) for place, i in enumerate(order[:size])]
        for order, size in zip(orders, (first, second), strict=True)
    ]
    ours = HybridScoreJoiner({"x": 0.617, "y": 0.383}, method="reciprocal_rank").run(x=lists[0], y=lists[1])
    # Weights that make no two documents equal, since Haystack breaks ties by arrival. Theirs runs last: Haystack 2.24
    # writes its scores into the documents that it was given.
    theirs = DocumentJoiner(join_mode="reciprocal_rank_fusion", weights=[0.617, 0.383]).run(documents=lists)
    assert ids(ours) == ids(theirs)


def test_the_documents_of_a_list_without_a_number_are_joined_and_the_report_says_so() -> None:
    unscored = documents({"a": None, "b": float("nan")})
    result = HybridScoreJoiner(WEIGHTS).run(cross_encoder=unscored, bm25=documents({"c": 1.0}))
    assert ids(result) == ["c", "a", "b"]
    assert result["report"]["absent"] == []
    assert result["report"]["inputs"]["cross_encoder"] == {
        "documents": 2,
        "known": 0,
        "lacking": 1,
        "duplicates": 0,
        "unusable": 2,
        "weight": 0.0,
        "assumed": "no scores",
        "normalize": "none",
    }
    assert noted(result, "a")["inputs"]["cross_encoder"]["score"] is None
    assert noted(result, "a")["inputs"]["bm25"]["normalized"] == noted(result, "c")["inputs"]["bm25"]["normalized"]


@pytest.mark.parametrize("missing", ["min", "zero", "impute", "drop"])
def test_no_rule_loses_the_documents_of_a_list_without_a_number(missing: str) -> None:
    lists = {"cross_encoder": documents({"a": None, "b": None}), "bm25": documents({"b": 2.0, "c": 1.0})}
    result = HybridScoreJoiner(WEIGHTS, missing=missing).run(**lists)
    assert {*ids(result), *result["report"]["dropped"]} == {"a", "b", "c"}
    assert result["report"]["dropped"] == (["a"] if missing == "drop" else [])
    assert set(ids(HybridScoreJoiner(WEIGHTS, method="reciprocal_rank").run(**lists))) == {"a", "b", "c"}


def test_documents_that_the_ranker_could_not_read_stay_below_those_it_scored() -> None:
    """Without text there is no logit; the ranker gives such documents the score None."""
    found = retrieved({"empty": 9.0, "a": 5.0, "b": 4.0})
    ranked = reranked(found[1:], {"a": -1.0, "b": 2.0}, top_k=2)
    meta = {"ce_ranker": {**found[0].meta["ce_ranker"], "cross_encoder": {"logit": None, "lowest": -1.0, "rank": 3}}}
    unread = Document(id="empty", content="", score=None, meta=meta)
    result = HybridScoreJoiner(WEIGHTS).run(cross_encoder=[*ranked["documents"], unread], bm25=found)
    assert noted(result, "empty")["inputs"]["cross_encoder"]["score"] is None
    assert noted(result, "empty")["inputs"]["cross_encoder"]["normalized"] == -1.0
    alone = HybridScoreJoiner(WEIGHTS).run(cross_encoder=[unread], bm25=found)
    assert set(ids(alone)) == {"empty", "a", "b"}
    assert alone["report"]["inputs"]["cross_encoder"]["assumed"] == "no scores"


def test_texts_are_no_scores_and_numpys_numbers_are() -> None:
    mixed = [Document(id="a", content="a"), Document(id="b", content="b"), Document(id="c", content="c")]
    for document, score in zip(mixed, (np.float32(3.0), "9.5", np.int64(1)), strict=True):
        vars(document)["score"] = score
    result = HybridScoreJoiner(WEIGHTS).run(cross_encoder=mixed, bm25=documents({"b": 1.0}))
    assert result["report"]["inputs"]["cross_encoder"]["unusable"] == 1
    assert noted(result, "a")["inputs"]["cross_encoder"]["score"] == 3.0
    assert noted(result, "b")["inputs"]["cross_encoder"]["score"] is None
    twice = HybridScoreJoiner(WEIGHTS).run(cross_encoder=[*mixed, *mixed])
    assert ids(twice) == ["a", "c", "b"]


def rescored(found: list[Document], scores: dict[str, float]) -> list[Document]:
    """As another package's retriever or ranker returns stored documents: its score, and the meta that was there."""
    metas = {document.id: document.meta for document in found}
    return [Document(id=i, content=f"text of {i}", score=s, meta=metas.get(i, {})) for i, s in scores.items()]


STALE = {"a": 1.0, "b": 30.0}
FRESH = {"a": 12.0, "b": 3.0, "c": 7.0}


@pytest.mark.parametrize(
    ("name", "earlier"),
    [
        ("bm25", retrieved(STALE)),
        ("cross_encoder", reranked(documents(STALE), STALE, top_k=2)["documents"]),
        ("first", HybridScoreJoiner({"x": 1.0}, name="first").run(x=documents(STALE))["documents"]),
    ],
)
def test_the_record_of_an_earlier_run_does_not_beat_the_score_of_this_one(name: str, earlier: list[Document]) -> None:
    assert {"a", "b"} == {document.id for document in earlier if name in document.meta["ce_ranker"]}
    stored = rescored(earlier, FRESH)
    clean = documents(dict(FRESH))
    joiner = HybridScoreJoiner({name: 0.5, "dense": 0.5})
    dense = documents({"a": 0.5, "c": 0.6, "d": 0.7})
    result, expected = joiner.run(**{name: stored, "dense": dense}), joiner.run(**{name: clean, "dense": dense})
    assert [(d.id, d.score) for d in result["documents"]] == [(d.id, d.score) for d in expected["documents"]]
    assert noted(result, "b")["inputs"][name]["score"] == 3.0
    assert noted(result, "c")["inputs"][name]["score"] == 7.0


def test_a_stale_record_does_not_decide_which_of_two_copies_counts() -> None:
    low, high = rescored(retrieved(STALE), {"b": 3.0})[0], rescored(retrieved(STALE), {"a": 12.0})[0]
    copies = [Document(id="x", content="low", score=3.0, meta=low.meta)]
    copies.append(Document(id="x", content="high", score=12.0, meta=high.meta))
    assert HybridScoreJoiner({"bm25": 1.0}).run(bm25=copies)["documents"][0].content == "high"


def test_scores_that_were_scaled_on_their_way_still_count_raw() -> None:
    scaled = [
        Document(id=d.id, content=d.content, score=1 / (1 + math.exp(-d.score / 8)), meta=d.meta)
        for d in retrieved({"a": 5.0, "b": 9.0})
    ]
    result = HybridScoreJoiner(WEIGHTS).run(bm25=scaled)
    assert noted(result, "b")["inputs"]["bm25"]["score"] == 9.0


def test_written_back_and_found_by_another_retriever() -> None:
    """Over a real store: what BM25Retriever found is written back, then Haystack's own retriever finds it."""
    store = InMemoryDocumentStore()
    store.write_documents([Document(id=str(i), content=f"the brake {'brake ' * i}of car {i}") for i in range(6)])
    found = BM25Retriever(store, top_k=3).run(query="brake")["documents"]
    store.write_documents(found, policy=DuplicatePolicy.OVERWRITE)
    again = InMemoryBM25Retriever(store, top_k=6).run(query="car 5")["documents"]
    assert any("bm25" in document.meta.get("ce_ranker", {}) for document in again)
    result = HybridScoreJoiner({"bm25": 1.0}).run(bm25=again)
    assert result["report"]["inputs"]["bm25"]["known"] == len(again)
    assert [noted(result, d.id)["inputs"]["bm25"]["score"] for d in again] == [d.score for d in again]


def test_records_hold_behind_routers_and_haystacks_joiner() -> None:
    store = InMemoryDocumentStore()
    store.write_documents([Document(id=str(i), content=f"the brake {'brake ' * i}of car {i}") for i in range(6)])
    pipeline = Pipeline()
    pipeline.add_component("bm25", BM25Retriever(store, top_k=4))
    pipeline.add_component("other", Source({"5": 0.4, "x": 0.3}))
    pipeline.add_component("gate", RerankGate(threshold=math.inf))
    pipeline.add_component("candidates", DocumentJoiner(join_mode="concatenate"))
    pipeline.add_component("ranker", Constant())
    pipeline.add_component("joiner", HybridScoreJoiner({"cross_encoder": 0.5, "bm25": 0.3, "candidates": 0.2}))
    pipeline.connect("bm25.documents", "gate.documents")
    pipeline.connect("gate.rerank", "joiner.bm25")
    pipeline.connect("bm25.documents", "candidates.documents")
    pipeline.connect("other.documents", "candidates.documents")
    pipeline.connect("candidates.documents", "ranker.documents")
    pipeline.connect("candidates.documents", "joiner.candidates")
    pipeline.connect("ranker.documents", "joiner.cross_encoder")
    asked = {"bm25": {"query": "brake"}, "other": {"query": "brake"}, "gate": {"query": "brake"}}
    result = pipeline.run(asked, include_outputs_from={"bm25", "ranker"})
    report = result["joiner"]["report"]["inputs"]
    assert (report["bm25"]["known"], report["bm25"]["assumed"]) == (4, "bm25")
    assert (report["cross_encoder"]["known"], report["cross_encoder"]["assumed"]) == (1, "logits")
    for document in result["bm25"]["documents"]:
        assert noted(result["joiner"], document.id)["inputs"]["bm25"]["score"] == document.score
    only = result["ranker"]["documents"]  # a ranker's list through the input of an earlier stage
    through = HybridScoreJoiner({"bm25": 1.0}).run(bm25=only)["documents"][0]
    expected = only[0].meta["ce_ranker"].get("bm25", {}).get("score")
    assert through.meta["ce_ranker"]["hybrid"]["inputs"]["bm25"]["score"] == (expected or only[0].score)
