"""What training workflows show in the terminal: lines as they are, bars with the time left, and the gate's table."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from haystack_ce_ranker.evaluation.judging.formats import p_value
from haystack_ce_ranker.training.gate import SHOWN, TRAINED, GateResult


def say(console: Console, line: str) -> None:
    """Print a line without reading markup in it."""
    console.print(line, markup=False, highlight=False)


@contextmanager
def bars_on(console: Console, *, shown: bool = True) -> Iterator[Progress]:
    """Show bars while the block runs, in a terminal alone. They are gone behind it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not (shown and console.is_terminal)) as bars:
        yield bars


@contextmanager
def bar_on(console: Console) -> Iterator[tuple[Progress, TaskID]]:
    """Show one bar while the block runs."""
    with bars_on(console) as bars:
        yield bars, bars.add_task("", total=None)


def shown_by(bars: Progress, bar: TaskID, what: str) -> Callable[[int, int], None]:
    """Return a function that shows on a bar how much of `what` is done: the number so far, and of all."""

    def show(done: int, total: int) -> None:
        bars.update(bar, description=what, completed=done, total=total)

    return show


def gate_table(found: GateResult) -> Table:
    """Return the systems with their measures, and the trained model against each of the others."""
    title = f"{found.queries:,} queries that training never saw, judged by {escape(found.judged_by)}"
    caption = "p: paired randomisation test, corrected for the number of comparisons (Holm)"
    table = Table(title=title, box=SIMPLE_HEAD, caption=caption, caption_justify="left")
    table.add_column("system")
    for label in SHOWN:
        table.add_column(label, justify="right")
    for label in ("trained against it", "95 % interval", "p", "better / equal / worse"):
        table.add_column(label, justify="right")
    for name, means in found.means.items():
        told = ["", "", "", ""]
        if name != TRAINED:
            one = found.versus[name]
            told = [f"{one.difference:+.4f}", f"{one.low:+.4f} to {one.high:+.4f}", p_value(one.p_corrected)]
            told.append(f"{one.wins} / {one.ties} / {one.losses}")
        table.add_row(escape(name), *(f"{means[label]:.4f}" for label in SHOWN), *told)
    return table
