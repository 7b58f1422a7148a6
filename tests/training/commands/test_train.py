import gc
import json
import random
import shutil
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
from haystack import Document
from rich.console import Console
from typer.testing import CliRunner

from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.cli import app
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.training.commands import train as command
from haystack_ce_ranker.training.commands.train import TrainingRun, _groups, part, without_leaks
from haystack_ce_ranker.training.fitting import Recipe
from haystack_ce_ranker.training.groups import Candidate, Group, write_groups
from haystack_ce_ranker.training.runs import Interrupted
from haystack_ce_ranker.training.teachers import Teacher
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker
from small_tasks import write_small_collection
from zoo import ZOO

pytest.importorskip("datasets")
pytest.importorskip("ir_measures")
pytest.importorskip("codecarbon")

HOW = ("--learning-rate", "3e-3", "--batch", "8", "--epochs", "6", "--test-share", "0.3", "--threads", "1")


def train(*given):
    return CliRunner().invoke(app, ["train", *map(str, given)])


def said(done):
    return " ".join(done.output.split())


@pytest.fixture(scope="module")
def huts(tmp_path_factory):
    return write_small_collection(tmp_path_factory.mktemp("collections") / "huts", queries=60)


@pytest.fixture(scope="module")
def trained(huts, learner, tmp_path_factory):
    """The output of a run that learns, and the folder that it wrote."""
    output = tmp_path_factory.mktemp("trained") / "model"
    return train(huts, output, "--base", learner, *HOW), output


def test_a_model_learns_by_contrast(huts, learner, tmp_path):
    how = {**dict(zip(HOW[::2], HOW[1::2], strict=True)), "--loss": "contrastive", "--batch": "32"}
    done = train(huts, tmp_path / "model", "--base", learner, *(one for pair in how.items() for one in pair))
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "model" / "training.json").read_text())
    assert (facts["settings"]["loss"], facts["settings"]["batch"]) == ("contrastive", 32)
    systems = facts["gate"]["systems"]
    assert systems["trained"]["nDCG@10"] >= systems["untouched base"]["nDCG@10"] + 0.1


@pytest.mark.parametrize(
    ("given", "expected"), [((), "lambda"), (("--loss", "bce"), "bce"), (("--learn-from", "teacher"), "bce")]
)
def test_few_queries_are_learnt_by_lambda_unless_a_loss_is_named(given, expected, huts, learner, tmp_path):
    teacher = ("--teacher", learner) if "teacher" in given else ()
    how = ("--base", learner, "--queries", "30", "--epochs", "1", "--save", "always", "--threads", "1")
    done = train(huts, tmp_path / "model", *given, *teacher, *how)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "model" / "training.json").read_text())["settings"]["loss"] == expected


def test_a_stack_of_modules_is_written_with_all_its_modules(huts, tmp_path):
    base = ZOO["bert, modular"].save(tmp_path / "base")
    done = train(huts, tmp_path / "model", "--base", base, "--epochs", 1, "--save", "always", "--threads", 1)
    assert done.exit_code == 0, done.output
    held = {one.relative_to(base).as_posix() for one in Path(base).rglob("*.safetensors")}
    assert len(held) > 1
    assert held == {one.relative_to(tmp_path / "model").as_posix() for one in tmp_path.glob("model/**/*.safetensors")}
    ranked = CrossEncoderRanker(model=str(tmp_path / "model")).run("hut", [Document(content="the hut")])
    assert len(ranked["documents"]) == 1


def test_a_model_that_learns_is_written_with_card_and_facts(trained):
    done, output = trained
    assert done.exit_code == 0, done.output
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "training.json"} <= {
        file.name for file in output.iterdir()
    }
    assert not (output / "work").exists()
    facts = json.loads((output / "training.json").read_text())
    assert facts["gate"]["decision"]["met"] is True
    systems = facts["gate"]["systems"]
    assert systems["trained"]["nDCG@10"] >= systems["untouched base"]["nDCG@10"] + 0.1
    assert facts["data"]["training_queries"] + facts["data"]["dev_queries"] + facts["data"]["test_queries"] == 60
    assert "huts" in (output / "README.md").read_text()
    for line in (
        "queries that training never saw",
        "the trained model is better",
        "memory: about",
        "36 train",
        "Mind: 18 queries tell little",
    ):
        assert line.lower() in said(done).lower()


def test_part_of_the_way_is_written_and_the_card_says_so(huts, learner, tmp_path):
    done = train(huts, tmp_path / "model", "--base", learner, *HOW, "--interpolate", "0.75", "--save", "always")
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "model" / "training.json").read_text())
    assert facts["settings"]["interpolate"] == 0.75
    assert facts["fitted"]["written"] > facts["fitted"]["before"]
    told = f"0.75 of the way from the base to step {facts['fitted']['best']['step']}"
    assert f"{told}: dev nDCG@10 {facts['fitted']['written']:.4f}" in said(done)
    assert "which lie 0.75 of the way from the base's" in (tmp_path / "model" / "README.md").read_text()


