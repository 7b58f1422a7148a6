"""What a pipeline's graph tells: where documents enter and leave, which components retrieve, what needs what."""

import inspect
from collections.abc import Sequence, Set
from types import UnionType
from typing import Any, Union, get_args, get_origin

import networkx
from haystack import Document, Pipeline

from haystack_ce_ranker.evaluation.running.parts import document_stores, sockets_of

Socket = tuple[str, str]
"""A component's name and the name of one of its inputs or outputs."""

_TOLD = 300  # characters of another library's error in a message


class PipelineError(ValueError):
    """A pipeline cannot be measured as it is; the message names the component and says what to do."""


def one_line(error: BaseException) -> str:
    """Return an error's kind and the beginning of what it says, for a message of one line."""
    told = " ".join(str(error).split())
    return f"{type(error).__name__}: {told[:_TOLD]}{'...' if len(told) > _TOLD else ''}"


def takes_documents(kind: Any) -> bool:
    """Tell whether a socket's type is a list of documents, alone or among others (`list[Document] | None`)."""
    return any(get_origin(part) is list and get_args(part) == (Document,) for part in _parts(kind))


def takes(kind: Any, wanted: Any) -> bool:
    """Tell whether a socket of this type takes a value of the wanted type."""
    return any(part is Any or part == wanted for part in _parts(kind))


def _parts(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union; any other type is its own only member."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def first_stage(pipeline: Pipeline) -> list[str]:
    """Return the retrievers: components with a store that give documents and take none."""
    return [
        name
        for name, instance in pipeline.walk()
        if document_stores(instance)
        and any(takes_documents(s.type) for s in sockets_of(instance, "output").values())
        and not any(takes_documents(s.type) for s in sockets_of(instance, "input").values())
    ]


def fed_by(pipeline: Pipeline, retrievers: Sequence[str]) -> tuple[Socket, ...]:
    """Return the inputs that take the retrievers' documents."""
    fed = [
        (receiver, edge["to_socket"].name)
        for sender, receiver, edge in pipeline.graph.edges(data=True)
        if sender in retrievers and receiver not in retrievers and takes_documents(edge["from_socket"].type)
    ]
    return tuple(dict.fromkeys(fed))


def unfed(pipeline: Pipeline) -> dict[Socket, Any]:
    """Return mandatory inputs without a connection, with types; Haystack 2.24 lists a joiner's filled input too."""
    return {
        (name, socket_name): socket["type"]
        for name, sockets in pipeline.inputs().items()
        for socket_name, socket in sockets.items()
        if socket["is_mandatory"]
        and not any(edge["to_socket"].name == socket_name for *_, edge in pipeline.graph.in_edges(name, data=True))
    }


def makers_of(pipeline: Pipeline) -> dict[str, list[str]]:
    """Return the components that make documents, with the names of those outputs."""
    outputs = pipeline.outputs(include_components_with_connected_outputs=True)
    found = {
        name: [key for key, s in sockets.items() if takes_documents(s["type"])] for name, sockets in outputs.items()
    }
    return {name: sockets for name, sockets in found.items() if sockets}


def ends_of(pipeline: Pipeline) -> tuple[Socket, ...]:
    """Return the outputs of documents from which no further component makes documents."""
    makers = makers_of(pipeline)
    last = [name for name in makers if not makers.keys() & networkx.descendants(pipeline.graph, name)]
    ends = [(name, socket) for name in last for socket in makers[name]]
    # A router may pass documents by its successors: such an open output of an earlier component is an end as well.
    for name, sockets in pipeline.outputs().items():
        if name in makers and name not in last and len(makers[name]) > 1:
            ends += [(name, socket) for socket in sockets if socket in makers[name]]
    return tuple(ends)


def needed_for(pipeline: Pipeline, names: Set[str], *, removed: Set[str]) -> set[str]:
    """Return these components and all that lead to them, by ways without the removed ones."""
    left = pipeline.graph.subgraph(set(pipeline.graph.nodes) - removed)
    kept = set(names) - removed
    return kept.union(*(networkx.ancestors(left, name) for name in kept))


def without(pipeline: Pipeline, removed: Set[str]) -> Pipeline:
    """Return the pipeline built anew from its serialised form, without these components."""
    described = pipeline.to_dict()
    described["components"] = {name: value for name, value in described["components"].items() if name not in removed}
    described["connections"] = [
        edge
        for edge in described["connections"]
        if edge["sender"].split(".")[0] not in removed and edge["receiver"].split(".")[0] not in removed
    ]
    # Haystack 3 asks for trust in every module by name; these are the modules that the caller's own objects came from.
    trusts = "unsafe" in inspect.signature(type(pipeline).from_dict).parameters
    options: dict[str, Any] = {"unsafe": True} if trusts else {}
    return type(pipeline).from_dict(described, **options)
