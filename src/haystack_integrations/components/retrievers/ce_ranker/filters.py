"""The fields that a Haystack filter looks at, and whether a mask that was made from it still holds."""

from datetime import date, datetime
from typing import Any, NamedTuple

from haystack_ce_ranker.bm25.index import Allowed, BM25Index
from haystack_integrations.components.retrievers.ce_ranker.snapshots import FieldValues, StoreSnapshot

_PLAIN = (str, int, float, bool, type(None), datetime, date)


class Search(NamedTuple):
    """What one search asks for, apart from its filter."""

    query: str
    top_k: int


class Mask(NamedTuple):
    """
    A filter that was evaluated.

    :param allowed: The documents that pass it.
    :param values: The values that the fields had at that time; empty if nothing is compared.
    """

    allowed: Allowed
    values: list[FieldValues]

    def still_holds(self, index: BM25Index, snapshot: StoreSnapshot, search: Search | None) -> bool:
        """
        Tell whether the fields that the filter looks at have the values they had.

        :param search: Compare only the documents that decide this search. None compares all documents.
        """
        if not self.values:
            return True
        documents = snapshot.documents or []
        if search is None:
            return all(values.still_hold(documents) for values in self.values)
        positions = index.decisive(search.query, search.top_k, self.allowed).tolist()
        found = list(map(documents.__getitem__, positions))
        return all(values.at(positions).still_hold(found) for values in self.values)


def key_of(filters: dict[str, Any]) -> str | None:
    """Return a text that stands for a filter, or None if its `repr` may not show all of it."""
    return repr(filters) if _is_plain(filters) else None


def fields_of(filters: dict[str, Any]) -> set[str]:
    """Return the names of the fields that a filter looks at."""
    if "field" in filters:
        return {str(filters["field"])}
    conditions = filters.get("conditions", [])
    return {name for condition in conditions if isinstance(condition, dict) for name in fields_of(condition)}


def _is_plain(value: Any) -> bool:
    if type(value) is dict:
        return all(_is_plain(key) and _is_plain(item) for key, item in value.items())
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    return type(value) in _PLAIN
