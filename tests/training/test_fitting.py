import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.training import runs
from haystack_ce_ranker.training.fitting import Recipe, fit
from haystack_ce_ranker.training.run_folder import OtherSettingsError

pytest.importorskip("datasets")
pytest.importorskip("codecarbon")

RECIPE = Recipe(epochs=2, learning_rate=3e-3, batch=8, at_once=4, evaluations=2)  # 16 steps an epoch, evaluated each 8


def on_cpu(model):
    """A base that learns on the CPU even where there is a GPU, whose sums need not be the same twice."""
    return ModelOptions(model, device="cpu")


class Killed(BaseException):
    """Stands for a kill: nothing after it is reached."""


def weights(folder):
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def unbroken(learner, task, tmp_path_factory):
    """A run from the beginning to the end."""
    return fit(on_cpu(learner), task.groups, task.dev, tmp_path_factory.mktemp("unbroken"), RECIPE, threads=1)


def test_the_model_learns_and_the_best_checkpoint_is_kept(unbroken, task):
    from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10
    from haystack_ce_ranker.training.gate import rank_with

    assert [one.step for one in unbroken.evaluations] == [8, 16, 24, 32]
    assert unbroken.best.ndcg == max(one.ndcg for one in unbroken.evaluations) > unbroken.before + 0.1
    ranked = rank_with(str(unbroken.model), task.dev)
    assert mean(ndcg_at_10(ranked, task.dev.grades)) == pytest.approx(unbroken.best.ndcg)
    assert (unbroken.queries, unbroken.pairs, unbroken.steps, unbroken.fresh_head) == (32, 128, 32, False)


