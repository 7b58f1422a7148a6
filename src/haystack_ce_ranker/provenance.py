"""
The one key under `Document.meta` in which every stage notes its score, and the two ways to use it: write and read.

Plain mappings in, plain dictionaries out; what is passed in is never changed. What a stage notes is its own business.
"""

from collections.abc import Mapping
from typing import Any

KEY = "ce_ranker"


def with_record(meta: Mapping[str, Any], name: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return a copy of `meta` in which the stage `name` has noted `record`; the records of other stages stay.

    :param meta: A document's meta.
    :param name: The stage, for example `"bm25"` or `"cross_encoder"`.
    :param record: Plain values, so that the document can be serialised.
    """
    return {**meta, KEY: {**records(meta), name: dict(record)}}


def records(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the records of all stages by name; empty where none is, or where the key holds something else."""
    found = meta.get(KEY)
    return dict(found) if isinstance(found, Mapping) else {}


def record(meta: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    """Return the record that the stage `name` noted, or None."""
    found = records(meta).get(name)
    return dict(found) if isinstance(found, Mapping) else None


def raw_score(meta: Mapping[str, Any], name: str) -> float | None:
    """
    Return the raw score of the stage `name`: its `logit` where it notes one, else its `score`, else None.

    A logit comes first because a probability has lost what a logit still says: sigmoids saturate.
    """
    found = record(meta, name)
    return None if found is None else score_in(found)


def score_in(record: Mapping[str, Any]) -> float | None:
    """Return the raw score that one record holds; see `raw_score`."""
    value = record.get("logit", record.get("score"))
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
