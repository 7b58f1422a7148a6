"""What a component or a pipeline is made of, wherever it is held: other components, tools, document stores."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

from haystack import Document
from haystack.core.pipeline.base import PipelineBase
from haystack.tools import Toolset
from haystack.utils import ComponentDevice

_ADDRESSES = frozenset({"api_key", "api_base_url", "api_url", "base_url", "endpoint", "host", "hosts", "url"})
_PLAIN = (str, bytes, int, float, type(None), Document)


def parts_of(root: Any) -> Iterator[Any]:
    """
    Yield all that a component or a pipeline is made of, itself first, each object once, the outer ones first.

    Pipelines, components, tools and other dataclasses, lists, dictionaries, and what a function is bound to are looked
    into. Any other object is a leaf: what a store, a client or a model holds is no part of the pipeline.
    """
    parts, known = [root], {id(root)}
    for part in parts:  # grows meanwhile
        yield part
        for held in held_by(part):
            if id(held) not in known:
                known.add(id(held))
                parts.append(held)


def held_by(part: Any) -> list[Any]:
    """Return what a part holds itself, without plain values; see `parts_of`."""
    held: Iterable[Any] = ()
    if isinstance(part, PipelineBase):
        held = [instance for _, instance in part.walk()]
    elif isinstance(part, Mapping):
        held = part.values()
    elif isinstance(part, list | tuple | set | frozenset):
        held = part
    elif isinstance(part, MethodType):
        held = (part.__self__,)
    elif isinstance(part, partial):
        held = (part.func, *part.args, *part.keywords.values())
    elif isinstance(part, FunctionType):
        cells = () if part.__closure__ is None else part.__closure__
        held = [cell.cell_contents for cell in cells if cell != CellType()]
    elif not is_store(part) and (is_component(part) or (is_dataclass(part) and not isinstance(part, type))):
        names = getattr(part, "__dict__", None) or [one.name for one in fields(part)]
        # Haystack notes the pipeline that a component belongs to, and a toolset may keep tools in a store of its own.
        kept = [getattr(part, name, None) for name in names if not name.startswith("__haystack")]
        held = [one for one in kept if not (isinstance(part, Toolset) and is_store(one))]
    return [one for one in held if not isinstance(one, _PLAIN)]


def document_stores(part: Any) -> list[Any]:
    """Return the document stores that a component or a pipeline holds, wherever it holds them."""
    return [one for one in parts_of(part) if is_store(one)]


def is_store(part: Any) -> bool:
    """Tell whether something is a document store."""
    return hasattr(part, "write_documents") and hasattr(part, "filter_documents") and not isinstance(part, type)


def is_component(part: Any) -> bool:
    """Tell whether something is a component."""
    return hasattr(part, "__haystack_input__") and not isinstance(part, type)


def sockets_of(instance: Any, side: str) -> dict[str, Any]:
    """Return a component's sockets by name; `side` is `input` or `output`."""
    sockets: dict[str, Any] = getattr(instance, f"__haystack_{side}__")._sockets_dict
    return sockets


def remote_parts(root: Any) -> tuple[str, ...]:
    """Return the kinds of components and stores that were given an address or a key: what they ask runs elsewhere."""
    found = {
        type(part).__name__
        for part in parts_of(root)
        if (is_component(part) or is_store(part))
        and any(value and name.strip("_") in _ADDRESSES for name, value in getattr(part, "__dict__", {}).items())
    }
    return tuple(sorted(found))


def devices_of(root: Any) -> set[str]:
    """Return the devices that components were told to run on, as torch writes them."""
    devices = (getattr(part, "device", None) for part in parts_of(root) if is_component(part))
    return {one.to_torch_str() for one in devices if isinstance(one, ComponentDevice) and not one.has_multiple_devices}
