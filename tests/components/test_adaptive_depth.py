"""`depth="auto"` and `screen`: what is scored and what is left, with budgets, deadlines and a cache."""

import asyncio
import copy
import logging

import numpy as np
import pytest
from haystack import Document, Pipeline

from fakes import FakeBackend
from haystack_ce_ranker import CrossEncoderRanker, HybridScoreJoiner
from haystack_ce_ranker.scoring import line, runner, scorer, visits
from haystack_ce_ranker.scoring.cache import ScoreCache
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer

GOOD, BAD = "the hut in the snow", "a car in the city of paris"


def candidates(count=60, *, good=lambda place: place < 12):
    """Candidates in the order of a first stage; the good ones have texts of one kind."""
    return [
        Document(id=f"d{place}", content=f"{GOOD if good(place) else BAD} {'is ' * (place % 7)}{place}")
        for place in range(count)
    ]


class SnowBackend(FakeBackend):
    """A high logit where there is snow, a little less for each further token; counts the pairs."""

    pairs = 0

    def logits(self, batch):
        super().logits(batch)
        self.pairs += len(batch.pairs)
        snow = self.tokenizer.encode_queries(["snow"])[0].ids[0]
        return np.array([(6.0 if snow in pair.ids else -6.0) - pair.ids.sum() / 1e4 for pair in batch.pairs])


def ranker(backend=None, *, cache=0, **parameters):
    made = CrossEncoderRanker(model="none", **{"top_k": 100, "passage_tokens": 16, "passage_stride": 8, **parameters})
    scores = ScoreCache(cache) if cache else None
    made._scorer = CrossEncoderScorer(backend or SnowBackend(), made._policy, scores=scores)
    return made


@pytest.mark.parametrize(("depth", "looked_at"), [("auto", 1000), (1100, 1100)])
def test_of_very_many_candidates_only_so_many_are_looked_at_and_it_is_said(depth, looked_at):
    report = ranker(depth=depth, screen=True).run("the hut", candidates(1200))["report"]
    assert report["beyond_depth"] == 1200 - looked_at
    assert report["depth_used"] + report["screened"] == looked_at
    assert len(report["unscored"]) == 1200 - report["depth_used"]


def test_auto_scores_until_the_rest_cannot_change_the_top():
    given = candidates()
    before = copy.deepcopy(given)
    backend = SnowBackend()
    found = ranker(backend, depth="auto").run("the hut", given)
    report, ids = found["report"], [document.id for document in found["documents"]]
    used = report["depth_used"]
    assert given == before
    assert 12 <= used < 60
    assert used == len(report["scored"]) == backend.pairs
    assert set(report["scored"]) == {f"d{place}" for place in range(used)}
    assert ids[used:] == [f"d{place}" for place in range(used, 60)] == report["unscored"]
    assert ids[:10] == [document.id for document in ranker().run("the hut", given)["documents"]][:10]
    assert report["depth_stopped"] == "risk"
    assert report["depth_missing"] < report["depth_rule"]["risk"] == 0.35
    assert report["beyond_depth"] == 60 - used
    assert report["why_unscored"] == {"beyond_depth": 60 - used}
    assert report["documents_cut"] == report["tokens_unread"] == 0


def test_screening_finds_what_stands_far_behind_for_the_same_number():
    given = candidates(good=lambda place: place % 5 == 0)
    found = ranker(depth=20, screen=True).run("the hut", given)
    plain = ranker(depth=20).run("the hut", given)
    good = {f"d{place}" for place in range(0, 60, 5)}
    assert len(found["report"]["scored"]) == 20
    assert good <= set(found["report"]["scored"])
    assert len(good & set(plain["report"]["scored"])) == 4
    assert found["report"]["why_unscored"] == {"screened": 40}
    assert (found["report"]["screened"], found["report"]["beyond_depth"]) == (40, 0)
    assert found["report"]["depth_stopped"] == "depth"
    assert found["report"]["depth_rule"] is None
    left = [document for document in found["documents"] if document.score is None]
    assert [document.id for document in left] == found["report"]["unscored"]
    assert {document.meta["ce_ranker"]["cross_encoder"]["why_unscored"] for document in left} == {"screened"}
    assert found["report"]["unscored"] == sorted(found["report"]["unscored"], key=lambda one: int(one[1:]))


