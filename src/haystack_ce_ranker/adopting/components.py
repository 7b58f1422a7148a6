"""What becomes of one component whose parameters alone decide that: the edits, each with the line that explains it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from haystack_ce_ranker.adopting.edits import Add, Change, Path, Remove, Rename, Replace
from haystack_ce_ranker.adopting.equivalences import RANKER
from haystack_ce_ranker.adopting.parameters import (
    CannotMove,
    Equivalence,
    Parameter,
)

BACKENDS = ("torch", "onnx", "openvino", "auto")


@dataclass(frozen=True)
class Wanted:
    """
    What the user wants of the rankers that become ours.

    :ivar model: The model, in place of the one that they name; None keeps it.
    :ivar backend: The backend, in place of the one that they name; None keeps it.
    """

    model: str | None = None
    backend: str | None = None

    def parameters(self) -> dict[str, str]:
        """Return what is given, by parameter."""
        given = {"model": self.model, "backend": self.backend}
        return {name: value for name, value in given.items() if value is not None}


def moved(label: str, path: Path, component: Mapping[str, Any], entry: Equivalence, wanted: Wanted) -> list[Change]:
    """
    Return the changes that make a component ours.

    :param label: How the changes name it.
    :param path: Where it stands in the description.
    :raises CannotMove: If it must stay as it is.
    """
    given = component.get("init_parameters")
    given = {} if given is None else given
    if not isinstance(given, Mapping):
        raise CannotMove(f"its init_parameters are {given!r:.40}, and no mapping")
    unknown = [name for name in given if entry.parameter(name) is None]
    if unknown:
        raise CannotMove(f"{', '.join(map(str, unknown))} is no parameter of {entry.name} that is known here")
    is_ranker = entry.to == RANKER
    own_model = entry.served and is_ranker and wanted.model is not None
    if is_ranker and entry.served and wanted.backend is not None and wanted.model is None:
        raise CannotMove(f"it asks a server: to compute with --backend {wanted.backend}, name a model with --model")
    _check_device_map(given, wanted if is_ranker else Wanted())
    target = _Target(entry, dict(given), own_model, wanted.parameters() if is_ranker else {})
    what = "With a model of your own: no server is asked." if own_model else entry.changes
    told = f"{entry.name} becomes {entry.to.rpartition('.')[2]}. {what}"
    return [Change(label, told, (Replace((*path, "type"), entry.to),)), *target.changes(label, path, component)]


def _check_device_map(given: Mapping[str, Any], wanted: Wanted) -> None:
    options = given.get("model_kwargs")
    if wanted.backend not in (None, "torch") and isinstance(options, Mapping) and options.get("device_map") is not None:
        raise CannotMove(f"its model_kwargs.device_map is for torch alone: remove it for --backend {wanted.backend}")


@dataclass
class _Target:
    """Collects what a component's parameters become."""

    entry: Equivalence
    given: dict[str, Any]
    own_model: bool
    wanted: dict[str, str]

    def values(self) -> dict[str, Any]:
        """Return what is set here beside the parameters that are given there, by name, with dots for inner keys."""
        found: dict[str, Any] = {}
        if not self.own_model:
            found.update(self.entry.added)
            found.update(self.entry.derived(self.given))
        if "model" in self.wanted:  # the backend that is written out is the one of the old model
            found.pop("backend", None)
        for one in self.entry.parameters:
            needless = one.name in self.given or (self.own_model and one.of_server)
            if one.written and one.to and not needless:
                found.setdefault(one.to, one.convert(one.default))
        return {**found, **self.wanted}

    def changes(self, label: str, path: Path, component: Mapping[str, Any]) -> list[Change]:
        """
        Return the changes of the parameters: of those that are kept, then of those that are added and removed.

        Removals go last, so that a block of YAML is never without an entry.
        """
        values, inner = self.values(), (*path, "init_parameters")
        leaving: dict[str, str] = {}
        kept: list[Change] = []
        for name, value in self.given.items():
            one = self.entry.parameter(name)
            if one is None:
                continue
            gone = self.own_model and one.of_server
            if gone or one.to is None:
                leaving[name] = "removed: no server is asked" if gone else one.note
            elif "." in one.to:
                leaving[name] = f"now {one.to}"
                values.setdefault(one.to, one.convert(value))
            else:
                kept += _kept(label, inner, one, value, values.pop(one.to, one.convert(value)))
        taken = [Change(label, f"{name}: {told}", (Remove((*inner, name)),)) for name, told in leaving.items()]
        for place, name in enumerate(leaving):
            if name in values:  # another parameter has the name here
                new = values.pop(name)
                told = f"{name}: {leaving[name]}; {name} is {new!r} here"
                taken[place] = Change(label, told, (Replace((*inner, name), new),))
        return [*kept, *_added(label, inner, values, component), *taken]


def _kept(label: str, inner: Path, one: Parameter, value: Any, new: Any) -> list[Change]:
    """Return the change of a parameter that stays, with another value or another name; none if both are the same."""
    place, to = (*inner, one.name), str(one.to)
    edits: tuple[Rename | Replace, ...] = ()
    if new != value or type(new) is not type(value):
        edits = (Replace(place, new),)
    if to != one.name:
        edits = (*edits, Rename(place, to))
    note = f" ({one.note})" if one.note else ""
    return [Change(label, f"{one.name}: {value!r:.60} becomes {to}: {new!r:.60}{note}", edits)] if edits else []


def _added(label: str, inner: Path, values: Mapping[str, Any], component: Mapping[str, Any]) -> list[Change]:
    """Return the changes that add values; the inner keys of one dictionary are added together."""
    grouped: dict[str, Any] = {}
    for name, value in values.items():
        outer, _, key = name.partition(".")
        if key:
            grouped.setdefault(outer, {})[key] = value
        else:
            grouped[outer] = value
    told = {name: f"{name}: {value!r} is written out" for name, value in grouped.items()}
    if grouped and component.get("init_parameters") is None:
        edit = Replace(inner, grouped) if "init_parameters" in component else Add(inner, grouped)
        return [Change(label, "; ".join(told.values()), (edit,))]
    return [Change(label, told[name], (Add((*inner, name), value),)) for name, value in grouped.items()]
