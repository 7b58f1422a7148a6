"""A pipeline that was built in Python: a new one with the same stores."""

import inspect

from haystack import Document, Pipeline, component, default_from_dict, default_to_dict
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.core.serialization import component_to_dict
from haystack.document_stores.in_memory import InMemoryDocumentStore

from haystack_ce_ranker import BM25Retriever
from haystack_ce_ranker.adopting import adopt


@component
class Wrapping:
    """Has a store, and a retriever inside that has another one."""

    def __init__(self, document_store, retriever=None):
        self.document_store, self.retriever = document_store, retriever

    def to_dict(self):
        store, inner = self.document_store.to_dict(), component_to_dict(self.retriever, "retriever")
        return default_to_dict(self, document_store=store, retriever=inner)

    @classmethod
    def from_dict(cls, data):
        given = data["init_parameters"]
        given["retriever"] = InMemoryBM25Retriever.from_dict(given["retriever"])
        return default_from_dict(cls, {**data, "init_parameters": given})

    @component.output_types(documents=list[Document])
    def run(self, query: str):
        return self.retriever.run(query)


def test_what_a_component_holds_inside_keeps_a_store_of_its_own():
    outer, inner = InMemoryDocumentStore(), InMemoryDocumentStore(index="inner", bm25_algorithm="BM25Plus")
    inner.write_documents([Document(id="a", content="a car"), Document(id="b", content="a hut")])
    old = Pipeline()
    old.add_component("wrapping", Wrapping(outer, InMemoryBM25Retriever(inner)))
    new, _ = adopt(old)
    wrapping = new.get_component("wrapping")
    assert wrapping.document_store is outer
    assert wrapping.retriever.document_store is not outer
    assert wrapping.retriever.document_store.bm25_algorithm == "BM25Plus"


def test_the_new_pipeline_has_the_stores_of_the_old_one_whatever_they_are_shared_by():
    knows = "shared" in inspect.signature(InMemoryDocumentStore).parameters
    stores = {"a": InMemoryDocumentStore(), "b": InMemoryDocumentStore(**({"shared": False} if knows else {}))}
    old = Pipeline()
    for name, store in stores.items():
        store.write_documents([Document(id=name, content="a car")])
        old.add_component(name, InMemoryBM25Retriever(store))
    new, _ = adopt(old)
    for name, store in stores.items():
        retriever = new.get_component(name)
        assert isinstance(retriever, BM25Retriever)
        assert retriever.document_store is store
        assert [one.id for one in retriever.run("car")["documents"]] == [name]
