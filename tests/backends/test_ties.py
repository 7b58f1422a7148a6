"""`dtype="auto"` takes float32 where the half precision that it would choose gives near-equal texts one score."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from fakes import FakeBackend, save_bert, scores_of
from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.backends import loading, ties, torch_backend
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.backends.protocol import Batch


class Rounding(FakeBackend):
    """Scores near 8, in steps of `step`."""

    def __init__(self, dtype, step=None, *, together=True, limit=64):
        super().__init__()
        self.dtype, self.step, self.mixes_lengths, self.max_length = dtype, step, together, limit

    def logits(self, batch):
        found = 8 + 0.05 * super().logits(batch)
        return found if self.step is None else np.round(found / self.step) * self.step


@pytest.fixture
def near_60(tmp_path):
    """A tiny model whose logits lie near -60, where bfloat16 has steps of 0.25 and float16 of 0.03."""
    model = AutoModelForSequenceClassification.from_pretrained(save_bert(tmp_path))
    with torch.no_grad():
        model.classifier.bias.fill_(-60.0)
        model.classifier.weight.mul_(0.01)
    model.save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("dtype", ties.HALF)
def test_a_model_that_ties_in_half_precision_is_loaded_in_float32(caplog, dtype, together):
    exact = Rounding("float32", together=together)
    with caplog.at_level(logging.WARNING):
        assert ties.refused(Rounding(dtype, 0.06, together=together), lambda: exact) is exact
    [said] = caplog.messages
    assert f"dtype='auto' takes float32: in {dtype}" in said
    assert "of 24 near-equal ones" in said
    assert f"Set dtype='{dtype}'" in said


def test_a_model_that_does_not_tie_is_not_loaded_twice(caplog):
    chosen = Rounding("bfloat16", 1e-7)
    assert ties.refused(chosen, pytest.fail) is chosen
    exact = Rounding("float32", 1)
    assert ties.refused(exact, pytest.fail) is exact
    assert exact.fed == []
    assert caplog.messages == []


def test_ties_that_float32_has_too_are_no_reason(caplog):
    chosen = Rounding("bfloat16", 0.06)
    assert ties.refused(chosen, lambda: Rounding("float32", 0.06)) is chosen
    assert ties.refused(chosen, lambda: Rounding("float32", 5)) is chosen
    assert caplog.messages == []


def test_pairs_that_the_model_cannot_read_whole_are_left_out():
    chosen = Rounding("bfloat16", 0.06, limit=4)
    assert ties.refused(chosen, pytest.fail) is chosen
    assert chosen.fed == []


def test_a_prompt_stands_before_the_question():
    chosen, prompted = Rounding("bfloat16", 1e-7), Rounding("bfloat16", 1e-7)
    prompted.query_prompt = "city "
    for one in (chosen, prompted):
        ties.refused(one, pytest.fail)
    assert min(map(len, prompted.fed)) > min(map(len, chosen.fed))


def test_auto_on_torch_refuses_bfloat16_where_the_head_is_not_in_float32(near_60, monkeypatch, caplog):
    monkeypatch.setattr(torch_backend, "cpu_has_bfloat16", lambda: True)
    options = ModelOptions(near_60, dtype="auto", device="cpu")
    assert loading.load("torch", options).dtype == "bfloat16"  # its head is in float32
    assert caplog.messages == []
    monkeypatch.setattr(torch_backend, "keep_head_in_float32", lambda model: None)
    texts = [f"the hut of berlin is in the city {number}" for number in range(30)]
    assert len(set(scores_of(loading.load("torch", replace(options, dtype="bfloat16")), texts))) < 4
    refused = loading.load("torch", options)
    assert refused.dtype == "float32"
    assert len(set(scores_of(refused, texts))) > 20
    assert [message for message in caplog.messages if "dtype='auto' takes float32: in bfloat16" in message]


def test_the_report_says_what_runs(near_60, monkeypatch):
    monkeypatch.setattr(torch_backend, "cpu_has_bfloat16", lambda: True)
    monkeypatch.setattr(torch_backend, "keep_head_in_float32", lambda model: None)
    from haystack import Document

    found = CrossEncoderRanker(model=near_60, dtype="auto").run("the hut", [Document(content="a city")])
    assert found["report"]["dtype"] == "float32"


def test_auto_on_openvino_refuses_bfloat16_where_it_ties(near_60, monkeypatch):
    openvino = pytest.importorskip("openvino")
    from haystack_ce_ranker.backends import openvino_backend

    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    options = ModelOptions(near_60, dtype="auto", device="cpu")
    assert loading.load("auto", options).dtype == "bfloat16"
    run = openvino_backend.OpenVinoBackend._run

    def rounded(self, batch: Batch):
        found = run(self, batch)
        return torch.from_numpy(found).bfloat16().float().numpy() if self.dtype == "bfloat16" else found

    monkeypatch.setattr(openvino_backend.OpenVinoBackend, "_run", rounded)
    for name in ("openvino", "auto"):
        loaded = loading.load(name, options)
        assert (loaded.name, loaded.dtype) == ("openvino", "float32")
    assert loading.load("openvino", replace(options, dtype="bfloat16")).dtype == "bfloat16"


def test_near_equal_texts_differ_for_the_tiny_models(near_60):
    """Otherwise the tests above would hold for texts that the vocabulary does not know."""
    assert len(set(ties._logits(loading.load("torch", ModelOptions(near_60, device="cpu"))).tolist())) > 20
