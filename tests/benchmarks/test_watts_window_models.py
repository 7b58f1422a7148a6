"""benchmarks/watts_window_models.py on made-up documents: models, scales and mixed collections are what they say."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest

import common
import watts_window_models as models
from fakes import random_texts, save_bert
from haystack_ce_ranker.backends.model_files import ModelOptions
from token_scoring import backend_of, loaded
from watts_windows import DEFAULT_RULE, TRANSCRIPTS, Window, by_level, logsumexp


def save(folder: Path, texts: dict[str, str]) -> None:
    """A collection of these texts, all of them candidates of one query; the first is relevant."""
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", texts), ("queries", {"7": "hut brake"})):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in rows.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    first = next(iter(texts))
    (folder / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n7\t{first}\t1\n", encoding="utf-8")
    run = "".join(f"7\t{one}\t{rank}\t{9 - rank}\n" for rank, one in enumerate(texts, start=1))
    (folder / "run.bm25.tsv").write_text(f"qid\tdocid\trank\tscore\n{run}", encoding="utf-8")


@pytest.fixture
def arguments(tmp_path, tiny_bert) -> argparse.Namespace:
    texts = [f"{words} brake cold.\nanna: {words} hut." for words in random_texts(6, words=90)]
    save(tmp_path / TRANSCRIPTS, {f"d{place}": text for place, text in enumerate([*texts, "brake hut"])})
    return argparse.Namespace(
        data=tmp_path,
        models=tmp_path / "models",
        cache=tmp_path / "cache",
        queries=None,
        model=tiny_bert,
        backend="torch",
        second=None,
        second_backend="torch",
        threads=1,
    )


def test_each_rule_is_shown_for_what_is_there_and_the_rest_is_left_out_with_its_reason(arguments):
    report = common.Report(Path(models.__file__))
    with report.part("window_models"):
        models.window_models(arguments, report)
    shown = report.parts["window_models"]
    for title in models.RULES:
        assert sum(line.startswith(f"| {title} |") for line in shown.lines) == 1
    [default] = (line for line in shown.lines if line.startswith(f"| {DEFAULT_RULE} |"))
    assert default.count("+0.0000") >= len(models.SCALES)
    left_out = "\n".join(report.left_out)
    assert "the model, covidqa: there is no" in left_out
    assert "10 of its layers: there is no" in left_out
    [target] = shown.targets
    assert models.LEVEL in target.label


def test_another_model_is_measured_beside_them(arguments, tmp_path):
    arguments.second = save_bert(tmp_path / "another")
    report = common.Report(Path(models.__file__))
    with report.part("window_models"):
        models.window_models(arguments, report)
    titles = [line for line in report.parts["window_models"].lines if line.startswith("## ")]
    assert [title.partition(",")[0] for title in titles] == ["## the model", "## another"]


def test_the_second_model_has_the_layers_that_are_named(arguments, monkeypatch):
    save_bert(arguments.models / "ce-minilm-l12")
    monkeypatch.setattr(models, "KEPT_LAYERS", (1,))
    made = []

    def quantized(options: ModelOptions, folder: Path, _requests: object) -> None:
        made.append(options.model)
        save_bert(folder)

    monkeypatch.setattr(models, "quantize", quantized)
    monkeypatch.setattr(models, "loaded", lambda backend, model, *_: (backend, model))
    assert models.second_of(arguments) == models.second_of(arguments)
    [checkpoint] = made  # the second time it is there
    assert json.loads((Path(checkpoint) / "config.json").read_text())["num_hidden_layers"] == 1


def test_a_mixed_collection_shows_some_documents_as_the_passage_alone(arguments):
    ids = [str(number) for number in range(12)]
    passages = {one: f"hut {one} snow" for one in ids}
    save(arguments.data / models.SHORT, passages)
    hidden = {f"{one}@7": f"{passages[one]} {'cold lift ' * 100}" for one in ids}
    save(arguments.data / models.LONG, hidden)
    backend = backend_of(arguments)
    [query] = models.queries_for(arguments, backend, models.MIXED)
    lengths = [sum(len(pair.ids) for pair in pairs) for pairs in query.pairs(models.ways(None)["default"])]
    assert len(query) == len(ids)
    for document_id, length in zip(hidden, lengths, strict=True):
        assert (length < 15) is models.is_short(document_id)
    assert len({models.is_short(one) for one in hidden}) == 2
    [long] = models.queries_for(arguments, backend, models.LONG)
    assert long.head > query.head


def test_a_scale_changes_logits_and_nothing_else():
    found = [[Window(2.0, 10), Window(-4.0, 20)], [Window(1.0, 30)]]
    assert models.scaled(found, models.Scale(0.5, 3)) == [[Window(4.0, 10), Window(1.0, 20)], [Window(3.5, 30)]]
    assert models.scaled(found, models.OWN) == found
    assert [str(scale) for scale in models.SCALES] == ["times 0.5", "times 2", "-3", "+3"]


def test_a_rule_gains_nothing_over_itself_at_any_scale(arguments):
    backend = loaded("torch", arguments.model, 1, arguments.cache)
    queries = models.queries_for(arguments, backend, TRANSCRIPTS)
    found = models.gains_of(queries, models.ways(None), backend)
    assert set(found) == {DEFAULT_RULE, "3 of 64, by level"}
    default = found[DEFAULT_RULE]
    assert all(not gain.any() for gain in default.by_scale.values())
    assert set(default.by_scale) == {models.OWN, *models.SCALES}
    bm25 = np.asarray([query.quality(np.zeros(len(query))) for query in queries])
    assert (default.over_bm25 + bm25 <= 1.0).all()


def test_the_first_level_lacked_what_the_number_of_windows_adds():
    assert models.by_mean_level([2.0]) == by_level([2.0]) == 2.0
    assert models.by_mean_level([12.0, 12.0]) == pytest.approx(12.0)
    assert by_level([12.0, 12.0]) == pytest.approx(logsumexp([12.0, 12.0]))


@pytest.mark.parametrize(("gain", "holds"), [(0.01, True), (-0.01, False)])
def test_the_target_looks_at_the_worst_scale(arguments, gain, holds):
    backend = loaded("torch", arguments.model, 1, arguments.cache)
    queries = models.queries_for(arguments, backend, TRANSCRIPTS)
    even = np.full(len(queries), 0.02)
    by_scale = dict.fromkeys((models.OWN, *models.SCALES), even)
    by_scale[models.SCALES[2]] = np.full(len(queries), gain)
    report = common.Report(Path(models.__file__))
    with report.part("x"):
        models.show("a model", queries, {models.LEVEL: models.Gains(by_scale, even, 0.5)}, report)
    [target] = report.parts["x"].targets
    assert target.holds is holds
    assert f"{gain:+.4f}" in target.figure
    assert "logits -3" in target.figure


def test_sizes_are_compared_with_the_default_s_rule_at_the_same_size(arguments):
    report = common.Report(Path(models.__file__))
    with report.part("window_sizes"):
        models.window_sizes(arguments, report)
    rows = [line.split(" | ") for line in report.parts["window_sizes"].lines if line.startswith("| ")][2:]
    assert [row[0].strip("| ") for row in rows] == [*map(str, models.SIZES), "mean"]
    gains = []
    for row in rows[:-1]:
        default, level = float(row[1]), float(row[2])
        gains.append(float(row[3].split()[0]))
        assert gains[-1] == pytest.approx(level - default, abs=2e-4)
    assert float(rows[-1][3].split()[0]) == pytest.approx(np.mean(gains), abs=2e-4)
