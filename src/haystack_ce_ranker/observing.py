"""
A span for each run of a component, with figures of what it did as tags, and the same figures as a line in the log.

The span lies under the one that Haystack opens for the component, and goes where the tracer of the user sends it.
Without a tracer it costs nothing. Tags are names, numbers and flags, never a text of a query or a document.
"""

import functools
import inspect
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, TypeVar

from haystack import logging
from haystack.tracing.tracer import Span, tracer

PREFIX = "ce_ranker."
"""How the name of each span and of each tag begins."""

Run = TypeVar("Run", bound=Callable[..., Any])
Tags = Callable[[Any, Mapping[str, Any]], Mapping[str, Any]]
"""The tags of a run, without the prefix: given the component and what the run returned."""


def observed(operation: str, tags: Tags) -> Callable[[Run], Run]:
    """
    Let each call of a component's method have a span `ce_ranker.<operation>` and a line in the log at level INFO.

    The line is logged by the module of the method, with each figure as a value of its own for structured logs. A call
    that raises has a span, too, without tags of what it did; the tracer notes the error.

    :param operation: What the component does, as a verb.
    :param tags: The tags; None as a value leaves one out. `seconds`, the time of the whole call, is added.
    """

    def around(run: Run) -> Run:
        logger = logging.getLogger(run.__module__)

        def tell(span: Span, component: Any, output: Mapping[str, Any], began: float) -> None:
            figures = {name: value for name, value in tags(component, output).items() if value is not None}
            figures["seconds"] = time.perf_counter() - began
            span.set_tags({PREFIX + name: value for name, value in figures.items()})
            logger.info(operation + ": " + ", ".join(f"{name}={{{name}}}" for name in figures), **figures)

        @functools.wraps(run)
        def in_span(self: Any, *args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            with _span(operation) as span:
                output = run(self, *args, **kwargs)
                tell(span, self, output, began)
            return output

        @functools.wraps(run)
        async def in_span_async(self: Any, *args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            with _span(operation) as span:
                output = await run(self, *args, **kwargs)
                tell(span, self, output, began)
            return output

        return in_span_async if inspect.iscoroutinefunction(run) else in_span  # type: ignore[return-value]

    return around


def _span(operation: str) -> AbstractContextManager[Span]:
    return tracer.trace(PREFIX + operation, parent_span=tracer.current_span())
