"""The retriever of `ce-ranker-haystack`."""

from haystack_integrations.components.retrievers.ce_ranker.bm25_retriever import BM25Retriever

__all__ = ["BM25Retriever"]
