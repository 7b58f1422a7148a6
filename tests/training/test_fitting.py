import hashlib
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.training import fitting, runs
from haystack_ce_ranker.training.fitting import Recipe, fit
from haystack_ce_ranker.training.resources import Resources
from haystack_ce_ranker.training.run_folder import OtherSettingsError
from zoo import ZOO

pytest.importorskip("datasets")
pytest.importorskip("codecarbon")

RECIPE = Recipe(epochs=2, learning_rate=3e-3, batch=8, at_once=4, evaluations=2)  # 16 steps an epoch, evaluated each 8


def on_cpu(model):
    """A base that learns on the CPU even where there is a GPU, whose sums need not be the same twice."""
    return ModelOptions(model, device="cpu")


class Killed(BaseException):
    """Stands for a kill: nothing after it is reached."""


def weights(folder):
    """A key of all weights of a model: a stack has some in folders of its modules."""
    files = sorted(folder.rglob("*.safetensors"))
    return hashlib.sha256(b"".join(file.name.encode() + file.read_bytes() for file in files)).hexdigest()


def tensors(folder):
    """All weights of a model, by file and name."""
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{one.relative_to(folder)} {key}": value for one in files for key, value in load_file(one).items()}


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


@pytest.mark.parametrize(("evaluations", "steps"), [(3, [6, 12, 16]), (5, [4, 8, 12, 16]), (99, list(range(1, 17)))])
def test_no_epoch_has_more_evaluations_than_are_asked_for(evaluations, steps, learner, task, tmp_path):
    recipe = replace(RECIPE, epochs=1, evaluations=evaluations, patience=99)
    found = fit(on_cpu(learner), task.groups, task.dev, tmp_path, recipe, threads=1)
    assert [one.step for one in found.evaluations] == steps


@pytest.mark.parametrize(("most", "cut"), [(40, 3), (128, 0)])
def test_what_the_model_does_not_read_to_its_end_is_told(most, cut, learner, task, tmp_path):
    told = io.StringIO()
    [first, *others] = [
        replace(group, candidates=tuple(replace(one, text=one.text[:8]) for one in group.candidates))
        for group in task.groups
    ]
    longer = [replace(one, text="the hut in the snow " * 12) for one in first.candidates[:3]]
    groups = [replace(first, candidates=(*longer, *first.candidates[3:])), *others]
    recipe = replace(RECIPE, epochs=1, evaluations=1, max_length=most)
    fit(on_cpu(learner), groups, task.dev, tmp_path, recipe, threads=1, console=Console(file=told, width=200))
    note = f"note: the model reads only the beginning of {cut} of {sum(len(one.candidates) for one in groups)} texts"
    assert told.getvalue().count("reads only the beginning") == told.getvalue().count(note) == bool(cut)


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


@pytest.mark.parametrize(("dtype", "expected"), [("float32", torch.float32), ("bfloat16", torch.bfloat16)])
def test_it_multiplies_in_what_is_asked_for_and_the_weights_stay_in_float32(
    learner, task, tmp_path, monkeypatch, dtype, expected
):
    found = set()
    forward = torch.nn.Linear.forward

    def seen(self, inputs):
        outputs = forward(self, inputs)
        if self.training or outputs.dtype != torch.float32:  # an evaluation is in float32, as the ranker will be
            found.add((outputs.dtype, self.training, self.weight.dtype))
        return outputs

    monkeypatch.setattr(torch.nn.Linear, "forward", seen)
    file = io.StringIO()
    recipe = replace(RECIPE, epochs=1, dtype=dtype)
    fitted = fit(
        on_cpu(learner), task.groups, task.dev, tmp_path, recipe, threads=1, console=Console(file=file, width=200)
    )
    assert found == {(expected, True, torch.float32)}
    assert fitted.used.bf16 is (dtype == "bfloat16")
    assert ("bfloat16" in file.getvalue()) is fitted.used.bf16
    assert {one.dtype for one in tensors(fitted.model).values() if one.is_floating_point()} == {torch.float32}


def test_a_model_that_learns_in_bfloat16_is_evaluated_in_float32():
    from haystack_ce_ranker.training.trainer import multiply_in_bfloat16

    layer, inputs = torch.nn.Linear(64, 8), torch.randn(4, 64)
    exact = layer(inputs)
    rounded = torch.nn.functional.linear(*(one.bfloat16() for one in (inputs, layer.weight, layer.bias)))
    multiply_in_bfloat16(layer, "cpu")
    assert torch.equal(layer.train()(inputs), rounded.float())
    assert torch.equal(layer.eval()(inputs), exact)
    assert not torch.equal(rounded.float(), exact)


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


