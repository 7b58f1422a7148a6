"""The kinds of document store that the conformance suite runs over, and how a new, empty one of each is made."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from haystack import Document
from haystack.document_stores.in_memory import InMemoryDocumentStore
from haystack.document_stores.types import DuplicatePolicy
from haystack.utils import Secret

from fakes import REPOSITORY

# The Makefile lays faiss-haystack there: it asks for another numpy than the one that it works with here.
sys.path.append(str(REPOSITORY / ".stores"))

STORES = "haystack_integrations.document_stores"
DIMENSIONS = 3
TEXT = {"match_mapping_type": "string", "path_match": "*", "mapping": {"type": "keyword"}}


@dataclass(frozen=True)
class Place:
    """Where stores are made: fixtures by name, a folder, and variables of the environment."""

    fixture: Callable[[str], Any]
    folder: Path
    setenv: Callable[[str, str], None]


def write(store: Any, documents: list[Document]) -> None:
    """Write documents over those with their ids."""
    store.write_documents(documents, DuplicatePolicy.OVERWRITE)


@dataclass(frozen=True)
class Kind:
    """
    A kind of document store.

    :ivar title: How the page calls it.
    :ivar make: Makes a new, empty store, of the name that is given.
    :ivar remove: Removes what a store has left outside of pytest's folders.
    :ivar fill: Writes many documents at once.
    :ivar modules: What a YAML's reader must be told to trust beside Haystack's own packages.
    """

    title: str
    make: Callable[[Place, str], Any]
    remove: Callable[[Any], object] = lambda store: None
    fill: Callable[[Any, list[Document]], object] = write
    modules: tuple[str, ...] = ()


def of_package(module: str, store: str) -> Any:
    """Return a store's class; skips without its package."""
    return getattr(pytest.importorskip(module, exc_type=ImportError), store)


def in_memory(place: Place, name: str) -> Any:
    return InMemoryDocumentStore(index=name)


def qdrant(place: Place, name: str) -> Any:
    kind = of_package(f"{STORES}.qdrant", "QdrantDocumentStore")
    return kind(":memory:", index=name, embedding_dim=DIMENSIONS, progress_bar=False)


def chroma(place: Place, name: str) -> Any:
    kind = of_package(f"{STORES}.chroma", "ChromaDocumentStore")
    from chromadb import EmbeddingFunction
    from haystack_integrations.document_stores.chroma import utils

    class Fixed(EmbeddingFunction):
        """Stands for the model that Chroma downloads to embed documents that come without an embedding."""

        def __init__(self) -> None:
            """Need nothing."""

        @staticmethod
        def name() -> str:
            """Return the name in the registry."""
            return "fixed"

        @staticmethod
        def build_from_config(config: dict[str, Any]) -> "Fixed":
            """Return another."""
            return Fixed()

        def get_config(self) -> dict[str, Any]:
            """Return nothing: there is nothing to set."""
            return {}

        def __call__(self, input: list[str]) -> list[list[float]]:
            return [[1.0] * DIMENSIONS for _ in input]

    utils.FUNCTION_REGISTRY["fixed"] = Fixed
    return kind(name, embedding_function="fixed")


def fill_chroma(store: Any, documents: list[Document]) -> None:
    """Write by the thousands what Chroma's store would write one by one."""
    store.count_documents()  # makes the collection
    for start in range(0, len(documents), 5000):
        some = documents[start : start + 5000]
        store._collection.upsert(
            ids=[one.id for one in some],
            documents=[one.content for one in some],
            metadatas=[one.meta for one in some],
            embeddings=[one.embedding for one in some],
        )


def faiss(place: Place, name: str) -> Any:
    return of_package(f"{STORES}.faiss", "FAISSDocumentStore")(embedding_dim=DIMENSIONS)


def milvus(place: Place, name: str) -> Any:
    pytest.importorskip("milvus_lite", reason="needs milvus-lite", exc_type=ImportError)
    kind = of_package("milvus_haystack", "MilvusDocumentStore")
    return kind(name, connection_args={"uri": str(place.folder / "milvus.db")})


def pgvector(place: Place, name: str) -> Any:
    kind = of_package(f"{STORES}.pgvector", "PgvectorDocumentStore")
    place.setenv("PG_CONN_STR", place.fixture("postgres_uri"))
    return kind(
        connection_string=Secret.from_env_var("PG_CONN_STR"),
        table_name=name,
        hnsw_index_name=f"{name}_hnsw",
        keyword_index_name=f"{name}_words",
        embedding_dimension=DIMENSIONS,
    )


def opensearch(place: Place, name: str) -> Any:
    kind = of_package(f"{STORES}.opensearch", "OpenSearchDocumentStore")
    return kind(
        hosts=place.fixture("opensearch_url"),
        index=name,
        # Each write waits until it can be searched, by default for up to a second.
        settings={"number_of_shards": 1, "number_of_replicas": 0, "refresh_interval": "10ms"},
        mappings={
            "properties": {"content": {"type": "text"}, "embedding": {"type": "float", "index": False}},
            "dynamic_templates": [{"strings": TEXT}],
        },
    )


def fill_opensearch(store: Any, documents: list[Document]) -> None:
    """Write without waiting for each batch until it can be searched."""
    store.write_documents(documents, refresh=False)
    store._client.indices.refresh(index=store._index)


def remove_opensearch(store: Any) -> None:
    """Remove the index, for the server may be one that others use."""
    store._ensure_initialized()
    store._client.indices.delete(index=store._index)


KINDS = {
    "in_memory": Kind("In memory", in_memory),
    "qdrant": Kind("Qdrant, `:memory:`", qdrant),
    "chroma": Kind("Chroma, ephemeral", chroma, fill=fill_chroma),
    "faiss": Kind("FAISS", faiss),
    "pgvector": Kind("pgvector, PostgreSQL", pgvector),
    "milvus": Kind("Milvus lite", milvus, modules=("milvus_haystack",)),
    "opensearch": Kind("OpenSearch", opensearch, remove=remove_opensearch, fill=fill_opensearch),
}
"""By name; the in-memory store is what the others are compared with."""


class Stores:
    """Makes stores of one kind for a test, and removes them at its end."""

    def __init__(self, name: str, place: Place) -> None:
        self.name, self.kind, self._place = name, KINDS[name], place
        self._made: list[Any] = []

    def new(self, documents: Sequence[Document] = ()) -> Any:
        """Return a new store with these documents."""
        store = self.kind.make(self._place, f"s{uuid4().hex[:12]}")
        self._made.append(store)
        if documents:
            write(store, list(documents))
        return store

    def remove(self) -> None:
        """Remove all that was made."""
        for store in self._made:
            self.kind.remove(store)
