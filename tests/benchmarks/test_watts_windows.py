"""benchmarks/watts_windows.py on made-up documents: what each rule reads and costs; targets can be missed."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

import common
import watts_windows
from fakes import bert_tokenizer, random_texts
from haystack_ce_ranker.reading.documents import DocumentEncoder, DocumentText
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.reading.soft_matches import SoftMatches, soft_matches_of
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer
from token_scoring import backend_of
from watts_window_choices import Asked, apart, by_evidence
from watts_windows import (
    DEFAULT_RULE,
    FIRST_DEFAULT,
    OPTION,
    RULES,
    TASKS,
    TRANSCRIPTS,
    Outcome,
    Query,
    Window,
    all_of,
    by_level,
    first_of,
    mean,
    more_of_the_best,
    one_more_of_half,
    queries_of,
    ways,
    windows_of,
    within,
)

TOKENIZER = PairTokenizer(bert_tokenizer())


def asked(query: str, content: str, room: int = 100) -> Asked:
    [document] = DocumentEncoder(TOKENIZER).encode([DocumentText(content)])
    return Asked(TOKENIZER.encode_queries([query])[0].ids, document, room)


def save(folder: Path, texts: list[str]) -> None:
    """A collection of these texts with two queries."""
    (folder / "qrels").mkdir(parents=True)
    corpus = {f"d{place}": text for place, text in enumerate(texts)}
    for name, rows in (("corpus", corpus), ("queries", {"q": "brake cold", "r": "hut snow"})):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in rows.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td0\t1\nr\td1\t1\n", encoding="utf-8")


@pytest.fixture
def arguments(tmp_path, tiny_bert) -> argparse.Namespace:
    texts = [
        f"{' '.join(words.split()[:30])} brake cold. " * 5 + f"{words} hut snow.\nanna: {words} brake."
        for words in random_texts(6, words=60)
    ]
    for name in (TRANSCRIPTS, "covidqa"):
        save(tmp_path / name, [*texts, "brake hut"])
    return argparse.Namespace(
        data=tmp_path,
        cache=tmp_path / "cache",
        queries=None,
        model=tiny_bert,
        backend="torch",
        threads=1,
    )


def run(arguments: argparse.Namespace) -> tuple[common.Report, common.Part]:
    report = common.Report(Path(watts_windows.__file__))
    with report.part("windows"):
        watts_windows.windows(arguments, report)
    return report, report.parts["windows"]


def test_every_rule_is_shown_for_every_collection_that_is_there(arguments):
    report, shown = run(arguments)
    for title in RULES:
        assert sum(line.startswith(f"| {title} |") for line in shown.lines) == 2
    assert [line.partition(":")[0] for line in report.left_out] == ["dl19-long"]
    labels = "\n".join(target.label for target in shown.targets)
    assert "above BM25" in labels
    assert f"covidqa: the default not below {FIRST_DEFAULT}" in labels


def test_without_embeddings_the_soft_matches_are_left_out():
    assert set(ways(None)) < {rule.way for rule in RULES.values()}
    assert all("soft" in rule.way for rule in RULES.values() if rule.way not in ways(None))


def test_the_option_scores_as_the_ranker_does_with_these_parameters(arguments):
    backend = backend_of(arguments)
    [query, *_] = queries_of(arguments, TRANSCRIPTS, limit=None)
    rule = RULES[OPTION]
    [found] = windows_of([query], ways(soft_matches_of(backend.forgetful))[rule.way], backend)
    collection = watts_windows.load_collection(arguments.data / TRANSCRIPTS)
    ids = watts_windows.candidates(arguments.data / TRANSCRIPTS, collection)["q"]
    texts = [collection.documents[one].content for one in ids]
    policy = ReadingPolicy(passage_matches="soft", passage_evidence=0.6, aggregate="level")
    expected, _ = CrossEncoderScorer(backend.forgetful, policy).score(collection.queries["q"], texts)
    assert rule.spend(found).scores == pytest.approx([one.logit for one in expected.documents], abs=1e-4)
    assert rule.spend(found).tokens == expected.tokens


def test_the_default_scores_as_the_ranker_does(arguments):
    backend = backend_of(arguments)
    [query, *_] = queries_of(arguments, TRANSCRIPTS, limit=None)
    [found] = windows_of([query], ways(None)["default"], backend)
    collection = watts_windows.load_collection(arguments.data / TRANSCRIPTS)
    ids = watts_windows.candidates(arguments.data / TRANSCRIPTS, collection)["q"]
    texts = [collection.documents[one].content for one in ids]
    expected, _ = CrossEncoderScorer(backend).score(collection.queries["q"], texts)
    ranking = RULES[DEFAULT_RULE].spend(found)
    assert ranking.scores == pytest.approx([one.logit for one in expected.documents], abs=1e-4)
    assert ranking.tokens == expected.tokens
    assert any(one.pairs > 1 for one in expected.documents)


@pytest.mark.parametrize("tokens", [80, 120, 300])
def test_a_budget_is_spent_as_the_ranker_does(arguments, tokens):
    backend = backend_of(arguments)
    [query, *_] = queries_of(arguments, TRANSCRIPTS, limit=None)
    [found] = windows_of([query], ways(soft_matches_of(backend.forgetful))["soft"], backend)
    collection = watts_windows.load_collection(arguments.data / TRANSCRIPTS)
    ids = watts_windows.candidates(arguments.data / TRANSCRIPTS, collection)["q"]
    texts = [collection.documents[one].content for one in ids]
    policy = ReadingPolicy(
        passage_matches="soft", passage_evidence=0.0, aggregate="level", max_tokens_per_query=tokens * len(ids)
    )
    expected, _ = CrossEncoderScorer(backend.forgetful, policy).score(collection.queries["q"], texts)
    ranking = within(tokens, by_level)(found)
    assert ranking.tokens == expected.tokens
    assert ranking.scores == pytest.approx([one.logit for one in expected.documents], abs=1e-4)


def test_the_head_fills_a_pair(arguments):
    backend = backend_of(arguments)
    encoder = DocumentEncoder(backend.tokenizer)
    query = Query(backend, encoder, "brake cold", {"long": "snow " * 500, "short": "snow"}, {})
    around = 3 + len(backend.tokenizer.encode_queries(["brake cold"])[0].ids)
    assert query.head == 128 + around + len(backend.tokenizer.encode(["snow"])[0].ids)


def test_more_of_the_best_pays_only_for_what_it_reads():
    found = [[Window(1.0, 10), Window(-9.0, 10)], [Window(0.0, 10), Window(9.0, 10)], [Window(-1.0, 10)]]
    one_more = more_of_the_best(1, 1, mean)(found)
    assert np.argsort(one_more.scores)[::-1].tolist() == [0, 1, 2]  # the best so far stays before the rest
    assert one_more.tokens == 40
    all_more = more_of_the_best(1, 3, mean)(found)
    assert np.argsort(all_more.scores)[::-1].tolist() == [1, 2, 0]
    assert all_more.tokens == all_of(mean)(found).tokens == 50
    assert first_of(1, mean)(found) == ([1.0, 0.0, -1.0], 30)


def test_a_window_more_of_the_better_half_is_all_that_is_paid_for():
    found = [[Window(1.0, 10), Window(3.0, 10)], [Window(0.0, 10), Window(9.0, 10)], [Window(-1.0, 10)]]
    assert one_more_of_half(2, mean)(found) == ([2.0, 4.5, -1.0], 50)
    assert one_more_of_half(2, mean)([*found[:1], found[1][::-1], *found[2:]]) == ([2.0, 4.5, -1.0], 50)
    assert one_more_of_half(2, mean)([*found, [Window(-5.0, 10), Window(50.0, 10)]]).scores[-1] == -5.0


def test_windows_apart_overlap_less_and_do_not_repeat():
    one = asked("hut", "snow " * 100 + "hut " + "snow " * 100 + "a hut " + "snow " * 100)
    soft = SoftMatches(np.eye(len(bert_tokenizer()), dtype=np.float32))
    together, distant = (apart(soft, 32, 3, counts)(one) for counts in (0.0, 1.0))
    assert together == by_evidence(32, 3)(one)
    first, second = (piece.spans[0].start for piece in distant[:2])
    assert abs(second - first) >= 32
    assert len(set(together)) == len(together)
    assert all(piece.evidence > 0.0 for piece in distant)


@pytest.mark.parametrize(("gain", "tokens", "holds"), [(0.09, 0.5, True), (0.07, 0.5, False), (0.09, 0.7, False)])
def test_the_target_needs_both_the_gain_and_the_tokens(gain, tokens, holds):
    report = common.Report(Path(watts_windows.__file__))
    bm25 = np.full(4, 0.3)
    with report.part("x"):
        watts_windows.targets(TRANSCRIPTS, bm25, {DEFAULT_RULE: Outcome(bm25 + gain, tokens, 0.06)}, report)
    choosing, above = report.parts["x"].targets
    assert above.holds is holds
    assert not choosing.holds


def test_a_rule_is_named_as_better_only_where_it_loses_nowhere_and_costs_no_more():
    def row(quality: float, tokens: float = 0.5) -> Outcome:
        return Outcome(np.full(3, quality), tokens, 0.0)

    found = {name: {DEFAULT_RULE: row(0.5), "A": row(0.6), "B": row(0.6, 0.7), "C": row(0.6)} for name in TASKS}
    found["covidqa"]["C"] = row(0.4)
    report = common.Report(Path(watts_windows.__file__))
    with report.part("x"):
        watts_windows.say_what_is_better(found, report)
        watts_windows.say_what_is_better({name: {DEFAULT_RULE: row(0.5)} for name in TASKS}, report)
    some, none = (line for line in report.parts["x"].lines if line.strip())
    assert "A (" in some
    assert "B (" not in some
    assert "C (" not in some
    assert "none of them" in none
