"""benchmarks/training_adapt.py: medians over seeds, targets, and results that are kept for their settings alone."""

import pytest

import training_adapt
from common import Report
from training_adapt import BENCHMARK, Result


@pytest.fixture
def arguments(tmp_path):
    """Arguments, and the folders that they name."""
    for name in ("cacm", "med"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for name in ("ce-minilm-l12", "bi-minilm-l6"):
        (tmp_path / "models" / name).mkdir(parents=True)
    folders = [
        "--data",
        str(tmp_path / "data"),
        "--models",
        str(tmp_path / "models"),
        "--cache",
        str(tmp_path / "kept"),
    ]
    return BENCHMARK.parse(["adapt", *folders, "--only", "cacm", "--only", "med"])


def result_of(gain, p=0.01, minutes=5.0):
    return Result(base=0.5, trained=0.5 + gain, p=p, minutes=minutes, met=gain >= 0.005)


def lines_of(arguments, monkeypatch, found):
    monkeypatch.setattr(training_adapt, "results", lambda name, *_, **__: found[name])
    report = Report(training_adapt.common.HERE / "training_adapt.py")
    with report.part("adapt"):
        training_adapt.adapt(arguments, report)
    return report.parts["adapt"]


def test_the_median_run_of_each_collection_is_shown_and_targets_look_at_it(arguments, monkeypatch):
    found = {"cacm": [result_of(gain) for gain in (0.05, -0.02, 0.03)], "med": [result_of(-0.01, p=0.2, minutes=61.0)]}
    part = lines_of(arguments, monkeypatch, found)
    assert "| cacm | 0.5000 | 0.5300 | +0.0300 | 0.010 | 5 | 2 of 3 |" in part.lines
    assert [target.holds for target in part.targets] == [False, True, False]
    assert part.targets[0].figure == "cacm"


def test_a_collection_that_is_significantly_worse_is_named(arguments, monkeypatch):
    found = {"cacm": [result_of(0.02)], "med": [result_of(-0.01, p=0.01)]}
    part = lines_of(arguments, monkeypatch, found)
    assert (part.targets[1].holds, part.targets[1].figure) == (False, "med")


def test_a_result_is_kept_for_its_settings_alone(arguments, monkeypatch):
    ran = []

    def run(asked, output):
        ran.append(output)
        return result_of(0.01)

    monkeypatch.setattr(training_adapt, "_run", run)
    asked = {"seed": 0, "mix": ("title",)}
    first = training_adapt.result("cacm", arguments, **asked)
    assert training_adapt.result("cacm", arguments, **asked) == first
    arguments.threads = 7  # changes nothing but the time
    training_adapt.result("cacm", arguments, **asked)
    assert len(ran) == 1
    training_adapt.result("cacm", arguments, **{**asked, "seed": 1})
    training_adapt.result("med", arguments, **asked)
    arguments.made = 7
    training_adapt.result("cacm", arguments, **asked)
    assert len(ran) == len(set(ran)) == 4


def test_the_teacher_without_a_blend_ranks_by_logits_and_with_one_by_more():
    entry = {
        "bm25": {"a": 1.0, "b": 9.0},
        "dense": {"a": 0.1, "b": 0.9},
        "ce": {"a": -4.0, "b": -4.5},
        "rel": {"b": 1},
    }
    alone = training_adapt.quality({"q": entry}, None)
    blended = training_adapt.quality({"q": entry}, (training_adapt.Blend(), ("bm25", "dense")))
    assert alone[0] < blended[0] == 1.0


def test_a_contrast_is_learnt_from_where_queries_come_from_and_other_losses_as_before():
    plain = training_adapt.recipe_of(BENCHMARK.parse(["adapt"]), 2)
    contrastive = training_adapt.recipe_of(BENCHMARK.parse(["adapt", "--loss", "contrastive"]), 2)
    assert (plain.loss, plain.learns, plain.batch, plain.seed) == ("margin_mse", "teacher", 16, 2)
    assert (contrastive.loss, contrastive.learns, contrastive.batch) == ("contrastive", "labels", 96)


def test_options_say_how_the_model_learns():
    steps = ["--epochs", "3", "--tokens", "96", "--learning-rate", "1e-3", "--interpolate", "0.25"]
    asked = training_adapt.recipe_of(BENCHMARK.parse(["adapt", *steps]), 0)
    assert (asked.epochs, asked.max_length, asked.learning_rate, asked.interpolate) == (3, 96, 1e-3, 0.25)
