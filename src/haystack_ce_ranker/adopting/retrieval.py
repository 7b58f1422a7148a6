"""
The retrieval part of a pipeline's file, ready to be run: what makes documents, without generators and what they feed.

Generators and agents are left out before the file is loaded, so that none is called, no key is needed, and the packages
that they come from need not be installed. Where one of them stands before the retrieval, as in a rewriting of queries,
the query itself takes the place of what it would make.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import networkx
import yaml
from haystack import Pipeline

from haystack_ce_ranker.adopting.converting import check_description
from haystack_ce_ranker.adopting.files import AdoptError, filled, remedy
from haystack_ce_ranker.adopting.scopes import Component, Reference, Scope, scopes_of
from haystack_ce_ranker.adopting.yaml_text import parsed
from haystack_ce_ranker.evaluation.running.graphs import Socket, one_line, takes, unfed, without
from haystack_ce_ranker.evaluation.running.pipelines import MeasuredPipeline, measured

_MAKES_TEXT = re.compile(r"\.(generators|agents)\.|(Generator|Agent)$")
_MAKES_DOCUMENTS = re.compile(r"(Retriever|Ranker|DocumentJoiner|ScoreJoiner)$")
_QUERY_KEYS = ("query", "question")
_QUERY_SOCKETS = ("query", "queries", "text", "texts", "question", "search_query", "prompt")


@dataclass(frozen=True)
class Retrieval:
    """
    The retrieval part of a pipeline.

    :ivar measured: The pipeline, with where its query enters and its documents come out.
    :ivar notes: In words, what is not run, and what takes its place.
    """

    measured: MeasuredPipeline
    notes: tuple[str, ...]


def retrieval_of(text: str, path: Path, *, name: str = "pipeline") -> Retrieval:
    """
    Load the retrieval part of a pipeline's YAML.

    :param path: Where the text comes from, for messages.
    :param name: What the pipeline is called.
    :raises AdoptError: If it describes no pipeline, or one that cannot be run here.
    """
    try:
        described = parsed(filled(text))
        check_description(described)
    except yaml.YAMLError as error:
        raise AdoptError(f"{path}: it is no YAML: {one_line(error)}") from error
    except ValueError as error:
        raise AdoptError(f"{path}: {error}") from error
    scope = _scope_of_retrieval(described, path)
    try:
        pipeline = Pipeline.loads(yaml.safe_dump(_without_generators(scope), sort_keys=False))
    except Exception as error:  # whatever the components of others raise
        fault = one_line(error)
        raise AdoptError(f"{path} does not load here: {fault}. {remedy(fault)}".rstrip()) from error
    declared = [(one.component, one.socket) for one in scope.named_inputs if _key(scope, one) in _QUERY_KEYS]
    pipeline = _without_unfed(pipeline, scope, declared)
    if declared:
        declared += [one for one in _lost(pipeline, scope) if _takes_query(pipeline, one)]
    end = next((one for one in _declared_ends(scope) if one[0] in pipeline.graph), None)
    try:
        found = measured(pipeline, name=name, query_sockets=declared or None, end=end)
    except ValueError as error:
        raise AdoptError(f"{path}: its retrieval part cannot be run alone: {error}") from error
    return Retrieval(found, tuple(_notes(scope, found)))


def _scope_of_retrieval(described: Mapping[str, Any], path: Path) -> Scope:
    """Return the outermost pipeline that has a part which finds documents, and can be run without a generator."""
    for scope in scopes_of(described):
        cut = _makers_of_text(scope)
        if any(name not in cut and _holds(one, _MAKES_DOCUMENTS) for name, one in scope.components.items()):
            return scope
    raise AdoptError(f"{path}: it has no retriever, joiner or ranker that can be run without a generator")


def _holds(described: Any, kind: "re.Pattern[str]") -> bool:
    """Tell whether a component is of a kind, or holds one that is."""
    if isinstance(described, Mapping):
        own = described.get("type")
        return (isinstance(own, str) and kind.search(own) is not None) or any(
            _holds(one, kind) for one in described.values()
        )
    return isinstance(described, list) and any(_holds(one, kind) for one in described)


def _makers_of_text(scope: Scope) -> set[str]:
    return {name for name, one in scope.components.items() if _holds(one, _MAKES_TEXT)}


def _without_generators(scope: Scope) -> dict[str, Any]:
    """Return the description without generators, and without what only they lead to."""
    cut = _makers_of_text(scope)
    left = scope.graph.subgraph(set(scope.components) - cut)
    makers = {name for name in left if _holds(scope.components[name], _MAKES_DOCUMENTS)}
    needed = makers.union(*(networkx.ancestors(left, one) for one in makers))
    behind = set[str]().union(*(networkx.descendants(scope.graph, one) for one in cut))
    kept: dict[str, Component] = {
        name: one
        for name, one in scope.components.items()
        if name not in cut and (name in needed or name not in behind)
    }
    edges = [
        {end: f"{one.component}.{one.socket}".rstrip(".") for end, one in edge._asdict().items()}
        for edge in scope.connections
        if edge.sender.component in kept and edge.receiver.component in kept
    ]
    whole = {key: value for key, value in scope.pipeline.items() if key in ("metadata", "max_runs_per_component")}
    return {**whole, "components": kept, "connections": edges}


def _key(scope: Scope, one: Reference) -> str:
    """Return the name of the pipeline's own input that leads to a socket, or of its output that comes from one."""
    return str(one.path[max(1, len(scope.path))]) if one.path else ""


def _declared_ends(scope: Scope) -> list[Socket]:
    """Return the output that is named as the pipeline's documents; a SuperComponent's are its only outputs."""
    return [
        (one.component, one.socket) for one in scope.named_outputs if one.socket and _key(scope, one) == "documents"
    ]


def _without_unfed(pipeline: Pipeline, scope: Scope, declared: list[Socket]) -> Pipeline:
    """Return the pipeline without the parts that only a generator could feed."""
    while True:
        gone = {
            one[0]
            for one in _lost(pipeline, scope)
            if one not in declared and one in unfed(pipeline) and not _takes_query(pipeline, one)
        }
        if not gone:
            return pipeline
        pipeline = without(pipeline, gone)


def _lost(pipeline: Pipeline, scope: Scope) -> Iterator[Socket]:
    """Yield the sockets whose sender is no longer there."""
    for one in scope.connections:
        if one.receiver.component in pipeline.graph and one.sender.component not in pipeline.graph:
            sockets = pipeline.inputs().get(one.receiver.component, {})
            yield from ((one.receiver.component, name) for name in sockets if one.receiver.socket in ("", name))


def _takes_query(pipeline: Pipeline, socket: Socket) -> bool:
    kind = pipeline.inputs()[socket[0]][socket[1]]["type"]
    return socket[1] in _QUERY_SOCKETS and (takes(kind, str) or takes(kind, list[str]))


def _notes(scope: Scope, found: MeasuredPipeline) -> Iterator[str]:
    absent = [one for one in scope.components if one not in found.pipeline.graph]
    if absent:
        yield f"not run: {', '.join(absent)}"
    for one in scope.connections:
        to = (one.receiver.component, one.receiver.socket)
        if one.sender.component in absent and to in found.query_sockets:
            yield f"{'.'.join(to)} gets the query itself, as {one.sender.component} is not run"
