"""benchmarks/watts_history.py on made-up scores: what means over the last queries are, and what depends on them."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

import common
import watts_history
from fusion_defaults import BM25, COLLECTIONS, DENSE, RERANKER, Given
from haystack_ce_ranker.fusion.adaptive import LOGITS, Adaptation
from watts_blend import joined
from watts_history import AGREEMENT, BOTH, DOUBT, JOINS

SURE, LOST = 6.0, -5.0
"""Where a cross-encoder's logits lie that is at home, and where those of one that is not."""


def query(random: np.random.Generator, number: int, level: float) -> Given:
    truth = random.normal(0, 1, 14)
    ids = [f"d{place}" for place in range(14)]
    lists = {
        "ce": level + truth + random.normal(0, 1.5, 14),
        "bm25": 9.0 + truth + random.normal(0, 1, 14),
        "dense": 0.5 + 0.1 * truth,
    }
    scores = {name: dict(zip(ids, values.tolist(), strict=True)) for name, values in lists.items()}
    return Given(str(number), {**scores, "rel": {ids[int(truth.argmax())]: 1}})


@pytest.fixture
def scores() -> dict[str, list[Given]]:
    random = np.random.default_rng(0)
    return {
        "sure": [query(random, number, SURE) for number in range(9)],
        "lost": [query(random, number, LOST) for number in range(5)],
        "other": [query(random, number, 0.0) for number in range(4)],
    }


@pytest.mark.parametrize("join", JOINS, ids=lambda join: "-".join(join.names))
def test_the_last_query_alone_is_what_the_joiner_does(scores, join):
    data = watts_history.seen_of(scores, join.names)
    for name, queries in scores.items():
        for means in (DOUBT, AGREEMENT, BOTH):
            told = watts_history.told(data, watts_history.alone(data, name), 1, means)
            found = joined(queries, join.names, Adaptation())
            expected = found.blend - found.alone[RERANKER]
            assert watts_history.gains(data, name, [told], [LOGITS])[0, 0] == pytest.approx(expected)


def test_a_mean_is_over_the_last_queries_and_this_one(scores):
    data = watts_history.seen_of(scores, (RERANKER, BM25, DENSE))
    stream = watts_history.alone(data, "sure")
    own = np.array([one.signals for one in data["sure"]])
    by_doubt, by_both = (watts_history.told(data, stream, 3, means) for means in (DOUBT, BOTH))
    for place in range(9):
        mean = own[max(0, place - 2) : place + 1].mean(axis=0)
        assert by_both["sure", place] == pytest.approx(mean)
        assert by_doubt["sure", place] == pytest.approx([mean[0], *own[place, 1:]])


def test_a_query_without_a_cross_encoders_scores_counts_in_no_mean(scores):
    scores["lost"][2][RERANKER] = {}
    data = watts_history.seen_of(scores, (RERANKER, BM25))
    own = [one.signals for one in data["lost"]]
    told = watts_history.told(data, watts_history.alone(data, "lost"), 2, AGREEMENT)
    assert told["lost", 2] is None
    assert told["lost", 3][1:] == pytest.approx((own[1][1:] + own[3][1:]) / 2)
    assert np.isfinite(watts_history.gains(data, "lost", [told], [LOGITS])).all()


def test_two_collections_are_mixed_each_in_its_order_and_the_same_way_each_time(scores):
    data = watts_history.seen_of(scores, (RERANKER, BM25))
    stream = watts_history.mixed(data, "sure", "lost")
    assert stream == watts_history.mixed(data, "lost", "sure")
    for name in ("sure", "lost"):
        assert [place for one, place in stream if one == name] == list(range(len(data[name])))
    names = [name for name, _ in stream]
    assert len(stream) == 14
    assert names not in (sorted(names), sorted(names, reverse=True))


def test_beside_a_collection_that_it_does_not_know_a_sure_model_is_doubted(scores):
    data = watts_history.seen_of(scores, (RERANKER, BM25, DENSE))
    by_itself = watts_history.told(data, watts_history.alone(data, "sure"), 8, DOUBT)
    beside = watts_history.told(data, watts_history.mixed(data, "sure", "lost"), 8, DOUBT)
    assert max(by_itself["sure", place][0] for place in range(9)) < 0.1
    assert max(beside["sure", place][0] for place in range(9)) > 0.2
    pairs = [(by_itself, by_itself), (by_itself, beside)]
    same, other = (watts_history.pages_changed(data, "sure", [pair]) for pair in pairs)
    assert same == 0.0 < other <= 1.0


def test_the_part_shows_every_collection_and_every_join(tmp_path):
    random = np.random.default_rng(1)
    (tmp_path / "join-scores").mkdir()
    for name in COLLECTIONS:
        found = [query(random, number, LOST) for number in range(4)]
        entries = {
            one.id: {"bm25": one[BM25], "dense": one[DENSE], "ce": one[RERANKER], "rel": one.judgments} for one in found
        }
        (tmp_path / "join-scores" / f"{name}.json").write_text(json.dumps(entries), encoding="utf-8")
    arguments = argparse.Namespace(data=tmp_path, cache=tmp_path / "cache", queries=None)
    report = common.Report(Path(watts_history.__file__))
    with report.part("last_queries"):
        watts_history.last_queries(arguments, report)
    text = "\n".join(report.parts["last_queries"].lines)
    tables = sum(len(join.means) for join in JOINS)
    for name in COLLECTIONS:
        assert text.count(f"| {name} (4) |") == tables  # of gains
        assert text.count(f"\n| {name} |") == tables + len(JOINS)  # left out, and first pages
    assert text.count("| mean |") == 2 * tables
    assert any(line.startswith("covidqa: ") for line in report.left_out)