def test_there_is_no_part_of_the_way_for_a_new_head_and_it_is_told_before_anything_is_read(encoder, tmp_path):
    done = train(tmp_path / "nowhere", tmp_path / "model", "--base", encoder, "--interpolate", "0.5")
    assert done.exit_code == 2
    assert "interpolate must be 1 where the base has no trained head, but got 0.5" in said(done)


def test_the_ranker_uses_it_by_its_folder(trained, huts):
    from haystack import Document

    from haystack_ce_ranker import CrossEncoderRanker

    _, output = trained
    collection = load_collection(huts)
    ranker, right = CrossEncoderRanker(model=str(output)), 0
    for query_id, query in collection.queries.items():
        mine = [one for one in collection.documents.values() if one.id.startswith(f"d{query_id[1:]}-")]
        best = ranker.run(query, [Document(id=one.id, content=one.content) for one in mine])["documents"][0]
        right += collection.judgments[query_id].get(best.id, 0)
    assert right >= 45  # of 60; chance finds 10


def shuffled_groups(huts, path):
    """The collection's documents with labels drawn by chance."""
    collection, drawn = load_collection(huts), random.Random(1)
    groups = []
    for query_id, query in collection.queries.items():
        mine = [one for one in collection.documents.values() if one.id.startswith(f"d{query_id[1:]}-")]
        relevant = drawn.randrange(len(mine))
        candidates = (Candidate(one.id, one.content, float(nth == relevant)) for nth, one in enumerate(mine))
        groups.append(Group(query_id, query, tuple(candidates)))
    write_groups(path, groups)
    return path


def test_shuffled_labels_write_no_model_and_the_message_says_why(trained, huts, tmp_path):
    _, base = trained
    groups = shuffled_groups(huts, tmp_path / "shuffled.jsonl")
    done = train(huts, tmp_path / "output", "--base", base, "--groups", groups, *HOW)
    assert done.exit_code == 1, done.output
    assert [file.name for file in (tmp_path / "output").rglob("*")] == ["report.json"]
    assert "No model is written: the trained model is" in said(done)
    assert "against" in said(done)
    assert "Tried: loss lambda, learning rate 0.003" in said(done)
    assert "36 of 60 queries are far enough" in said(done)  # held-out queries of the file are not learnt from
    report = json.loads((tmp_path / "output" / "report.json").read_text())
    assert report["gate"]["decision"]["met"] is False
    assert report["fitted"]["steps"] > 0


def test_what_is_not_better_can_be_written_all_the_same(trained, huts, tmp_path):
    _, base = trained
    groups = shuffled_groups(huts, tmp_path / "shuffled.jsonl")
    how = [*HOW, "--epochs", "1"]
    done = train(huts, tmp_path / "output", "--base", base, "--groups", groups, "--save", "always", *how)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "output" / "model.safetensors").is_file()
    assert json.loads((tmp_path / "output" / "training.json").read_text())["gate"]["decision"]["met"] is False


def test_an_encoder_has_to_beat_the_first_stage(huts, encoder, tmp_path):
    done = train(huts, tmp_path / "output", "--base", encoder, *HOW)
    assert done.exit_code == 0, done.output
    facts = json.loads((tmp_path / "output" / "training.json").read_text())
    assert set(facts["gate"]["systems"]) == {"first stage", "trained"}
    assert "of the first stage" in facts["gate"]["decision"]["reason"]
    assert "no trained head" in said(done)
    assert facts["settings"]["loss"] == "bce"  # however few queries there are


def test_a_teachers_logits_can_be_learnt(trained, huts, learner, tmp_path):
    _, teacher = trained
    given = ("--teacher", teacher, "--learn-from", "teacher", "--loss", "margin_mse")
    done = train(huts, tmp_path / "output", "--base", learner, *given, *HOW)
    assert done.exit_code == 0, done.output
    assert json.loads((tmp_path / "output" / "training.json").read_text())["settings"]["learns"] == "teacher"