def test_what_stands_around_every_query_screens_nothing():
    given = candidates(good=lambda place: place >= 48)
    plain = ranker(depth=20, screen=True).run("snow", given)["report"]
    around = ranker(depth=20, screen=True, query_prefix=f"{BAD} {BAD}: ").run("snow", given)["report"]
    assert around["unscored"] == plain["unscored"]


def test_auto_with_screening_needs_fewer_for_the_same_top():
    given = candidates(100, good=lambda place: place % 8 == 0)
    whole = [document.id for document in ranker().run("the hut", given)["documents"]]
    found = ranker(depth="auto", screen=True).run("the hut", given)
    assert [document.id for document in found["documents"]][:5] == whole[:5]
    assert found["report"]["depth_used"] < 60
    assert found["report"]["depth_stopped"] == "risk"


def test_a_rule_of_ones_own_counts():
    given = candidates()
    deep = ranker(depth={"risk": 0.001}).run("the hut", given)["report"]
    shallow = ranker(depth={"risk": 3.0, "top": 3}).run("the hut", given)["report"]
    assert deep["depth_used"] > shallow["depth_used"]
    assert shallow["depth_rule"] == {"risk": 3.0, "top": 3, "first": 10, "step": None}


def test_a_number_says_where_it_stopped_too():
    few = ranker(depth=9).run("the hut", candidates(8))["report"]
    assert (few["depth_used"], few["depth_stopped"], few["depth_missing"]) == (8, "all", None)
    report = ranker(depth=3).run("the hut", candidates(8))["report"]
    assert (report["depth_used"], report["depth_stopped"], report["beyond_depth"]) == (3, "depth", 5)


def test_texts_that_are_not_there_take_no_step_and_equal_texts_tie():
    given = [Document(id="scan", content=""), *candidates(20), Document(id="again", content=candidates(1)[0].content)]
    report = ranker(depth="auto").run("the hut", given)["report"]
    assert report["scored"]["again"] == report["scored"]["d0"]
    assert report["why_unscored"]["no_text"] == 1
    nothing = ranker(depth="auto").run(" ", given)["report"]
    assert set(nothing["why_unscored"]) == {"no_query"}
    assert nothing["depth_stopped"] == "all"
    assert ranker(depth="auto", screen=True).run("the hut", [])["documents"] == []


def test_run_async_does_the_same():
    made = ranker(depth="auto", screen=True)
    given = candidates()
    assert asyncio.run(made.run_async("the hut", given))["documents"] == made.run("the hut", given)["documents"]


def test_kept_scores_cost_nothing_and_decide_the_same():
    backend = SnowBackend()
    made = ranker(backend, cache=1000, depth="auto", screen=True)
    first = made.run("the hut", candidates())
    pairs = backend.pairs
    again = made.run("the hut", candidates())
    assert backend.pairs == pairs == first["report"]["pairs"]
    assert again["documents"] == first["documents"]
    assert again["report"]["pairs"] == 0
    assert again["report"]["cached"] == first["report"]["depth_used"]


def test_a_deadline_ends_it_as_well():
    given = candidates()
    late = ranker(depth="auto", deadline_ms=1e-6).run("the hut", given)["report"]
    assert (late["depth_used"], late["depth_stopped"]) == (0, "deadline")
    assert late["why_unscored"] == {"deadline": 60}
    early = ranker(depth="auto", deadline_ms=1e9).run("the hut", given)
    assert early["documents"] == ranker(depth="auto").run("the hut", given)["documents"]
    assert early["report"]["depth_stopped"] == "risk"


class StoppingBackend(SnowBackend):
    """Scores some pairs, and lets the time run out then."""

    def __init__(self, clock, pairs):
        super().__init__()
        self.clock, self.most = clock, pairs

    def logits(self, batch):
        found = super().logits(batch)
        if self.pairs >= self.most:
            self.clock.now = np.inf
        return found


