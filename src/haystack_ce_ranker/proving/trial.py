"""Runs a moved pipeline once on the documents that its own stores hold, if they hold some."""

from pathlib import Path
from threading import Thread
from typing import Any

from haystack_ce_ranker.adopting.files import AdoptError
from haystack_ce_ranker.adopting.retrieval import Retrieval, retrieval_of
from haystack_ce_ranker.evaluation.running.graphs import one_line
from haystack_ce_ranker.evaluation.running.parts import document_stores

_SECONDS = 10  # that all stores together may take to say how many documents they hold
_QUERY = "which text is this"


def trial(text: str, path: Path) -> str:
    """
    Run the retrieval part of a pipeline once if a store of it holds documents, and return a sentence about it.

    :param text: The pipeline's YAML.
    :param path: Where it comes from, for messages.
    :raises AdoptError: If there are documents, and it does not run.
    """
    try:
        retrieval = retrieval_of(text, path)
    except AdoptError:
        return "It was not run: its retrieval part cannot be run alone."
    held = _held(retrieval)
    if not held:
        return "It was not run: no documents are at hand. Name some with --collection."
    try:
        retrieval.measured.warm_up()
        retrieval.measured.run(_QUERY)
    except Exception as error:  # whatever the components of others raise
        raise AdoptError(
            f"{path}: the pipeline does not run after the change ({one_line(error)}): check that its models are on "
            "this machine or can be downloaded. Nothing was written."
        ) from error
    return f"It ran on the {held:,} documents of its own stores."


def _held(retrieval: Retrieval) -> int:
    """Return how many documents the stores hold; one that does not answer in time holds none that are at hand."""
    counts: list[int] = []
    asking = Thread(target=_count, args=(document_stores(retrieval.measured.pipeline), counts), daemon=True)
    asking.start()
    asking.join(_SECONDS)
    return sum(counts)


def _count(stores: list[Any], counts: list[int]) -> None:
    for store in stores:
        try:
            counts.append(int(store.count_documents()))
        except Exception:  # each store raises the errors of its own client
            counts.append(0)
