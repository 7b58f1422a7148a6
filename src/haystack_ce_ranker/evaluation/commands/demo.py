"""The demo: the example pipeline on the example collection, with rankings, what was read, and a table."""

from pathlib import Path

from haystack import Document
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.evaluation.running.experiments import measure, results
from haystack_ce_ranker.evaluation.running.groups import PipelineGroup
from haystack_ce_ranker.evaluation.running.pipelines import load_pipeline
from haystack_ce_ranker.evaluation.showing.tables import results_table
from haystack_ce_ranker.provenance import record

_SNIPPET = 160


def run_demo(examples: Path, console: Console, *, shown: int = 3) -> None:
    """
    Run `pipeline.yaml` on the `handbook` collection of an examples folder.

    :param examples: The repository's `examples/`.
    :param shown: For how many queries, one of each kind, to print the ranking.
    """
    collection = load_collection(examples / "handbook")
    pipeline = load_pipeline(examples / "pipeline.yaml", name="demo")
    wanted = list(collection.queries)[:: max(len(collection.queries) // max(shown, 1), 1)][:shown]
    measured = measure(
        [PipelineGroup(pipeline, collection, collection.fingerprint())],
        collection,
        track=lambda ids: track(ids, description="queries", console=console),
    )
    for query_id in wanted:
        console.print(f"\n[bold]{escape(collection.queries[query_id])}[/bold]")
        documents = pipeline.run(collection.queries[query_id]).documents
        for rank, document in enumerate(documents[:3], start=1):
            console.print(f"  {rank}. {escape(document.id)}  {document.score:.3f}")
            console.print(f"     [dim]{escape(what_was_read(document))}[/dim]")
    console.print()
    console.print(results_table(results(measured)))


def what_was_read(document: Document, name: str = "cross_encoder") -> str:
    """Say in one line how much of a document a ranker read, and how its best passage begins."""
    note = record(document.meta, name)
    if note is None or not note["read"]:
        return "not read"
    best = note["read"][0]
    content = document.content if document.content is not None else ""
    passage = " ".join(content[best["start"] : best["end"]].split())
    start = passage if len(passage) <= _SNIPPET else passage[:_SNIPPET] + "..."
    return f"read {note['coverage']:.0%}, best at characters {best['start']}-{best['end']}: {start}"
