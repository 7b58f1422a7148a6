"""`distil` from a folder to a model in another folder, or to a report that says why there is none."""

import json
import random
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from haystack import Document
from rich.console import Console
from sentence_transformers import CrossEncoder, SentenceTransformer
from typer.testing import CliRunner

from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.cli import app
from haystack_ce_ranker.data.collections import load_unjudged
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.training.adapting import TEACHERS_ORDER, Adapting, moved
from haystack_ce_ranker.training.bi_encoders import BiEncoderRecipe
from haystack_ce_ranker.training.blending import Blend
from haystack_ce_ranker.training.candidates import BiEncoder, first_stage
from haystack_ce_ranker.training.commands import distil
from haystack_ce_ranker.training.commands.adapt import AdaptRun
from haystack_ce_ranker.training.commands.distil import DistilRun, run_distilling
from haystack_ce_ranker.training.fitting import Recipe
from haystack_ce_ranker.training.gate import BASE
from haystack_ce_ranker.training.held_out import HeldOut, rank
from haystack_ce_ranker.training.passages import PassageReader
from haystack_ce_ranker.training.run_folder import OtherSettingsError
from haystack_ce_ranker.training.runs import Interrupted
from haystack_ce_ranker.training.teachers import Teacher
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker
from zoo import ZOO, deeper

WORDS = ("brake", "hut", "snow", "car", "berlin", "paris", "city", "germany", "france")