class Clock:
    now = 0.0

    def monotonic(self):
        return self.now

    perf_counter = monotonic


def stopped_clock(monkeypatch):
    """A clock that stands still, in place of the real one."""
    clock = Clock()
    for module in (line, runner, scorer, visits):
        monkeypatch.setattr(module, "time", clock)
    return clock


def test_a_deadline_between_two_steps_leaves_the_rest_in_its_order(monkeypatch):
    clock = stopped_clock(monkeypatch)
    made = ranker(StoppingBackend(clock, 15), depth={"risk": 1e-9, "step": 50}, deadline_ms=1000.0)
    made._scorer.runner.batch_tokens = 64
    report = made.run("the hut", candidates())["report"]
    assert report["depth_stopped"] == "deadline"
    assert report["depth_missing"] > 0.0
    assert report["depth_used"] == len(report["scored"]) < 60
    assert report["unscored"] == [f"d{place}" for place in range(report["depth_used"], 60)]
    assert set(report["why_unscored"]) == {"deadline"}


def test_a_shared_budget_is_kept_and_its_rest_goes_to_the_best():
    given = candidates()
    whole = ranker(max_tokens_per_query=100_000).run("the hut", given)["report"]
    report = ranker(max_tokens_per_query=100_000, depth="auto").run("the hut", given)["report"]
    assert report["depth_used"] < 60
    assert report["tokens"] < whole["tokens"]
    assert report["why_unscored"] == {"beyond_depth": 60 - report["depth_used"]}


def uneven(count=60):
    """Candidates of very different lengths, some of them in windows."""
    return [
        Document(id=one.id, content=f"{one.content} {'is ' * (place * 37 % 90)}")
        for place, one in enumerate(candidates(count, good=lambda place: place % 5 == 4))
    ]


@pytest.mark.parametrize(
    "parameters",
    [
        {"depth": "auto"},
        {"depth": "auto", "screen": True},
        *({"depth": depth, "screen": True} for depth in (1, 9, 20, 59, 60, 70)),
    ],
)
def test_a_shared_budget_that_pays_for_all_that_may_be_scored_changes_nothing(parameters):
    given = uneven()
    free = ranker(**parameters, passages_per_document=1).run("the hut", given)
    alone = [ranker(passages_per_document=1).run("the hut", [one])["report"]["tokens"] for one in given]
    dearest = sum(sorted(alone)[-free["report"]["depth_used"] :])
    enough = free["report"]["tokens"] if parameters["depth"] == "auto" else dearest
    bound = ranker(**parameters, passages_per_document=1, max_tokens_per_query=enough).run("the hut", given)
    assert bound["documents"] == free["documents"]
    for key in ("tokens", "why_unscored", "depth_missing", "depth_used", "depth_stopped", "documents_cut"):
        assert bound["report"][key] == free["report"][key]


@pytest.mark.parametrize("count", [1, 2, 5, 9])
@pytest.mark.parametrize("depth", [9, 20])
def test_where_all_candidates_are_scored_screening_shares_a_budget_as_no_screening_does(count, depth):
    long = [Document(id=f"d{place}", content=f"the hut in the snow {'is ' * 50}{place}") for place in range(count)]
    wide = {"passage_tokens": 64, "passage_stride": 32}
    for part in (1.0, 0.8):
        budget = int(part * ranker(**wide).run("the hut", long)["report"]["tokens"])
        reports = [
            ranker(max_tokens_per_query=budget, depth=depth, screen=screen, **wide).run("the hut", long)["report"]
            for screen in (False, True)
        ]
        assert len(reports[1]["scored"]) == count
        assert reports[0]["documents_cut"] == reports[1]["documents_cut"] == (0 if part == 1.0 else count)
        assert reports[1]["tokens"] == pytest.approx(reports[0]["tokens"], abs=count)


