"""Reads what is to be scored: a run, and the texts of its queries and documents."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from haystack_ce_ranker.bulk.shards import Asked
from haystack_ce_ranker.data.collections import Text, load_texts
from haystack_ce_ranker.data.sources import Source
from haystack_ce_ranker.data.tables import EXPECTED_RUN, UNASKED, run_of


@dataclass(frozen=True)
class ToScore:
    """
    The pairs of a run with their texts.

    :ivar asked: The queries in the order of the run, each with its documents, best first.
    :ivar notes: What was mended in the files.
    :ivar unknown: Rows of the run whose query the collection does not have, or has without a text. They are left out.
    """

    asked: tuple[Asked, ...]
    notes: tuple[str, ...]
    unknown: int


@dataclass(frozen=True)
class _Texts:
    """What a run is checked against. Unlike a collection that is measured, it lets a query find itself."""

    name: str
    queries: Mapping[str, str]
    documents: Mapping[str, Text]

    def own(self, query_id: str) -> str | None:  # noqa: ARG002 - the run alone says what is scored
        return None


def read_asked(run: str | Path, collection: str | Path, *, depth: int | None = None) -> ToScore:
    """
    Read a run, and a collection in BEIR format, of which judgments are neither needed nor read.

    :param depth: Keep at most that many documents of a query.
    :raises CollectionError: If a file is missing or has another form, a pair comes twice, a score is no number, a
        document is not in the corpus, or no row is left.
    """
    loaded = load_texts(collection)
    texts = _Texts(loaded.name, loaded.queries, loaded.documents)
    source = Source(Path(run), EXPECTED_RUN)
    scores = run_of(source, collection=texts, depth=depth)
    unknown = source.counts.mends.pop(UNASKED, 0)
    wanted = {document_id for of_query in scores.values() for document_id in of_query}
    contents = {document_id: loaded.documents[document_id].content for document_id in wanted}
    asked = tuple(
        Asked(
            query_id,
            loaded.queries[query_id],
            tuple(of_query),
            tuple(contents[document_id] for document_id in of_query),
            tuple(of_query.values()),
        )
        for query_id, of_query in scores.items()
    )
    return ToScore(asked, (*loaded.notes, *source.counts.notes()), unknown)
