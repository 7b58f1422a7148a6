"""Shows errors that a user can mend as one line on the terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar, cast

import typer

from haystack_ce_ranker.backends.needs_torch import require_torch
from haystack_ce_ranker.data.sources import visible_lines

Command = TypeVar("Command", bound=Callable[..., Any])


@contextmanager
def clear_errors() -> Iterator[None]:
    """Print an error that a user can mend as one line, without a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        told = visible_lines(str(error))  # it may quote a file that somebody else made
        typer.secho(f"error: {told}", fg="red", err=True)
        raise typer.Exit(2) from error


def needs_torch(command: Command) -> Command:
    """Decorate a command that trains: without torch it ends with a line that says how to install it."""

    @wraps(command)
    def checked(*given: Any, **named: Any) -> Any:
        with clear_errors():
            require_torch(command.__name__)
        return command(*given, **named)

    return cast(Command, checked)
