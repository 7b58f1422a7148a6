"""Adds a ranker to a pipeline that has none: behind the last retriever or joiner, before what reads its documents."""

from collections.abc import Mapping
from typing import Any

import networkx

from haystack_ce_ranker.adopting.components import Wanted
from haystack_ce_ranker.adopting.edits import Add, Change, Edit, Path, Replace, at
from haystack_ce_ranker.adopting.equivalences import JOINER, RANKER, RETRIEVER, equivalence_of
from haystack_ce_ranker.adopting.parameters import NO_LIMIT, CannotMove
from haystack_ce_ranker.adopting.scopes import Reference, Scope

_NO_RANKERS = (
    "LostInTheMiddleRanker",
    "MetaFieldRanker",
    "MetaFieldGroupingRanker",
    "SentenceTransformersDiversityRanker",
)
"""Components that are called rankers, but do not judge how relevant a document is."""

_OUR_TOP_K = 50


def insertion(scope: Scope, wanted: Wanted) -> list[Change]:
    """
    Return the change that adds a ranker to a pipeline.

    :param scope: The pipeline, as it is after everything else was moved.
    :raises CannotMove: If there is a ranker, or if it is not sure where the new one belongs or what its query is.
    """
    rankers = [name for name in scope.components if _class(scope, name).endswith("Ranker")]
    rankers = [name for name in rankers if _class(scope, name) not in _NO_RANKERS]
    if rankers:
        raise CannotMove(f"it has a ranker, {rankers[0]}")
    last = _last(scope)
    name = next(one for one in _names() if one not in scope.components)
    queries, told = _query(scope, last, name)
    top_k = _most(scope, last)
    parameters = {"model": "cross-encoder/ms-marco-MiniLM-L6-v2", **wanted.parameters(), "top_k": top_k}
    edits: list[Edit] = [
        Add(scope.place(name), {"type": RANKER, "init_parameters": parameters}, after=last),
        *(Replace(one.sender.path, f"{name}.documents") for one in scope.out_of(last) if _of_documents(one.sender)),
        *_outputs(scope, last, name),
    ]
    count = len(at(scope.described, ("connections",))) if scope.described.get("connections") else 0
    new = [{"sender": f"{last}.documents", "receiver": f"{name}.documents"}, *queries.connections]
    if scope.described.get("connections"):
        edits += [Add(("connections", count + place), one) for place, one in enumerate(new)]
    elif "connections" in scope.described and scope.described["connections"] is None:
        edits.append(Replace(("connections",), new))
    elif "connections" in scope.described:
        edits += [Add(("connections", place), one) for place, one in enumerate(new)]
    else:
        edits.append(Add(("connections",), new))
    text = (
        f"a CrossEncoderRanker is added behind {last}, and what read the documents of {last} reads its. It returns "
        f"{top_k} documents, as many as before; let {last} find more to give it a choice. {told}"
    )
    return [Change(name, text, (*edits, *queries.edits))]


class _Query:
    """How the new ranker gets its query: connections to add, and entries of the pipeline's inputs."""

    def __init__(self, connections: list[dict[str, str]] | None = None, edits: list[Edit] | None = None) -> None:
        self.connections = connections or []
        self.edits = edits or []


def _names() -> Any:
    yield "ranker"
    number = 2
    while True:
        yield f"ranker_{number}"
        number += 1


def _class(scope: Scope, name: str) -> str:
    component = scope.components[name]
    return str(component.get("type", "")).rpartition(".")[2] if isinstance(component, Mapping) else ""


def _of_documents(sender: Reference) -> bool:
    return sender.socket in ("", "documents")


def _last(scope: Scope) -> str:
    """Return the retriever or joiner behind which there is no other one."""
    makers = [
        name
        for name in scope.components
        if _class(scope, name).endswith(("Retriever", "DocumentJoiner", "ScoreJoiner"))
    ]
    last = [name for name in makers if not networkx.descendants(scope.graph, name) & set(makers)]
    if not last:
        raise CannotMove("it has no retriever and no joiner of documents, so there is nothing to rank")
    if len(last) > 1:
        raise CannotMove(f"{', '.join(last)} all come last: connect them to a joiner first, behind which a ranker fits")
    if any(scope.graph.has_edge(one, last[0]) for one in networkx.descendants(scope.graph, last[0])):
        raise CannotMove(f"{last[0]} is part of a loop")
    return last[0]


def _query(scope: Scope, last: str, name: str) -> tuple[_Query, str]:
    """Return how the new ranker gets the query of the retrievers before it, and a sentence about it."""
    before = {last, *networkx.ancestors(scope.graph, last)}
    asked = [one for part in before for one in scope.into(part) if one.receiver.socket in ("query", "text")]
    senders = {(one.sender.component, one.sender.socket) for one in asked if one.sender.component not in ("",)}
    mine = [one for one in scope.named_inputs if one.component in before and one.socket in ("query", "text")]
    keys: set[Path] = {one.path[:2] for one in mine}
    of_retriever = {(one.sender.component, one.sender.socket) for one in asked if one.receiver.socket == "query"}
    if len(of_retriever) == 1:
        component, socket = next(iter(of_retriever))
        return _Query([{"sender": f"{component}.{socket}".rstrip("."), "receiver": f"{name}.query"}]), (
            f"Its query comes from {component}, as that of the retriever."
        )
    if len(of_retriever) > 1 or (senders and not keys and len(senders) > 1):
        raise CannotMove("the retrievers get different queries: add a ranker by hand, with the one that counts")
    if len(senders) == 1 and not keys:
        component, socket = next(iter(senders))
        return _Query([{"sender": f"{component}.{socket}".rstrip("."), "receiver": f"{name}.query"}]), (
            f"Its query comes from {component}."
        )
    if len(keys) == 1:
        path = next(iter(keys))
        old = at(scope.described, path)
        edit: Edit = (
            Replace(path, [old, f"{name}.query"]) if isinstance(old, str) else Add((*path, len(old)), f"{name}.query")
        )
        return _Query(edits=[edit]), f"The input {path[-1]} is its query, too."
    if len(keys) > 1:
        raise CannotMove("the retrievers get different inputs as queries: add a ranker by hand")
    return _Query(), f"Who runs the pipeline must now pass {name}.query as well."


def _outputs(scope: Scope, last: str, name: str) -> list[Edit]:
    return [
        Replace(one.path, f"{name}.documents")
        for one in scope.named_outputs
        if one.component == last and _of_documents(one)
    ]


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
