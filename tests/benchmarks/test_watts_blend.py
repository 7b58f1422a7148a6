"""benchmarks/watts_blend.py on made-up scores: what it shows, and that its targets can be missed."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

import common
import watts_blend
from fusion_defaults import COLLECTIONS, Given
from haystack_ce_ranker.fusion.adaptive import LOGITS


def entry(random: np.random.Generator, *, noise: float) -> dict[str, dict[str, float]]:
    """A query whose embeddings know the answer, and whose cross-encoder finds nothing, with so much noise."""
    truth = random.normal(0, 1, 14)
    ids = [f"d{place}" for place in range(14)]
    lists = {
        "ce": -5.0 + truth + random.normal(0, noise, 14),
        "bm25": 9.0 + truth + random.normal(0, 1, 14),
        "dense": 0.5 + 0.1 * truth,
    }
    scores = {name: dict(zip(ids, values.tolist(), strict=True)) for name, values in lists.items()}
    return {**scores, "rel": {ids[int(truth.argmax())]: 1}}


@pytest.fixture
def arguments(tmp_path: Path) -> argparse.Namespace:
    random = np.random.default_rng(0)
    (tmp_path / "join-scores").mkdir()
    for name in COLLECTIONS:
        entries = {str(number): entry(random, noise=1.5) for number in range(8)}
        (tmp_path / "join-scores" / f"{name}.json").write_text(json.dumps(entries), encoding="utf-8")
    return argparse.Namespace(data=tmp_path, cache=tmp_path / "cache", queries=None, second=None)


def run(part: str, arguments: argparse.Namespace) -> tuple[common.Report, common.Part]:
    report = common.Report(Path(watts_blend.__file__))
    with report.part(part):
        watts_blend.BLEND_PARTS[part](arguments, report)
    return report, report.parts[part]


@pytest.mark.parametrize("part", sorted(set(watts_blend.BLEND_PARTS) - {"second_model"}))
def test_every_part_shows_every_collection_and_says_what_is_left_out(part, arguments):
    report, shown = run(part, arguments)
    text = "\n".join(shown.lines)
    for name in COLLECTIONS:
        assert f"| {name} (8) |" in text
        assert any(f"chosen without {name}" in target.label for target in shown.targets)
    assert any(line.startswith("covidqa: ") for line in report.left_out)
    for form in watts_blend.FORMS:
        assert form in text


def test_where_the_others_know_more_it_gains_and_where_they_mislead_the_targets_are_missed(arguments):
    _, shown = run("three_lists", arguments)
    assert any(target.holds for target in shown.targets if "half of the gap" in target.label)
    mean = next(target for target in shown.targets if "on average" in target.label)
    assert mean.holds
    random = np.random.default_rng(1)
    for name in COLLECTIONS:
        entries = {str(number): entry(random, noise=0.0) for number in range(8)}
        for one in entries.values():
            one["dense"], one["bm25"] = one["bm25"], {key: 20 - score for key, score in one["bm25"].items()}
        (arguments.data / "join-scores" / f"{name}.json").write_text(json.dumps(entries), encoding="utf-8")
    _, worse = run("three_lists", arguments)
    assert any(not target.holds for target in worse.targets)


def test_a_collection_is_left_out_with_all_that_is_made_of_it(arguments):
    random = np.random.default_rng(2)
    queries = [Given(str(number), entry(random, noise=1.0)) for number in range(6)]
    data = {"cacm": queries, "cacm, first 50": queries, "med": queries}
    report = common.Report(Path(watts_blend.__file__))
    tried = [LOGITS, LOGITS._replace(own=1.0)]
    chosen = []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(watts_blend, "worth_choosing", lambda gains: chosen.append(len(gains)) or (True, 0.0))
        with report.part("x"):
            watts_blend.show_left_out(data, ("reranker", "dense", "bm25"), tried, "x", report)
    assert chosen == [1, 1, 1, 1, 2, 2]


def test_what_is_not_kept_is_computed_once_and_kept(arguments, tiny_bert, monkeypatch):
    folder = arguments.data / "cacm"
    (folder / "qrels").mkdir(parents=True)
    texts = {"a": "the brake is cold", "b": "a hut in the snow", "c": "the brake holds"}
    rows = {"corpus": texts, "queries": {"q": "brake"}}
    for name, some in rows.items():
        lines = [json.dumps({"_id": key, "text": text}) for key, text in some.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\ta\t1\n", encoding="utf-8")
    arguments.model, arguments.backend, arguments.threads = tiny_bert, "torch", 1
    task = watts_blend.DEEPER["cacm, first 50"]
    found = watts_blend.computed(task, arguments)
    assert set(found[0]["bm25"]) == set(found[0]["reranker"]) == {"a", "c"}
    assert found[0].judgments == {"a": 1}
    monkeypatch.setattr(watts_blend, "_entries", lambda *_: pytest.fail("computed again"))
    assert dict(watts_blend.computed(task, arguments)[0]) == dict(found[0])


def test_kept_scores_are_read_and_not_computed_again(arguments):
    task = watts_blend.MORE["covidqa"]
    arguments.cache.mkdir()
    kept = {"q": entry(np.random.default_rng(3), noise=1.0)}
    (arguments.cache / "join-covidqa-30.json").write_text(json.dumps(kept), encoding="utf-8")
    found = watts_blend.computed(task, arguments)
    assert [query.id for query in found] == ["q"]
    assert found[0]["dense"] == kept["q"]["dense"]


def test_a_second_cross_encoder_takes_the_place_of_the_first(arguments):
    report = common.Report(Path(watts_blend.__file__))
    with pytest.raises(common.CannotRun, match="--second"):
        watts_blend.second_model(arguments, report)
    arguments.second, arguments.cache = "models/other", arguments.data / "cache"
    arguments.cache.mkdir()
    for name in COLLECTIONS:
        first = json.loads((arguments.data / "join-scores" / f"{name}.json").read_text(encoding="utf-8"))
        swapped = {query: {key: -score for key, score in one["ce"].items()} for query, one in first.items()}
        (arguments.cache / f"join-{name}-other.json").write_text(json.dumps(swapped), encoding="utf-8")
    _, shown = run("second_model", arguments)
    text = "\n".join(shown.lines)
    assert text.count("| mean |") == 3
    for name in COLLECTIONS:
        kept = watts_blend.given(arguments, report)[name]
        mine = watts_blend.rescored(name, kept, arguments)
        assert all(
            new["reranker"][key] == -score
            for old, new in zip(kept, mine, strict=True)
            for key, score in old["reranker"].items()
        )
        assert text.count(f"| {name} (8) |") == 3
