"""benchmarks/training_distil.py: what a smaller student is made of, and who is asked for its lessons."""

import json
from pathlib import Path

import pytest

import training_distil
from haystack_ce_ranker.data import collections
from haystack_ce_ranker.training import blending
from haystack_ce_ranker.training.blending import Blend
from haystack_ce_ranker.training.commands import distil
from training_distil import BENCHMARK, MAKING, SERVING, TAUGHT, changed


@pytest.fixture
def folders(tmp_path):
    """Empty folders of a collection and of the weights, as options."""
    for name in ("dl19", "vaswani"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for name in (*training_distil.JUDGES, training_distil.BI_ENCODER):
        (tmp_path / "models" / name).mkdir(parents=True)
    return ["--data", str(tmp_path / "data"), "--models", str(tmp_path / "models"), "--cache", str(tmp_path / "kept")]


@pytest.fixture
def runs(monkeypatch):
    """The runs that were asked for; each writes what a run leaves."""
    asked = []

    def run_distilling(run, _console):
        asked.append(run)
        run.lessons.output.mkdir(parents=True)
        (run.lessons.output / "training.json").write_text(json.dumps({"number": len(asked)}), encoding="utf-8")
        return "found"

    monkeypatch.setattr(distil, "run_distilling", run_distilling)
    return asked


def made(folders, *options, seed=0):
    arguments = BENCHMARK.parse(["passages", *folders, *options])
    return training_distil._of_passages(arguments, seed, changed(MAKING, arguments))


def test_options_change_what_they_name_and_nothing_else():
    assert changed(MAKING, BENCHMARK.parse(["passages"])) == MAKING
    options = ["--made", "7", "--epochs", "1", "--batch", "32", "--learning-rate", "1e-3"]
    smaller = changed(MAKING, BENCHMARK.parse(["passages", *options]))
    recipe = {**MAKING["recipe"], "epochs": 1, "batch": 32, "learning_rate": 1e-3}
    assert smaller == {"made": 7, "settings": MAKING["settings"], "recipe": recipe}
    deeper = changed(MAKING, BENCHMARK.parse(["passages", "--depth", "50", "--candidates", "9"]))
    assert deeper == {**MAKING, "settings": {"depth": 50, "candidates": 9}}


def test_a_smaller_student_is_another_one_and_none_is_made_twice(folders, runs):
    usual, smaller = made(folders), made(folders, "--made", "7", "--epochs", "1")
    assert usual["folder"] != smaller["folder"]
    assert made(folders, "--made", "7", "--epochs", "1")["number"] == smaller["number"] == 2
    assert [one.lessons.queries for one in runs] == [MAKING["made"], 7]
    assert [one.lessons.recipe.epochs for one in runs] == [MAKING["recipe"]["epochs"], 1]


def test_each_seed_has_a_student_of_its_own(folders, runs):
    assert made(folders, seed=1)["folder"] != made(folders, seed=2)["folder"]
    assert [one.lessons.settings.seed for one in runs] == [one.lessons.recipe.seed for one in runs] == [1, 2]


def test_a_student_that_is_named_is_taken_and_none_is_made(folders, runs):
    named = training_distil._first_student(BENCHMARK.parse(["cascade", *folders, "--student", "mine"]))
    assert (str(named), runs) == ("mine", [])
    made_here = training_distil._first_student(BENCHMARK.parse(["cascade", *folders, "--seeds", "5", "6"]))
    assert str(made_here) == made(folders, seed=5)["folder"]
    assert [one.lessons.settings.seed for one in runs] == [5]


def ran(runs, monkeypatch, *options):
    """Run a part with results that are as good as they need be, and return the last run that it asked for."""
    systems = {name: {"nDCG@10": 1.0} for name in ("first stage", "untouched base", "trained", "teacher")}
    facts = {"gate": {"systems": systems, "queries": 3}, "fitted": {"seconds": 1.0, "joules": 1.0}}
    real = training_distil.distilled
    monkeypatch.setattr(training_distil, "distilled", lambda *given, **named: {**real(*given, **named), **facts})
    arguments = BENCHMARK.parse([*options, "--seeds", "0"])
    training_distil.PARTS[options[0]](arguments, training_distil.Report(Path(training_distil.__file__)))
    return runs[-1]


def test_a_student_that_serves_begins_as_the_one_of_the_passages_unless_another_is_named(folders, runs, monkeypatch):
    named = ["--collections", "vaswani", "--student", "mine", "--made", "7", "--epochs", "1"]
    begun = ran(runs, monkeypatch, "student", *folders, *named)
    assert (len(runs), begun.student.model, begun.lessons.queries, begun.lessons.recipe.epochs) == (1, "mine", 7, 1)
    usual = ran(runs, monkeypatch, "student", *folders, "--collections", "vaswani")
    assert [one.lessons.queries for one in runs[1:]] == [MAKING["made"], SERVING["made"]]
    assert usual.student.model == str(runs[1].lessons.output)


def test_options_say_how_a_bi_encoder_is_taught(folders, runs, monkeypatch):
    monkeypatch.setattr(training_distil, "_retrieval", lambda *_: {"q1": 1.0, "q2": 0.5})
    monkeypatch.setattr(collections, "load_collection", lambda _: None)
    usual = ran(runs, monkeypatch, "bi_encoder", *folders)
    assert {name: getattr(usual.similar, name) for name in TAUGHT["recipe"]} == TAUGHT["recipe"]
    assert usual.lessons.settings.blend == Blend()
    assert ran(runs, monkeypatch, "bi_encoder", *folders, "--quick").lessons.settings.blend == Blend()
    with monkeypatch.context() as patched:  # a student of other lessons is another one
        patched.setattr(blending, "Blend", lambda: Blend(dense=1.0))
        assert ran(runs, monkeypatch, "bi_encoder", *folders).lessons.settings.blend.dense == 1.0
    steps = ["--made", "7", "--epochs", "3", "--batch", "32", "--learning-rate", "1e-3"]
    other = ran(runs, monkeypatch, "bi_encoder", *folders, *steps)
    similar = other.similar
    assert (other.lessons.queries, similar.epochs, similar.batch, similar.learning_rate) == (7, 3, 32, 1e-3)
    assert usual.similar.interpolate == other.similar.interpolate == 0.5
    assert usual.similar.contrast == "teacher"
    assert ran(runs, monkeypatch, "bi_encoder", *folders, "--contrast", "in_batch").similar.contrast == "in_batch"
    assert ran(runs, monkeypatch, "bi_encoder", *folders, "--interpolate", "1").similar.interpolate == 1


def test_a_judge_in_int8_gives_the_logits_and_the_student_is_cut_from_the_teacher(folders, runs):
    usual, judged = made(folders), made(folders, "--judge", "ce-minilm-l12-int8")
    assert usual["folder"] != judged["folder"]
    told = [([one.model.rpartition("/")[2] for one in run.lessons.teachers], run.lessons.backend) for run in runs]
    assert told == [(["ce-minilm-l12"], "torch"), (["ce-minilm-l12-int8"], "onnx")]
    assert {run.teacher.model.rpartition("/")[2] for run in runs} == {"ce-minilm-l12"}
