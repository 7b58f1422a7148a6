"""Adds a ranker to a pipeline that has none: behind the last retriever or joiner, before what reads its documents."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import networkx

from haystack_ce_ranker.adopting.components import Wanted
from haystack_ce_ranker.adopting.edits import Add, Change, Edit, Rename, Replace, at
from haystack_ce_ranker.adopting.equivalences import JOINER, RANKER, RETRIEVER, equivalence_of
from haystack_ce_ranker.adopting.parameters import NO_LIMIT, CannotMove
from haystack_ce_ranker.adopting.scopes import Reference, Scope, scopes_of

NO_RANKERS = (
    "LostInTheMiddleRanker",
    "MetaFieldRanker",
    "MetaFieldGroupingRanker",
    "SentenceTransformersDiversityRanker",
)
"""Components that are called rankers, but do not judge how relevant a document is."""

_OUR_TOP_K = 50


def insertion(described: Mapping[str, Any], wanted: Wanted) -> list[Change]:
    """
    Return the change that adds a ranker to a pipeline, or to the one inside of a SuperComponent that finds documents.

    :param described: The pipeline, as it is after everything else was moved.
    :raises CannotMove: If there is a ranker, or if it is not sure where the new one belongs or what its query is.
    """
    scope = _scope_to_rank(described)
    last = _last(scope)
    name = next(one for one in _names() if one not in scope.components)
    query = _query(scope, last, name)
    top_k = _most(scope, last)
    parameters = {"model": "cross-encoder/ms-marco-MiniLM-L6-v2", **wanted.parameters(), "top_k": top_k}
    edits: list[Edit] = [
        Add(scope.place(name), {"type": RANKER, "init_parameters": parameters}, after=last),
        *(Replace(one.sender.path, f"{name}.documents") for one in scope.out_of(last) if _of_documents(one.sender)),
        *_outputs(scope, last, name),
    ]
    new = [{"sender": f"{last}.documents", "receiver": f"{name}.documents"}, *query.connections]
    own, place = scope.pipeline.get("connections"), (*scope.path, "connections")
    if isinstance(own, list):
        edits += [Add((*place, number), one) for number, one in enumerate(new, start=len(own))]
    else:
        edits.append(Replace(place, new) if "connections" in scope.pipeline else Add(place, new))
    text = (
        f"a CrossEncoderRanker is added behind {last}, and what read the documents of {last} reads its. It returns "
        f"{top_k} documents, as many as before; let {last} find more to give it a choice. {query.told}"
    )
    return [Change(scope.label(name), text, (*edits, *query.edits))]


def _scope_to_rank(described: Mapping[str, Any]) -> Scope:
    """
    Return the pipeline whose documents are to be ranked: the whole one if it finds some itself, else one inside of it.

    :raises CannotMove: If there is a ranker anywhere, or there are several such pipelines.
    """
    scopes = [one for one in scopes_of(described) if _in_super_components(one)]
    for scope in scopes:
        for name in scope.components:
            if _class(scope, name).endswith("Ranker") and _class(scope, name) not in NO_RANKERS:
                raise CannotMove(f"it has a ranker, {scope.label(name)}")
    finding = [one for one in scopes if _makers(one)]
    outer = [one for one in finding if not any(_is_within(one, other) for other in finding)]
    if len(outer) > 1:
        named = " and ".join(one.label(_makers(one)[-1]) for one in outer)
        raise CannotMove(f"{named} are in different pipelines: add a ranker by hand where it belongs")
    return outer[0] if outer else scopes[0]


def _in_super_components(scope: Scope) -> bool:
    """Tell whether nothing but SuperComponents stands around a pipeline: what else holds one may use it otherwise."""
    holders = (scope.path[:place] for place, part in enumerate(scope.path) if part == "init_parameters")
    return all(str(at(scope.described, one).get("type")).endswith(".SuperComponent") for one in holders)


def _is_within(scope: Scope, other: Scope) -> bool:
    return len(other.path) < len(scope.path) and scope.path[: len(other.path)] == other.path


def _makers(scope: Scope) -> list[str]:
    """Return the retrievers and joiners of documents."""
    kinds = ("Retriever", "DocumentJoiner", "ScoreJoiner")
    return [name for name in scope.components if _class(scope, name).endswith(kinds)]


@dataclass(frozen=True)
class _Query:
    """
    How the new ranker gets its query.

    :ivar told: A sentence about it.
    :ivar connections: Connections to add.
    :ivar edits: Entries of the pipeline's inputs to add.
    """

    told: str
    connections: tuple[dict[str, str], ...] = ()
    edits: tuple[Edit, ...] = ()


def _names() -> Iterator[str]:
    yield "ranker"
    yield from (f"ranker_{number}" for number in count(2))


def _class(scope: Scope, name: str) -> str:
    component = scope.components[name]
    return str(component.get("type", "")).rpartition(".")[2] if isinstance(component, Mapping) else ""


def _of_documents(sender: Reference) -> bool:
    return sender.socket in ("", "documents")


def _last(scope: Scope) -> str:
    """Return the retriever or joiner behind which there is no other one."""
    makers = _makers(scope)
    last = [name for name in makers if not networkx.descendants(scope.graph, name) & set(makers)]
    if not last:
        raise CannotMove("it has no retriever and no joiner of documents, so there is nothing to rank")
    if len(last) > 1:
        raise CannotMove(f"{', '.join(last)} all come last: connect them to a joiner first, behind which a ranker fits")
    if any(scope.graph.has_edge(one, last[0]) for one in networkx.descendants(scope.graph, last[0])):
        raise CannotMove(f"{last[0]} is part of a loop")
    return last[0]


def _query(scope: Scope, last: str, name: str) -> _Query:
    """
    Return how the new ranker gets the query of the retrievers before it.

    :raises CannotMove: If they get different ones.
    """
    before = {last, *networkx.ancestors(scope.graph, last)}
    mine = [one for one in scope.named_inputs if one.component in before and one.socket in ("query", "text")]
    keys = {one.path[: max(2, len(scope.path) + 1)] for one in mine}
    senders = _senders(scope, before, "query") or (set() if keys else _senders(scope, before, "text"))
    if len(senders) > 1 or (not senders and len(keys) > 1):
        raise CannotMove("the retrievers get different queries: add a ranker by hand, with the one that counts")
    if senders:
        sender = senders.pop()
        told = f"Its query comes from {sender.partition('.')[0]}."
        return _Query(told, connections=({"sender": sender, "receiver": f"{name}.query"},))
    if not keys and scope.path:
        raise CannotMove(f"which query {last} gets is not known: name it in the input_mapping of {scope.inside[-1]}")
    if not keys:
        return _Query(f"Who runs the pipeline must now pass {name}.query as well.")
    path = keys.pop()
    old, new = at(scope.described, path), f"{name}.query"
    edit: Edit = Replace(path, [old, new]) if isinstance(old, str) else Add((*path, len(old)), new)
    return _Query(f"The input {path[-1]} is its query, too.", edits=(edit,))


def _senders(scope: Scope, receivers: set[str], socket: str) -> set[str]:
    """Return what is connected to a socket of this name, of any of some components."""
    found = [one.sender for part in receivers for one in scope.into(part) if one.receiver.socket == socket]
    return {f"{one.component}.{one.socket}" if one.socket else one.component for one in found}


def _outputs(scope: Scope, last: str, name: str) -> list[Edit]:
    new = f"{name}.documents"
    named = [one for one in scope.named_outputs if one.component == last and _of_documents(one)]
    if not scope.path:
        return [Replace(one.path, new) for one in named]
    mapping = (*scope.path[:-1], "output_mapping")  # of a SuperComponent, its keys say where outputs come from
    return [Rename((*mapping, f"{one.component}.{one.socket}".rstrip(".")), new) for one in named]


def _most(scope: Scope, name: str) -> int:
    """Return the most documents that a component gives, as far as its `top_k` and those before it tell."""
    component = scope.components[name]
    given = component.get("init_parameters") or {}
    entry = equivalence_of(component.get("type"))
    top_k = given.get("top_k")
    if isinstance(top_k, int) and not isinstance(top_k, bool):
        return top_k
    if top_k is None and _class(scope, name).endswith("Joiner"):
        senders = [one.sender.component for one in scope.into(name) if _of_documents(one.sender)]
        return min(NO_LIMIT, sum(_most(scope, one) for one in senders)) if senders else NO_LIMIT
    if component.get("type") == RETRIEVER:
        return _OUR_TOP_K
    known = None if entry is None or entry.to == JOINER else entry.parameter("top_k")
    return known.default if "top_k" not in given and known is not None and isinstance(known.default, int) else NO_LIMIT