def cut_off_and_resumed(interrupt, base, task, folder, recipe):
    """What a run found that `interrupt` cut off with a patch, and that was then begun again in its folder."""
    with pytest.MonkeyPatch.context() as patch:
        interrupt(patch)
        with pytest.raises(Killed):
            fit(base, task.groups, task.dev, folder, recipe, threads=1)
    return fit(base, task.groups, task.dev, folder, recipe, threads=1)


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
    resumed = cut_off_and_resumed(lambda patch: interrupt(step, patch), on_cpu(learner), task, tmp_path, RECIPE)
    assert weights(resumed.model) == weights(unbroken.model)
    assert (resumed.evaluations, resumed.steps, resumed.before) == (
        unbroken.evaluations,
        unbroken.steps,
        unbroken.before,
    )


@pytest.mark.parametrize("interpolate", [1.0, 0.25])
def test_a_run_that_had_stopped_early_takes_no_further_step(interpolate, learner, task, tmp_path):
    recipe = replace(RECIPE, epochs=9, patience=1, interpolate=interpolate)
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
    assert resumed.written == whole.written


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


@pytest.mark.parametrize("loss", ["margin_mse", "lambda", "ranknet", "contrastive"])
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
        ({"interpolate": 0}, "interpolate must be"),
        ({"interpolate": 1.5}, "interpolate must be"),
        ({"interpolate": float("nan")}, "interpolate must be"),
    ],
)
def test_a_recipe_is_checked(given, error):
    with pytest.raises(ValueError, match=error):
        Recipe(**given)


PART = replace(RECIPE, interpolate=0.25)


def test_part_of_the_way_lies_between_the_base_and_the_best_checkpoint(unbroken, learner, task, tmp_path):
    from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10
    from haystack_ce_ranker.training.gate import rank_with

    console = Console(file=io.StringIO(), width=200)
    found = fit(on_cpu(learner), task.groups, task.dev, tmp_path, PART, threads=1, console=console)
    assert (found.evaluations, found.best) == (unbroken.evaluations, unbroken.best)
    base, learnt, written = map(tensors, (Path(learner), unbroken.model, found.model))
    assert written.keys() == learnt.keys() == base.keys()
    for key, value in written.items():
        assert torch.allclose(value, base[key] + 0.25 * (learnt[key] - base[key]), atol=1e-6), key
    assert any(not torch.equal(written[key], base[key]) for key in written)
    ranked = rank_with(str(found.model), task.dev)
    assert found.written == pytest.approx(mean(ndcg_at_10(ranked, task.dev.grades)))
    assert found.written != pytest.approx(found.best.ndcg)
    told = f"0.25 of the way from the base to step {found.best.step}: dev nDCG@10 {found.written:.4f}"
    assert told in console.file.getvalue()


def test_all_the_way_the_written_weights_are_those_of_the_checkpoint(unbroken):
    assert unbroken.written == unbroken.best.ndcg


@pytest.mark.parametrize("interrupt", [lambda patch: stopped_at(21, patch), lambda patch: torn_at(16, patch)])
def test_part_of_the_way_is_the_same_after_a_kill(interrupt, learner, task, tmp_path):
    whole = fit(on_cpu(learner), task.groups, task.dev, tmp_path / "whole", PART, threads=1)
    resumed = cut_off_and_resumed(interrupt, on_cpu(learner), task, tmp_path / "cut", PART)
    assert weights(resumed.model) == weights(whole.model)
    assert resumed.written == whole.written


def test_a_kill_while_the_weights_are_written_does_no_harm(learner, task, tmp_path, monkeypatch):
    whole = fit(on_cpu(learner), task.groups, task.dev, tmp_path / "whole", PART, threads=1)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "move_back", kill_at_once)
        with pytest.raises(Killed):
            fit(on_cpu(learner), task.groups, task.dev, tmp_path / "cut", PART, threads=1)
    resumed = fit(on_cpu(learner), task.groups, task.dev, tmp_path / "cut", PART, threads=1)
    assert weights(resumed.model) == weights(whole.model)
    assert resumed.evaluations == whole.evaluations


