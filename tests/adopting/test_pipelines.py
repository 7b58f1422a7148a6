"""A pipeline that was built in Python: a new one with the same stores."""

import inspect

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from haystack_ce_ranker import BM25Retriever
from haystack_ce_ranker.adopting import adopt


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