def test_the_folder_holds_safetensors_and_nothing_that_is_pickled(unbroken):
    held = {file.name for file in unbroken.model.rglob("*")}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= held
    assert not [name for name in held if name.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert not (unbroken.model.parent / "checkpoints").exists()


def test_the_saved_models_scores_are_raw_logits(unbroken):
    from sentence_transformers import CrossEncoder
    from torch import nn

    assert type(CrossEncoder(str(unbroken.model), local_files_only=True).activation_fn) is nn.Identity


def test_the_ranker_runs_the_model_by_its_folder_in_int8_too(unbroken, task, tmp_path):
    pytest.importorskip("onnxruntime")
    from haystack import Document
    from typer.testing import CliRunner

    from haystack_ce_ranker import CrossEncoderRanker
    from haystack_ce_ranker.cli import app

    bounds = [
        "--min-overlap",
        "0",
        "--min-correlation",
        "0.5",
    ]  # the built-in texts are nothing that it was trained for
    made = CliRunner().invoke(app, ["quantize", str(unbroken.model), str(tmp_path / "int8"), *bounds])
    assert made.exit_code == 0, made.output
    for folder, backend in ((unbroken.model, "torch"), (tmp_path / "int8", "onnx")):
        ranker, found = CrossEncoderRanker(model=str(folder), backend=backend), 0
        for query_id, query in task.test.queries.items():
            documents = [Document(id=name, content=text) for name, text in task.test.documents[query_id].items()]
            best = ranker.run(query, documents)["documents"][0]
            found += task.test.judgments[query_id].get(best.id, 0)
        assert found >= 9  # of 12; chance finds 2.4


def test_the_same_seed_gives_the_same_weights_and_another_one_others(unbroken, learner, task, tmp_path):
    again = fit(on_cpu(learner), task.groups, task.dev, tmp_path / "again", RECIPE, threads=1)
    assert weights(again.model) == weights(unbroken.model)
    assert again.evaluations == unbroken.evaluations
    other = fit(on_cpu(learner), task.groups, task.dev, tmp_path / "other", replace(RECIPE, seed=1), threads=1)
    assert weights(other.model) != weights(unbroken.model)


def stopped_at(step, monkeypatch):
    from haystack_ce_ranker.training.trainer import RankingTrainer

    learn = RankingTrainer.training_step

    def kill(self, *given, **named):
        if self.state.global_step == step:
            raise Killed
        return learn(self, *given, **named)

    monkeypatch.setattr(RankingTrainer, "training_step", kill)


def torn_at(step, monkeypatch):
    """A kill between a checkpoint's weights and the rest of it."""
    from haystack_ce_ranker.training.trainer import RankingTrainer

    save = RankingTrainer._save

    def kill(self, *given, **named):
        save(self, *given, **named)
        if self.state.global_step == step:
            raise Killed

    monkeypatch.setattr(RankingTrainer, "_save", kill)


@pytest.mark.parametrize(
    ("interrupt", "step"),
    [
        pytest.param(stopped_at, 3, id="before the first checkpoint"),
        pytest.param(stopped_at, 13, id="in the first epoch"),
        pytest.param(stopped_at, 16, id="between two epochs"),
        pytest.param(stopped_at, 27, id="in the second epoch"),
        pytest.param(torn_at, 16, id="while a checkpoint is written"),
    ],
)
def test_a_run_that_was_cut_off_ends_with_the_same_weights(interrupt, step, unbroken, learner, task, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        interrupt(step, patch)
        with pytest.raises(Killed):
            fit(on_cpu(learner), task.groups, task.dev, tmp_path, RECIPE, threads=1)
    resumed = fit(on_cpu(learner), task.groups, task.dev, tmp_path, RECIPE, threads=1)
    assert weights(resumed.model) == weights(unbroken.model)
    assert (resumed.evaluations, resumed.steps, resumed.before) == (
        unbroken.evaluations,
        unbroken.steps,
        unbroken.before,
    )


def test_a_run_that_had_stopped_early_takes_no_further_step(learner, task, tmp_path):
    recipe = replace(RECIPE, epochs=9, patience=1)
    whole = fit(on_cpu(learner), task.groups, task.dev, tmp_path / "whole", recipe, threads=1)
    assert whole.steps < 9 * 16
    assert whole.evaluations[-1].ndcg <= whole.evaluations[-2].ndcg

    from haystack_ce_ranker.training.trainer import RankingTrainer

    def kill(self, *_, **__):
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RankingTrainer, "_load_best_model", kill)  # what comes first after the last step
        with pytest.raises(Killed):
            fit(on_cpu(learner), task.groups, task.dev, tmp_path / "cut", recipe, threads=1)
    resumed = fit(on_cpu(learner), task.groups, task.dev, tmp_path / "cut", recipe, threads=1)
    assert (resumed.steps, weights(resumed.model)) == (whole.steps, weights(whole.model))


RUN = """
import os, signal, sys
from pathlib import Path
from small_tasks import make_task
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.training.fitting import Recipe, fit
from haystack_ce_ranker.training.trainer import RankingTrainer

model, folder, step, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
learn, sent, before = RankingTrainer.training_step, [], signal.getsignal(signal.SIGINT)


def kill(self, *given, **named):
    if self.state.global_step == step and not sent:  # a step has two parts here
        sent.append(number)
        os.kill(os.getpid(), number)
    return learn(self, *given, **named)


RankingTrainer.training_step = kill
task = make_task()
recipe = Recipe(epochs=2, learning_rate=3e-3, batch=8, at_once=4, evaluations=2)
try:
    fit(ModelOptions(model, device="cpu"), task.groups, task.dev, folder, recipe, threads=1)
finally:
    print("as before" if signal.getsignal(signal.SIGINT) is before else "another handler")
"""


def in_a_process_that_is_sent(number, step, learner, folder):
    given = [learner, str(folder), str(step), str(int(number))]
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, "-c", RUN, *given]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_a_process_that_was_killed_goes_on_to_the_same_weights(unbroken, learner, task, tmp_path):
    done = in_a_process_that_is_sent(signal.SIGKILL, 21, learner, tmp_path)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "done.json").exists()
    resumed = fit(on_cpu(learner), task.groups, task.dev, tmp_path, RECIPE, threads=1)
    assert weights(resumed.model) == weights(unbroken.model)


