"""Reads what arrives at a joiner: the documents of each input, and the scores by which they are joined."""

import keyword
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any, NamedTuple

from haystack import Document

from haystack_ce_ranker.checks import is_finite, is_number
from haystack_ce_ranker.fusion.fuse import ScoredList
from haystack_ce_ranker.fusion.scales import Scale
from haystack_ce_ranker.provenance import BM25, KEYWORD, noted_scores

REPORT = "_report"
"""The end of the name of an input for a ranker's report."""

_SCALES: dict[str, Scale] = {BM25: "bm25", KEYWORD: "own"}
"""The scale of the scores that a retriever's stage notes."""

_RESERVED = ("weights", "top_k", "score_threshold", "self")


class Input(NamedTuple):
    """
    The documents and scores that arrived at one input.

    :param documents: The documents; none if only a ranker's report arrived.
    :param scores: Their ids and scores. With a report, also those of the documents that the ranker's `top_k` cut.
    :param noted: Whether a stage of ours noted the scores. Otherwise they come from `Document.score`.
    :param repeated: How many documents have the id of an earlier one.
    """

    documents: list[Document]
    scores: ScoredList
    noted: bool
    repeated: int


def check_input_name(name: object, *, own: str) -> None:
    """
    Check the name of an input.

    :param own: The joiner's own name.
    :raises ValueError: If it is not an identifier, or reserved.
    """
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"weights: an input's name must be an identifier, such as 'cross_encoder', but got {name!r}")
    if name in _RESERVED or name.endswith(REPORT) or name == own:
        raise ValueError(
            f"weights: {name!r} cannot name an input: {', '.join(_RESERVED)}, the joiner's own name {own!r} and names "
            f"that end in {REPORT!r} are reserved; choose another, such as {name.removesuffix(REPORT)}_list"
        )


def read_inputs(lists: Mapping[str, Any], names: Sequence[str]) -> dict[str, Input]:
    """
    Check every input, and return the inputs at which something arrived.

    :param lists: By input, a list of documents or None; by `<input>_report`, a ranker's report or None.
    :param names: The joiner's inputs.
    :raises ValueError: If an input is not one of these.
    :raises TypeError: If an input is not a list of documents, or a report not a mapping.
    """
    arrived: dict[str, list[Document]] = {}
    for given, value in lists.items():
        name = given.removesuffix(REPORT)
        if name not in names:
            raise ValueError(f"{given!r} is not an input of this joiner; its inputs: {', '.join(sorted(names))}")
        if value is None:
            continue
        if given == name:
            if not isinstance(value, list) or not all(isinstance(document, Document) for document in value):
                raise TypeError(f"{given} must be a list of Documents, but got {value!r:.100}")
            arrived[name] = value
        elif not isinstance(value, Mapping) or not isinstance(value.get("scored"), Mapping):
            raise TypeError(
                f"{given} must be the report of a CrossEncoderRanker, with 'scored', but got {value!r:.100}"
            )
        else:
            arrived.setdefault(name, [])
    return {name: _input(name, documents, lists.get(name + REPORT)) for name, documents in arrived.items()}


def scored_by(report: Mapping[str, Any]) -> str | None:
    """Say what scored a list, by a ranker's report; None if that does not say. A model counts by its folder's name."""
    told = [report.get(key) for key in ("model", "dtype", "strategy", "max_length")]
    if None in told:
        return None
    return ", ".join([PurePath(str(told[0])).name, *map(str, told[1:3]), f"{told[3]} tokens"])


def number_or_none(score: object) -> float | None:
    """Return a document's score as a plain number, or None if it is no number. A text is none, even if it reads so."""
    if type(score) is float:
        return score
    return float(score) if is_number(score) else None  # type: ignore[arg-type]


def _input(name: str, documents: list[Document], report: Mapping[str, Any] | None) -> Input:
    ids = [document.id for document in documents]
    repeated = len(ids) - len(set(ids))
    given = [number_or_none(document.score) for document in documents]
    noted = noted_scores(given, [document.meta for document in documents], name)
    if report is not None:
        own = noted.scores if noted is not None and noted.stage == name else [None] * len(ids)
        scored = {identifier: number_or_none(score) for identifier, score in report["scored"].items()}
        known = dict(zip(ids, own, strict=True)) | scored
        listed = ScoredList(
            list(known), list(known.values()), reranked=True, scale="logits", scored_by=scored_by(report)
        )
        return Input(documents, listed, True, repeated)
    if noted is None:
        return Input(documents, ScoredList(ids, given), False, repeated)
    floors = [record["lowest"] for record in noted.records if "lowest" in record]
    lowest = min((float(floor) for floor in floors if is_finite(floor)), default=None)
    logits = noted.logits
    scale: Scale | None = "logits" if logits else _SCALES.get(noted.stage)
    return Input(documents, ScoredList(ids, noted.scores, lowest, logits, scale), True, repeated)
