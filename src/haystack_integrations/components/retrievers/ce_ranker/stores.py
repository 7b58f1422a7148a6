"""The kind of a document store, and a table's entry for that kind."""

from collections.abc import Mapping
from typing import Any, TypeVar

Entry = TypeVar("Entry")


def class_names(store: Any) -> list[str]:
    """Return the qualified names of a store's class and of the classes it derives from, nearest first."""
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in type(store).__mro__]


def entry_for(store: Any, table: Mapping[str, Entry]) -> Entry | None:
    """
    Return the entry for a store. An entry counts for derived classes, too, and the nearest class wins.

    :param table: Entries by the qualified name of a store's class. With names, no integration has to be imported.
    :returns: None if the table has no entry for this kind of store.
    """
    return next((table[name] for name in class_names(store) if name in table), None)
