"""Experiments: what systems did becomes figures, an interrupted run goes on, slices give what a whole list gives."""

import json
import math
import warnings
from contextlib import contextmanager
from dataclasses import replace

import pytest
from haystack import Document, Pipeline
from haystack.document_stores.in_memory import InMemoryDocumentStore

from fake_results import by_name
from haystack_ce_ranker.backends import cross_encoders
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.data.collections import Collection, Text
from haystack_ce_ranker.data.left_out import LeftOut
from haystack_ce_ranker.evaluation.judging.comparison import Evidence, Passage
from haystack_ce_ranker.evaluation.judging.observations import Observation, Observed, restored
from haystack_ce_ranker.evaluation.judging.results import schema, to_plain
from haystack_ce_ranker.evaluation.judging.systems import Description, Kind, Latency, Stage, Weights
from haystack_ce_ranker.evaluation.running import experiments, groups, sweep
from haystack_ce_ranker.evaluation.running.experiments import measure, results, stages
from haystack_ce_ranker.evaluation.running.groups import GivenRun, PipelineGroup, RerankGroup, joiner
from haystack_ce_ranker.evaluation.running.journal import Journal
from haystack_ce_ranker.evaluation.running.pipelines import measured
from haystack_ce_ranker.evaluation.showing.files import write
from haystack_ce_ranker.machine.energy import Spent
from haystack_ce_ranker.machine.memory import MemoryRow
from haystack_ce_ranker.machine.units import Grid
from haystack_ce_ranker.training.cutting import cut
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever

pytest.importorskip("ir_measures", reason="needs the extra 'evaluate'")
pytest.importorskip("codecarbon", reason="needs the extra 'evaluate'")

WORDS = ("brake", "hut", "snow", "car", "berlin", "paris", "city", "germany", "france")


@pytest.fixture(scope="module")
def collection():
    """Nine topics; each query has one relevant document that names both of its words, others name one."""
    texts = {
        f"d{n}-{m}": f"the {word} is in a {WORDS[(n + m) % 9]}" + " of the city" * (40 if m == 4 else m)
        for n, word in enumerate(WORDS)
        for m in range(1, 5)
    }
    queries = {f"q{n}": f"{word} {WORDS[(n + 2) % 9]}" for n, word in enumerate(WORDS)}
    judged = {f"q{n}": {f"d{n}-2": 2, f"d{n}-1": 1} for n in range(9)}
    return Collection("words", {name: Text(name, "", text) for name, text in texts.items()}, queries, judged)


class Counting:
    """A group of one system that ranks as it is told, and counts what it is asked."""

    def __init__(self, key, ranking, *, stop_after=None, unable=None):
        self.key, self.names, self.needs = key, (key,), None
        self.ranking, self.stop_after, self.unable = ranking, stop_after, unable
        self.prepared, self.asked, self.notes = 0, [], ("filled",)

    def prepare(self):
        self.prepared += 1
        if self.unable is not None:
            raise self.unable

    def describe(self):
        return [Description(Kind.PIPELINE, self.key, "estimated: nothing")]

    def observe(self, query_id, found):
        if len(self.asked) == self.stop_after:
            raise KeyboardInterrupt
        self.asked.append(query_id)
        return [
            Observation(
                [(name, None) for name in self.ranking], {Stage.RETRIEVE: 0.002, Stage.SCORE: 0.01}, 0.5, tokens=7
            )
        ]


def test_what_the_journal_holds_is_neither_loaded_nor_asked_again(collection, tmp_path):
    with Journal(tmp_path) as journal:
        first = measure([Counting("a", ["d0-1"])], collection, journal=journal)
    again = Counting("a", ["changed"])
    with Journal(tmp_path) as journal:
        second = measure([again], collection, journal=journal)
    assert (again.prepared, again.asked) == (0, [])
    assert second.systems[0].observations == first.systems[0].observations
    assert second.complete


def test_what_the_journal_says_of_systems_is_what_was_said_of_them(collection, tiny_bert, tmp_path):
    planned = sweep.plan(collection, models=[tiny_bert], backends=["torch"], depths=(2,))
    described = []
    for _ in range(2):
        with Journal(tmp_path) as journal:
            seen = measure(planned.groups, collection, journal=journal)
        described.append([one.description for one in seen.systems])
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="ir_measures")  # on 3.12
            to_plain(results(seen))
    assert described[0] == described[1]
    assert [type(one.weights) for one in described[1]] == [type(None), type(None), Weights, Weights]


