"""
All documents of a store: its listing, compared with its count, and an error if some are missing.

Some stores cut their listing: at 1,000 or 10,000 documents, without a word. How such a store is paged through is in
`integrations.py`.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any

from haystack import Document

_ATTEMPTS = 3
_PAUSE = 0.5
"""Seconds between two attempts: the count of some stores is up to date a little later than their listing."""


class StoreAnswerError(RuntimeError):
    """A store has answered with something else than what it was asked for."""


class IncompleteListingError(RuntimeError):
    """A store has listed fewer documents than it says it holds."""


def number_of(store: Any) -> int | None:
    """
    Return how many documents a store says it holds; None if it does not say.

    :raises StoreAnswerError: If it says something else.
    """
    count = getattr(store, "count_documents", None)
    if count is None:
        return None
    try:
        found = count()
    except NotImplementedError:
        return None
    try:
        number = int(found)
    except (TypeError, ValueError, OverflowError):
        number = -1
    if number < 0:
        raise StoreAnswerError(f"{type(store).__name__}.count_documents() returns {found!r:.100}, which is no number.")
    return number


def documents_of(store: Any, found: Any) -> list[Document]:
    """
    Return what a store answered as a list of documents.

    :raises StoreAnswerError: If it is something else.
    """
    if not isinstance(found, Iterable):
        raise StoreAnswerError(f"{type(store).__name__} returns {found!r:.100} instead of a list of documents.")
    documents = list(found)
    for document in documents:
        if not isinstance(document, Document):
            raise StoreAnswerError(f"{type(store).__name__} returns {document!r:.100} among its documents.")
    return documents


def whole(store: Any) -> list[Document]:
    """
    Return all documents of a store, as `filter_documents()` lists them.

    The number is asked for before and after. The listing must not be shorter than the smaller of both, so that
    documents that come or go meanwhile are no error. A listing that is too short is made again, for the same reason.
    A store without `count_documents()` is believed.

    :raises IncompleteListingError: If the listing stays too short.
    :raises StoreAnswerError: If the store lists or counts something else than documents.
    """
    for attempt in range(_ATTEMPTS):
        if attempt:
            time.sleep(_PAUSE)
        before = number_of(store)
        documents = documents_of(store, store.filter_documents())
        after = number_of(store)
        held = None if before is None or after is None else min(before, after)
        if held is None or len(documents) >= held:
            return documents
    raise IncompleteListingError(
        f"{type(store).__name__}.filter_documents() returns {len(documents):,} of the {held:,} documents that "
        "count_documents() names, so BM25 would never find the rest. Use the store's own retriever, put the documents "
        "into several stores, or register a probe whose `read` pages through the store (see register_probe)"
    )


def passing(store: Any, filters: dict[str, Any]) -> Sequence[str]:
    """Return the ids of the documents that pass a filter. If the whole listing is not cut, this one is not either."""
    return [document.id for document in documents_of(store, store.filter_documents(filters))]
