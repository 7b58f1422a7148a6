"""Document stores for tests: as the protocol has them, with a cut listing, and with a gate that holds a reader back."""

import copy
import threading

from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy


class PlainStore:
    """A store that offers what the protocol asks for and nothing else, and hands out copies."""

    def __init__(self, documents=()):
        self.documents = {document.id: document for document in documents}
        self.readings = 0

    def count_documents(self):
        return len(self.documents)

    def filter_documents(self, filters=None):
        self.readings += 1
        inner = InMemoryDocumentStore()
        inner.write_documents([copy.deepcopy(document) for document in self.documents.values()])
        return inner.filter_documents(filters)

    def write_documents(self, documents, policy=DuplicatePolicy.NONE):
        self.documents.update({document.id: document for document in documents})
        return len(documents)

    def delete_documents(self, document_ids):
        for name in document_ids:
            del self.documents[name]

    def to_dict(self):
        return {"type": "tests.PlainStore", "init_parameters": {}}

    @classmethod
    def from_dict(cls, data):
        return cls()


class CutStore(PlainStore):
    """A store that lists a part of its documents, as some servers do."""

    def __init__(self, documents=(), limit=10):
        super().__init__(documents)
        self.limit = limit

    def filter_documents(self, filters=None):
        return super().filter_documents(filters)[: self.limit]


class GatedStore(PlainStore):
    """A store whose whole listing, after the first one, waits at a gate."""

    def __init__(self, documents=()):
        super().__init__(documents)
        self.arrived, self.gate = threading.Event(), threading.Event()
        self.counts = 0

    def count_documents(self):
        self.counts += 1
        return super().count_documents()

    def filter_documents(self, filters=None):
        documents = super().filter_documents(filters)
        if self.readings > 1 and filters is None:
            self.arrived.set()
            assert self.gate.wait(60)
        return documents
