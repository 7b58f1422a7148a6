"""The kind of a document store: its class, a table's entry for it, and whether it is one."""

from collections.abc import Mapping
from typing import Any, TypeVar

from haystack.core.serialization import import_class_by_name

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


def require_store_type(name: str, described: Any) -> None:
    """
    Check that what a YAML says of a store names the class of one, before it is created.

    :param name: The parameter, for the error.
    :raises ValueError: If it names another class.
    """
    kind = described.get("type") if isinstance(described, Mapping) else None
    if not isinstance(kind, str) or "." not in kind:
        return  # no class; the constructor says what is wrong
    found = import_class_by_name(kind)
    if not isinstance(found, type) or not callable(getattr(found, "filter_documents", None)):
        raise ValueError(f"{name} must be a Haystack document store, but names {kind!r:.100}.")
