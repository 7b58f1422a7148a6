"""results.schema.json: what is written fits it, what lacks a figure does not, and every key says what it means."""

import copy
import json
from importlib import resources

import pytest

from fake_results import BM25, completed, cross_encoders, many, nasty, sweep
from haystack_ce_ranker.evaluation.judging.choosing import WORTH_IT

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed (extra `dev`)")

SCHEMA = json.loads(
    resources.files("haystack_ce_ranker.evaluation.judging").joinpath("results.schema.json").read_text(encoding="utf-8")
)
HELPFUL = BM25 | cross_encoders({10: 0.6, 50: 0.7}) | cross_encoders({10: 0.59, 50: 0.69}, kind="hybrid")
PIPELINES = {
    "mine/bm25": {"quality": 0.5, "ms": 1.0, "kind": "pipeline", "joules": 0.0},
    "mine/ranker": {"quality": 0.6, "ms": 90.0, "kind": "pipeline", "joules": 2.0},
}
FOUND = {
    "helpful": lambda: completed(sweep(HELPFUL)),
    "harmful": lambda: completed(sweep(BM25 | cross_encoders({10: 0.3}))),
    "pipelines": lambda: completed(sweep(PIPELINES, baseline="mine/bm25")),
    "single": lambda: completed(sweep({"mine/bm25": PIPELINES["mine/bm25"]}, baseline="mine/bm25")),
    "many": many,
    "nasty": nasty,
}


def faults(found):
    validator = jsonschema.Draft202012Validator(SCHEMA)
    return ["/".join(map(str, one.absolute_path)) + f": {one.message[:200]}" for one in validator.iter_errors(found)]


def test_the_schema_is_one():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("kind", sorted(FOUND))
def test_what_is_written_fits(kind):
    found = json.loads(json.dumps(FOUND[kind](), allow_nan=False))
    assert faults(found) == []


@pytest.mark.parametrize(
    "path",
    [
        "nDCG@10",
        "MRR@10",
        "latency_ms/p50",
        "latency_ms/p95",
        "tokens_per_query",
        "joules_per_query",
        "energy_source",
    ],
)
@pytest.mark.parametrize("value", ["gone", None, "text"], ids=["missing", "null", "of another type"])
def test_every_system_must_have_its_figures(path, value):
    found = copy.deepcopy(completed(sweep(HELPFUL)))
    *parents, key = path.split("/")
    place = found["systems"]["cross-encoder small@10"]
    for parent in parents:
        place = place[parent]
    if value == "gone":
        del place[key]
    else:
        place[key] = value
    assert len(faults(found)) == 1


def test_a_verdict_and_its_words_are_needed():
    found = completed(sweep(HELPFUL))
    for broken in ({}, {**found["verdict"], "answers": []}, {**found["verdict"], "worth_it": "perhaps"}):
        assert faults({**found, "verdict": broken})
    assert faults({key: value for key, value in found.items() if key != "verdict"})
    assert faults({**found, "version": 1})


def described(schema, path=""):
    """Each key that the schema knows, with whether it is described: there, or where it refers to."""
    for name, value in schema.get("properties", {}).items():
        target = SCHEMA["$defs"].get(value.get("$ref", "").rpartition("/")[2], {})
        yield f"{path}/{name}", "description" in value or "description" in target
        yield from described(value, f"{path}/{name}")


def test_every_figure_says_what_it_means():
    for start in ("system", "versus"):
        assert [name for name, told in described(SCHEMA["$defs"][start], start) if not told] == []
    assert [name for name, told in described({"properties": SCHEMA["properties"]}) if not told] == []


def test_the_schema_and_the_code_know_the_same_values():
    properties = SCHEMA["$defs"]["verdict"]["properties"]
    assert properties["worth_it"]["enum"] == list(WORTH_IT)
    written = completed(sweep(HELPFUL))
    assert written["verdict"].keys() == properties.keys()
    assert written["segments"].keys() == SCHEMA["$defs"]["segments"]["properties"].keys()
    segment = SCHEMA["$defs"]["segments"]["properties"]["segments"]["items"]["properties"]
    assert written["segments"]["segments"][0].keys() == segment.keys()
