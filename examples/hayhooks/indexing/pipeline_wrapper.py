"""Writes the documents of a request into the in-memory index that search.yaml reads."""

from typing import Any

from hayhooks import BasePipelineWrapper
from haystack import Document, Pipeline
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy


class PipelineWrapper(BasePipelineWrapper):
    """POST {"documents": [{"id": ..., "content": ..., "meta": {...}}]} to /indexing/run."""

    def setup(self) -> None:
        """Make the pipeline, once."""
        store = InMemoryDocumentStore(index="handbook")
        self.pipeline = Pipeline()
        self.pipeline.add_component("writer", DocumentWriter(store, policy=DuplicatePolicy.OVERWRITE))

    def run_api(self, documents: list[dict[str, Any]]) -> dict[str, int]:
        """
        Write documents; one whose id is known replaces the other.

        :param documents: Dictionaries of `Document.to_dict`, of which `content` is enough.
        :returns: How many were written.
        """
        given = [Document.from_dict(document) for document in documents]
        return {"written": self.pipeline.run({"writer": {"documents": given}})["writer"]["documents_written"]}
