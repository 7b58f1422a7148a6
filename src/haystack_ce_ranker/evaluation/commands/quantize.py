"""The workflow of `haystack-ce-ranker quantize`: find what to verify on, quantise, and say what was written."""

from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.checks import whole_number
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.data.left_out import lines
from haystack_ce_ranker.quantizing.quantize import Agreement, Quantized, Request, quantize
from haystack_ce_ranker.quantizing.sample_texts import sample_requests


def verification(
    collection: Path | None, console: Console, *, split: str | None, queries: int, depth: int
) -> list[Request]:
    """
    Return queries with documents to verify a model on.

    :param collection: A folder in BEIR format; None for a few built-in texts.
    :param console: Where what was left out or mended is said.
    :param split: The judgments whose queries are used, as in `load_collection`.
    :param queries: The most queries of the collection, drawn at random.
    :param depth: How many of BM25's documents for each query.
    """
    if collection is None:
        return [*sample_requests()]
    known = load_collection(collection, split=split).sample(queries)
    for line in (*lines(known.left_out, "comparison"), *(f"note: {note}" for note in known.notes)):
        console.print(line, markup=False, highlight=False)
    texts = [document.content for document in known.documents.values()]
    index, depth = BM25Index.build(texts), whole_number("depth", depth)
    found = [(query, index.search(query, depth).positions.tolist()) for query in known.queries.values()]
    return [(query, [texts[row] for row in rows]) for query, rows in found]


def run_quantizing(
    options: ModelOptions,
    output: Path,
    console: Console,
    *,
    backend: str,
    collection: Path | None,
    split: str | None,
    queries: int,
    depth: int,
    min_correlation: float,
    min_overlap: float,
    report: Callable[[Agreement], object],
) -> Quantized:
    """
    Quantise a model with a progress bar, and say what was written.

    The other parameters are those of `verification` and of `quantizing.quantize.quantize`.

    :param report: Called with how the model ranks beside the original, even if it is then refused.
    :raises ValueError: If the model cannot be quantised, or ranks differently: then nothing is written.
    """
    requests = verification(collection, console, split=split, queries=queries, depth=depth)
    with Progress(console=console, transient=True) as bars:
        bar = bars.add_task("verifying", total=None)
        found = quantize(
            options,
            output,
            requests,
            backend=backend,
            min_correlation=min_correlation,
            min_overlap=min_overlap,
            report=report,
            progress=lambda done, documents: bars.update(bar, completed=done, total=documents),
        )
    console.print(f"wrote {output} ({found.megabytes:.0f} MB)", markup=False)
    return found
