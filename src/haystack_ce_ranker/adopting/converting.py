"""Moves a pipeline's description to our components: finds what can be moved, and lists the changes in their order."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from haystack_ce_ranker.adopting.components import BACKENDS, Wanted, moved
from haystack_ce_ranker.adopting.edits import Add, Change, Edit, Replace, edited, edits_of
from haystack_ce_ranker.adopting.equivalences import (
    DOCUMENT_JOINER,
    JOINER,
    RANKER,
    SOCKETS,
    TABLE,
    equivalence_of,
    namesake_of,
)
from haystack_ce_ranker.adopting.inserting import insertion
from haystack_ce_ranker.adopting.joiners import joiner_changes
from haystack_ce_ranker.adopting.parameters import CannotMove, Equivalence
from haystack_ce_ranker.adopting.scopes import Nested, Scope, nested_in, scopes_of
from haystack_ce_ranker.backends.model_files import locate
from haystack_ce_ranker.checks import choice, flag, require_size, text


def changes_of(
    described: Mapping[str, Any], *, model: str | None = None, backend: str | None = None, insert: bool = False
) -> list[Change]:
    """
    Return the changes that make a pipeline's components ours, where that is safe, and what stays as it is and why.

    :param described: The pipeline as Haystack describes it; stays as it is.
    :param model: The model of the rankers that become ours, in place of their own.
    :param backend: The backend of these rankers, in place of their own.
    :param insert: Whether to add a ranker if there is none.
    :raises ValueError: If a parameter has a value it cannot have, or the description is none.
    :raises OSError: If `model` names a folder that is not there.
    """
    if text("model", model, empty=False, optional=True) is not None:
        locate(str(model))
    choice("backend", backend, BACKENDS, optional=True)
    flag("insert", insert)
    check_description(described)
    wanted = Wanted(model, backend)
    alone = [change for scope in scopes_of(described) for change in _alone(scope, wanted)]
    named = _names(described, alone)
    after = edited(described, edits_of([*alone, *named]))
    joined = _joiners(described, after)
    found = [*alone, *named, *joined]
    if insert:
        last = edited(described, edits_of(found))
        found += _tried("the pipeline", lambda: insertion(last, wanted))
    return found


def check_description(described: Any) -> None:
    """
    Check that something describes a pipeline of Haystack 2 or 3.

    :raises ValueError: If it does not; the message says what it is.
    """
    if not isinstance(described, Mapping) or "components" not in described:
        raise ValueError("it describes no pipeline: a pipeline of Haystack 2 or 3 has components and connections")
    if isinstance(described["components"], list):
        raise ValueError("it is a pipeline of Haystack 1: write it anew for Haystack 2 or 3 first")
    if not isinstance(described["components"], Mapping):
        raise ValueError("its components are no mapping of names to components")
    require_size("a pipeline", described)
    for scope in scopes_of(described):
        _check_components(scope.components)
        _check_connections(scope)


def _check_components(components: Mapping[Any, Any]) -> None:
    for name, component in components.items():
        if not isinstance(name, str) or not name:
            raise ValueError(f"the name of its component {name!r} is no text: put it in quotes, or give it another one")
        if not isinstance(component, Mapping) or not isinstance(component.get("type"), str):
            raise ValueError(f"its component {name!r} has no type")
        given = component.get("init_parameters")
        if given is not None and not isinstance(given, Mapping):
            raise ValueError(f"the init_parameters of its component {name!r} are no mapping, but {given!r:.100}")


def _check_connections(scope: Scope) -> None:
    given = scope.pipeline.get("connections")
    if given is not None and not isinstance(given, list):
        raise ValueError(f"its connections are no list, but {given!r:.100}")
    for one in scope.connections:
        for end in (one.sender, one.receiver):
            if end.component not in scope.components:
                raise ValueError(f"one of its connections names the component {end.component!r}, which is not there")


def _tried(label: str, work: Callable[[], list[Change]]) -> list[Change]:
    """Return the changes, or the reason why there are none."""
    try:
        return work()
    except CannotMove as reason:
        return [Change(label, str(reason))]


def _alone(scope: Scope, wanted: Wanted) -> list[Change]:
    """Return the changes of the components that are moved by their parameters alone."""
    found: list[Change] = []
    for name, component in scope.components.items():
        if (entry := _entry(component)) is not None:
            found += _tried(scope.label(name), partial(_moved, scope, name, entry, wanted))
        elif (namesake := namesake_of(component.get("type"))) is not None:
            paths = " or ".join(namesake.types)
            found.append(
                Change(scope.label(name), f"its path is not the one of the {namesake.name} known here, {paths}")
            )
        for one in nested_in(scope, name):
            if (held := _entry(one.described)) is not None:
                found += _tried(one.label, partial(_moved_nested, one, held, wanted))
    return found


def _moved(scope: Scope, name: str, entry: Equivalence, wanted: Wanted) -> list[Change]:
    _check_sockets(scope, name, entry)
    return moved(scope.label(name), scope.place(name), scope.components[name], entry, wanted)


def _moved_nested(one: Nested, entry: Equivalence, wanted: Wanted) -> list[Change]:
    if one.why_left:
        raise CannotMove(one.why_left)
    if entry.to == RANKER:
        raise CannotMove("another component holds it, and may use what only it has")
    return moved(one.label, one.path, one.described, entry, wanted)


def _entry(component: Any) -> Equivalence | None:
    entry = equivalence_of(component.get("type")) if isinstance(component, Mapping) else None
    return entry if entry in TABLE else None


def _check_sockets(scope: Scope, name: str, entry: Equivalence) -> None:
    """Check that ours has every socket that something names."""
    for kind, named, known in zip(("input", "output"), scope.sockets_named(name), SOCKETS[entry.to], strict=True):
        lacking = sorted(named - known)
        if lacking:
            raise CannotMove(f"its {kind} {lacking[0]} is used, and {entry.to.rpartition('.')[2]} has none")


def _names(described: Mapping[str, Any], changes: list[Change]) -> list[Change]:
    """Return the names that the records of several rankers need, so that none writes over another's."""
    after = edited(described, edits_of(changes))
    scopes = list(zip(scopes_of(described), scopes_of(after), strict=True))
    count = sum(one.get("type") == RANKER for _, new in scopes for one in new.components.values())
    if count < 2:
        return []
    found = []
    for old, new in scopes:
        for name, component in new.components.items():
            if component.get("type") == RANKER and old.components[name].get("type") != RANKER:
                told = f"name: {name!r} is written out, so that the records of several rankers stay apart"
                inner = new.place(name, "init_parameters")
                edit: Edit = Add((*inner, "name"), name)
                if component.get("init_parameters") is None:
                    whole = {"name": name}
                    edit = Replace(inner, whole) if "init_parameters" in component else Add(inner, whole)
                found.append(Change(new.label(name), told, (edit,)))
    return found


def _joiners(described: Mapping[str, Any], after: Mapping[str, Any]) -> list[Change]:
    scopes = list(zip(scopes_of(described), scopes_of(after), strict=True))
    kinds = [one.get("type") for old, _ in scopes for one in old.components.values()]
    several = sum(kind in (*DOCUMENT_JOINER.types, JOINER) for kind in kinds) > 1
    found: list[Change] = []
    for old, new in scopes:
        for name, component in old.components.items():
            if component.get("type") in DOCUMENT_JOINER.types:
                found += _tried(old.label(name), partial(_joiner, old, new, name, several=several))
    return found


def _joiner(old: Scope, new: Scope, name: str, *, several: bool) -> list[Change]:
    _check_sockets(old, name, DOCUMENT_JOINER)
    if any(one.component == name and one.socket in ("", "documents") for one in old.named_inputs):
        raise CannotMove("an input of the pipeline leads to its documents, and would need a name")
    return joiner_changes(old, name, new.components, several=several)