def test_a_changed_query_is_asked_again(collection, tmp_path):
    with Journal(tmp_path) as journal:
        measure([Counting("a", ["d0-1"])], collection, journal=journal)
    changed = Collection("words", collection.documents, {**collection.queries, "q3": "new"}, collection.judgments)
    again = Counting("a", ["d0-1"])
    with Journal(tmp_path) as journal:
        measure([again], changed, journal=journal)
    assert again.asked == ["q3"]


def test_an_interrupted_run_keeps_whole_queries_and_the_next_one_goes_on(collection, tmp_path):
    one, two = Counting("a", ["d0-1"]), Counting("b", ["d0-2"], stop_after=4)
    with Journal(tmp_path) as journal:
        partial = measure([one, two], collection, journal=journal)
    assert not partial.complete
    assert list(partial.collection.queries) == ["q0", "q1", "q2", "q3"]
    assert [list(system.observations) for system in partial.systems] == [["q0", "q1", "q2", "q3"]] * 2
    found = results(partial)
    assert found.queries == 4
    assert not found.complete
    lost = "5 of 9 queries were not measured: it was interrupted, and can go on there"
    assert found.left_out == (LeftOut(lost, 5 / 9),)
    assert found.verdict.answers[0].answer == "Less than half of the judgments"
    one, two = Counting("a", ["d0-1"]), Counting("b", ["d0-2"])
    with Journal(tmp_path) as journal:
        whole = measure([one, two], collection, journal=journal)
    assert whole.complete
    assert one.asked == ["q5", "q6", "q7", "q8"]  # q4 was already noted when the other group was interrupted
    assert two.asked == ["q4", "q5", "q6", "q7", "q8"]


def test_an_interruption_before_any_query_is_done_is_not_swallowed(collection):
    with pytest.raises(KeyboardInterrupt):
        measure([Counting("a", [], stop_after=0)], collection)


def test_what_nobody_named_may_fail_to_load_and_is_noted(collection):
    broken = Counting("broken", [], unable=OSError("no weights here"))
    found = measure([Counting("a", ["d0-1"]), broken], collection, optional={"broken"})
    assert [system.name for system in found.systems] == ["a"]
    assert found.left_out == (LeftOut("broken could not be loaded: no weights here"),)
    assert found.notes[0] == "filled"
    with pytest.raises(OSError, match="no weights here"):
        measure([broken], collection)
    with pytest.raises(ValueError, match="nothing to measure"):
        measure([broken], collection, optional={"broken"})


def test_what_finds_nothing_of_the_collection_is_refused(collection):
    with pytest.raises(ValueError, match="^a was asked 9 queries and found no document at all"):
        measure([Counting("a", [])], collection)
    with pytest.raises(ValueError, match="^a was asked 9 queries and found 9 documents, such as 'x', but none of the"):
        measure([Counting("a", ["x"])], collection)
    assert measure([Counting("a", ["x", "d0-1"])], collection).complete


def test_results_hold_figures_of_every_system_and_name_the_baseline(collection):
    found = results(measure([Counting("a", ["d0-1"]), Counting("b", ["d0-2", "d0-1"])], collection), baseline="b")
    figures = by_name(found)["a"]
    assert vars(figures.latency_ms) == pytest.approx({"p50": 12.0, "p95": 12.0, "p99": 12.0})
    assert figures.stages_ms == pytest.approx({"retrieve": 2.0, "score": 10.0})
    assert (figures.tokens_per_query, figures.joules_per_query) == (7.0, 0.5)
    assert figures.versus.wins == 0
    assert by_name(found)["b"].versus is None
    assert found.machine["cpus"] >= 1
    with pytest.raises(ValueError, match="baseline must be one of 'a', but got 'c'"):
        results(measure([Counting("a", ["d0-1"])], collection), baseline="c")


def test_the_relevance_level_decides_what_binary_measures_count(collection):
    seen = measure([Counting("a", ["d0-1"])], collection.only({"q0"}, ""))
    assert by_name(results(seen))["a"].measures["Success@1"] == 1.0
    assert by_name(results(seen, relevance_level=2))["a"].measures["Success@1"] == 0.0


