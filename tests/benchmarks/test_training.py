"""benchmarks/training.py: parts without leaks, settings that tell runs apart, and figures against what is to beat."""

from dataclasses import replace

import pytest

import training
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.training.commands.train import DEV, TEST, TRAIN
from haystack_ce_ranker.training.gate import BASE, FIRST_STAGE, TRAINED
from small_tasks import write_small_collection


@pytest.fixture(scope="module")
def collection(tmp_path_factory):
    return load_collection(write_small_collection(tmp_path_factory.mktemp("collections") / "huts", queries=50))


def setting(name, **changes):
    arguments = training.BENCHMARK.parse([])
    for key, value in changes.items():
        setattr(arguments, key, value)
    return training.setting_of(name, 0, arguments, loss="bce", base="base")


def test_a_half_is_learnt_from_and_the_other_half_is_the_test(collection):
    [half] = training.splits_of(collection, setting("stackfaq"))
    parts = [set(half.ids[name]) for name in (TRAIN, DEV, TEST)]
    assert len(parts[2]) == 25
    assert sum(map(len, parts)) == len(set().union(*parts)) == 50


def test_each_query_is_in_the_test_of_one_fold_and_never_learnt_from_there(collection):
    folds = list(training.splits_of(collection, setting("cacm")))
    assert sorted(name for fold in folds for name in fold.ids[TEST]) == sorted(collection.queries)
    assert len(folds) == len({fold.name for fold in folds}) == training.FOLDS
    for fold in folds:
        assert not set(fold.ids[TEST]) & {*fold.ids[TRAIN], *fold.ids[DEV]}


def test_parts_can_be_made_smaller(collection):
    [half] = training.splits_of(collection, setting("covidqa", train_queries=7, test_queries=2))
    assert [len(half.ids[name]) for name in (TRAIN, DEV, TEST)] == [7, 2, 2]


def test_runs_with_other_settings_or_splits_have_other_keys():
    one = setting("stackfaq")
    others = [replace(one, depth=7), replace(one, base="other"), setting("stackfaq", epochs=3), setting("covidqa")]
    others += [setting("stackfaq", learning_rate=1e-3), setting("stackfaq", interpolate=0.5)]
    half, fold = training.Split("half", {}), training.Split("fold 0", {})
    keys = [one.key(half), one.key(fold), *(other.key(half) for other in others)]
    assert len(set(keys)) == len(keys)
    assert one.key(half) == setting("stackfaq").key(half)


def test_figures_are_against_the_untouched_model_or_the_first_stage_without_one():
    low, high = ({f"q{number}": value for number in range(20)} for value in (0.2, 0.8))
    with_base = training.figures({FIRST_STAGE: low, BASE: high, TRAINED: low})
    assert (with_base.base, with_base.worse) == (pytest.approx(0.8), True)
    without = training.figures({FIRST_STAGE: low, TRAINED: high})
    assert (without.base, without.worse) == (None, False)
    assert without.p < 0.001


def test_a_loss_that_is_not_named_is_the_one_that_train_takes_for_as_many_queries(tmp_path):
    for name, queries in (("stackfaq", 300), ("covidqa", 200), ("cacm", 120), ("med", 150)):
        write_small_collection(tmp_path / name, queries=queries)
    arguments = training.BENCHMARK.parse(["--data", str(tmp_path)])
    found = {name: training.loss_of(name, arguments) for name in ("stackfaq", "covidqa", "cacm", "med")}
    assert found == {"stackfaq": "bce", "covidqa": "lambda", "cacm": "lambda", "med": "bce"}  # 132, 88, 84, 106
    arguments.train_queries = 99
    assert training.loss_of("stackfaq", arguments) == "lambda"
    arguments.loss = "ranknet"
    assert training.loss_of("stackfaq", arguments) == "ranknet"


def test_the_losses_that_train_does_not_take_by_itself_are_compared_on_what_was_asked_for(
    monkeypatch, tmp_path, capsys
):
    asked = []

    def values(setting, _arguments, _report):
        asked.append((setting.collection, setting.recipe.loss))
        gained = {"ranknet": 0.25, "margin_mse": 0.5}[setting.recipe.loss]
        return {FIRST_STAGE: {"q": 0.25}, BASE: {"q": 0.25}, TRAINED: {"q": 0.25 + gained}}

    monkeypatch.setattr(training, "values_of", values)
    arguments = training.BENCHMARK.parse(["other_losses", "--only", "cacm", "med", "--seeds", "0"])
    report = training.common.Report(tmp_path / "training.py")
    training.other_losses(arguments, report)
    assert asked == [(name, loss) for name in ("cacm", "med") for loss in ("margin_mse", "ranknet")]
    assert "Mean gain: +0.5000 by margin_mse, +0.2500 by ranknet." in capsys.readouterr().out


def test_a_part_without_the_collections_that_were_asked_for_is_left_out_with_the_reason():
    assert training.chosen(("cacm", "vaswani"), training.BENCHMARK.parse([])) == ["cacm", "vaswani"]
    asked = training.BENCHMARK.parse(["few_queries", "--only", "stackfaq", "cacm"])
    assert training.chosen(("cacm", "vaswani"), asked) == ["cacm"]
    with pytest.raises(training.CannotRun, match="--only stackfaq cacm names no collection of this part"):
        training.chosen(("med",), asked)
