"""Scoring a run in this process: what is written and told, going on after a stop, and input that cannot be used."""

import json

import pytest

from bulk_runs import QUERIES, TEXTS, write_run
from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions
from haystack_ce_ranker.bulk.engines import Workers
from haystack_ce_ranker.bulk.replica import Model, Replica, loaded
from haystack_ce_ranker.data.collections import load_run
from haystack_ce_ranker.evaluation.running.journal import NAME
from haystack_ce_ranker.reading.policy import ReadingPolicy

PAIRS = len(QUERIES) * len(TEXTS)
READ = PAIRS - len(QUERIES)  # one document of each query has no text


def stopped_after(monkeypatch, shards):
    """Let a replica be stopped by Ctrl-C after some shards; returns the shards that were scored."""
    score, done = Replica.score, []

    def limited(self, shard):
        if len(done) == shards:
            raise KeyboardInterrupt
        done.append(shard.number)
        return score(self, shard)

    monkeypatch.setattr(Replica, "score", limited)
    return done


def test_a_run_has_the_raw_logits_of_all_pairs_that_can_be_read(scored, model, tmp_path):
    _, told = scored(shard=50)
    found = load_run(tmp_path / "scored.run")
    assert list(found) == list(QUERIES)
    [one, *_], _ = loaded(model).score_many([(QUERIES["q3"], list(TEXTS.values()))])
    expected = {key: score.logit for key, score in zip(TEXTS, one.documents, strict=True) if score.logit is not None}
    assert found["q3"] == expected  # to the last bit: in int8 no batch changes a score
    assert not all(0 <= logit <= 1 for logit in found["q3"].values())  # no sigmoid
    assert f"scored: {PAIRS} pairs in " in told
    assert "cut: 9 pairs show a part of their document; " in told
    assert "left out: 9 pairs are not in the run: the document has no text" in told
    assert f"wrote {tmp_path / 'scored.run'}: {READ} pairs of 9 queries" in told