def test_an_interrupted_run_says_how_to_go_on_and_ends_with_the_same_weights(trained, huts, learner, tmp_path):
    from haystack_ce_ranker.training.callbacks import WayOut

    _, whole = trained
    ask = WayOut.on_step_end

    def press(self, args, state, control, **named):
        self.asked = state.global_step == 5
        return ask(self, args, state, control, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(WayOut, "on_step_end", press)
        done = train(huts, tmp_path / "output", "--base", learner, *HOW)
    assert done.exit_code == 130, done.output
    assert "Start the same command again" in said(done)
    other = train(huts, tmp_path / "output", "--base", learner, *HOW, "--seed", "1")
    assert other.exit_code == 2
    assert "begin anew (--fresh)" in said(other)
    done = train(huts, tmp_path / "output", "--base", learner, *HOW)
    assert done.exit_code == 0, done.output
    assert "going on from checkpoint-5" in said(done)
    assert (tmp_path / "output" / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (("--save", "maybe"), "save must be one of"),
        (("--dev-share", "0.6", "--test-share", "0.5"), "must leave queries to train on"),
        (("--learn-from", "teacher"), "name it with --teacher"),
        (("--loss", "hinge"), "loss must be one of"),
        (("--groups", "g.jsonl", "--teacher", "a"), "groups hold their teacher's logits"),
        (("--threads", "0"), "threads must be a whole number"),
        (("--device", "gpu"), "device must be one that torch can use here, but got 'gpu'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_written(given, error, huts, learner, tmp_path):
    done = train(huts, tmp_path / "output", "--base", learner, *given)
    assert done.exit_code == 2
    assert error in said(done)
    assert "Traceback" not in done.output
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("where", ["new", "new/one", "../base/new"])
def test_nothing_is_written_into_the_folder_of_a_model_that_is_read(where, huts, learner, tmp_path):
    base = shutil.copytree(learner, tmp_path / "base")
    for models in (("--base", base), ("--base", learner, "--teacher", base)):
        done = train(huts, base / where, *models)
        assert done.exit_code == 2
        assert "output must lie outside the folder of model" in said(done)
    assert not (base / "new").exists()


@pytest.mark.parametrize(("asked", "taught"), [(40, False), (None, True)])
def test_a_model_with_less_room_learns_the_windows_that_it_will_read(asked, taught, learner, tiny_bert, tmp_path):
    folder = write_small_collection(tmp_path / "long", queries=30)
    texts = [json.loads(line) for line in (folder / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    long = [{**one, "text": "the city is in the snow . " * 12 + one["text"]} for one in texts]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(one) + "\n" for one in long), encoding="utf-8")
    options = ModelOptions(str(learner), device="cpu")
    teacher = ModelOptions(tiny_bert, device="cpu") if taught else None
    run = TrainingRun(folder, tmp_path / "output", options, recipe=Recipe(max_length=asked), teacher=teacher, threads=1)
    parts = part(run, Console(quiet=True))
    groups = _groups(run, parts, tmp_path, has_head=True, most=40, console=Console(quiet=True))
    tokenizer = Teacher.load(options).reader.scorer.backend.tokenizer
    shown = [one.text for group in groups for one in group.candidates]
    assert len(shown) > 20
    assert max(len(tokens.ids) for tokens in tokenizer.encode_documents(shown)) < 40


def test_no_other_copy_of_the_base_is_held_while_it_learns(huts, learner, tmp_path, monkeypatch):
    loaded, held, real = [], [], command.load_base

    def load(*given, **how):
        base = real(*given, **how)
        loaded.append(weakref.ref(base.cross_encoder))
        return base

    def stop(*_, **__):
        gc.collect()
        held.extend(one() for one in loaded)
        raise Interrupted("enough")

    monkeypatch.setattr(command, "load_base", load)
    monkeypatch.setattr(command, "fit", stop)
    run = TrainingRun(huts, tmp_path / "output", ModelOptions(str(learner), device="cpu"), threads=1)
    assert command.run_training(run, Console(quiet=True)) is None
    assert held
    assert held == [None] * len(held)


def test_a_folder_that_holds_a_model_is_not_written_over(trained, huts, learner):
    _, output = trained
    done = train(huts, output, "--base", learner, *HOW)
    assert done.exit_code == 2
    assert "output must be a folder that is not there yet" in said(done)


def test_queries_near_to_a_held_out_one_are_not_learnt_from():
    groups = [Group(name, query, ()) for name, query in [("a", "Where is the HUT?"), ("b", "a train in the snow")]]
    assert [one.query_id for one in without_leaks(groups, {"x": "where is the hut"})] == ["b"]
    assert without_leaks(groups, {"x": "berlin"}) == groups


def test_the_parts_of_a_run_have_no_query_in_common(huts, learner, tmp_path):
    from rich.console import Console

    from haystack_ce_ranker.backends.model_files import ModelOptions
    from haystack_ce_ranker.training.commands.train import part

    run = TrainingRun(huts, tmp_path, ModelOptions(learner))
    parts = part(run, Console(quiet=True))
    ids = [set(parts.train.queries), set(parts.dev.queries), set(parts.test.queries)]
    assert sum(map(len, ids)) == len(set().union(*ids)) == 60
    assert part(replace(run), Console(quiet=True)) == parts