def test_the_written_run_files_measure_the_same_by_ir_measures_command_line(collection, tmp_path):
    import subprocess
    import sys

    seen = measure([PipelineGroup(measured(bm25(), name="p"), collection, "key")], collection)
    found = results(seen)
    written = write(tmp_path, found, seen.systems)
    qrels = tmp_path / "qrels.txt"
    lines = [f"{q} 0 {d} {grade}\n" for q, grades in collection.judgments.items() for d, grade in grades.items()]
    qrels.write_text("".join(lines), encoding="utf-8")
    run = next(path for path in written if path.suffix == ".trec")
    done = subprocess.run(
        [sys.executable, "-m", "ir_measures", str(qrels), str(run), "nDCG@10", "RR@10", "AP"],
        capture_output=True,
        text=True,
        check=True,
    )
    theirs = dict(line.split() for line in done.stdout.splitlines())
    ours = by_name(found)["p/retriever"].measures
    for label, name in (("nDCG@10", "nDCG@10"), ("RR@10", "MRR@10"), ("AP", "AP")):
        assert float(theirs[label]) == pytest.approx(ours[name], abs=1e-4)


def bm25(top_k=100):
    pipeline = Pipeline()
    pipeline.add_component("retriever", BM25Retriever(InMemoryDocumentStore(), top_k=top_k))
    return pipeline


def classic(tiny_bert, depth, weights=Weights.FIXED):
    pipeline = bm25(top_k=depth)
    pipeline.add_component("ranker", CrossEncoderRanker(model=tiny_bert, top_k=depth))
    pipeline.add_component("joiner", joiner("bm25", weights))
    pipeline.connect("retriever.documents", "ranker.documents")
    pipeline.connect("retriever.documents", "joiner.bm25")
    pipeline.connect("ranker.documents", "joiner.cross_encoder")
    return pipeline


def test_slices_rank_at_each_depth_as_a_pipeline_of_that_depth_does(collection, tiny_bert):
    planned = sweep.plan(
        collection, models=[tiny_bert], backends=["torch"], strategies=["best_passages"], depths=(3, 7)
    )
    swept = {system.name: system for system in measure(planned.groups, collection).systems}
    assert list(swept) == [
        "bm25",
        *("cross-encoder@3", "hybrid@3", "adaptive hybrid@3"),
        *("cross-encoder@7", "hybrid@7", "adaptive hybrid@7"),
    ]
    for depth, weights in ((3, Weights.FIXED), (7, Weights.FIXED), (7, Weights.ADAPTIVE)):
        group = PipelineGroup(measured(classic(tiny_bert, depth, weights), name="p"), collection, "key")
        alone = {system.name: system for system in measure([group], collection).systems}
        hybrid = f"hybrid@{depth}" if weights == Weights.FIXED else f"adaptive hybrid@{depth}"
        assert swept[hybrid].description.weights == weights
        for ours, theirs in ((f"cross-encoder@{depth}", "p/ranker"), (hybrid, "p/joiner")):
            for query_id in collection.queries:
                ranked = [name for name, _ in swept[ours].observations[query_id].ranking]
                expected = [name for name, _ in alone[theirs].observations[query_id].ranking]
                assert ranked[:depth] == expected
                assert sorted(ranked) == sorted(name for name, _ in swept["bm25"].observations[query_id].ranking)
                seen, whole = swept[ours].observations[query_id], alone[theirs].observations[query_id]
                assert (seen.pairs, seen.tokens, seen.content_tokens) == (
                    whole.pairs,
                    whole.tokens,
                    whole.content_tokens,
                )


@pytest.mark.parametrize("how", list(Weights))
def test_cosines_of_a_bi_encoder_are_joined_as_such_and_not_as_bm25(collection, tiny_bert, how):
    cosines = {
        query_id: {f"d{n}-{m}": 0.9 - 0.05 * n - 0.01 * m for n in range(4) for m in (1, 2)}
        for query_id in collection.queries
    }
    first = GivenRun("bi-encoder", cosines)
    ranker = CrossEncoderRanker(model=tiny_bert)
    group = RerankGroup("bi-encoder", ranker, [8], ["ce", "both"], collection, key="k", joins=[how], given_as="dense")
    seen = {system.name: system for system in measure([first, group], collection).systems}["both"].observations
    plain = HybridScoreJoiner({"cross_encoder": 0.8, "dense": 0.2}, adapt_weights=how == Weights.ADAPTIVE)
    for query_id, query in collection.queries.items():
        found = [
            Document(id=one, content=collection.documents[one].content, score=score)
            for one, score in cosines[query_id].items()
        ]
        scored = ranker.run(query, found, top_k=8)["documents"]
        output = plain.run(cross_encoder=scored, dense=found)
        assert output["report"]["inputs"]["dense"]["normalize"] == "z_score"
        assert seen[query_id].ranking == [(one.id, pytest.approx(one.score)) for one in output["documents"]]