def test_a_parquet_file_says_of_each_pair_what_was_read_or_why_nothing_was(scored, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra 'evaluate'")
    scored("scored.run")
    _, told = scored("scored.parquet")
    assert f"scored: 0 pairs in 0.0 s; {PAIRS} taken from {tmp_path / 'scored.progress'}" in told
    assert "left out: 9 pairs stand last, without a score: the document has no text" in told
    rows = parquet.read_table(tmp_path / "scored.parquet").to_pylist()
    assert len(rows) == len({(row["query_id"], row["document_id"]) for row in rows}) == PAIRS
    run = load_run(tmp_path / "scored.run")
    read = [row for row in rows if row["logit"] is not None]
    assert [(row["query_id"], row["document_id"], row["logit"]) for row in read] == [
        (query_id, document_id, logit) for query_id, ranking in run.items() for document_id, logit in ranking.items()
    ]
    assert [row["rank"] for row in read] == [rank for ranking in run.values() for rank in range(1, len(ranking) + 1)]
    for row in rows:
        assert (row["tokens_read"] < row["tokens"]) == (row["document_id"] == "long")
        assert (row["why_unscored"], row["rank"] is None) == (
            ("no_text", True) if row["document_id"] == "empty" else (None, False)
        )
        assert (row["windows"] > 0) == (row["logit"] is not None)
        assert 50 < row["first_stage_score"] < 100


@pytest.mark.parametrize("stop_after", [0, 1, 4])
@pytest.mark.parametrize("name", ["scored.run", "scored.parquet"])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes_and_scores_nothing_twice(
    scored, tmp_path, monkeypatch, name, stop_after
):
    whole, _ = scored(f"whole-{name}", shard=60)
    with monkeypatch.context() as patch:
        before = stopped_after(patch, stop_after)
        found, told = scored(name, shard=60)
        assert found is None
        assert f"Interrupted: what was scored is kept in {tmp_path / 'scored.progress'}" in told
        assert not (tmp_path / name).exists()
    if stop_after:
        with (tmp_path / "scored.progress" / NAME).open("a", encoding="utf-8") as journal:
            journal.write('{"key": "torn by a cra')
    with monkeypatch.context() as patch:
        after = stopped_after(patch, 10**6)
        scored(name, shard=60)
    assert before + after == [shard.number for shard in whole.shards]
    assert len(before) == stop_after < len(whole.shards)
    assert (tmp_path / name).read_bytes() == (tmp_path / f"whole-{name}").read_bytes()


def test_other_texts_models_and_policies_take_nothing_from_the_journal_and_fresh_throws_it_away(
    scored, model, tiny_bert, tmp_path, run
):
    def kept(**values):
        found, _ = scored(force=True, **values)
        return len(found.kept), len(found.shards)

    assert kept(shard=60) == (0, 9)  # no query is parted that need not be
    assert kept(shard=60) == (9, 9)
    assert kept(shard=60, model=Model(model.options, "onnx", ReadingPolicy(passages_per_document=1))) == (0, 9)
    assert kept(shard=60, model=Model(ModelOptions(tiny_bert, threads=1))) == (0, 9)
    assert kept(shard=84) == (1, 5)  # the last query stands alone in both
    fewer = write_run(tmp_path / "fewer.run", {"q0": list(TEXTS), "q1": ["d1", "d2"]})
    assert kept(shard=42, run=fewer) == (1, 2)
    assert kept(shard=60, fresh=True) == (0, 9)


def test_a_shared_token_budget_keeps_the_documents_of_a_query_together(scored, model):
    budget = Model(model.options, "onnx", ReadingPolicy(max_tokens_per_query=300))
    found, told = scored(model=budget, shard=10)
    assert [len(shard) for shard in found.shards] == [len(TEXTS)] * 9
    assert "pairs are not in the run: the token budget of the query was spent" in told


def test_parted_queries_and_ids_with_spaces_are_put_together_again(scored, tmp_path):
    """In int8 a score is the same in any batch, so that here also the size of a shard changes no byte."""
    scored("whole.run")
    parted, _ = scored("parted.run", shard=10)
    assert {len(shard) for shard in parted.shards} == {10, 2}
    assert (tmp_path / "whole.run").read_bytes() == (tmp_path / "parted.run").read_bytes()
    folder = tmp_path / "spaced"
    folder.mkdir()
    ids = {"d 1": "the hut", "d2": "a car"}
    for name, texts in (("corpus", ids), ("queries", {"q 1": "hut", "q2": "car"})):
        lines = [json.dumps({"_id": key, "text": text}) for key, text in texts.items()]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    rows = [f"{query_id}\t{document_id}\t1" for query_id in ("q2", "q 1") for document_id in ("d2", "d 1")]
    (tmp_path / "spaced.tsv").write_text("\n".join(["qid\tdocid\tscore", *rows, ""]), encoding="utf-8")
    scored("spaced.run", collection=folder, run=tmp_path / "spaced.tsv")
    found = load_run(tmp_path / "spaced.run")
    assert {query_id: set(ranking) for query_id, ranking in found.items()} == {"q2": set(ids), "q 1": set(ids)}


def test_rows_of_unknown_and_empty_queries_are_left_out_and_counted(scored, collection, tmp_path):
    rows = {"q1": ["d1", "d2"], "nobody": ["d1", "d3", "d4"]}
    _, told = scored(run=write_run(tmp_path / "some.run", rows))
    assert "left out: 3 pairs of queries that the collection does not have, or has without a text" in told
    assert list(load_run(tmp_path / "scored.run")) == ["q1"]


def test_a_query_that_is_a_document_may_find_itself(scored, tmp_path):
    folder = tmp_path / "same"
    folder.mkdir()
    for name in ("corpus", "queries"):
        (folder / f"{name}.jsonl").write_text('{"_id": "d1", "text": "the hut"}\n', encoding="utf-8")
    scored(collection=folder, run=write_run(tmp_path / "same.run", {"d1": ["d1"]}))
    assert load_run(tmp_path / "scored.run").keys() == {"d1"}


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("q1 Q0 gone 3 1.0 first", "document 'gone' is not in the corpus of 'small'"),
        ("q1 Q0 d1 3 1.0 first", "document 'd1' appears twice for 'q1'"),
        ("q1 Q0 d3 3 nan first", "column 'score' is NaN"),
        ("q1 Q0 d3 3 best first", "column 'score' must be a number, but got 'best'"),
        ("q1 Q0 d3", "it has 3 columns where 6 are expected"),
    ],
)
def test_a_line_that_is_wrong_is_named_before_a_model_is_loaded(scored, tmp_path, line, error):
    path = write_run(tmp_path / "wrong.run", {"q1": ["d1", "d2"]})
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=rf"wrong\.run, line 3: {error}"):
        scored(run=path, model=Model(ModelOptions("package:haystack_ce_ranker/bulk", threads=1), "onnx"))
    assert not (tmp_path / "scored.progress").exists()