def test_ctrl_c_leaves_a_checkpoint_and_says_how_to_go_on(unbroken, learner, task, tmp_path):
    done = in_a_process_that_is_sent(signal.SIGINT, 19, learner, tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stdout.split("\n")[-2] == "as before"
    assert "stopped after step 20 of 32; a checkpoint is in " in done.stderr
    assert "same command again" in done.stderr
    assert (tmp_path / "checkpoints" / "checkpoint-20" / "trainer_state.json").is_file()
    with (tmp_path / "said").open("w") as file:
        resumed = fit(
            on_cpu(learner), task.groups, task.dev, tmp_path, RECIPE, threads=1, console=Console(file=file, width=200)
        )
    assert "going on from checkpoint-20" in (tmp_path / "said").read_text()
    assert weights(resumed.model) == weights(unbroken.model)


def test_what_was_spent_adds_up_over_the_parts_of_a_run(learner, task, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        stopped_at(27, patch)
        with pytest.raises(Killed):
            fit(on_cpu(learner), task.groups, task.dev, tmp_path, RECIPE, threads=1)
    noted = [json.loads(line) for line in (tmp_path / "spent.jsonl").read_text().split("\n") if line]
    assert [one["step"] for one in noted] == [8, 16, 24]
    assert 0 < noted[0]["seconds"] < noted[1]["seconds"] < noted[2]["seconds"]
    assert fit(on_cpu(learner), task.groups, task.dev, tmp_path, RECIPE, threads=1).seconds > noted[2]["seconds"]


def test_a_run_that_is_done_is_not_done_again(unbroken, learner, task, monkeypatch):
    monkeypatch.setattr(runs, "_train", None)
    assert fit(on_cpu(learner), task.groups, task.dev, unbroken.model.parent, RECIPE, threads=1) == unbroken


@pytest.mark.parametrize("other", ["recipe", "groups", "dev", "threads"])
def test_a_folder_with_another_run_is_refused(other, unbroken, learner, task):
    given = {"groups": task.groups, "dev": task.dev, "recipe": RECIPE, "threads": 1}
    others = {"groups": task.shuffled, "dev": task.test, "recipe": replace(RECIPE, epochs=3), "threads": 2}
    given[other] = others[other]
    folder = unbroken.model.parent
    with pytest.raises(OtherSettingsError, match="another base, other data or other settings"):
        fit(on_cpu(learner), given["groups"], given["dev"], folder, given["recipe"], threads=given["threads"])


def test_begun_anew_nothing_of_the_old_run_stays(learner, task, tmp_path):
    first = fit(on_cpu(learner), task.groups, task.dev, tmp_path, replace(RECIPE, epochs=1), threads=1)
    second = fit(
        on_cpu(learner), task.groups, task.dev, tmp_path, replace(RECIPE, epochs=1, seed=1), threads=1, resume=False
    )
    assert second.evaluations != first.evaluations or second.best != first.best
    assert json.loads((tmp_path / "done.json").read_text())["steps"] == second.steps == 16


@pytest.mark.parametrize("loss", ["margin_mse", "lambda", "ranknet"])
def test_every_loss_learns(loss, learner, task, tmp_path):
    found = fit(on_cpu(learner), task.groups, task.dev, tmp_path, replace(RECIPE, loss=loss), threads=1)
    assert found.best.ndcg > found.before + 0.1


def test_an_encoder_learns_with_a_fresh_head_and_it_is_said(encoder, task, tmp_path):
    with (tmp_path / "said").open("w") as file:
        console = Console(file=file, width=200)
        found = fit(on_cpu(encoder), task.groups, task.dev, tmp_path / "run", RECIPE, threads=1, console=console)
    assert found.fresh_head
    assert "no trained head: classifier.weight, classifier.bias are drawn at random with seed 0" in (
        (tmp_path / "said").read_text()
    )


def test_memory_and_threads_are_said_before_the_first_step(learner, task, tmp_path):
    with (tmp_path / "said").open("w") as file:
        fit(
            on_cpu(learner),
            task.groups,
            task.dev,
            tmp_path / "run",
            RECIPE,
            threads=1,
            console=Console(file=file, width=200),
        )
    said = (tmp_path / "said").read_text()
    assert "learning 128 pairs of 32 queries by bce on cpu, 1 threads" in said
    assert said.index("memory: about") < said.index("step 8 of 32: dev nDCG@10")


def test_without_the_extra_the_error_names_it(learner, task, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "find_spec", lambda name: None if name == "accelerate" else True)
    with pytest.raises(ImportError, match=r'training needs accelerate: pip install "ce-ranker-haystack\[train\]"'):
        fit(on_cpu(learner), task.groups, task.dev, tmp_path, RECIPE)


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"loss": "hinge"}, "loss must be one of"),
        ({"learns": "clicks"}, "learns must be one of"),
        ({"epochs": 0}, "epochs must be"),
        ({"learning_rate": 0}, "learning_rate must be"),
        ({"warmup": 2}, "warmup must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_a_recipe_is_checked(given, error):
    with pytest.raises(ValueError, match=error):
        Recipe(**given)


def test_batches_hold_rows_of_like_lengths_each_once_and_depend_on_seed_and_epoch_alone():
    from haystack_ce_ranker.training.trainer import LikeLengths

    lengths = [(7 * place) % 100 for place in range(101)]

    def batches(seed, epoch):
        sampler = LikeLengths(lengths, batch_size=8, seed=seed)
        sampler.set_epoch(epoch)
        return list(sampler)

    first = batches(0, 0)
    assert sorted(place for batch in first for place in batch) == list(range(101))
    assert len(first) == len(LikeLengths(lengths, batch_size=8, seed=0)) == 13
    spread = [max(lengths[place] for place in batch) - min(lengths[place] for place in batch) for batch in first]
    assert sorted(spread)[len(spread) // 2] < 40
    assert batches(0, 0) == first
    assert batches(0, 1) != first != batches(1, 0)
