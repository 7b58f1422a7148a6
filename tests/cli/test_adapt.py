"""`haystack-ce-ranker adapt`: which run its arguments ask for, and with which code it ends."""

from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from haystack_ce_ranker.cli import app
from haystack_ce_ranker.training.blending import Blend
from haystack_ce_ranker.training.commands import adapt

ALL = ("title", "first_sentence", "inverse_cloze", "rare_terms", "question", "question_terms")


def asked_for(monkeypatch, *arguments, ends=None, saves=True, stopped=False):
    """The run that these arguments ask for, and the command's result."""
    runs = []

    def take(run, _console):
        runs.append(run)
        if ends is not None:
            raise ends
        return None if stopped else SimpleNamespace(saves=lambda _save: saves)

    monkeypatch.setattr(adapt, "run_adapting", take)
    result = CliRunner().invoke(app, ["adapt", "docs", "out", *arguments])
    return (runs[0] if runs else None), result


def test_the_defaults_learn_from_the_base_and_the_evidence(monkeypatch):
    run, result = asked_for(monkeypatch, "--base", "model")
    assert result.exit_code == 0
    assert (str(run.collection), str(run.output), run.base.model) == ("docs", "out", "model")
    assert (run.teachers, run.bi_encoder, run.log, run.settings.blend) == ((), None, None, Blend())
    assert tuple(run.mix) == ALL
    assert run.recipe == adapt.RECIPE


def test_options_that_may_be_repeated_are_all_taken(monkeypatch):
    options = ["--base", "model", "--teacher", "a", "--teacher", "b", "--recipe", "title", "--recipe", "rare_terms"]
    more = ["--queries", "log.txt", "--made", "7", "--seed", "3", "--bi-encoder", "bi", "--blend"]
    run, _ = asked_for(monkeypatch, *options, *more)
    assert [teacher.model for teacher in run.teachers] == ["a", "b"]
    assert list(run.mix) == ["title", "rare_terms"]
    assert (str(run.log), run.queries, run.bi_encoder) == ("log.txt", 7, "bi")
    assert (run.settings.seed, run.recipe.seed) == (3, 3)


def test_a_contrast_is_learnt_from_where_queries_come_from_in_larger_batches(monkeypatch):
    run, _ = asked_for(monkeypatch, "--base", "model", "--loss", "contrastive")
    assert (run.recipe.loss, run.recipe.learns, run.recipe.batch) == ("contrastive", "labels", 96)
    run, _ = asked_for(monkeypatch, "--base", "model", "--loss", "contrastive", "--batch", "24", "--no-blend")
    assert (run.recipe.batch, run.settings.blend) == (24, None)


@pytest.mark.parametrize(("options", "dtype"), [((), None), (("--dtype", "float32"), "float32")])
def test_what_it_multiplies_in_can_be_said(monkeypatch, options, dtype):
    run, _ = asked_for(monkeypatch, "--base", "model", *options)
    assert run.recipe.dtype == dtype


@pytest.mark.parametrize(("options", "share"), [((), 1.0), (("--interpolate", "0.5"), 0.5)])
def test_how_far_it_goes_from_the_base_can_be_said(monkeypatch, options, share):
    run, _ = asked_for(monkeypatch, "--base", "model", *options)
    assert run.recipe.interpolate == share


def test_another_loss_is_an_error(monkeypatch):
    _, result = asked_for(monkeypatch, "--base", "model", "--loss", "hinge")
    assert result.exit_code == 2
    assert "loss must be one of" in result.output


@pytest.mark.parametrize(
    ("options", "is_blended"),
    [
        ([], True),
        (["--teacher", "a"], False),
        (["--teacher", "a", "--blend"], True),
        (["--teacher", "a", "--no-blend"], False),
    ],
)
def test_other_teachers_are_taken_as_they_are_unless_asked(monkeypatch, options, is_blended):
    run, _ = asked_for(monkeypatch, "--base", "model", *options)
    assert (run.settings.blend is not None) == is_blended


def test_a_refused_model_ends_with_1_an_error_with_2_and_an_interruption_with_130(monkeypatch):
    assert asked_for(monkeypatch, "--base", "model", saves=False)[1].exit_code == 1
    _, result = asked_for(monkeypatch, "--base", "model", ends=ValueError("no such corpus"))
    assert result.exit_code == 2
    assert "error: no such corpus" in result.output
    assert asked_for(monkeypatch, "--base", "model", stopped=True)[1].exit_code == 130


def test_a_base_without_a_teacher_or_a_blend_is_an_error(monkeypatch):
    _, result = asked_for(monkeypatch, "--base", "model", "--no-blend")
    assert result.exit_code == 2
    assert "learns nothing from its own logits" in result.output