def test_few_long_candidates_are_not_cut_where_those_to_come_are_short():
    given = [
        Document(id=f"d{place}", content=f"the hut in the snow {'is ' * (50 if place < 3 else 1)}{place}")
        for place in range(40)
    ]
    wide = {"passage_tokens": 64, "passage_stride": 32, "depth": 12, "screen": True}
    free = ranker(**wide).run("the hut", given)["report"]
    bound = ranker(max_tokens_per_query=free["tokens"] + 20, **wide).run("the hut", given)["report"]
    assert (bound["documents_cut"], bound["scored"]) == (0, free["scored"])
    whole = ranker(**wide).run("the hut", given[:12])["report"]["tokens"]
    strict = ranker(max_tokens_per_query=whole, on_truncation="error", **wide)
    assert strict.run("the hut", given[:12])["report"]["documents_cut"] == 0


def test_as_many_as_are_to_come_are_taken_for_the_dearest_that_there_are():
    """Or the first three of five long ones would take what short ones, which are never chosen, leave."""
    given = [
        Document(id=f"d{place}", content=f"{GOOD if place < 12 else BAD} {'is ' * (50 if place < 12 else 1)}{place}")
        for place in range(40)
    ]
    wide = {"passage_tokens": 64, "passage_stride": 32, "depth": 5, "screen": True}
    report = ranker(max_tokens_per_query=5 * 45, **wide).run("the hut", given)["report"]
    read = [report["coverage"][name] for name in report["scored"]]
    assert len(read) == 5
    assert max(read) - min(read) < 0.1


def test_the_budget_ends_a_rule_at_the_first_candidate_that_it_cannot_pay():
    given = [
        Document(
            id=f"d{place}", content=f"{GOOD if place < 4 else BAD} {place}", meta={"t": "is " * (35 * (place == 10))}
        )
        for place in range(30)
    ]
    wide = {"passage_tokens": 32, "passage_stride": 16, "meta_fields_to_embed": ["t"]}
    report = ranker(depth={"risk": 0.35}, max_tokens_per_query=150, **wide).run("the hut", given)["report"]
    assert list(report["scored"]) == [f"d{place}" for place in range(10)]
    assert set(report["why_unscored"]) <= {"budget", "beyond_depth"}
    assert report["depth_stopped"] == "budget"
    assert 0.35 <= report["depth_missing"] <= 5


def test_no_more_are_missing_than_are_asked_for(monkeypatch):
    clock = stopped_clock(monkeypatch)
    made = ranker(StoppingBackend(clock, 3), deadline_ms=1000.0, depth="auto", max_tokens_per_query=400)
    made._scorer.runner.batch_tokens = 64
    report = made.run("the hut", candidates())["report"]
    assert 0 < len(report["scored"]) < 10
    assert report["depth_missing"] == 5.0
    late = ranker(depth="auto", deadline_ms=1e-6).run("the hut", candidates(3))["report"]
    assert (late["scored"], late["depth_missing"]) == ({}, 3.0)


def test_a_budget_that_ends_before_the_rule_does_is_told():
    given = candidates()
    free = ranker(depth="auto", screen=True).run("the hut", given)["report"]
    report = ranker(max_tokens_per_query=150, depth="auto", screen=True).run("the hut", given)["report"]
    assert report["tokens"] <= 150
    assert report["depth_stopped"] == "budget"
    assert report["depth_missing"] >= report["depth_rule"]["risk"] > free["depth_missing"]
    assert report["depth_used"] == len(report["scored"]) < free["depth_used"]
    over = report["why_unscored"]["budget"]
    assert report["documents_cut"] >= over > 0
    assert over + len(report["scored"]) + report["screened"] == 60


def test_a_number_of_screened_candidates_shares_a_budget_equally():
    long = [Document(id=f"d{place}", content=f"{GOOD} {place} . " * 12) for place in range(30)]
    report = ranker(max_tokens_per_query=12 * 24, depth=12, screen=True, passage_tokens=32).run("the hut", long)[
        "report"
    ]
    assert len(report["scored"]) == 12
    assert 0.9 * 12 * 24 < report["tokens"] <= 12 * 24
    tight = ranker(max_tokens_per_query=6 * 24, depth=12, screen=True, passage_tokens=32).run("the hut", long)["report"]
    assert tight["why_unscored"] == {"budget": 12 - len(tight["scored"]), "screened": 18}
    assert tight["tokens"] <= 6 * 24


