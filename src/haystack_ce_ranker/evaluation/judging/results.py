"""
What results.json holds, as types: the file and its schema come from them. Ids, offsets and figures; no text.

    python -m haystack_ce_ranker.evaluation.judging.results > docs/results.schema.json
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from haystack_ce_ranker.data.left_out import LeftOut
from haystack_ce_ranker.evaluation.judging.comparison import ByQuery, Count, HelpedAndHurt, MovedDocument, Versus
from haystack_ce_ranker.evaluation.judging.measures import MEASURES, UNJUDGED
from haystack_ce_ranker.evaluation.judging.segments import Features, JudgedSegment, Segments
from haystack_ce_ranker.evaluation.judging.systems import System
from haystack_ce_ranker.evaluation.judging.verdict import Verdict
from haystack_ce_ranker.machine.memory import MemoryRow
from haystack_ce_ranker.machine.units import Grid

_ADDED = ("left_out", "do_not_rerank", "units", "grid", "weights", "adapt_weights")  # keys that older files lack

RESULTS_VERSION: Literal[2] = 2
"""Raised when a key of results.json changes its meaning."""


@dataclass(frozen=True)
class Results:
    """
    Systems measured on one collection, how they compare, and the verdict. Keys may be added without a new version.

    :ivar version: Raised when a key changes its meaning.
    :ivar collection: The collection's name.
    :ivar documents: Documents in the collection.
    :ivar queries: Queries that were measured: those with judgments, or a random sample of them (see notes).
    :ivar relevance_level: The lowest grade that counts as relevant in binary measures; nDCG@10 uses the grades.
    :ivar complete: Whether all queries were measured; false after an interruption.
    :ivar baseline: The system that the others are compared with; null where there is none.
    :ivar notes: What was mended, sampled or done with the stores, in words.
    :ivar machine: Where it was measured.
    :ivar systems: Every system by its name.
    :ivar by_query: For each system and measure (nDCG@10 at least) the value of every query by its id.
    :ivar memory_by_batch: Peak memory by the tokens of a batch.
    :ivar features: For each query id what the query is like; null where a feature is not defined for it. `query_words`:
        its words. `shared_words`: share of its terms (without stop words, stemmed) that a relevant document has, mean
        over the relevant documents. `relevant_words`: mean words of a relevant document. `candidate_words`: median
        words of the first stage's first ten. `relative_margin`: (s1 - s2) / s1 of the first stage's best two scores.
        `nqc`: normalised query commitment of the first stage's scores (Shtok et al. 2012).
    :ivar segments: Where the verdict's subject helps and harms; null where nothing re-ranks.
    :ivar helped_and_hurt: The queries that the subject helps most and hurts most; null where nothing re-ranks.
    :ivar verdict: What to do.
    :ivar left_out: What could not be measured or found, and is ignored; what takes most of the judgments comes first.
    :ivar grid: What a kilowatt-hour emits, by which CO2 is reckoned.
    """

    version: Literal[2]
    collection: str
    documents: Count
    queries: Count
    relevance_level: Annotated[int, Field(ge=1)]
    complete: bool
    baseline: str | None
    notes: tuple[str, ...]
    machine: dict[str, str | int | float | None]
    systems: tuple[System, ...]
    by_query: ByQuery
    memory_by_batch: tuple[MemoryRow, ...]
    features: Features
    segments: Segments | None
    helped_and_hurt: HelpedAndHurt | None
    verdict: Verdict
    left_out: tuple[LeftOut, ...] = ()
    grid: Grid | None = None


_RESULTS = TypeAdapter(Results)


def to_plain(found: Results) -> dict[str, Any]:
    """Return what results.json holds: systems stand under their names, and measures beside their other figures."""
    plain: dict[str, Any] = _RESULTS.dump_python(found, mode="json", by_alias=True)
    plain["systems"] = {one.pop("name"): {**one.pop("measures"), **one} for one in plain["systems"]}
    return plain


def from_plain(plain: Mapping[str, Any]) -> Results:
    """
    Return the results that `to_plain` took apart.

    :raises ValueError: If a key is missing or its value is of another kind.
    """
    labels = (*(one.label for one in MEASURES), UNJUDGED)
    systems = [
        {**one, "name": name, "measures": {label: one[label] for label in labels if label in one}}
        for name, one in plain["systems"].items()
    ]
    return _RESULTS.validate_python({**plain, "systems": systems})


def schema() -> dict[str, Any]:
    """Return the JSON schema of results.json; the docstrings say what its keys mean."""
    made = _RESULTS.json_schema(mode="serialization")
    for heir in (System, Versus, JudgedSegment, MovedDocument):
        inherited = "".join((heir.__base__.__doc__ or "").partition(":ivar")[1:])
        made["$defs"][heir.__name__]["description"] += f"\n{inherited}"
    for one in (made, *made["$defs"].values()):
        _describe(one)
    system = made["$defs"]["System"]
    own = {key: value for key, value in system["properties"].items() if key not in ("name", "measures")}
    figures = {one.label: one.meaning for one in MEASURES}
    figures[UNJUDGED] = "Mean share of the first ten documents without a judgment; they count as not relevant."
    share = {"type": "number", "minimum": 0, "maximum": 1}
    system["properties"] = {label: {"description": meaning, **share} for label, meaning in figures.items()} | own
    required = (key for key in own if key not in _ADDED)
    system["required"] = [*(one.label for one in MEASURES if one.required), UNJUDGED, *required]
    systems = made["properties"]["systems"]
    systems |= {"type": "object", "minProperties": 1, "additionalProperties": systems.pop("items")}
    title = f"results.json of haystack-ce-ranker evaluate, version {RESULTS_VERSION}"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **made}


def schema_text() -> str:
    """Return the schema as it is kept: JSON, its innermost brackets on one line."""
    text = json.dumps(schema(), indent=1) + "\n"
    return re.sub(r"[\[{][^\[\]{}]*[\]}]", lambda found: " ".join(found[0].split()), text)


def _describe(definition: dict[str, Any]) -> None:
    """Move what a docstring says of each field to its property, and require all of them, since all are written."""
    definition.pop("title", None)
    told, *fields = re.split(r":ivar (\w+):", definition.pop("description", ""))
    if told:
        definition["description"] = " ".join(told.split())
    properties = definition.get("properties", {})
    for one in properties.values():
        one.pop("title", None)
        one.pop("default", None)
    for name, meaning in zip(fields[::2], fields[1::2], strict=True):
        properties[name] = {"description": " ".join(meaning.split()), **properties[name]}
    if properties:
        definition["required"] = [name for name in properties if name not in _ADDED]


if __name__ == "__main__":
    print(schema_text(), end="")
