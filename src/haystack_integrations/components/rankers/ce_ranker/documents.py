"""Documents as the ranker takes and gives them: read and deduplicated, shown to the model, ranked, cut to a passage."""

import math
import re
from collections.abc import Mapping, Sequence, Sized
from dataclasses import replace
from functools import lru_cache
from typing import Any

from haystack import Document, logging

from haystack_ce_ranker.checks import is_number, text_or_none
from haystack_ce_ranker.provenance import KEY, with_record
from haystack_ce_ranker.reading.blank import is_blank
from haystack_ce_ranker.reading.documents import SENTENCE_END, DocumentText
from haystack_ce_ranker.reading.passages import whole_characters
from haystack_ce_ranker.scoring.scores import DocumentScore
from haystack_ce_ranker.scoring.slices import CHARACTERS_PER_TOKEN

logger = logging.getLogger(__name__)
_SPACE = re.compile(r"\s+")


def read_documents(given: object) -> list[Document]:
    """
    Return the input as documents: servers pass dictionaries where a pipeline takes documents.

    :raises TypeError: If it is not a list, or holds anything else.
    """
    if not isinstance(given, list | tuple):
        raise TypeError(f"documents must be a list of Documents, but got {given!r:.100}")
    # a copy, from which Haystack before 2.31 takes the meta away
    documents = [Document.from_dict({**one}) if isinstance(one, dict) else one for one in given]
    for document in documents:
        if not isinstance(document, Document):
            raise TypeError(f"documents must be a list of Documents, but one of them is {document!r:.100}")
    return documents


def deduplicated(documents: Sequence[Document]) -> list[Document]:
    """Keep the highest-scored document of each id, in the place of the first one; None and NaN are lowest."""
    best: dict[str, Document] = {}
    for document in documents:
        kept = best.get(document.id)
        if kept is None or _height(document) > _height(kept):
            best[document.id] = document
    return list(best.values())


def content_of(document: Document) -> str:
    """Return the document's text, which may be empty."""
    return document.content if document.content is not None else ""


def embedded(value: object) -> str:
    """
    Return the text of a meta field, empty for None and for an empty list or dictionary. 0 and False are values.

    It is empty also for a value that has no text. That is said once for each type.
    """
    if value is None or _is_empty(value):
        return ""
    found = text_or_none(value)
    if found is None:
        _warn_of_no_text(type(value).__name__)
    return "" if found is None else found


def _is_empty(value: object) -> bool:
    try:
        return isinstance(value, Sized) and not len(value)
    except Exception:  # an array of no dimension has no length
        return False


@lru_cache(maxsize=64)
def _warn_of_no_text(kind: str) -> None:
    logger.warning(
        "A value of type {kind} in a field of meta_fields_to_embed has no text, and is left out: str() fails, or it is "
        "nested too deeply.",
        kind=kind,
    )


def shown(document: Document, given: Mapping[str, Any]) -> DocumentText:
    """Return what a ranker with these parameters shows of a document: its content, and what is embedded around it."""
    fields = [embedded(document.meta.get(key)) for key in given["meta_fields_to_embed"]]
    header = "".join(field + given["embedding_separator"] for field in fields if not is_blank(field))
    return DocumentText(content_of(document), header, given["document_suffix"], given["document_prefix"])


def ranked(
    document: Document, found: DocumentScore, name: str, score: float | None, extra: Mapping[str, Any]
) -> Document:
    """
    Return a copy of the document with its score, and a record of what was read of it.

    :param name: Key of the record in `meta["ce_ranker"]`.
    :param extra: Further entries of the record.
    """
    return replace(document, score=score, meta=with_record(document.meta, name, {**found.plain(), **extra}))


def best_passage(document: Document, found: DocumentScore, name: str, tokens: int) -> Document:
    """
    Return a document with only the passage that the model scored highest, and the parent's id in its meta.

    Of a document that it did not score, that is the beginning, of about so many tokens.
    """
    content = content_of(document)
    best = found.read[0] if found.read else None
    start, end = (best.start, best.end) if best is not None else _beginning(content, tokens * CHARACTERS_PER_TOKEN)
    meta = {key: value for key, value in document.meta.items() if key != KEY}
    meta.update({"parent_id": document.id, "passage_start": start, "passage_end": end})
    return Document(
        id=f"{document.id}:{start}-{end}",
        content=content[start:end],
        meta=with_record(meta, name, {"logit": found.logit}),
        score=document.score,
    )


def _beginning(content: str, most: int) -> tuple[int, int]:
    """
    Return where a text begins, and where its last sentence ends within so many characters.

    Else the last word ends there, if half of these characters held no sentence, or the last character.
    """
    start = len(content) - len(content.lstrip())
    limit = start + most
    if len(content) <= limit:
        return (start, len(content)) if start < len(content) else (0, len(content))
    for pattern in (SENTENCE_END, _SPACE):
        ends = [match.end() for match in pattern.finditer(content, start, limit)]
        if ends and ends[-1] - start > most // 2:
            return start, ends[-1]
    return start, whole_characters(content, limit)


def _height(document: Document) -> float:
    score = document.score
    return -math.inf if score is None or not is_number(score) or math.isnan(score) else float(score)
