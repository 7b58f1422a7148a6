"""The choice as YAML: a pipeline of it ranks as the system that was measured, and nothing is proposed where none is."""

from dataclasses import replace

import pytest
import yaml
from haystack import Document, Pipeline
from haystack.document_stores.in_memory import InMemoryDocumentStore

from fake_results import BM25, cross_encoders, rejudged, sweep
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.data.collections import Collection, Text
from haystack_ce_ranker.evaluation.commands.choice_yaml import fragment, save
from haystack_ce_ranker.evaluation.running import sweep as sweeping
from haystack_ce_ranker.evaluation.running.experiments import measure, results
from haystack_ce_ranker.training.cutting import cut
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever

pytest.importorskip("ir_measures", reason="needs the extra 'evaluate'")
pytest.importorskip("codecarbon", reason="needs the extra 'evaluate'")

WORDS = ("brake", "hut", "snow", "car", "berlin", "paris", "city")


@pytest.fixture(scope="module")
def collection():
    texts = {
        f"d{n}-{m}": f"the {word} is in a {WORDS[(n + m) % 7]}" + " of the city" * m
        for n, word in enumerate(WORDS)
        for m in range(1, 5)
    }
    queries = {f"q{n}": f"{word} {WORDS[(n + 2) % 7]}" for n, word in enumerate(WORDS)}
    judged = {f"q{n}": {f"d{n}-2": 2, f"d{n}-1": 1} for n in range(7)}
    return Collection("words", {name: Text(name, "", text) for name, text in texts.items()}, queries, judged)


@pytest.fixture(scope="module")
def measured(collection, tiny_bert, tmp_path_factory):
    """A sweep of two models, so that there is a cascade, too."""
    student = tmp_path_factory.mktemp("models") / "student"
    cut(ModelOptions(tiny_bert), student, layers=1)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sweeping, "CASCADE_DEPTH", 3)
        planned = sweeping.plan(collection, models=[str(student), tiny_bert], backends=["torch"], depths=(4, 6))
    seen = measure(planned.groups, collection)
    return {system.name: system for system in seen.systems}, results(seen)


def choosing(found, name):
    return replace(found, verdict=replace(found.verdict, choice=name))


def built(text, collection, depth):
    """The pipeline that a user makes of it, by what its comment says."""
    described = yaml.safe_load(text)
    store = InMemoryDocumentStore()
    store.write_documents([Document(id=one.id, content=one.content) for one in collection.documents.values()])
    retriever = Pipeline()
    retriever.add_component("retriever", BM25Retriever(store, top_k=depth))
    whole = retriever.to_dict()
    whole["components"] |= described["components"]
    first = next(iter(described["components"]))
    takers = [f"{first}.documents", *(["joiner.bm25"] if "joiner" in described["components"] else [])]
    assert f"go to\n# {' and '.join(takers)}." in text
    whole["connections"] = described.get("connections", [])
    whole["connections"] += [{"sender": "retriever.documents", "receiver": taker} for taker in takers]
    return Pipeline.from_dict(whole), [name for name in described["components"] if name != "joiner"]  # one index


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("cross-encoder tiny-bert@4", "cross_encoder"),
        ("hybrid tiny-bert@6", "joiner"),
        ("adaptive hybrid tiny-bert@6", "joiner"),
        ("cascade student then tiny-bert@3", "cross_encoder"),
    ],
)
def test_a_pipeline_of_it_ranks_as_the_system_did(collection, measured, name, last):
    systems, found = measured
    text = fragment(choosing(found, name))
    depth = 4 if name.endswith("@4") else 6
    assert text.startswith(f"# {name}: the query goes to each ranker, and the first {depth} documents of bm25 go to\n")
    pipeline, rankers = built(text, collection, depth)
    for query_id, query in collection.queries.items():
        asked = {one: {"query": query} for one in ("retriever", *rankers)}
        ranked = [one.id for one in pipeline.run(asked)[last]["documents"]]
        assert ranked == [one for one, _ in systems[name].observations[query_id].ranking][:depth]


def test_weights_that_follow_the_query_stand_in_it(measured):
    described = yaml.safe_load(fragment(choosing(measured[1], "adaptive hybrid tiny-bert@4")))
    parameters = described["components"]["joiner"]["init_parameters"]
    assert parameters == {"weights": {"cross_encoder": 0.8, "bm25": 0.2}, "adapt_weights": True}
    fixed = yaml.safe_load(fragment(choosing(measured[1], "hybrid tiny-bert@4")))
    assert fixed["components"]["joiner"]["init_parameters"]["adapt_weights"] is False


def test_a_bi_encoders_documents_go_to_an_input_of_their_own():
    found = sweep(BM25 | cross_encoders({10: 0.7}, kind="hybrid", weights="adaptive", first_stage="bi-encoder"))
    text = fragment(found)
    described = yaml.safe_load(text)
    assert "documents of bi-encoder go to\n# cross_encoder.documents and joiner.dense.\n" in text
    assert described["components"]["joiner"]["init_parameters"]["weights"] == {"cross_encoder": 0.8, "dense": 0.2}
    assert "connections" in described


def test_nothing_is_proposed_where_the_choice_does_not_re_rank_or_is_a_pipelines_stage(tmp_path):
    harmful = sweep(BM25 | cross_encoders({10: 0.3}))
    pipelines = {
        "mine/bm25": {"quality": 0.5, "ms": 1.0, "kind": "pipeline"},
        "mine/ranker": {"quality": 0.7, "ms": 90.0, "kind": "pipeline"},
    }
    given = sweep(pipelines, baseline="mine/bm25")
    assert (harmful.verdict.choice, given.verdict.choice) == ("bm25", "mine/ranker")
    assert [fragment(one) for one in (harmful, given, rejudged(harmful, systems=()))] == [None] * 3
    helpful = sweep(BM25 | cross_encoders({10: 0.7}))
    assert save(helpful, tmp_path) == [tmp_path / "choice.yaml"]
    assert yaml.safe_load((tmp_path / "choice.yaml").read_text(encoding="utf-8"))["components"]
    assert save(harmful, tmp_path) == []
    assert list(tmp_path.iterdir()) == []  # what an earlier run proposed is not left there


def test_a_name_cannot_end_the_comment():
    name = "cross-encoder a\nb: c@10"
    found = sweep(BM25 | {name: next(iter(cross_encoders({10: 0.7}).values()))})
    assert found.verdict.choice == name
    assert list(yaml.safe_load(fragment(found))) == ["components"]
