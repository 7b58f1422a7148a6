"""`adopt`: moves a pipeline that was built in Python."""

import inspect
from functools import partial
from typing import Any, NamedTuple

from haystack import Pipeline
from haystack.core.serialization import DeserializationCallbacks

from haystack_ce_ranker.adopting.converting import changes_of
from haystack_ce_ranker.adopting.edits import Change, edited, edits_of


class Adopted(NamedTuple):
    """
    What became of a pipeline.

    :ivar pipeline: A new pipeline with our components.
    :ivar changes: What is different in it, and what stays as it is and why.
    """

    pipeline: Pipeline
    changes: list[Change]


def adopt(pipeline: Pipeline, *, model: str | None = None, backend: str | None = None, insert: bool = False) -> Adopted:
    """
    Return a new pipeline in which our components stand where they can do what the present ones do.

    The new pipeline has the same document stores, the objects themselves. All else is built anew from its description.
    What cannot be moved safely stays as it is, and the changes say why.

    ```python
    from haystack import Pipeline
    from haystack.components.retrievers.in_memory import InMemoryBM25Retriever
    from haystack.document_stores.in_memory import InMemoryDocumentStore
    from haystack_ce_ranker.adopting import adopt

    old = Pipeline()
    old.add_component("retriever", InMemoryBM25Retriever(InMemoryDocumentStore()))
    new, changes = adopt(old, insert=True)
    for change in changes:
        print(change)
    ```

    :param pipeline: Stays as it is.
    :param model: The model of the rankers that become ours, in place of their own.
    :param backend: `torch`, `onnx`, `openvino` or `auto`, in place of their own.
    :param insert: Whether to add a ranker if there is none.
    :raises ValueError: If a parameter has a value it cannot have, or a component cannot be described, because it holds
        a secret that is no environment variable.
    """
    described = pipeline.to_dict()
    changes = changes_of(described, model=model, backend=backend, insert=insert)
    # Haystack 3 asks for trust in every module by name; these are the modules that the caller's own objects came from.
    trusts = "unsafe" in inspect.signature(type(pipeline).from_dict).parameters
    options: dict[str, Any] = {"unsafe": True} if trusts else {}
    callbacks = DeserializationCallbacks(component_pre_init=partial(_keep_store, pipeline))
    new = type(pipeline).from_dict(edited(described, edits_of(changes)), callbacks=callbacks, **options)
    return Adopted(new, changes)


def _keep_store(pipeline: Pipeline, name: str, _: type, parameters: dict[str, Any]) -> None:
    """
    Give a component that is being made the store of its namesake in a pipeline, which may hold documents itself.

    Haystack calls the components inside of another one by that one's name, so the stores' descriptions must agree, too.
    """
    if name in pipeline.graph.nodes:
        store = getattr(pipeline.get_component(name), "document_store", None)
        made: Any = parameters.get("document_store")
        if store is not None and type(made) is type(store) and made.to_dict() == store.to_dict():
            parameters["document_store"] = store
