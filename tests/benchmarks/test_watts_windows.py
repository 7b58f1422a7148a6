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
from haystack_ce_ranker.reading.passages import evidence, windows
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer
from token_scoring import backend_of
from watts_window_choices import Asked, SoftMatches, by_evidence
from watts_windows import (
    DEFAULT_RULE,
    FIRST_DEFAULT,
    RULES,
    TASKS,
    TRANSCRIPTS,
    Outcome,
    Query,
    Window,
    all_of,
    by_level,
    first_of,
    logsumexp,
    mean,
    more_of_the_best,
    queries_of,
    ways,
    windows_of,
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
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / watts_windows.WEIGHTS).symlink_to(tiny_bert)
    return argparse.Namespace(
        data=tmp_path,
        models=tmp_path / "models",
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


def test_without_the_weights_in_full_the_soft_matches_are_left_out(arguments):
    (arguments.models / watts_windows.WEIGHTS).unlink()
    report, shown = run(arguments)
    assert any(line.startswith("soft matches: ") for line in report.left_out)
    titles = [title for title in RULES if any(line.startswith(f"| {title} |") for line in shown.lines)]
    assert titles == [title for title, rule in RULES.items() if rule.way != "soft"]


def test_the_default_scores_as_the_ranker_does(arguments):
    backend = backend_of(arguments)
    [query, *_] = queries_of(arguments, TRANSCRIPTS)
    [found] = windows_of([query], ways(None)["default"], backend)
    collection = watts_windows.load_collection(arguments.data / TRANSCRIPTS)
    ids = watts_windows.candidates(arguments.data / TRANSCRIPTS, collection)["q"]
    texts = [collection.documents[one].content for one in ids]
    expected, _ = CrossEncoderScorer(backend).score(collection.queries["q"], texts)
    ranking = RULES[DEFAULT_RULE].spend(found)
    assert ranking.scores == pytest.approx([one.logit for one in expected.documents], abs=1e-4)
    assert ranking.tokens == expected.tokens
    assert any(one.pairs > 1 for one in expected.documents)


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


def test_by_level_is_logsumexp_where_the_model_found_something_and_a_mean_where_it_did_not():
    found, lost = np.array([9.0, 7.0, -8.0]), np.array([-8.0, -9.0, -10.0])
    assert by_level(found) == pytest.approx(logsumexp(found) - np.log(3), abs=0.02)
    assert by_level(lost) == pytest.approx(mean(lost), abs=0.05)
    assert by_level([-2.5]) == pytest.approx(-2.5)


def test_soft_matches_of_tokens_that_are_like_no_other_are_the_engines_evidence():
    one = asked("the hut brake", "the hut is cold. " * 40 + "a brake in the snow. " * 20)
    starts = windows(len(one.document.body.ids), size=32, stride=16)
    soft = SoftMatches(np.eye(len(bert_tokenizer()), dtype=np.float32))
    expected = evidence(one.document.body.ids, one.query, starts, size=32)
    assert soft.evidence(one.document.body.ids, one.query, starts, 32) == pytest.approx(expected)
    assert soft.choose(32, 3)(one) == by_evidence(32, 3)(one)


def test_soft_matches_find_a_token_that_is_like_one_of_the_query():
    one = asked("hut", "snow " * 200 + "brake " + "snow " * 200)
    vectors = np.eye(len(bert_tokenizer()), dtype=np.float32)
    hut, brake = (int(TOKENIZER.encode([word])[0].ids[0]) for word in ("hut", "brake"))
    vectors[brake] = 0.9 * vectors[hut] + 0.43 * vectors[brake]
    [piece] = SoftMatches(vectors).choose(32, 1)(one)
    assert piece.spans[0].start <= 200 < piece.spans[0].stop
    assert by_evidence(32, 1)(one)[0].evidence == 0.0


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
