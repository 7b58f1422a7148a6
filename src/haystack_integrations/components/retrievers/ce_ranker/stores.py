"""What kind of document store one is, and the entry that a table has for that kind."""

from collections.abc import Mapping
from typing import Any, TypeVar

Entry = TypeVar("Entry")


def class_names(store: Any) -> list[str]:
    """Return the qualified names of a store's class and of the classes it derives from, nearest first."""
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in type(store).__mro__]


def entry_for(store: Any, table: Mapping[str, Entry]) -> Entry | None:
    """
    Return the entry for a store; an entry counts for derived classes too, and the nearest class wins.

    :param table: Entries by the qualified name of a store's class. Names, so that no integration is imported for them.
    :returns: None if the table has no entry for this kind of store.
    """
    return next((table[name] for name in class_names(store) if name in table), None)
