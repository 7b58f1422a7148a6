"""benchmarks/watts_energy.py: who is measured, in which order, and in what. Nothing is timed."""

import contextlib
import itertools

import pytest

import common
import watts_energy
from fakes import FakeBackend
from haystack_ce_ranker.machine.energy import EnergyMeter, Spent
from haystack_ce_ranker.reading.documents import DocumentText
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from watts_energy import CHOSEN, OTHERS, WAYS, WHOLE, Share
from watts_tasks import Query

WORDS = ["the", "city", "of", "berlin", "paris", "car", "snow", "hut"]


@pytest.fixture
def backend():
    return FakeBackend()


def queries(backend, count, documents=40):
    texts = [DocumentText(" ".join([WORDS[place % 8], WORDS[place // 8], "brake"])) for place in range(documents)]
    ids = [f"d{place}" for place in range(documents)]
    scorer = CrossEncoderScorer(backend)
    return [Query(scorer, f"the {WORDS[number]} of snow", ids, texts, {"d0": 1}) for number in range(count)]


def meter_of_tokens(backend):
    """A meter whose joules are the tokens that the model reads."""
    return EnergyMeter("measured: tokens", 0.0, lambda: float(backend.read))


def test_energy_in_tokens_is_shared_as_the_tokens_are(backend):
    found = watts_energy.in_turns(backend, queries(backend, 4), meter_of_tokens(backend))
    assert set(found) == set(WAYS)
    for some in found.values():
        assert len(some) == 3  # the first query warms up
        assert all(one.energy == one.cost.tokens > 0 for one in some)
        assert 0 < watts_energy.beside(some) < 1
    for way in (CHOSEN, *OTHERS):
        share = Share.of(found[way], found[WHOLE])
        assert share.energy.mean == pytest.approx(share.tokens)
        assert share.energy.low <= share.tokens <= share.energy.high
        assert share.above == pytest.approx([0.0] * 3)
        assert 0 < share.tokens < 1


def test_another_way_begins_each_time_and_none_is_left_out(backend, monkeypatch):
    begun = []
    score = CrossEncoderScorer.score

    def noted(self, query, documents, **how):
        begun.append((query, next(way for way, known in WAYS.items() if known == how)))
        return score(self, query, documents, **how)

    monkeypatch.setattr(CrossEncoderScorer, "score", noted)
    watts_energy.in_turns(backend, queries(backend, len(WAYS)), meter_of_tokens(backend))
    turns = [begun[start : start + len(WAYS)] for start in range(0, len(begun), len(WAYS))]
    assert all(len({query for query, _ in turn}) == 1 for turn in turns)
    assert all({way for _, way in turn} == set(WAYS) for turn in turns)
    assert {turn[0][1] for turn in turns} == set(WAYS)


def test_without_a_meter_the_cpu_time_is_told_as_such(monkeypatch):
    clock = itertools.count(10.0, 2.5)
    monkeypatch.setattr(watts_energy.time, "process_time", lambda: next(clock))
    estimate = EnergyMeter("estimated: 4.0 W for each busy CPU", 4.0)

    @contextlib.contextmanager
    def measure(self):
        yield Spent(1.0, 10.0)

    monkeypatch.setattr(EnergyMeter, "measure", measure)
    assert watts_energy.measured(estimate, lambda: ("scores", "cost")) == (2.5, "cost")
    assert watts_energy.unit_of(estimate) == "CPU seconds"
    assert "no meter" in watts_energy.told(estimate)
    assert watts_energy.measured(EnergyMeter("measured: RAPL", 1.0, lambda: 0.0), lambda: ("scores", "cost"))[0] == 10.0


def test_the_part_shows_each_collection_and_the_mean(backend, monkeypatch):
    class Kept:
        forgetful = backend

    data = {"one": queries(backend, 4), "two": queries(backend, 3), "short": queries(backend, 1)}
    monkeypatch.setattr(watts_energy, "backend_of", lambda _: Kept)
    monkeypatch.setattr(watts_energy, "queries_of", lambda *_: data)
    monkeypatch.setattr(watts_energy, "meter_for", lambda: meter_of_tokens(backend))
    report = common.Report(common.HERE / "watts.py")
    with report.part("energy"):
        watts_energy.energy(common.parser("", {}).parse_args(["--threads", "1"]), report)
    part = report.parts["energy"]
    rows = [line for line in part.lines if line.startswith(("| one | 3 |", "| two | 2 |"))]
    assert len(rows) == 2
    [target] = part.targets
    assert target.label == "joules on average, of those at depth 100"
    assert next(line for line in part.lines if line.startswith("| mean |")).count(target.figure) == 2
    assert any("+0.0% [+0.0%, +0.0%] from that of the tokens" in line for line in part.lines)
    assert report.left_out == ["short: it needs two queries, one of which warms up"]