def test_what_is_missing_is_one_line(scored, tmp_path, collection):
    with pytest.raises(ModelNotFoundError, match="there is no folder /nowhere"):
        scored(model=Model(ModelOptions("/nowhere")))
    with pytest.raises(ValueError, match="gone.run"):
        scored(run=tmp_path / "gone.run")
    (tmp_path / "half").mkdir()
    (tmp_path / "half" / "corpus.jsonl").write_bytes((collection / "corpus.jsonl").read_bytes())
    with pytest.raises(ValueError, match="queries.jsonl is missing"):
        scored(collection=tmp_path / "half")
    with pytest.raises(ValueError, match="it has no rows for the collection's queries"):
        scored(run=write_run(tmp_path / "others.run", {"other": ["d1"]}))
    with pytest.raises(ValueError, match="backend must be one of"):
        Model(ModelOptions("/nowhere"), "onnxx")


def test_settings_that_cannot_be_are_refused_before_anything_is_read(scored, tmp_path):
    (tmp_path / "there.run").write_text("mine", encoding="utf-8")
    for values, error in [
        ({"name": "there.run"}, r"there\.run' is there already: name another file, or write over it with --force"),
        ({"name": "scored.tsv"}, r"output must end in .run or .parquet, but got "),
        ({"engine": "spark"}, "engine must be one of 'local', 'ray', but got 'spark'"),
        ({"shard": 0}, "shard must be a whole number >= 1, but got 0"),
        ({"model": Model(ModelOptions(str(tmp_path)))}, "output must lie outside the folder of model"),
    ]:
        with pytest.raises(ValueError, match=error):
            scored(**{"collection": tmp_path / "nowhere", **values})
    (tmp_path / "folder.run").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        scored("folder.run", force=True)
    for workers in (Workers(2), Workers(address="127.0.0.1:6379")):
        with pytest.raises(ValueError, match="the engine 'local' is one replica in this process, but got"):
            scored(workers=workers)
    assert (tmp_path / "there.run").read_text(encoding="utf-8") == "mine"
    scored("there.run", force=True)
    assert len(load_run(tmp_path / "there.run")) == len(QUERIES)


@pytest.mark.parametrize(
    "damage",
    [
        lambda value: value["logits"].pop(),
        lambda value: value["logits"].__setitem__(0, None),
        lambda value: value["logits"].__setitem__(0, "high"),
        lambda value: value["tokens"].__setitem__(0, 1.5),
        lambda value: value.pop("windows"),
        lambda value: value.update(seconds="long"),
        lambda value: value.update(more=1),
    ],
)
def test_a_journal_that_holds_something_else_is_refused_and_fresh_begins_anew(scored, tmp_path, damage):
    scored()
    path = tmp_path / "scored.progress" / NAME
    first, *others = path.read_text(encoding="utf-8").splitlines()
    entry = json.loads(first)
    damage(entry["value"])
    path.write_text("\n".join([json.dumps(entry), *others]) + "\n", encoding="utf-8")
    with pytest.raises(
        ValueError, match=r"progress\.jsonl: what it holds for .* has another form .*; delete that file"
    ):
        scored(force=True)
    scored(force=True, fresh=True)


def test_scores_of_two_ways_are_told(scored, tmp_path):
    scored(shard=60)
    path = tmp_path / "scored.progress" / NAME
    first, *others = path.read_text(encoding="utf-8").splitlines()
    entry = json.loads(first)
    entry["value"]["how"] = "onnx int8 on another machine"
    path.write_text("\n".join([json.dumps(entry), *others]) + "\n", encoding="utf-8")
    _, told = scored(shard=60, force=True)
    assert "note: not all shards were scored alike: 1 by onnx int8 on another machine, 8 by onnx int8 on cpu" in told