def kill_at_once(*_):
    raise Killed


def test_there_is_no_way_from_a_head_that_was_drawn_at_random(encoder, task, tmp_path):
    with pytest.raises(ValueError, match=r"interpolate must be 1 where the base has no trained head, but got 0\.25"):
        fit(on_cpu(encoder), task.groups, task.dev, tmp_path, PART, threads=1)


CONTRASTIVE = replace(RECIPE, loss="contrastive", batch=32)  # 4 rows of 8 pairs a step: 8 steps an epoch


@pytest.fixture(scope="module")
def unbroken_contrast(learner, task, tmp_path_factory):
    return fit(on_cpu(learner), task.groups, task.dev, tmp_path_factory.mktemp("contrast"), CONTRASTIVE, threads=1)


@pytest.mark.parametrize("step", [3, 6, 8, 13])
def test_what_a_contrastive_run_draws_in_its_batches_is_drawn_again_after_a_kill(
    step, unbroken_contrast, learner, task, tmp_path
):
    assert [one.step for one in unbroken_contrast.evaluations] == [4, 8, 12, 16]
    resumed = cut_off_and_resumed(lambda patch: stopped_at(step, patch), on_cpu(learner), task, tmp_path, CONTRASTIVE)
    assert weights(resumed.model) == weights(unbroken_contrast.model)
    assert resumed.evaluations == unbroken_contrast.evaluations


def test_the_memory_of_a_contrastive_run_depends_on_what_is_computed_at_once_and_not_on_the_batch(
    learner, task, tmp_path, monkeypatch
):
    told, expected = [], runs.expected_memory
    monkeypatch.setattr(runs, "expected_memory", lambda *given: told.append(expected(*given)) or told[-1])
    with (tmp_path / "said").open("w") as file:
        for batch, at_once in ((16, 4), (64, 4), (64, 16)):
            recipe = replace(CONTRASTIVE, batch=batch, at_once=at_once, epochs=1)
            console = Console(file=file, width=200)
            folder = tmp_path / f"{batch} {at_once}"
            fit(on_cpu(learner), task.groups, task.dev, folder, recipe, threads=1, console=console)
    small, large, at_once = (one.for_batch for one in told)
    assert 0 < small == pytest.approx(large, rel=0.25)  # the longest pairs of few rows may be shorter ones
    assert at_once > 2.5 * large
    assert "learning 256 pairs of 32 queries by contrastive, 4 of each row drawn from other queries" in (
        (tmp_path / "said").read_text()
    )


def test_a_gpu_computes_a_batch_at_once_or_in_parts_as_large_as_are_asked_for():
    gpu, cpu, model = Resources("cuda:0", True, 1), Resources("cpu", False, 1), of_layers(12)
    assert [runs.pairs_at_once(CONTRASTIVE, one, model, on_gpu=16) for one in (gpu, cpu)] == [4, 4]  # as it says
    free = replace(CONTRASTIVE, at_once=None)
    assert [runs.pairs_at_once(free, one, model, on_gpu=16) for one in (gpu, cpu)] == [16, runs.AT_ONCE]
    assert [runs.pairs_at_once(free, gpu, model), runs.pairs_at_once(free, gpu, model, on_gpu=64)] == [32, 32]


def of_layers(layers):
    return SimpleNamespace(config=SimpleNamespace(num_hidden_layers=layers))


def test_a_model_of_few_layers_computes_more_pairs_at_once_on_a_cpu_in_no_more_memory():
    free, cpu = replace(RECIPE, at_once=None), Resources("cpu", False, 1)
    found = {layers: runs.pairs_at_once(free, cpu, of_layers(layers)) for layers in (1, 2, 3, 6, 12, 24)}
    assert found == {1: 16, 2: 16, 3: 16, 6: 8, 12: 4, 24: 4}
    assert [runs.pairs_at_once(free, cpu, one) for one in (of_layers(None), object())] == [4, 4]  # it does not tell


def test_states_cannot_be_learnt_beside_a_contrast():
    with pytest.raises(ValueError, match="states must be 0 with the loss 'contrastive'.*but got 2"):
        Recipe(loss="contrastive", states=2.0)