@pytest.fixture(scope="module")
def student(tiny_bert, tmp_path_factory):
    """A smaller model with another order."""
    folder = tmp_path_factory.mktemp("models") / "student"
    cut(ModelOptions(tiny_bert), folder, layers=1)
    return str(folder)


@pytest.mark.parametrize("deepest", [6, 9])
def test_a_cascade_ranks_as_two_rankers_do_and_costs_both(collection, tiny_bert, student, monkeypatch, deepest):
    monkeypatch.setattr(sweep, "CASCADE_DEPTH", 3)
    planned = sweep.plan(collection, models=[student, tiny_bert], backends=["torch"], depths=(2, deepest))
    found = {system.name: system for system in measure(planned.groups, collection).systems}
    cascade = found["cascade student then tiny-bert@3"]
    assert cascade.description.first_stage == f"cross-encoder student@{deepest}"
    assert (cascade.description.depth, cascade.description.kind) == (3, Kind.CROSS_ENCODER)
    first = CrossEncoderRanker(model=student, depth=deepest, top_k=1000)
    second = CrossEncoderRanker(model=tiny_bert, depth=3, top_k=1000)
    for query_id, query in collection.queries.items():
        names = [name for name, _ in found["bm25"].observations[query_id].ranking]
        documents = [Document(id=name, content=collection.documents[name].content) for name in names]
        before = first.run(query, documents)
        after = second.run(query, before["documents"])
        seen = cascade.observations[query_id]
        assert [name for name, _ in seen.ranking] == [document.id for document in after["documents"]]
        assert seen.pairs == before["report"]["pairs"] + after["report"]["pairs"]
        assert seen.tokens == before["report"]["tokens"] + after["report"]["tokens"]
    moved = [
        cascade.observations[one].ranking != found[cascade.description.first_stage].observations[one].ranking
        for one in collection.queries
    ]
    assert any(moved)


def test_what_needs_a_system_that_was_left_out_is_left_out_with_it(collection):
    broken, dependent = Counting("broken", [], unable=OSError("no weights here")), Counting("dependent", ["d0-1"])
    dependent.needs = "broken"
    found = measure([Counting("a", ["d0-1"]), broken, dependent], collection, optional={"broken", "dependent"})
    assert [system.name for system in found.systems] == ["a"]
    assert dependent.prepared == 0
    assert found.left_out == (LeftOut("broken could not be loaded: no weights here"),)


def test_a_deeper_list_costs_what_the_shallower_one_does_and_more(collection, tiny_bert):
    planned = sweep.plan(collection, models=[tiny_bert], backends=["torch"], depths=(2, 8))
    found = by_name(results(measure(planned.groups, collection)))
    shallow, deep = found["cross-encoder@2"], found["cross-encoder@8"]
    assert deep.tokens_per_query > shallow.tokens_per_query > 0
    assert deep.stages_ms["score"] > shallow.stages_ms["score"] > 0
    assert shallow.stages_ms["retrieve"] == deep.stages_ms["retrieve"]
    assert "join" in found["hybrid@8"].stages_ms
    assert "join" not in deep.stages_ms
    assert deep.joules_per_query > shallow.joules_per_query > found["bm25"].joules_per_query
    assert 0 < deep.read_share <= 1
    assert deep.dtype == "float32"
    assert (deep.first_stage, deep.depth, deep.kind) == ("bm25", 8, "cross-encoder")


