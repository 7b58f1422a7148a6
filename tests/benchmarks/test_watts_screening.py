"""benchmarks/watts_screening.py: what a student's choice costs and reaches, and what is said of it."""

import numpy as np
import pytest

import common
import watts_screening
from fakes import FakeBackend
from haystack_ce_ranker.backends.flops import Flops
from haystack_ce_ranker.reading.documents import DocumentText
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from watts_screening import Compared, Found, Student, cheapest, compare, ruled, share_of, verdict
from watts_tasks import Outcome, Query

WORDS = ["the", "city", "of", "berlin", "paris", "car", "snow", "hut"]
COUNT = 40


class Opposite(FakeBackend):
    """A student that prefers what its teacher likes least."""

    def logits(self, batch):
        return -super().logits(batch)


@pytest.fixture(scope="module")
def queries():
    texts = [DocumentText(" ".join([WORDS[place % 8], WORDS[place // 8], "brake"])) for place in range(COUNT)]
    ids = [f"d{place}" for place in range(COUNT)]
    scorer = CrossEncoderScorer(FakeBackend())
    made = [Query(scorer, f"the {word} of snow", ids, texts, {}) for word in WORDS[1:]]
    for query in made:  # the model's own best is what is sought
        query.judged = {ids[int(np.argmax([one.logit for one in query.whole.documents]))]: 1}
    return made


def student(backend, share=0.25):
    return Student(CrossEncoderScorer(backend), share)


def test_a_student_that_agrees_finds_the_best_at_the_least_depth(queries):
    found = cheapest(queries, student(FakeBackend()), COUNT, 0.3)
    assert found.outcome.mean == 1.0
    assert found.outcome.cost >= 0.3
    assert int(found.setting) <= 3  # a twentieth of the tokens, and a quarter for the student


def test_a_student_that_is_wrong_loses_and_one_that_costs_nothing_reads_deeper(queries):
    wrong, free = (
        cheapest(queries, student(one, share), COUNT, 0.4) for one, share in ((Opposite(), 0.25), (FakeBackend(), 0.0))
    )
    assert wrong.outcome.mean < 1.0 == free.outcome.mean
    assert int(wrong.setting) < int(free.setting)


def test_a_student_costs_its_share_of_what_it_reads(queries):
    reader = student(FakeBackend())
    [query, *_] = queries
    assert reader.cost(query, COUNT) == pytest.approx(0.25)
    assert reader.cost(query, 10) == pytest.approx(0.25 * query.tokens[:10].sum() / query.tokens.sum())
    order = reader.order(query, 10)
    assert sorted(order[:10]) == list(range(10))
    assert order[10:].tolist() == list(range(10, COUNT))
    logits = reader.logits(query)
    assert (np.diff(logits[order[:10]]) <= 0).all()


def test_no_candidate_is_scored_where_the_student_alone_costs_as_much(queries):
    found = cheapest(queries, student(FakeBackend(), 0.5), COUNT, 0.4)
    assert found.setting == "0"
    assert found.outcome.cost == pytest.approx(0.5)
    assert found.outcome.mean == 1.0  # it stands first in the student's own order


def test_behind_the_student_the_rule_takes_the_lowest_risk_that_can_be_paid(queries):
    dear = ruled(queries, student(FakeBackend()), 0.0)
    cheap = ruled(queries, student(FakeBackend()), 2.0)
    assert (dear.setting, cheap.setting) == (
        f"risk {watts_screening.RISKS[-1]:g}",
        f"risk {watts_screening.RISKS[0]:g}",
    )
    assert dear.outcome.cost <= cheap.outcome.cost
    assert cheap.outcome.mean == 1.0


def test_all_ways_spend_what_todays_choice_spends(queries):
    found = compare(queries, student(FakeBackend(), 0.05))
    assert found.whole.mean == 1.0
    for way in (found.students["on 100"], found.free):
        assert found.today.cost <= way.outcome.cost <= found.today.cost + 2 / COUNT
    assert found.fixed.outcome.cost >= found.today.cost


@pytest.mark.parametrize(
    ("of_student", "said"),
    [(0.9, "the student (on 50) wins"), (0.1, "today's choice wins"), (0.5, "no difference that counts")],
)
def test_the_verdict_names_who_wins(of_student, said):
    def outcome(value):
        return Outcome(quality=[value] * 20, tokens=[0.4] * 20)

    students = {"on 100": Found("9", outcome(of_student - 0.1)), "on 50": Found("9", outcome(of_student))}
    today = outcome(0.5)
    found = Compared(outcome(0.6), today, Found("40", today), students, Found("40", outcome(0.7)))
    assert verdict(found).startswith(said)
    assert "+0.2000" in verdict(found)


def test_a_student_that_costs_more_than_todays_choice_does_not_count():
    def outcome(value, cost):
        return Outcome(quality=[value] * 20, tokens=[cost] * 20)

    today, free = outcome(0.5, 0.4), Found("40", outcome(0.7, 0.4))
    dear, paid = Found("risk 5", outcome(0.9, 0.5)), Found("9", outcome(0.6, 0.41))
    both = Compared(today, today, Found("40", today), {"with auto behind it": dear, "on 50": paid}, free)
    assert verdict(both).startswith("the student (on 50) wins")
    alone = Compared(today, today, Found("40", today), {"with auto behind it": dear}, free)
    assert verdict(alone).startswith("no student can be paid")


def test_a_share_is_that_of_the_layers_and_unknown_flops_are_told():
    def backend(by_token):
        made = FakeBackend()
        made.flops = None if by_token is None else Flops(1, by_token, 1)
        return made

    assert share_of(backend(3), backend(12)) == 0.25
    with pytest.raises(common.CannotRun, match="FLOPs"):
        share_of(backend(None), backend(12))


def test_the_part_asks_for_a_student():
    report = common.Report(common.HERE / "watts.py")
    arguments = common.parser("", {}).parse_args([])
    arguments.second = None
    with report.part("screening"):
        watts_screening.screening(arguments, report)
    assert report.left_out == [
        "screening: name a student with --second: the folder of a cross-encoder with fewer layers"
    ]


def test_the_part_shows_each_collection_and_a_verdict(queries, monkeypatch):
    backend = FakeBackend()
    backend.flops = Flops(1, 4, 1)
    monkeypatch.setattr(watts_screening, "backend_of", lambda _: backend)
    monkeypatch.setattr(watts_screening, "loaded", lambda *_: backend)
    monkeypatch.setattr(watts_screening, "queries_of", lambda *_: {"dl19": queries})
    report = common.Report(common.HERE / "watts.py")
    arguments = common.parser("", {}).parse_args([])
    arguments.second, arguments.second_backend = "folder", "torch"
    with report.part("screening"):
        watts_screening.screening(arguments, report)
    lines = report.parts["screening"].lines
    assert "\nA token of the student costs 1.00 of one of the model's." in lines
    assert any(line.startswith("| dl19 | 7 | 1.0000 |") for line in lines)
    assert any(line.startswith("- dl19: ") for line in lines)
