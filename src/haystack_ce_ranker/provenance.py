"""
The one key of `Document.meta` under which every stage notes its score: writing records and reading them.

Plain mappings in, plain dictionaries out. Nothing that is passed in is changed. Each stage decides what its record
holds.
"""

from collections.abc import Mapping
from typing import Any

from haystack_ce_ranker.checks import is_number

KEY = "ce_ranker"


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
