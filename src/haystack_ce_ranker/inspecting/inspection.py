"""The workflow of `haystack-ce-ranker inspect`: load, fill, ask, tell, and write what it is asked to."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import track

from haystack_ce_ranker.adopting.files import AdoptError, read
from haystack_ce_ranker.adopting.retrieval import Retrieval, retrieval_of
from haystack_ce_ranker.data.collections import Collection, load_queries, load_unjudged
from haystack_ce_ranker.data.sources import visible_lines
from haystack_ce_ranker.data_files import write_text
from haystack_ce_ranker.evaluation.running.graphs import one_line
from haystack_ce_ranker.evaluation.running.parts import document_stores
from haystack_ce_ranker.inspecting.asking import findings_of
from haystack_ce_ranker.inspecting.findings import Findings
from haystack_ce_ranker.inspecting.telling import sentences, tables


@dataclass(frozen=True)
class Inspection:
    """
    What is to be inspected, and how.

    :ivar pipeline: A pipeline's YAML.
    :ivar queries: A file of queries; None for those of the collection.
    :ivar collection: A folder in BEIR format that the stores are filled with; None for what they hold.
    :ivar sample: At most this many queries, drawn at random.
    :ivar output: Where the figures are written as JSON; None for nowhere.
    """

    pipeline: Path
    queries: Path | None = None
    collection: Path | None = None
    sample: int | None = None
    output: Path | None = None


def run_inspection(settings: Inspection, console: Console) -> Findings:
    """
    Run the retrieval part of the pipeline, print what it does, and write the file that was asked for.

    :raises ValueError: If something given cannot be used; the message says what to do.
    :raises OSError: If a file cannot be read or written.
    """
    collection = None if settings.collection is None else load_unjudged(settings.collection)
    asked = Collection("queries", {}, _queries(settings, collection), {}).sample(settings.sample)
    retrieval = retrieval_of(read(settings.pipeline), settings.pipeline, name=settings.pipeline.stem)
    notes = _documents(retrieval, collection)
    found = findings_of(
        retrieval,
        asked.queries,
        notes=(*asked.notes, *notes),
        track=partial(track, description="queries", console=console, transient=True),
    )
    told = sentences(found)
    for line in told:
        console.print(visible_lines(line), markup=False, highlight=False, soft_wrap=True)
    for table in tables(found):
        console.print(table)
    if settings.output is not None:
        write_text(settings.output, json.dumps(found.plain(told), indent=1, ensure_ascii=False) + "\n")
        console.print(f"wrote {settings.output}", markup=False, highlight=False)
    return found


def _queries(settings: Inspection, collection: Collection | None) -> Mapping[str, str]:
    if settings.queries is not None:
        return load_queries(settings.queries)
    if collection is None:
        raise AdoptError("name a file of queries with --queries, or a collection that has some with --collection")
    if not collection.queries:
        raise AdoptError(f"collection {collection.name!r} has no judged queries: name a file of queries with --queries")
    return collection.queries


def _documents(retrieval: Retrieval, collection: Collection | None) -> tuple[str, ...]:
    """Fill the stores with the collection, or see that one of them holds documents; returns notes."""
    measured = retrieval.measured
    if collection is not None:
        return measured.fill(collection)
    stores = document_stores(measured.pipeline)
    held = {type(store).__name__: _count(store) for store in stores}
    if stores and not any(held.values()):
        raise AdoptError(
            f"its {' and '.join(held)} holds no documents: name a folder of documents in BEIR format with --collection"
        )
    return tuple(f"{name} holds {count:,} documents" for name, count in held.items())


def _count(store: Any) -> int:
    try:
        return int(store.count_documents())
    except Exception as error:  # each store raises the errors of its own client
        told = f"the {type(store).__name__} could not be asked for its documents ({one_line(error)})"
        raise AdoptError(f"{told}: check that it can be reached, or name a collection with --collection") from error