@pytest.mark.parametrize("budget", [1500, 2000])
def test_a_shared_budget_holds_over_all_steps_and_their_further_windows(budget):
    long = [Document(id=f"d{place}", content=f"{GOOD} {BAD} {place} . " * 12) for place in range(30)]
    report = ranker(max_tokens_per_query=budget, depth={"risk": 1e-9}).run("the hut", long)["report"]
    assert report["tokens"] <= budget
    assert report["pairs"] > len(report["scored"])
    assert report["tokens"] > 0.9 * budget


def test_a_budget_and_a_deadline_between_two_steps(monkeypatch):
    clock = stopped_clock(monkeypatch)
    made = ranker(StoppingBackend(clock, 15), max_tokens_per_query=5000, depth={"risk": 1e-9}, deadline_ms=1000.0)
    report = made.run("the hut", candidates())["report"]
    assert report["depth_stopped"] == "deadline"
    assert 0 < len(report["scored"]) < 60
    assert report["why_unscored"] == {"deadline": 60 - len(report["scored"])}


def test_a_budget_and_a_deadline_hold_together():
    late = ranker(max_tokens_per_query=5000, depth="auto", deadline_ms=1e-6).run("the hut", candidates())["report"]
    assert late["depth_stopped"] == "deadline"
    assert late["scored"] == {}


def test_a_join_puts_what_was_screened_where_its_missing_rule_puts_it():
    given = [Document(id=one.id, content=one.content, score=60.0 - place) for place, one in enumerate(candidates())]
    found = ranker(depth=20, screen=True).run("the hut", given)
    joiner = HybridScoreJoiner({"cross_encoder": 0.8, "bm25": 0.2})
    joined = joiner.run(cross_encoder=found["documents"], bm25=given, cross_encoder_report=found["report"])["documents"]
    assert {document.id for document in joined} == {document.id for document in given}


def test_many_candidates_with_auto_need_no_warning(caplog):
    with caplog.at_level(logging.WARNING):
        ranker(depth="auto").run("the hut", candidates(201))
    assert caplog.text == ""


def test_all_candidates_must_fit_where_logits_decide_which_are_read():
    long = Document(id="long", content="the car is in the snow " * 40)
    strict = ranker(depth=1, screen=True, on_truncation="error")
    with pytest.raises(ValueError, match="long"):
        strict.run("the hut", [*candidates(3), long])


@pytest.mark.parametrize("depth", ["auto", {"risk": 0.5, "step": 8}, 30])
def test_depth_and_screen_survive_a_yaml(depth):
    pipeline = Pipeline()
    pipeline.add_component("ranker", CrossEncoderRanker(depth=depth, screen=True))
    again = Pipeline.loads(pipeline.dumps())
    assert again.get_component("ranker").depth == depth
    assert again.get_component("ranker").screen is True
    assert again.dumps() == pipeline.dumps()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"depth": "deep"},
            "depth must be a whole number >= 1, 'auto', a dictionary of a rule's values or None, but got 'deep'",
        ),
        ({"depth": {"risk": -1}}, r"depth\['risk'\] must be a finite number > 0"),
        ({"depth": {"deepest": 3}}, "a key of depth must be"),
        ({"screen": True}, "screen=True has no effect without a depth"),
        ({"screen": "yes", "depth": 3}, "screen must be"),
    ],
)
def test_values_out_of_range_are_errors(parameters, message):
    with pytest.raises(ValueError, match=message):
        CrossEncoderRanker(**parameters)


def test_the_callers_dictionary_stays_as_it_is():
    given = {"risk": 0.5}
    made = CrossEncoderRanker(depth=given)
    given["risk"] = 7.0
    assert made.depth == {"risk": 0.5}