def test_the_work_of_a_depth_is_that_of_what_its_pairs_read(collection, tiny_bert):
    planned = sweep.plan(collection, models=[tiny_bert], backends=["torch"], depths=(2, 8))
    seen = measure(planned.groups, collection)
    ranker = CrossEncoderRanker(model=tiny_bert, backend="torch", depth=8, top_k=100)
    first = next(one for one in seen.systems if one.name == "bm25")
    expected = []
    for query_id, query in collection.queries.items():
        names = [name for name, _ in first.observations[query_id].ranking]
        documents = [Document(id=name, content=collection.documents[name].content) for name in names]
        expected.append(ranker.run(query, documents)["report"]["flops"])
    found = by_name(results(seen, grid=Grid(100.0)))
    deep, shallow = found["cross-encoder@8"].units, found["cross-encoder@2"].units
    assert deep.flops_per_query == pytest.approx(sum(expected) / len(expected))
    assert 0 < shallow.flops_per_query < deep.flops_per_query
    assert found["hybrid@8"].units.flops_per_query == deep.flops_per_query
    assert deep.padding_flops_per_query >= 0
    assert deep.rpp == pytest.approx(found["cross-encoder@8"].quality * deep.qpp)
    assert deep.co2_g_per_1000_queries == pytest.approx(deep.wh_per_1000_queries / 10)
    assert (found["bm25"].units.flops_per_query, found["bm25"].units.qpp) == (None, None)
    assert results(seen, grid=Grid(100.0)).grid == Grid(100.0)


def test_what_is_not_known_of_one_query_is_not_known_of_the_system(collection):
    class Partly(Counting):
        def observe(self, query_id, found):
            (one,) = super().observe(query_id, found)
            return [replace(one, flops=None if query_id == "q3" else 1e9)]

    assert by_name(results(measure([Partly("a", ["d0-1"])], collection)))["a"].units.flops_per_query is None


def test_the_work_of_a_model_without_a_closed_form_is_not_known(collection, tiny_bert, monkeypatch):
    monkeypatch.setattr(cross_encoders, "flops_of", lambda config: None)
    planned = sweep.plan(collection, models=[tiny_bert], backends=["torch"], depths=(2,))
    found = by_name(results(measure(planned.groups, collection)))["cross-encoder@2"]
    assert found.units.flops_per_query is found.units.rpp is found.units.qpp is None
    assert found.units.wh_per_1000_queries == pytest.approx(found.joules_per_query / 3.6)


def test_a_depth_takes_the_energy_of_its_first_stage_and_of_all_its_slices(collection, tiny_bert, monkeypatch):
    class OneJoule:
        source = "estimated: a joule each time"

        @contextmanager
        def measure(self):
            yield Spent(seconds=0.001, joules=1.0)

    monkeypatch.setattr(groups, "meter_for", lambda device="cpu": OneJoule())
    run = GivenRun("run.mine", {query_id: {"d0-1": 3.0, "d1-1": 2.0, "d2-1": 1.0} for query_id in collection.queries})
    planned = sweep.plan(collection, models=[tiny_bert], backends=["torch"], depths=(1, 2, 3), run=run)
    joules = {one.name: one.observations["q0"].joules for one in measure(planned.groups, collection).systems}
    assert joules == {
        "run.mine": 0.0,
        **{f"cross-encoder@{depth}": float(depth) for depth in (1, 2, 3)},
        **{f"{kind}@{depth}": depth + 1.0 for depth in (1, 2, 3) for kind in ("hybrid", "adaptive hybrid")},
    }


def test_results_json_holds_no_text_of_the_collection_and_is_valid(collection, tiny_bert, tmp_path):
    jsonschema = pytest.importorskip("jsonschema", reason="needs the extra 'dev'")
    planned = sweep.plan(collection, models=[tiny_bert], backends=["torch"], depths=(2, 5))
    seen = measure(planned.groups, collection)
    text = write(tmp_path, results(seen), seen.systems)[0].read_text(encoding="utf-8")
    assert "of the city" not in text
    assert "brake" not in text
    jsonschema.validate(json.loads(text), schema())


def test_a_given_run_stands_for_the_first_stage_at_no_cost(collection, tiny_bert):
    run = GivenRun("run.mine", {query_id: {"d0-1": 3.0, "d1-1": 2.0, "d2-1": 1.0} for query_id in collection.queries})
    planned = sweep.plan(collection, models=[tiny_bert], backends=["torch"], depths=(2,), run=run)
    found = {system.name: system for system in measure(planned.groups, collection).systems}
    assert found["run.mine"].observations["q0"].ranking == [("d0-1", 3.0), ("d1-1", 2.0), ("d2-1", 1.0)]
    assert found["run.mine"].observations["q0"].seconds == 0
    assert [name for name, _ in found["cross-encoder@2"].observations["q0"].ranking][2] == "d2-1"