@pytest.mark.parametrize("name", ["bert, modular", "modernbert, modular", "qwen3, chat", "qwen3, chat, tied"])
def test_a_stack_of_modules_learns_and_goes_on_after_a_kill_to_the_same_weights(name, task, tmp_path):
    base = on_cpu(ZOO[name].save(tmp_path / "base"))
    recipe = replace(RECIPE, learning_rate=1e-3)
    whole = fit(base, task.groups, task.dev, tmp_path / "whole", recipe, threads=1)
    resumed = cut_off_and_resumed(lambda patch: stopped_at(21, patch), base, task, tmp_path / "cut", recipe)
    assert weights(resumed.model) == weights(whole.model)
    assert resumed.evaluations == whole.evaluations
    before, after = tensors(Path(base.model)), tensors(whole.model)
    assert before.keys() == after.keys()
    learnt = {key for key in before if not torch.equal(before[key], after[key])}
    assert learnt == {key for key in before if "pooler" not in key}  # in every module, and nothing was frozen


def test_a_trained_stack_ranks_from_its_folder_as_it_did_when_it_was_saved(task, tmp_path):
    from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10
    from haystack_ce_ranker.training.gate import rank_with

    for name in ("bert, modular", "qwen3, chat, prompt"):
        base = on_cpu(ZOO[name].save(tmp_path / name))
        found = fit(base, task.groups, task.dev, tmp_path / f"{name} run", RECIPE, threads=1)
        ranked = rank_with(str(found.model), task.dev)
        assert mean(ndcg_at_10(ranked, task.dev.grades)) == pytest.approx(found.best.ndcg)


@pytest.mark.parametrize("name", ["bert", "qwen3, chat"])
def test_a_model_with_a_prompt_learns_to_read_with_it(name, task, tmp_path, monkeypatch):
    from sentence_transformers import CrossEncoder
    from sentence_transformers.cross_encoder.losses import BinaryCrossEntropyLoss

    prompts, forward = [], BinaryCrossEntropyLoss.forward

    def note(self, *given, prompt=None, **named):
        prompts.append(prompt)
        return forward(self, *given, prompt=prompt, **named)

    monkeypatch.setattr(BinaryCrossEntropyLoss, "forward", note)
    plain = ZOO[name].save(tmp_path / "plain")
    prompted = CrossEncoder(plain, device="cpu", prompts={"search": "the hut: "}, default_prompt_name="search")
    prompted.save_pretrained(str(tmp_path / "base"))
    found = fit(on_cpu(str(tmp_path / "base")), task.groups, task.dev, tmp_path / "run", RECIPE, threads=1)
    assert set(prompts) == {"the hut: "}
    again = CrossEncoder(str(found.model), device="cpu")
    assert again.prompts[again.default_prompt_name] == "the hut: "


def test_rows_that_must_be_apart_never_share_a_batch_where_there_is_room():
    from haystack_ce_ranker.training.losses import Apart
    from haystack_ce_ranker.training.trainer import LikeLengths

    apart = [Apart(frozenset({f"d{place // 3}"}), frozenset({f"d{place // 3}"})) for place in range(60)]

    def batches(seed, of=apart):
        return list(LikeLengths([10] * len(of), batch_size=8, seed=seed, apart=of))

    for seed in range(20):
        found = batches(seed)
        assert sorted(place for batch in found for place in batch) == list(range(60))
        assert len(found) == 8
        assert all(len({place // 3 for place in batch}) == len(batch) for batch in found)
    assert batches(0) == batches(0) != batches(1)
    one_way = [Apart(frozenset({"a", "b"}), frozenset({"a"})), Apart(frozenset({"c"}), frozenset({"c", "b"}))]
    fill = [Apart(frozenset({f"x{n}"}), frozenset({f"x{n}"})) for n in range(14)]
    assert all(not {0, 1} <= set(batch) for seed in range(20) for batch in batches(seed, [*one_way, *fill]))
    no_room = [Apart(frozenset({"a"}), frozenset({"a"}))] * 20
    assert sorted(place for batch in batches(0, no_room) for place in batch) == list(range(20))


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


def test_the_recipes_seed_draws_which_documents_are_learnt_together(monkeypatch, tmp_path, learner):
    drawn = []

    def rows_for(loss, _groups, **how):
        drawn.append((loss, how["seed"]))
        raise InterruptedError

    monkeypatch.setattr(fitting, "rows_for", rows_for)
    with pytest.raises(InterruptedError):
        fit(learner, [], None, tmp_path, replace(RECIPE, loss="margin_mse", seed=7))
    assert drawn == [("margin_mse", 7)]
