"""Keys change with all that figures depend on, and with nothing else."""

import os
from pathlib import Path

import pytest
from haystack import Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from fakes import SHOP
from haystack_ce_ranker.evaluation.running import contents
from haystack_ce_ranker.evaluation.running.contents import key_of, system_key
from haystack_ce_ranker.evaluation.running.groups import PipelineGroup, RerankGroup
from haystack_ce_ranker.evaluation.running.pipelines import load_pipeline, measured
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker

ONE, OTHER = "0b0d4a5e-1111-4222-8333-444455556666", "0b0d4a5e-1111-4222-8333-444455557777"


def pipeline(*stores, filters=None):
    made = Pipeline()
    for place, store in enumerate(stores):
        made.add_component(f"retriever{place}", InMemoryBM25Retriever(store, filters=filters))
    return made


def key(*stores, filters=None):
    return PipelineGroup(measured(pipeline(*stores, filters=filters), name="p"), SHOP, "key").key


def test_the_made_names_of_in_memory_stores_count_for_nothing_but_sharing():
    assert key(InMemoryDocumentStore()) == key(InMemoryDocumentStore())
    shared = InMemoryDocumentStore()
    assert key(shared, shared) == key(*[InMemoryDocumentStore()] * 2)
    assert key(shared, shared) != key(InMemoryDocumentStore(), InMemoryDocumentStore())
    assert key(InMemoryDocumentStore(index="mine")) != key(InMemoryDocumentStore(index="yours"))


def test_any_other_uuid_counts():
    keys = {
        key(InMemoryDocumentStore(), filters={"field": "meta.user", "operator": "==", "value": value})
        for value in (ONE, OTHER)
    }
    assert len(keys) == 2
    assert key_of(f"what is {ONE}") != key_of(f"what is {OTHER}")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "weights").write_bytes(b"1" * 64)
    return tmp_path / "model"


def touched(path: Path, content: bytes, time: int = 10**18):
    path.write_bytes(content)
    os.utime(path, ns=(time, time))


def test_the_files_of_a_folder_count_with_what_they_hold(folder):
    touched(folder / "weights", b"1" * 64)
    before = system_key({"model": str(folder)})
    assert system_key({"model": str(folder)}) == before
    touched(folder / "weights", b"2" * 64)  # of the same size and time
    changed = system_key({"model": str(folder)})
    (folder / "more.json").write_text("{}")
    assert len({before, changed, system_key({"model": str(folder)})}) == 3


def test_a_large_file_counts_by_its_size_and_time(folder, monkeypatch):
    monkeypatch.setattr(contents, "_SMALL", 8)
    keys = set()
    for content, time in ((b"1" * 64, 10**18), (b"1" * 65, 10**18), (b"1" * 65, 10**18 + 1)):
        touched(folder / "weights", content, time)
        keys.add(system_key([str(folder)]))
    assert len(keys) == 3


def test_a_file_that_is_named_counts_and_a_store_of_its_own_does_not(tmp_path):
    file = tmp_path / "profile.json"
    touched(file, b"1")
    described = {"speed_profile": str(file)}, {"document_store": {"init_parameters": {"path": str(file)}}}
    before = [system_key(one) for one in described]
    touched(file, b"2")
    after = [system_key(one) for one in described]
    assert (before[0] == after[0], before[1] == after[1]) == (False, True)


def test_a_hub_model_counts_by_the_commit_in_the_cache(monkeypatch):
    def cached(commit):
        monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: f"/hub/snapshots/{commit}/config.json")
        return system_key("some/model")

    assert len({system_key("some/model"), cached("a"), cached("b")}) == 3


@pytest.mark.parametrize("changed", [{"ce-ranker-haystack": "9"}, {"transformers": "9"}, {"processor": "another"}])
def test_another_version_or_machine_is_another_key(monkeypatch, changed):
    before, facts = system_key("a"), contents.machine()
    assert changed.keys() <= facts.keys()
    contents._environment.cache_clear()
    monkeypatch.setattr(contents, "machine", lambda: {**facts, **changed})
    try:
        assert system_key("a") != before
    finally:
        contents._environment.cache_clear()


def test_the_text_of_a_pipelines_file_counts(tmp_path):
    keys = set()
    for text in ("", "# a remark\n"):
        path = tmp_path / "mine.yaml"
        path.write_text(text + pipeline(InMemoryDocumentStore(index="i")).dumps(), encoding="utf-8")
        keys.add(PipelineGroup(load_pipeline(path), SHOP, "key").key)
    assert len(keys) == 2


def test_a_model_that_is_not_there_has_a_key():
    ranker = CrossEncoderRanker(model="/no/such", backend="torch")
    assert RerankGroup("bm25", ranker, [5], ["a", "b"], SHOP, key="first").key
