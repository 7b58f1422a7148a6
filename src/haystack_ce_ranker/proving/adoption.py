"""The workflow of `haystack-ce-ranker adopt`: move, show, run or measure, and write."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from rich.progress import track

from haystack_ce_ranker.adopting.files import AdoptedFile, adopt_file, write
from haystack_ce_ranker.checks import choice
from haystack_ce_ranker.data.collections import Collection, load_collection
from haystack_ce_ranker.data.sources import visible_lines
from haystack_ce_ranker.evaluation.showing import tables
from haystack_ce_ranker.proving.comparing import compare_texts
from haystack_ce_ranker.proving.trial import trial

SAVE = ("better", "always")


@dataclass(frozen=True)
class Adoption:
    """
    What is to be moved, and how it is proved.

    :ivar pipeline: A pipeline's YAML.
    :ivar output: The file to write; None only with `dry_run`.
    :ivar model: The model of the rankers that are moved; None for their own.
    :ivar backend: The backend of these; None for their own.
    :ivar insert: Whether to add a ranker if there is none.
    :ivar dry_run: Whether to write nothing.
    :ivar force: Whether to write over an output that exists.
    :ivar collection: A folder in BEIR format on which both are measured; None for no measurement.
    :ivar split: Its judgments, as in `load_collection`.
    :ivar queries: At most this many of its queries, drawn at random.
    :ivar save: `better`: write only what is not significantly worse; `always`. None: `better` with a collection.
    """

    pipeline: Path
    output: Path | None = None
    model: str | None = None
    backend: str | None = None
    insert: bool = False
    dry_run: bool = False
    force: bool = False
    collection: Path | None = None
    split: str | None = None
    queries: int | None = None
    save: str | None = None


def run_adoption(settings: Adoption, console: Console) -> bool:
    """
    Move the pipeline, print what changes, prove it, and write it.

    :returns: Whether nothing stands against the new pipeline; false if it was measured to be worse, and not written.
    :raises ValueError: If something given cannot be used; nothing is written then.
    :raises OSError: If a file cannot be read or written.
    """
    collection = _checked(settings)
    found = adopt_file(settings.pipeline, model=settings.model, backend=settings.backend, insert=settings.insert)
    for change in found.changes:
        _print(console, f"- {change}")
    if found.before == found.after:
        _print(console, f"Nothing to change in {settings.pipeline}; nothing is written.")
        return True
    for line in found.difference():
        _print(console, line)
    if collection is None:
        _print(console, trial(found.after, settings.pipeline))
    elif not _compared(settings, found, collection, console):
        return False
    if settings.output is None or settings.dry_run:
        _print(console, "It loads in a fresh process. Nothing is written.")
    else:
        write(found, settings.pipeline, settings.output)
        _print(console, f"{settings.output} is written; it loads in a fresh process.")
    return True


def _print(console: Console, line: str) -> None:
    console.print(visible_lines(line), markup=False, highlight=False, soft_wrap=True)


def _checked(settings: Adoption) -> Collection | None:
    """Check what can be checked before anything is done; returns the collection."""
    output = settings.output
    choice("save", settings.save, SAVE, optional=True)
    if output is None and not settings.dry_run:
        raise ValueError("name the file to write with --output, or look at the changes with --dry-run")
    if output is not None and not settings.dry_run and output.exists() and not settings.force:
        raise ValueError(f"{output} is there already: name another --output, or write over it with --force")
    if settings.collection is not None:
        return load_collection(settings.collection, split=settings.split).sample(settings.queries)
    needs = {"save": settings.save, "split": settings.split, "queries": settings.queries}
    if given := [name for name, value in needs.items() if value is not None]:
        raise ValueError(f"--{given[0]} needs a collection to measure both pipelines on: name one with --collection")
    return None


def _compared(settings: Adoption, found: AdoptedFile, collection: Collection, console: Console) -> bool:
    """Measure both, print the figures, and tell whether the new pipeline may be written."""
    progress = partial(track, description="queries", console=console, transient=True)
    compared = compare_texts(found.before, found.after, settings.pipeline, collection, track=progress)
    console.print(tables.results_table(compared.results))
    for line in tables.left_out_text(compared.results):
        _print(console, line)
    for caution in compared.results.verdict.cautions:
        _print(console, f"Mind: {caution}")
    _print(console, compared.verdict())
    if not compared.is_worse or settings.save == "always":
        return True
    _print(
        console,
        "Nothing is written. It would be if the new pipeline were not significantly worse: try another --model, or "
        "undo by hand what changes the ranking. --save always writes it as it is.",
    )
    return False