def write_corpus(folder, documents):
    """Write titles with texts as an unjudged collection of the documents d0, d1, ..."""
    folder.mkdir()
    rows = [{"_id": f"d{number}", "title": title, "text": text} for number, (title, text) in enumerate(documents)]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Titles of two places, and texts that say something of them. Nothing is judged."""
    draw = random.Random(0)
    documents = []
    for number in range(80):
        title = " ".join(draw.sample(WORDS, 2)) + f" {number}"
        text = " ".join(draw.choices(WORDS, k=6)) + ". The " + " ".join(draw.choices(WORDS, k=5)) + "."
        documents.append((title, text))
    return write_corpus(tmp_path_factory.mktemp("collections") / "places", documents)


@pytest.fixture(scope="module")
def judged(corpus, tmp_path_factory):
    """The same with judged queries."""
    folder, draw = tmp_path_factory.mktemp("collections") / "judged", random.Random(1)
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text((corpus / "corpus.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    asked = {f"q{number}": " ".join(draw.sample(WORDS, 3)) + f" {number}" for number in range(20)}
    lines = [json.dumps({"_id": name, "text": text}) for name, text in asked.items()]
    (folder / "queries.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = ["query-id\tcorpus-id\tscore", *(f"{name}\td{draw.randrange(80)}\t1" for name in asked)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows), encoding="utf-8")
    return folder


def distilling(collection, output, teacher, **changed):
    options = ModelOptions(teacher)
    lessons = AdaptRun(
        collection,
        output,
        options,
        teachers=(options,),
        mix=("title", "first_sentence"),
        queries=60,
        settings=Adapting(depth=8, candidates=6, blend=None),
        recipe=Recipe(loss="margin_mse", learns="teacher", epochs=2, learning_rate=1e-3, evaluations=1),
        threads=1,
    )
    return DistilRun(replace(lessons, **changed.pop("lessons", {})), **changed)


def run(*given, **changed):
    console = Console(record=True, width=200)
    found = run_distilling(distilling(*given, **changed), console)
    return found, " ".join(console.export_text().split())


def test_a_cut_student_learns_from_the_corpus_alone_and_runs_in_the_ranker(corpus, tiny_bert, tmp_path):
    output = tmp_path / "student"
    found, told = run(corpus, output, tiny_bert, layers=1, share=0.5, states=3.0)
    assert found.decision.met
    assert TEACHERS_ORDER in found.decision.reason
    assert f"judged by {TEACHERS_ORDER}" in told
    assert "layers 0 of 2 (numbered from 0)" in told
    assert found.means["teacher"]["nDCG@10"] == pytest.approx(1)
    ranked = CrossEncoderRanker(model=str(output)).run("the hut", [])
    assert ranked["documents"] == []
    student = CrossEncoder(str(output), device="cpu")
    assert student.model.config.num_hidden_layers == 1
    scores = student.predict([("hut", "snow"), ("paris", "the city"), ("car", "brake")])
    assert np.abs(scores).max() > 1  # raw logits: no sigmoid was saved
    facts = json.loads((output / "training.json").read_text(encoding="utf-8"))
    assert (facts["settings"]["layers"], facts["settings"]["states"]) == (1, 3.0)
    assert facts["gate"]["judged_by"] == TEACHERS_ORDER
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "tiny-bert with 1 layers" in card
    assert tiny_bert not in card
    assert facts["data"]["teachers"] == ["tiny-bert"]
    assert not (output / "work").exists()


@pytest.mark.parametrize("name", ["bert, modular", "qwen3, chat, prompt"])
def test_a_student_is_cut_from_a_stack_of_modules_and_runs_in_the_ranker(name, corpus, tmp_path):
    teacher, output = deeper(name, tmp_path), tmp_path / "student"
    found, told = run(corpus, output, teacher, layers=2, share=0.1, states=1.0)
    assert found.decision.met
    assert "layers 0, 3 of 4 (numbered from 0)" in told
    student = CrossEncoder(str(output), device="cpu")
    assert student.model.config.num_hidden_layers == 2
    assert [type(one) for one in student] == [type(one) for one in CrossEncoder(teacher, device="cpu")]
    query, document = "where is the hut?", Document(content="The hut is in the snow.")
    [ranked] = CrossEncoderRanker(model=str(output), scale_score=False).run(query, [document])["documents"]
    plain = {"prompt": ZOO[name].prompt, "activation_fn": torch.nn.Identity()}
    [score] = student.predict([(query, document.content)], **plain)
    assert ranked.score == pytest.approx(float(score), abs=1e-4)


def test_a_student_learns_its_teachers_best_by_contrast(corpus, tiny_bert, tmp_path):
    recipe = Recipe(loss="contrastive", learns="teacher", batch=48, epochs=2, learning_rate=1e-3, evaluations=1)
    found, told = run(corpus, tmp_path / "student", tiny_bert, layers=1, share=0.5, lessons={"recipe": recipe})
    assert found.decision.met
    assert "by contrastive" in told
    with pytest.raises(ValueError, match="states must be 0 with the loss 'contrastive'"):
        distilling(corpus, tmp_path, tiny_bert, layers=1, states=1.0, lessons={"recipe": recipe})


@pytest.fixture(scope="module")
def lengthy(tmp_path_factory):
    """Documents of which a pair of 48 tokens shows a part."""
    draw = random.Random(2)
    texts = [" ".join(" ".join(draw.choices(WORDS, k=8)) + f" {n}." for _ in range(12)) for n in range(60)]
    titled = [(f"hut {number}", text) for number, text in enumerate(texts)]
    return write_corpus(tmp_path_factory.mktemp("collections") / "lengthy", titled)


@pytest.mark.parametrize(("loss", "what"), [("margin_mse", "passages"), ("contrastive", "documents")])
def test_a_student_learns_all_windows_that_its_teacher_reads(loss, what, lengthy, tiny_bert, tmp_path):
    recipe = Recipe(loss=loss, learns="teacher", batch=48, epochs=1, evaluations=1, max_length=48)
    lessons = {"recipe": recipe, "settings": Adapting(depth=8, candidates=4, blend=None), "save": "always"}
    _, told = run(lengthy, tmp_path / "student", tiny_bert, layers=1, lessons=lessons)
    found = re.search(rf"([\d,]+) {what} of ([\d,]+) queries judged", told)
    judged_texts, queries = (int(one.replace(",", "")) for one in found.groups())
    documents = 4 * queries
    assert judged_texts > 2 * documents if what == "passages" else judged_texts == documents


def test_a_student_of_windows_stops_by_whole_documents_in_an_order_that_is_kept(
    lengthy, tiny_bert, tmp_path, monkeypatch
):
    learnt, ranked = [], []

    def stops(_base, groups, dev, *_given, **_named):
        learnt.append((groups, dev))
        raise Interrupted("enough")

    monkeypatch.setattr(distil, "fit", stops)
    real = distil.rank
    monkeypatch.setattr(distil, "rank", lambda scorer, held: ranked.append(held) or real(scorer, held))
    recipe = Recipe(loss="margin_mse", learns="teacher", epochs=1, max_length=48)
    lessons = {"recipe": recipe, "settings": Adapting(depth=8, candidates=4, blend=None)}
    for _ in range(2):
        assert run(lengthy, tmp_path / "student", tiny_bert, layers=1, lessons=lessons)[0] is None
    (groups, dev), (_, again) = learnt
    assert any("#" in one.document_id for group in groups for one in group.candidates)
    texts = [text for of_query in dev.documents.values() for text in of_query.values()]
    assert min(len(text.split()) for text in texts) > 80  # of 108 words, without a sentence that the query copies
    assert not any("#" in name for of_query in dev.documents.values() for name in of_query)
    scorer = Teacher.load(ModelOptions(tiny_bert), ReadingPolicy(max_length=48)).reader.scorer
    best = {query_id: next(iter(run)) for query_id, run in real(scorer, dev).items()}
    assert {query_id: max(grades, key=grades.get) for query_id, grades in dev.judgments.items()} == best
    assert {max(grades.values()) for grades in dev.judgments.values()} == {3}
    assert again == dev
    assert len(ranked) == 1  # the second run takes the order from its folder


def test_a_student_that_cannot_be_trained_is_told_before_anything_is_made(corpus, tiny_bert, two_label_bert, tmp_path):
    console = Console(record=True)
    with pytest.raises(ValueError, match="has 2 labels"):
        run_distilling(
            distilling(corpus, tmp_path / "student", tiny_bert, student=ModelOptions(two_label_bert)), console
        )
    assert console.export_text() == ""


def test_what_does_not_reach_the_share_is_not_written(corpus, tiny_bert, tmp_path):
    output = tmp_path / "student"
    found, told = run(corpus, output, tiny_bert, layers=1, share=1.0)
    assert not found.decision.met
    assert "100.0% is asked for" in found.decision.reason
    assert f"No model is written: {found.decision.reason}"[:60] in told
    assert "Tried: loss margin_mse, learning rate" in told
    assert f"Mind: {found.queries} queries tell little" in told
    assert [file.name for file in output.iterdir()] == ["report.json"]


def test_half_of_the_judged_queries_are_learnt_from_and_the_others_are_the_test(judged, tiny_bert, tmp_path):
    found, told = run(judged, tmp_path / "student", tiny_bert, layers=1, share=0.0)
    assert found.judged_by == "labels"
    assert found.queries == 10
    assert "10 of 20 judged queries are learnt from, without their judgments" in told
    facts = json.loads((tmp_path / "student" / "training.json").read_text(encoding="utf-8"))
    assert "10 by given" in facts["data"]["queries"]
    none, _ = run(judged, tmp_path / "other", tiny_bert, layers=1, share=0.0, own=0.0)
    assert none.queries == 20


def test_a_bi_encoder_learns_from_the_teacher_and_is_an_ordinary_one(corpus, tiny_bert, tiny_bi_encoder, tmp_path):
    output = tmp_path / "student"
    similar = BiEncoderRecipe(epochs=2, learning_rate=1e-2, batch=24, ways=3, evaluations=1)
    how = {"into": "bi-encoder", "student": ModelOptions(tiny_bi_encoder), "similar": similar}
    found, _ = run(corpus, output, tiny_bert, lessons={"save": "always"}, share=0.5, **how)
    assert {"first stage", "teacher", "untouched base", "trained"} == set(found.means)
    before, after = SentenceTransformer(tiny_bi_encoder, device="cpu"), SentenceTransformer(str(output), device="cpu")
    assert not np.allclose(before.encode("the hut"), after.encode("the hut"), atol=0.01)
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "A bi-encoder that finds documents by embeddings" in card
    assert "CrossEncoderRanker(" not in card


@pytest.mark.parametrize("folder", ["corpus", "judged"])
def test_a_bi_encoder_learns_from_a_teacher_that_bm25_and_it_move(
    folder, tiny_bert, tiny_bi_encoder, tmp_path, monkeypatch, request
):
    collection, seen, found_by = request.getfixturevalue(folder), {}, set()
    gather = distil.gather_lessons

    def gathered(run, some, *given, **named):
        found_by.update(one.found_by for one in some)
        return gather(run, some, *given, **named)

    monkeypatch.setattr(distil, "gather_lessons", gathered)
    real = distil.with_evidence if folder == "judged" else distil.gather_asked

    def kept(*given, **named):
        seen["asked"] = real(*given, **named)
        return seen["asked"]

    monkeypatch.setattr(distil, real.__name__, kept)
    steps = {"epochs": 1, "learning_rate": 1e-4, "batch": 24, "ways": 3, "evaluations": 1}
    student = ModelOptions(tiny_bi_encoder)
    lessons = {"save": "always", "settings": Adapting(depth=8, candidates=6)}
    how = {"into": "bi-encoder", "student": student, "similar": BiEncoderRecipe(**steps), "lessons": lessons}
    found, told = run(collection, tmp_path / "student", tiny_bert, **how)
    assert "moved by bm25 and dense" in told
    settings = json.loads((tmp_path / "student" / "training.json").read_text(encoding="utf-8"))["settings"]
    assert (settings["first stage"], settings["blend_dense"]) == ("both", Blend().dense)
    asked = {one.query.id: one for one in seen["asked"] if one.query.id in found.runs["teacher"]}
    assert len(asked) == len(found.runs["teacher"]) == found.queries
    assert found_by == {"both"}
    held = {name: dict(zip(one.document_ids, one.texts, strict=True)) for name, one in asked.items()}
    queries = {name: one.query.text for name, one in asked.items()}
    scorer = Teacher.load(ModelOptions(tiny_bert), ReadingPolicy()).reader.scorer
    alone = rank(scorer, HeldOut(queries, held, {name: {} for name in held}))
    expected = moved(alone, list(asked.values()), Blend())
    assert expected != alone
    for name, scores in expected.items():
        assert dict(found.runs["teacher"][name]) == pytest.approx(scores, abs=1e-3)
    before = BiEncoder.load(tiny_bi_encoder)
    if folder == "judged":
        both = first_stage(load_unjudged(collection), queries, "both", 8, before)
        assert {name: [one.document_id for one in some] for name, some in both.items()} == {
            name: list(some) for name, some in held.items()
        }
    [similar] = before.similarities([(queries[name], list(held[name].values()))])
    assert asked[name].evidence["dense"] == pytest.approx(similar, abs=1e-4)  # the student's own, untaught


@pytest.mark.parametrize("into", ["cross-encoder", "bi-encoder"])
def test_a_bi_encoder_learns_on_whole_documents_and_a_cross_encoder_on_windows(
    into, tiny_bert, tiny_bi_encoder, tmp_path, monkeypatch
):
    class Seen(Exception):
        pass

    seen = []

    def stop(_student, groups, *_, **__):
        seen.extend(one.text for group in groups for one in group.candidates)
        raise Seen

    monkeypatch.setattr(distil, "teach" if into == "bi-encoder" else "fit", stop)
    draw = random.Random(2)
    texts = [" ".join(draw.choices(WORDS, k=300)) for _ in range(40)]  # the teacher reads 128 tokens
    lines = [
        json.dumps({"_id": f"d{n}", "title": f"the {WORDS[n % 9]} {n}", "text": one}) for n, one in enumerate(texts)
    ]
    (tmp_path / "long").mkdir()
    (tmp_path / "long" / "corpus.jsonl").write_text("\n".join(lines), encoding="utf-8")
    student = {"student": ModelOptions(tiny_bi_encoder)} if into == "bi-encoder" else {"layers": 1}
    with pytest.raises(Seen):
        run(tmp_path / "long", tmp_path / "student", tiny_bert, into=into, **student)
    assert seen
    is_whole = [len(shown) > 0.8 * min(map(len, texts)) for shown in seen]  # what a query copies is taken out
    assert all(is_whole) if into == "bi-encoder" else not any(is_whole)


def test_a_student_that_reads_less_than_its_teacher_learns_what_it_can_read(corpus, tiny_bert, tmp_path, monkeypatch):
    student = shutil.copytree(tiny_bert, tmp_path / "narrow")
    settings = json.loads((student / "tokenizer_config.json").read_text(encoding="utf-8"))
    (student / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 40}), encoding="utf-8")
    asked = []

    def stop(*_, most, **__):
        asked.append(most)
        raise KeyboardInterrupt

    monkeypatch.setattr(distil, "gather_lessons", stop)
    for name, given in (("a", {"student": ModelOptions(str(student))}), ("b", {"layers": 1})):
        assert run(corpus, tmp_path / name, tiny_bert, **given)[0] is None
    assert asked == [40, 128]


@pytest.mark.parametrize("of", ["teacher", "student"])
def test_nothing_is_written_into_the_folder_of_a_model_that_is_read(of, corpus, tiny_bert, tmp_path):
    model = str(shutil.copytree(tiny_bert, tmp_path / "model"))
    teacher, student = (model, tiny_bert) if of == "teacher" else (tiny_bert, model)
    with pytest.raises(ValueError, match="output must lie outside the folder of model"):
        run(corpus, tmp_path / "model" / "new", teacher, student=ModelOptions(student))
    assert not (tmp_path / "model" / "new").exists()


def test_a_named_student_must_also_become_better(corpus, tiny_bert, tmp_path):
    """The teacher as its own student has the share, and nothing to gain."""
    found, _ = run(corpus, tmp_path / "student", tiny_bert, student=ModelOptions(tiny_bert), share=0.0)
    assert not found.decision.met
    assert "not better by at least" in found.decision.reason or "significantly worse" in found.decision.reason


def test_a_run_that_was_stopped_cuts_and_asks_nothing_again(corpus, tiny_bert, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    def not_again(*_, **__):
        raise AssertionError("it was done already")

    whole, _ = run(corpus, tmp_path / "whole", tiny_bert, layers=1, share=0.0)
    with monkeypatch.context() as patched:
        patched.setattr(distil, "fit", stopped)
        none, told = run(corpus, tmp_path / "student", tiny_bert, layers=1, share=0.0)
        assert none is None
        assert "start the same command again" in told
    monkeypatch.setattr(distil, "cut", not_again)
    monkeypatch.setattr(PassageReader, "best_of_many", not_again)
    found, _ = run(corpus, tmp_path / "student", tiny_bert, layers=1, share=0.0)
    assert found.means == whole.means
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "student")]
    assert weights[0] == weights[1]


def test_a_student_that_was_cut_otherwise_is_not_gone_on_with(corpus, tiny_bert, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(distil, "gather_lessons", stopped)
    given = (corpus, tmp_path / "student", tiny_bert)
    run(*given, layers=1, share=0.0)
    for keep in ("last", "1"):
        with pytest.raises(OtherSettingsError, match="--fresh"):
            run(*given, layers=1, keep=keep, share=0.0)
    _, told = run(*given, layers=1, keep="1", share=0.0, lessons={"fresh": True})
    assert "student: layers 1 of 2" in told


def test_a_student_with_a_new_head_has_no_row_of_what_it_was(corpus, tiny_bert, encoder, tmp_path):
    found, told = run(corpus, tmp_path / "student", tiny_bert, student=ModelOptions(str(encoder)), share=0.0)
    assert "drawn at random" in told
    assert found.decision.met
    assert BASE not in found.means


def test_queries_of_a_log_may_have_the_ids_of_the_judged_ones(judged, tiny_bert, tmp_path):
    log = tmp_path / "log.jsonl"
    texts = [f"snow hut car {number}" for number in range(20)]
    rows = [json.dumps({"_id": f"q{number}", "text": text}) for number, text in enumerate(texts)]
    log.write_text("\n".join(rows), encoding="utf-8")
    run(judged, tmp_path / "student", tiny_bert, layers=1, share=0.0, own=0.5, lessons={"log": log})
    facts = json.loads((tmp_path / "student" / "training.json").read_text(encoding="utf-8"))["data"]
    count = sum(int(one.split()[0]) for one in facts["queries"])
    assert sum(value for key, value in facts.items() if key in ("train queries", "dev queries")) == count


@pytest.mark.parametrize(
    ("changed", "problem"),
    [
        ({}, "cut \\(--layers\\) or named \\(--student\\)"),
        ({"layers": 1, "student": ModelOptions("a")}, "give one of the two"),
        ({"layers": 1, "into": "bi-encoder"}, "layers cannot make a bi-encoder"),
        ({"layers": 1, "into": "tree"}, "into must be one of"),
        ({"layers": 1, "own": 1.0}, "own must be"),
        ({"layers": 1, "share": 1.5}, "share must be"),
        ({"layers": 1, "states": -1.0}, "states must be"),
        ({"student": ModelOptions("a"), "into": "bi-encoder", "states": 1.0}, "states are learnt by a cross-encoder"),
        ({"layers": 1, "lessons": {"settings": Adapting()}}, "a blend is for a bi-encoder"),
        (
            {"layers": 1, "lessons": {"recipe": Recipe(learns="teacher", interpolate=0.5)}},
            "interpolate must be 1 where a student is cut, which ranks nothing before it learns, but got 0\\.5",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_any_work(changed, problem, corpus, tmp_path):
    with pytest.raises(ValueError, match=problem):
        distilling(corpus, tmp_path / "student", "some/teacher", **changed)


@pytest.mark.parametrize(
    ("words", "is_blended"),
    [
        (["--layers", "1"], False),
        (["--student", "small"], False),
        (["--student", "small", "--into", "bi-encoder"], True),
        (["--student", "small", "--into", "bi-encoder", "--no-blend"], False),
    ],
)
def test_the_command_moves_logits_for_a_bi_encoder_alone(words, is_blended, corpus, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(distil, "run_distilling", lambda run, _console: asked.append(run))
    CliRunner().invoke(app, ["distil", str(corpus), str(tmp_path / "out"), "--teacher", "some/teacher", *words])
    [run] = asked
    assert (run.lessons.settings.blend is not None) == is_blended


@pytest.mark.parametrize(
    ("words", "shares"),
    [
        (["--student", "small"], (1.0, 0.5)),
        (["--student", "small", "--interpolate", "0.25"], (0.25, 0.25)),
        (["--student", "small", "--into", "bi-encoder", "--interpolate", "1"], (1.0, 1.0)),
    ],
)
def test_a_bi_encoder_goes_half_of_the_way_unless_asked(words, shares, corpus, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(distil, "run_distilling", lambda run, _console: asked.append(run))
    CliRunner().invoke(app, ["distil", str(corpus), str(tmp_path / "out"), "--teacher", "some/teacher", *words])
    [run] = asked
    assert (run.lessons.recipe.interpolate, run.similar.interpolate) == shares


def test_there_is_no_part_of_the_way_for_a_new_head_and_it_is_told_before_anything_is_read(
    encoder, tiny_bert, tmp_path
):
    how = {"student": ModelOptions(encoder), "lessons": {"recipe": Recipe(learns="teacher", interpolate=0.5)}}
    with pytest.raises(ValueError, match=r"interpolate must be 1 .*, but got 0\.5"):
        run(tmp_path / "nowhere", tmp_path / "student", tiny_bert, **how)


def test_the_command_writes_a_model_or_ends_with_1(corpus, tiny_bert, tmp_path):
    def call(output, *more):
        words = ["distil", str(corpus), str(tmp_path / output), "--teacher", tiny_bert, "--made", "40", "--depth", "6"]
        steps = ["--epochs", "1", "--candidates", "4", "--threads", "1"]
        return CliRunner().invoke(app, [*words, *steps, *more])

    done = call("written", "--layers", "1", "--share", "0.3")
    assert done.exit_code == 0, done.output
    assert (tmp_path / "written" / "model.safetensors").is_file()
    refused = call("refused", "--layers", "1", "--share", "1")
    assert refused.exit_code == 1
    assert not (tmp_path / "refused" / "model.safetensors").exists()
    wrong = call("wrong", "--layers", "2")
    assert wrong.exit_code == 2
    assert "layers must be fewer than the teacher's 2" in wrong.output.replace("\n", " ")