def test_a_run_with_infinite_scores_counts_by_its_order(collection, tiny_bert, tmp_path):
    scores = {"d0-1": math.inf, "d1-1": 2.0, "d2-1": -math.inf}
    run = GivenRun("run.mine", dict.fromkeys(collection.queries, scores))
    planned = sweep.plan(collection, models=[tiny_bert], backends=["torch"], depths=(2,), run=run)
    with Journal(tmp_path) as journal:
        found = measure(planned.groups, collection, journal=journal)
    seen = found.systems[0].observations["q0"].ranking
    assert [name for name, _ in seen] == ["d0-1", "d1-1", "d2-1"]


def test_a_gate_is_fitted_on_as_many_documents_as_are_reranked(collection, tiny_bert):
    planned = sweep.plan(collection, models=[tiny_bert], backends=["torch"], depths=(2, 6))
    seen = measure(planned.groups, collection)
    deepest = stages(seen)
    assert list(deepest) == ["hybrid@6"]
    before, after = deepest["hybrid@6"]
    assert {len(scores) for scores in before.values()} == {6}
    assert set(after) == set(collection.queries)
    assert list(stages(seen, "cross-encoder@2")) == ["cross-encoder@2"]
    assert list(stages(seen, "bm25")) == ["hybrid@6"]
    assert list(stages(seen, "adaptive hybrid@6")) == ["adaptive hybrid@6"]


def test_the_stages_of_a_pipeline_are_told_apart(collection, tiny_bert):
    group = PipelineGroup(measured(classic(tiny_bert, 5), name="p"), collection, "key")
    found = by_name(results(measure([group], collection)))
    assert list(found["p/joiner"].stages_ms) == ["retrieve", "tokenise", "score", "join"]
    assert list(found["p/retriever"].stages_ms) == ["retrieve"]
    assert found["p/ranker"].joules_per_query >= found["p/retriever"].joules_per_query > 0


def test_a_key_changes_with_the_settings_and_not_with_the_name_of_a_nameless_store(collection, tiny_bert):
    def key(joins=(Weights.FIXED,), **changes):
        ranker = CrossEncoderRanker(model=tiny_bert, **changes)
        return RerankGroup("bm25", ranker, [5], ["a", "b"], collection, key="first", joins=joins).key

    assert key() == key()
    assert key() != key(joins=[Weights.ADAPTIVE])
    assert key() != key(long_documents="head")
    first, second = (PipelineGroup(measured(bm25(), name="p"), collection, "key").key for _ in range(2))
    assert first == second
    assert first != PipelineGroup(measured(bm25(top_k=7), name="p"), collection, "key").key


def test_observations_survive_json():
    seen = Observation(
        [("d", 1.5), ("e", None)], {Stage.SCORE: 0.1}, 2.0, 3, 1, 9, 2, {"d": Evidence(1.5, 0.5, (Passage(0, 4, 1.5),))}
    )
    assert restored(json.loads(json.dumps(seen.plain()))) == seen


def test_a_system_without_observations_has_no_latency():
    figures = Observed("s", Description(Kind.PIPELINE, "s", "estimated: nothing")).figures({"nDCG@10": {"q": 0.0}})
    assert figures.latency_ms == Latency(p50=None, p95=None, p99=None)


def test_memory_is_measured_once_and_what_fails_is_left_out(monkeypatch, tmp_path):
    asked = []

    def peak(model, backend, batch_tokens):
        asked.append(batch_tokens)
        if batch_tokens == 4096:
            raise RuntimeError("out of memory")
        return MemoryRow(model, backend, 100.0, batch_tokens or 1024, "cpu")

    monkeypatch.setattr(experiments, "peak_megabytes", peak)
    swept = [sweep.Variant("m", "torch", strategy, True) for strategy in ("head", "windows")]
    for _ in range(2):
        with Journal(tmp_path) as journal:
            rows, left_out = experiments.memory_by_batch(swept, journal)
    assert left_out == [LeftOut("RuntimeError: out of memory")]
    assert [row.batch_tokens for row in rows] == [1024, 16384]
    assert asked == [None, 4096, 16384, 4096]
