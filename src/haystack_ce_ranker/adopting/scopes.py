"""
The pipelines in a description: the whole, and those inside of SuperComponents, with what connects their components.

A connection, and an entry under `inputs` and `outputs` (or of a SuperComponent's mappings), name a component and one of
its sockets, or only the component.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import networkx

from haystack_ce_ranker.adopting.edits import Path, at

Component = Mapping[str, Any]

_WRAPPERS = ("init_parameters", "data", "component", "components")


class Reference(NamedTuple):
    """
    A place that names a socket.

    :ivar component: The component's name.
    :ivar socket: The socket's name, empty if only the component is named.
    :ivar path: Where the text stands.
    """

    component: str
    socket: str
    path: Path


class Connection(NamedTuple):
    """What gives something to what."""

    sender: Reference
    receiver: Reference


@dataclass(frozen=True)
class Scope:
    """
    One pipeline of a description.

    :ivar described: The whole description.
    :ivar path: Where this pipeline stands in it.
    :ivar inside: The names of the components around it.
    """

    described: Mapping[str, Any]
    path: Path = ()
    inside: tuple[str, ...] = ()

    @property
    def pipeline(self) -> Mapping[str, Any]:
        """The description of this pipeline alone."""
        found: Mapping[str, Any] = at(self.described, self.path)
        return found

    @property
    def components(self) -> Mapping[str, Component]:
        """The components by name."""
        found: Mapping[str, Component] = self.pipeline["components"]
        return found

    def label(self, name: str, *further: str) -> str:
        """Return how the list of changes names a component, or what lies inside of it."""
        return " > ".join((*self.inside, name, *further))

    def place(self, name: str, *parts: str | int) -> Path:
        """Return the path of a component, or of something in it."""
        return (*self.path, "components", name, *parts)

    @cached_property
    def connections(self) -> list[Connection]:
        """The connections in their order."""
        path = (*self.path, "connections")
        own = self.pipeline.get("connections") or []
        return [
            Connection(*(_reference(str(one[end]), (*path, place, end)) for end in ("sender", "receiver")))
            for place, one in enumerate(own)
            if isinstance(one, Mapping) and {"sender", "receiver"} <= one.keys()
        ]

    @cached_property
    def named_inputs(self) -> list[Reference]:
        """The sockets that the pipeline's own inputs lead to."""
        return list(_in_values(*self._mapping("inputs", "input_mapping")))

    @cached_property
    def named_outputs(self) -> list[Reference]:
        """The sockets that the pipeline's own outputs come from; a SuperComponent has them as keys."""
        path, mapping = self._mapping("outputs", "output_mapping")
        return [_reference(str(key), ()) for key in mapping] if self.path else list(_in_values(path, mapping))

    def _mapping(self, own: str, around: str) -> tuple[Path, Mapping[str, Any]]:
        """Return the mapping of the pipeline itself, or of the SuperComponent around it, and where it stands."""
        path, key = (self.path[:-1], around) if self.path else ((), own)
        holder = at(self.described, path).get(key)
        return (*path, key), holder if isinstance(holder, Mapping) else {}

    def into(self, name: str) -> list[Connection]:
        """Return the connections to a component."""
        return [one for one in self.connections if one.receiver.component == name]

    def out_of(self, name: str) -> list[Connection]:
        """Return the connections from a component."""
        return [one for one in self.connections if one.sender.component == name]

    @cached_property
    def graph(self) -> "networkx.DiGraph[str]":
        """Which component leads to which."""
        graph: networkx.DiGraph[str] = networkx.DiGraph()
        graph.add_nodes_from(self.components)
        graph.add_edges_from((one.sender.component, one.receiver.component) for one in self.connections)
        return graph

    def sockets_named(self, name: str) -> tuple[set[str], set[str]]:
        """Return the inputs and the outputs of a component that something names; empty texts are left out."""
        taken = {one.receiver.socket for one in self.into(name)}
        taken |= {one.socket for one in self.named_inputs if one.component == name}
        given = {one.sender.socket for one in self.out_of(name)}
        given |= {one.socket for one in self.named_outputs if one.component == name}
        return taken - {""}, given - {""}


def _reference(text: str, path: Path) -> Reference:
    component, _, socket = text.partition(".")
    return Reference(component, socket, path)


def _in_values(path: Path, mapping: Mapping[str, Any]) -> Iterator[Reference]:
    """Yield what a mapping's values name: a text, or a list of texts."""
    for key, value in mapping.items():
        if isinstance(value, str):
            yield _reference(value, (*path, key))
        elif isinstance(value, list):
            yield from (_reference(str(one), (*path, key, place)) for place, one in enumerate(value))


class Nested(NamedTuple):
    """
    A component that another one holds.

    :ivar path: Where it stands.
    :ivar label: How the list of changes names it.
    :ivar described: Its description.
    :ivar why_left: Why it must stay as it is, by what holds it; empty if it need not.
    """

    path: Path
    label: str
    described: Component
    why_left: str


def scopes_of(described: Mapping[str, Any]) -> list[Scope]:
    """Return the pipelines of a description, the outermost first."""
    found = [Scope(described)]
    for scope in found:  # it grows while it is read
        for name, component in scope.components.items():
            parameters = _parameters(component)
            found += [
                Scope(described, scope.place(name, "init_parameters", key), (*scope.inside, name))
                for key, value in parameters.items()
                if is_pipeline(value)
            ]
    return found


def nested_in(scope: Scope, name: str) -> Iterator[Nested]:
    """Yield the components that a component holds, but for those of a pipeline in it, which is a scope of its own."""
    parameters = _parameters(scope.components[name])
    for key, value in parameters.items():
        if not is_pipeline(value):
            yield from _held(value, scope.place(name, "init_parameters", key), (scope.label(name), key), "")


def _held(value: Any, path: Path, labels: tuple[str, ...], why_left: str) -> Iterator[Nested]:
    if isinstance(value, Mapping):
        if "data" in value:
            why_left = "a tool holds it, and its description for the language model would change"
        elif is_pipeline(value):
            why_left = why_left or "it is in a pipeline that another component than a SuperComponent holds"
        if isinstance(value.get("type"), str) and isinstance(value.get("init_parameters") or {}, Mapping):
            yield Nested(path, " > ".join(labels), value, why_left)
        for key, one in value.items():
            further = () if key in _WRAPPERS else (str(key),)
            yield from _held(one, (*path, key), (*labels, *further), why_left)
    elif isinstance(value, list):
        for place, one in enumerate(value):
            yield from _held(one, (*path, place), labels, why_left)


def is_pipeline(value: Any) -> bool:
    """Tell whether a value describes a pipeline."""
    return isinstance(value, Mapping) and isinstance(value.get("components"), Mapping) and "connections" in value


def _parameters(component: Any) -> Mapping[str, Any]:
    found = component.get("init_parameters") if isinstance(component, Mapping) else None
    return found if isinstance(found, Mapping) else {}
