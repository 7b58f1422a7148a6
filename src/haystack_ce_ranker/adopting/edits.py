"""Changes of a pipeline's description as data: what is replaced, renamed, removed or added, and how it is told."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Path = tuple[str | int, ...]
"""Where something stands in a description: keys of mappings and places in lists, from the top."""


@dataclass(frozen=True)
class Replace:
    """A value is replaced by another."""

    path: Path
    value: Any


@dataclass(frozen=True)
class Rename:
    """An entry of a mapping gets another key, in its place."""

    path: Path
    key: str


@dataclass(frozen=True)
class Remove:
    """An entry of a mapping is removed."""

    path: Path


@dataclass(frozen=True)
class Add:
    """
    An entry is added.

    :ivar path: Of the new entry. Its last part is a new key of a mapping, or the length of a list.
    :ivar after: The key that it stands behind; None for the end.
    """

    path: Path
    value: Any
    after: str | None = None


Edit = Replace | Rename | Remove | Add


@dataclass(frozen=True)
class Change:
    """
    One thing that is different afterwards, or that stays as it is for a reason.

    :ivar component: The component that it is about; one inside another is named behind it, as in `search > ranker`.
    :ivar text: What changes and why, or why nothing does, in one line.
    :ivar edits: What is changed in the description; none if the component is left as it is.
    """

    component: str
    text: str
    edits: tuple[Edit, ...] = ()

    @property
    def left(self) -> bool:
        """Whether something stays as it is."""
        return not self.edits

    def __str__(self) -> str:
        """Return the line that tells it."""
        return f"{self.component}: {'left as it is: ' if self.left else ''}{self.text}"


def edits_of(changes: Sequence[Change]) -> list[Edit]:
    """Return all edits in their order."""
    return [edit for change in changes for edit in change.edits]


def at(described: Any, path: Path) -> Any:
    """Return what stands at a path."""
    for part in path:
        described = described[part]
    return described


def edited(described: Any, edits: Sequence[Edit]) -> Any:
    """Return a description with the edits made, one after the other. The given one stays as it is."""
    made = _copied(described)
    for edit in edits:
        holder, last = at(made, edit.path[:-1]), edit.path[-1]
        if isinstance(edit, Replace):
            holder[last] = _copied(edit.value)
        elif isinstance(edit, Remove):
            del holder[last]
        elif isinstance(edit, Rename):
            entries = [(edit.key if key == last else key, value) for key, value in holder.items()]
            _refill(holder, entries)
        elif isinstance(holder, list):
            holder.append(_copied(edit.value))
        else:
            _add(holder, str(last), _copied(edit.value), edit.after)
    return made


def _add(holder: dict[str, Any], key: str, value: Any, after: str | None) -> None:
    entries = list(holder.items())
    place = len(entries) if after is None else 1 + list(holder).index(after)
    _refill(holder, [*entries[:place], (key, value), *entries[place:]])


def _refill(holder: dict[str, Any], entries: list[tuple[str, Any]]) -> None:
    holder.clear()
    holder.update(entries)


def _copied(value: Any) -> Any:
    """Return a copy in which nothing stands in two places, as aliases of a YAML do."""
    if isinstance(value, Mapping):
        return {key: _copied(entry) for key, entry in value.items()}
    return [_copied(entry) for entry in value] if isinstance(value, list) else value
