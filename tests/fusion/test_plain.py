"""What tuning found, as plain values: all of it goes into JSON, and what it measures has the name of the evaluation."""

import json
from dataclasses import replace

import numpy as np
import pytest

from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10
from haystack_ce_ranker.fusion.adaptive import Adaptation
from haystack_ce_ranker.fusion.advice import tune_on
from haystack_ce_ranker.fusion.fuse import ScoredList
from haystack_ce_ranker.fusion.judged import MEASURE, Frame, JudgedQuery, Setting
from haystack_ce_ranker.fusion.normalizers import parse_normalizations
from haystack_ce_ranker.fusion.plain import as_plain, parameters_of


def queries(count=12):
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        truth = random.normal(0, 1, 12)
        ids = [f"d{place}" for place in range(12)]
        lists = {name: ScoredList(ids, truth + random.normal(0, noise, 12)) for name, noise in (("a", 0.5), ("b", 2.0))}
        made.append(JudgedQuery(str(number), lists, {ids[int(truth.argmax())]: 1}))
    return made


def test_the_measure_is_that_of_the_evaluation():
    assert MEASURE == NDCG_AT_10


@pytest.mark.parametrize("method", ["weighted_sum", "reciprocal_rank"])
def test_fixed_weights_switch_off_those_that_follow_the_query(method):
    """A file that had `adapt_weights` would else ignore them."""
    setting = Setting(Frame("x", parse_normalizations(None, ["a"]), method=method), {"a": 1.0})
    assert parameters_of(setting)["adapt_weights"] is False
    adaptive = Setting(replace(setting.frame, method="weighted_sum", adaptation=Adaptation()), {"a": 1.0})
    assert parameters_of(adaptive)["adapt_weights"] is True


def test_a_tuning_is_told_whole_and_without_objects():
    default = Setting(Frame("default", parse_normalizations(None, ["a", "b"])), {"a": 0.8, "b": 0.2})
    result = tune_on(queries(), "joiner", default, collection="made up")
    plain = json.loads(json.dumps(as_plain(result), allow_nan=False))
    assert plain["recommended"] == parameters_of(result.recommended)
    assert set(plain["systems"]) == set(result.systems)
    for name, values in result.systems.items():
        assert list(plain["nDCG@10_by_query"][name].values()) == values.tolist()
        assert plain["systems"][name][MEASURE]["mean"] == result.intervals()[name][0].mean


def test_one_normalizer_for_all_is_written_once_and_several_by_input():
    def told(normalize):
        return parameters_of(Setting(Frame("x", parse_normalizations(normalize, ["a", "b"])), {"a": 1 / 3, "b": 2 / 3}))

    assert told("min_max")["normalize"] == "min_max"
    assert told({"a": "min_max", "b": {"name": "log", "scale": 1 / 3}})["normalize"] == {
        "a": "min_max",
        "b": {"name": "log", "scale": 0.333333},
    }
    assert told("min_max")["weights"] == {"a": 0.333333, "b": 0.666667}
