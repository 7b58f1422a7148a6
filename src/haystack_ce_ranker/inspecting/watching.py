"""Notes what goes into and out of the components that handle documents, at any depth, while a pipeline runs."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import networkx
from haystack import Document, Pipeline
from haystack.core.pipeline.base import PipelineBase

from haystack_ce_ranker.evaluation.running.graphs import takes_documents
from haystack_ce_ranker.evaluation.running.parts import held_by, sockets_of

Place = tuple[str, ...]
"""The names that lead to a component: its own comes last, and those of the SuperComponents around it before."""


@dataclass(frozen=True)
class Call:
    """
    One run of a component.

    :ivar place: Where the component stands.
    :ivar given: What it was given, by input.
    :ivar returned: What it returned, by output.
    :ivar seconds: How long it took.
    """

    place: Place
    given: dict[str, Any]
    returned: dict[str, Any]
    seconds: float

    @property
    def received(self) -> list[Document]:
        """The documents that it was given, in all inputs."""
        return list(_documents(self.given))

    @property
    def made(self) -> list[Document]:
        """The documents that it returned, in all outputs."""
        return list(_documents(self.returned))


@dataclass
class Watch:
    """
    Watches a pipeline from now on. The pipeline must be one's own: its components are changed.

    :ivar components: Those that are watched, by their place.
    :ivar calls: Their runs, in the order in which they ended.
    """

    pipeline: Pipeline
    components: dict[Place, Any] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)

    def __post_init__(self) -> None:
        for place, instance in _within(self.pipeline, ()):
            if any(_of_documents(instance, side) for side in ("input", "output")):
                self.components[place] = instance
                self._listen(place, instance)

    def _listen(self, place: Place, instance: Any) -> None:
        run = instance.run

        @wraps(run)
        def listening(**given: Any) -> Any:
            started = time.perf_counter()
            returned = run(**given)
            self.calls.append(Call(place, given, returned, time.perf_counter() - started))
            return returned

        instance.run = listening

    def inner(self) -> list[Place]:
        """Return the places of the components that hold no other watched one."""
        holders = {one[:end] for one in self.components for end in range(1, len(one))}
        return [one for one in self.components if one not in holders]

    def senders(self, place: Place) -> list[tuple[Place, str]]:
        """Return the components that are connected to one, each with the input that it reaches."""
        edges = _pipeline_at(self.pipeline, place[:-1]).graph.in_edges(place[-1], data=True)
        return [((*place[:-1], sender), edge["to_socket"].name) for sender, _, edge in edges]

    def receivers(self, place: Place) -> list[Place]:
        """Return the components that one is connected to."""
        return [(*place[:-1], one) for one in _pipeline_at(self.pipeline, place[:-1]).graph.successors(place[-1])]

    def leads_to(self, first: Place, second: Place) -> bool:
        """Tell whether what one component returns can reach another."""
        same = next((n for n, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
        if same is None:
            return False
        graph = _pipeline_at(self.pipeline, first[:same]).graph
        return bool(networkx.has_path(graph, first[same], second[same]))


def label_of(place: Place) -> str:
    """Return how a component is called in messages."""
    return " > ".join(place)


def _within(pipeline: PipelineBase, around: Place) -> Iterator[tuple[Place, Any]]:
    for name, instance in pipeline.walk():
        yield (*around, name), instance
        for inner in _pipelines(instance):
            yield from _within(inner, (*around, name))


def _pipelines(instance: Any) -> list[PipelineBase]:
    return [one for one in held_by(instance) if isinstance(one, PipelineBase)]


def _pipeline_at(pipeline: PipelineBase, around: Place) -> PipelineBase:
    for name in around:
        pipeline = _pipelines(pipeline.get_component(name))[0]
    return pipeline


def _of_documents(instance: Any, side: str) -> bool:
    return any(takes_documents(one.type) or "Document" in str(one.type) for one in sockets_of(instance, side).values())


def _documents(value: Any) -> Iterator[Document]:
    if isinstance(value, Document):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _documents(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _documents(one)
