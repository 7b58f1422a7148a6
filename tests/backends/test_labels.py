"""Which output is the score: of one label the logit, of several the log-odds of the wanted one."""

from types import SimpleNamespace

import numpy as np
import pytest

from haystack_ce_ranker.backends.labels import choose, names_of, one_logit_each

NAMES = ["contradiction", "Entailment", "neutral"]


def test_the_logit_of_a_label_is_that_of_its_softmax_probability():
    outputs = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    softmax = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    for label in range(3):
        logits = one_logit_each(outputs, 5, label)
        assert 1 / (1 + np.exp(-logits)) == pytest.approx(softmax[:, label], abs=1e-6)


def test_of_two_labels_the_logit_is_the_difference():
    assert one_logit_each([[1.0, 3.5], [900.0, -900.0]], 2, 1).tolist() == [2.5, -1800.0]


@pytest.mark.parametrize("outputs", [[[0.25], [-1.0]], [0.25, -1.0]])
def test_a_single_output_is_the_logit(outputs):
    assert one_logit_each(outputs, 2, 0).tolist() == [0.25, -1.0]


@pytest.mark.parametrize(("label", "place"), [(0, 0), (2, 2), ("Entailment", 1), ("entailment", 1), ("neutral", 2)])
def test_a_label_is_chosen_by_number_or_name(label, place):
    assert choose(label, NAMES, "m") == place


def test_a_model_with_one_label_needs_no_choice():
    assert choose(None, ["LABEL_0"], "m") == 0


@pytest.mark.parametrize("label", [3, -1, "yes", True])
def test_a_label_that_is_not_there_is_an_error_that_lists_them(label):
    with pytest.raises(
        ValueError, match=r"^label must be .*0: 'contradiction', 1: 'Entailment', 2: 'neutral'.*but got"
    ):
        choose(label, NAMES, "m")


def test_names_come_from_the_configuration_and_else_are_numbers():
    assert names_of(SimpleNamespace(id2label={0: "no", "1": "yes"}), 3) == ["no", "yes", "2"]
    assert names_of(None, 2) == ["0", "1"]
