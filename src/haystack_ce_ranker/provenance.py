"""
The one key of `Document.meta` under which every stage notes its score: writing records, reading them, trusting them.

Plain mappings in, plain dictionaries out. Nothing that is passed in is changed. Each stage decides what its record
holds.

A record outlives its run: documents are written back to a store with their meta, and another retriever finds them
later. So a record is trusted only as far as it agrees with the document's score; see `noted_scores`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from haystack_ce_ranker.checks import is_number

FloatArray = npt.NDArray[np.float64]

KEY = "ce_ranker"

BM25, KEYWORD = "bm25", "keyword"
"""The stages of a retriever: one whose scores are BM25, and one whose scores are another function of the words."""

DENSE = "dense"
"""The stage of scores out of a file that cannot be BM25's."""

BM25_SCALING = 8.0
"""A scaled BM25 score is the sigmoid of the score over this, as in Haystack's in-memory, Elasticsearch and OpenSearch
stores."""

_SAME = 1e-6  # relative: some components hand scores on in float32
_TINY = 1e-12  # absolute: the sigmoid of a very low logit


def stage_of(run: Mapping[str, Mapping[str, float]]) -> str:
    """
    Return the stage by which to note the scores of a first stage that are read from a file.

    They are taken for BM25's, unless these cannot be so: scores below 0, or none above 1.

    :param run: Scores by document, by query.
    """
    scores = [score for ranking in run.values() for score in ranking.values()]
    return DENSE if scores and (min(scores) < 0.0 or max(scores) <= 1.0) else BM25


def with_record(meta: Mapping[str, Any], name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return a copy of `meta` with `record` as the record of the stage `name`; the records of other stages stay.

    :param meta: A document's meta.
    :param name: The stage, for example `"bm25"` or `"cross_encoder"`.
    :param record: Plain values, so that the document can be serialised.
    """
    return {**meta, KEY: {**records(meta), name: dict(record)}}


def records(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the records of all stages by name; empty if there are none, or if the key holds something else."""
    found = meta.get(KEY)
    return dict(found) if isinstance(found, Mapping) else {}


def record(meta: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return the record that the stage `name` noted, or None."""
    found = records(meta).get(name)
    return dict(found) if isinstance(found, Mapping) else None


def raw_score(meta: Mapping[str, Any], name: str) -> float | None:
    """
    Return the raw score of the stage `name`: its `logit` if it noted one, else its `score`, else None.

    The logit comes first, because sigmoids saturate: the logit still has differences that a probability has lost.
    """
    found = record(meta, name)
    return None if found is None else score_in(found)


def score_in(record: Mapping[str, Any]) -> float | None:
    """Return the raw score that one record holds; see `raw_score`."""
    value = record.get("logit", record.get("score"))
    return float(value) if is_number(value) else None


class NotedScores(NamedTuple):
    """
    The raw scores that one stage noted in a list of documents, as far as they are trusted.

    :ivar stage: The stage's name.
    :ivar scores: One for each document; None where the stage noted none, or one that is not of this list.
    :ivar records: The records that are trusted.
    """

    stage: str
    scores: list[float | None]
    records: list[Mapping[str, Any]]

    @property
    def logits(self) -> bool:
        """Whether the scores are logits."""
        return any("logit" in noted for noted in self.records)


def noted_scores(scores: Sequence[object], metas: Sequence[Mapping[str, Any]], name: str) -> NotedScores | None:
    """
    Return the raw scores of the stage that scored a list, or None if no record speaks for the list.

    A document's score *bears out* a record if it is the noted score, as it is or through the sigmoid with which our
    components scale it. It *contradicts* a record if it bears out none of the document's records: then something else
    has scored the document since. A document without a score does neither.

    The records of the stage `name` speak for the list if more of the documents that have one bear out some record of
    theirs (a later stage leaves earlier records alone) than contradict it. The latter are then left out. Otherwise
    another stage's records speak for it if every document that has a score bears them out: then the input only has
    another name than the stage that feeds it.

    :param scores: `Document.score` by document.
    :param metas: `Document.meta` by document.
    :param name: The stage whose records come first.
    """
    shown = np.array([_number(score) for score in scores], dtype=np.float64)
    stages = [_stages(meta) for meta in metas]
    values = _values(stages, name)
    compared = np.isfinite(shown) & np.isfinite(values)
    trusted = compared & _borne_out(shown, values)
    doubtful = compared & ~trusted
    if doubtful.any():
        for other in {other for place in np.flatnonzero(doubtful).tolist() for other in stages[place]}:
            trusted |= doubtful & _borne_out(shown, _values(stages, other))
    if 2 * trusted.sum() > compared.sum():
        return _noted(name, stages, values, trusted)
    scored = np.isfinite(shown)
    first = np.flatnonzero(scored)[:1].tolist()
    for other in [other for place in first for other in stages[place] if other != name]:
        values = _values(stages, other)
        if _borne_out(shown, values)[scored].all():
            return _noted(other, stages, values, scored)
    return None


def _stages(meta: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the records in a meta by stage, to read only: unlike `records`, not a copy."""
    found = meta.get(KEY)
    return found if type(found) is dict or isinstance(found, Mapping) else {}


def _noted(
    name: str, stages: Sequence[Mapping[str, Any]], values: FloatArray, trusted: npt.NDArray[np.bool_]
) -> NotedScores:
    kept = trusted.tolist()
    scores = [value if is_kept else None for value, is_kept in zip(values.tolist(), kept, strict=True)]
    return NotedScores(name, scores, [stage[name] for stage, is_kept in zip(stages, kept, strict=True) if is_kept])


def _values(stages: Sequence[Mapping[str, Any]], name: str) -> FloatArray:
    """Return by document the raw score that its record of a stage holds; NaN if there is none."""
    found = [stage.get(name) for stage in stages]
    noted = [_number(one.get("logit", one.get("score"))) if isinstance(one, dict) else math.nan for one in found]
    return np.array(noted, dtype=np.float64)


def _number(value: object) -> float:
    if type(value) is float:  # nearly all of them, and the checks take several times as long
        return value
    return float(value) if is_number(value) else math.nan  # type: ignore[arg-type]


def _borne_out(shown: FloatArray, noted: FloatArray) -> npt.NDArray[np.bool_]:
    """Tell for each document whether its score is the noted one, in one of the forms in which components give it."""
    same = np.isclose(shown, noted, rtol=_SAME, atol=_TINY)
    for scaling in () if same.all() else (1.0, BM25_SCALING):
        same |= np.isclose(shown, 0.5 * (1.0 + np.tanh(0.5 * noted / scaling)), rtol=_SAME, atol=_TINY)
    return np.asarray(same & np.isfinite(shown) & np.isfinite(noted))
