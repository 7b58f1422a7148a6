"""Components that have run can be pickled and copied. For rankers see `tests/backends/test_other_processes.py`."""

import copy
import pickle

import pytest
from haystack import Document, Pipeline

from haystack_ce_ranker import BM25Retriever, HybridScoreJoiner, RerankGate
from haystack_ce_ranker.bm25.index import BM25Index

DOCUMENTS = [Document(id="fox", content="a fox", score=2.0), Document(id="dog", content="a dog", score=1.0)]


class ListStore:
    """A document store that can be pickled; Haystack's own in memory cannot, as it holds threads."""

    def __init__(self, documents):
        self.documents = documents

    def count_documents(self):
        return len(self.documents)

    def filter_documents(self, filters=None):
        return list(self.documents)

    def write_documents(self, documents, policy=None):
        return 0

    def delete_documents(self, document_ids):
        """Delete nothing."""

    def to_dict(self):
        return {"type": "store", "init_parameters": {}}


COMPONENTS = {
    "retriever": (lambda: BM25Retriever(ListStore(DOCUMENTS), refresh="manual"), {"query": "fox"}),
    "joiner": (
        lambda: HybridScoreJoiner(weights={"bm25": 0.5, "dense": 0.5}),
        {"bm25": DOCUMENTS, "dense": DOCUMENTS[::-1]},
    ),
    "gate": (lambda: RerankGate(threshold=1.0), {"query": "fox", "documents": DOCUMENTS}),
}


@pytest.mark.parametrize("copied", [lambda one: pickle.loads(pickle.dumps(one)), copy.deepcopy], ids=["pickle", "copy"])
@pytest.mark.parametrize("name", COMPONENTS)
def test_a_component_that_has_run_is_copied_and_gives_the_same(name, copied):
    make, inputs = COMPONENTS[name]
    component = make()
    expected = component.run(**inputs)
    again = copied(component)
    assert again is not component
    assert again.run(**inputs) == expected
    pipeline = Pipeline()
    pipeline.add_component("copy", again)
    assert pipeline.run({"copy": inputs})["copy"] == expected


def test_a_pickled_retriever_holds_no_index():
    retriever = BM25Retriever(ListStore(DOCUMENTS), refresh="manual")
    retriever.warm_up()
    kept, index = pickle.dumps(retriever), pickle.dumps(retriever._index.current().index)
    assert BM25Index.__module__.encode() in index
    assert BM25Index.__module__.encode() not in kept
    assert not pickle.loads(kept)._index.is_built
