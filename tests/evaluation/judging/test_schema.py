"""The schema is that of the types: what is written fits it, what lacks a figure does not, each key has a meaning."""

import copy
import json

import pytest

from fake_results import BM25, completed, cross_encoders, many, nasty, sweep
from fakes import REPOSITORY
from haystack_ce_ranker.evaluation.judging.choosing import WorthIt
from haystack_ce_ranker.evaluation.judging.results import from_plain, schema, schema_text, to_plain
from haystack_ce_ranker.machine.units import UNKNOWN

jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed (extra `dev`)")

SCHEMA = schema()
KEPT = sorted((REPOSITORY / "benchmarks" / "results").glob("*.json"))
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


def test_the_schema_that_users_find_is_that_of_the_types():
    kept = (REPOSITORY / "docs" / "results.schema.json").read_text(encoding="utf-8")
    command = "python -m haystack_ce_ranker.evaluation.judging.results > docs/results.schema.json"
    assert kept == schema_text(), f"the types have changed; to make the schema again: {command}"
    assert json.loads(kept) == SCHEMA


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_results_that_are_kept_fit_and_are_read_without_a_loss(path):
    kept = json.loads(path.read_text(encoding="utf-8"))
    assert faults(kept) == []
    assert as_old_as(kept, to_plain(from_plain(kept))) == kept


def as_old_as(kept, found):
    """What was read, without the keys of hybrids' weights where the file was written before there were any."""
    for name, one in found["systems"].items():
        if "weights" not in kept["systems"][name]:
            assert one.pop("weights") is None
    if "adapt_weights" not in kept["verdict"]["settings"]:
        assert found["verdict"]["settings"].pop("adapt_weights") is False
    return found


def test_what_older_files_lack_is_not_needed_and_not_known():
    older = to_plain(completed(sweep(HELPFUL)))
    for part, key in ((older, "grid"), (older, "left_out"), *((one, "units") for one in older["systems"].values())):
        del part[key]
    assert faults(older) == []
    read = from_plain(older)
    assert (read.grid, {one.units for one in read.systems}) == (None, {UNKNOWN})


def test_results_are_kept():
    assert len(KEPT) >= 8


def test_what_was_written_is_read_again():
    found = completed(sweep(HELPFUL))
    assert from_plain(json.loads(json.dumps(to_plain(found)))) == found
    broken = to_plain(found)
    del broken["verdict"]["worth_it"]
    with pytest.raises(ValueError, match="worth_it"):
        from_plain(broken)


@pytest.mark.parametrize("kind", sorted(FOUND))
def test_what_is_written_fits(kind):
    found = json.loads(json.dumps(to_plain(FOUND[kind]()), allow_nan=False))
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
    found = copy.deepcopy(to_plain(completed(sweep(HELPFUL))))
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
    found = to_plain(completed(sweep(HELPFUL)))
    for broken in ({}, {**found["verdict"], "answers": []}, {**found["verdict"], "worth_it": "perhaps"}):
        assert faults({**found, "verdict": broken})
    assert faults({key: value for key, value in found.items() if key != "verdict"})
    assert faults({**found, "version": 1})


def described(part, path=""):
    """Each key that the schema knows, with whether it is described: there, or where it refers to."""
    for name, value in part.get("properties", {}).items():
        target = SCHEMA["$defs"].get(value.get("$ref", "").rpartition("/")[2], {})
        yield f"{path}/{name}", "description" in value or "description" in target
        yield from described(value, f"{path}/{name}")


def test_every_figure_says_what_it_means():
    for start in ("System", "Versus", "Units", "Grid"):
        assert [name for name, told in described(SCHEMA["$defs"][start], start) if not told] == []
    assert [name for name, told in described({"properties": SCHEMA["properties"]}) if not told] == []


def test_the_schema_and_what_is_written_have_the_same_keys():
    written = to_plain(completed(sweep(HELPFUL)))
    assert SCHEMA["$defs"]["WorthIt"]["enum"] == list(WorthIt)
    assert written.keys() == SCHEMA["properties"].keys()
    places = {
        "System": written["systems"]["bm25"],
        "Units": written["systems"]["bm25"]["units"],
        "Verdict": written["verdict"],
        "Segments": written["segments"],
        "JudgedSegment": written["segments"]["segments"][0],
        "MovedDocument": written["helped_and_hurt"]["helped"][0]["documents"][0],
    }
    for name, place in places.items():
        assert place.keys() == SCHEMA["$defs"][name]["properties"].keys()
