"""Packed batches: equal to padded ones for every architecture that may use them, and used only where they win."""

import inspect
import logging
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from fakes import CASES, batch_of, bert_tokenizer, padded_logits, tiny_model
from haystack_ce_ranker.backends import loading, packed
from haystack_ce_ranker.backends import torch_backend as torch_backend
from haystack_ce_ranker.backends.float32_head import keep_head_in_float32
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.backends.packed import ARCHITECTURES, ATTENTION, PackedForm, weights_of_body, why_not
from haystack_ce_ranker.backends.protocol import Asynchronous, Batch
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer


def packed_logits(model, form, batch):
    with torch.inference_mode():
        return model(**form.inputs(batch)).logits[:, 0]


@pytest.mark.parametrize("case", CASES)
def test_packed_scores_equal_padded_ones(case):
    family, values = CASES[case]
    model = tiny_model(family, **values)
    token_types = family in ("Bert", "Electra")
    batch = batch_of([100, 64, 33, 20, 20, 5, 3], pad_id=model.config.pad_token_id)
    padded = padded_logits(model, batch, token_types=token_types)
    assert padded.std() > 0.1
    form = PackedForm(model, uses_token_types=token_types)
    assert packed_logits(model, form, batch).tolist() == pytest.approx(padded.tolist(), abs=1e-4)
    alone = [packed_logits(model, form, Batch([pair], batch.pad_id)).item() for pair in batch.pairs]
    assert alone == pytest.approx(padded.tolist(), abs=1e-4)
    with pytest.raises(ValueError, match="made to read packed batches, but got a padded one"):
        padded_logits(model, batch, token_types=token_types)
    form.undo()
    assert torch.equal(padded_logits(model, batch, token_types=token_types), padded)


def test_every_architecture_that_may_be_packed_is_tested():
    assert {name.partition(",")[0] for name in CASES} == set(ARCHITECTURES)


def test_other_architectures_stay_padded_and_say_why():
    model = tiny_model("DebertaV2")
    assert "model type 'deberta-v2' is none of bert" in why_not(model)
    with pytest.raises(ValueError, match="packed batches cannot be used: model type 'deberta-v2'"):
        PackedForm(model, uses_token_types=True)
    assert "decoder" in why_not(tiny_model("Bert", is_decoder=True))


@pytest.mark.parametrize(
    ("device", "dtype", "reason"),
    [
        ("cuda", torch.float16, None),
        ("cuda", torch.bfloat16, None),
        ("cuda", torch.float32, "needs float16 or bfloat16, but the model is in torch.float32"),
        ("mps", torch.float16, "no variable-length attention for mps"),
        ("cpu", torch.float32, None),
    ],
)
def test_devices_and_precisions_without_a_kernel_stay_padded(monkeypatch, device, dtype, reason):
    weights = SimpleNamespace(device=SimpleNamespace(type=device), dtype=dtype)
    body = SimpleNamespace(parameters=lambda: iter([weights]))
    model = SimpleNamespace(config=SimpleNamespace(model_type="bert"), base_model=body)
    found = why_not(model)
    assert found is None if reason is None else reason in found
    if device == "cuda" and reason is None:
        monkeypatch.setattr(packed, "_kernel", lambda: None)
        assert "install a newer torch" in why_not(model)


@pytest.mark.parametrize("case", CASES)
def test_a_head_in_float32_is_not_taken_for_the_body_wherever_it_stands(case):
    family, values = CASES[case]
    model = tiny_model(family, **values).half()
    keep_head_in_float32(model)
    assert torch.float32 in {one.dtype for one in model.parameters()}
    assert weights_of_body(model).dtype == torch.float16


@pytest.fixture
def kernel():
    packed._kernel.cache_clear()
    yield packed._kernel
    packed._kernel.cache_clear()


@pytest.mark.parametrize("window", [None, 3])
def test_the_kernels_are_called_as_they_are_declared_and_computed(monkeypatch, kernel, window):
    varlen = pytest.importorskip("torch.nn.attention.varlen", reason="torch before 2.10 has none")
    signature = inspect.signature(varlen.varlen_attn)
    query, key, value = torch.randn(3, 7, 2, 8, generator=torch.Generator().manual_seed(0)).unbind()
    starts = torch.tensor([0, 5, 7], dtype=torch.int32)
    seen = []

    def fake(*args, **kwargs):
        seen.append(signature.bind(*args, **kwargs).arguments)
        return args[0]

    monkeypatch.setattr(varlen, "varlen_attn", fake)
    kernel()(query, key, value, starts, 5, 0.5, window)
    assert (seen[0]["max_q"], seen[0]["max_k"], seen[0]["scale"]) == (5, 5, 0.5)
    left, right = seen[0]["window_size"]
    expected = []
    for first, end in ((0, 5), (5, 7)):
        weights = torch.einsum("qhd,khd->hqk", query[first:end], key[first:end]) * 0.5
        far = torch.arange(end - first)[:, None] - torch.arange(end - first)[None]
        if left >= 0:
            weights = weights.masked_fill((far > left) | (-far > right), -torch.inf)
        expected.append(torch.einsum("hqk,khd->qhd", weights.softmax(-1), value[first:end]))
    ours = packed._one_by_one(query, key, value, starts, 5, 0.5, window)
    assert torch.allclose(ours, torch.cat(expected), atol=1e-5)

    package = SimpleNamespace(flash_attn_varlen_func=lambda q, k, v, **rest: seen.append(rest) or q)
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    kernel.cache_clear()
    kernel()(query, key, value, starts, 5, 0.5, window)
    assert (seen[1]["max_seqlen_q"], seen[1]["softmax_scale"]) == (5, 0.5)
    assert seen[1]["window_size"] == (left, right)
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    kernel.cache_clear()
    assert kernel() is None


def test_packed_batches_on_demand_score_as_sentence_transformers_does_and_pad_nothing(tiny_bert):
    documents = ["the hut in the snow", "paris", "a car", "berlin is a city of germany. " * 2]
    expected = CrossEncoder(tiny_bert).predict([("hut", text) for text in documents], activation_fn=torch.nn.Identity())
    asked = {"attn_implementation": "packed"}
    backend = loading.load("torch", ModelOptions(tiny_bert, device="cpu", model_kwargs=asked))
    scores, stats = CrossEncoderScorer(backend).score("hut", documents)
    assert [document.logit for document in scores.documents] == pytest.approx(expected, abs=1e-4)
    assert (backend.pads, stats.padding_share) == (False, 0.0)
    assert isinstance(backend, Asynchronous)
    assert asked == {"attn_implementation": "packed"}
    eager = loading.load("torch", ModelOptions(tiny_bert, device="cpu", model_kwargs={"attn_implementation": "eager"}))
    assert (eager.splits, backend.splits) == (True, False)
    assert eager.cross_encoder.model.config._attn_implementation == "eager"
    assert CrossEncoderScorer(eager).score("hut", documents)[1].padding_share > 0.0


def test_packed_batches_that_cannot_be_had_are_an_error(tmp_path):
    tiny_model("DebertaV2", vocab_size=len(bert_tokenizer())).save_pretrained(tmp_path)
    bert_tokenizer().save_pretrained(tmp_path)
    assert loading.load("torch", ModelOptions(str(tmp_path), device="cpu")).pads
    with pytest.raises(ValueError, match="packed batches cannot be used: model type 'deberta-v2'"):
        loading.load("torch", ModelOptions(str(tmp_path), model_kwargs={"attn_implementation": "packed"}))


class Trial:
    """A backend on trial by a fake clock: how long each form takes, and what it says, is settled by the test."""

    def __init__(self, monkeypatch, folder, *, seconds=(1.0, 1.0), packed_logits=None):
        self.backend = loading.load("torch", ModelOptions(folder, device="cpu"))
        self.now = 0.0
        self.ran = []
        real = self.backend.logits

        def logits(batch):
            form = self.backend._packed
            self.ran.append(form is not None)
            mixed = len({len(pair.ids) for pair in batch.pairs}) > 1
            self.now += 1.0 if form is None else seconds[0 if mixed else 1]
            return real(batch) if form is None or packed_logits is None else packed_logits(batch, real)

        monkeypatch.setattr(self.backend, "logits", logits)
        monkeypatch.setattr(torch_backend, "time", SimpleNamespace(perf_counter=lambda: self.now))


@pytest.mark.parametrize(
    ("seconds", "reason"),
    [
        ((0.5, 1.0), None),
        ((0.32, 1.12), None),
        ((0.97, 0.95), "take 0.97 of the time on mixed lengths"),
        ((0.8, 1.2), "1.20 on equal ones"),
    ],
)
def test_packed_batches_are_used_where_they_are_faster_on_both_kinds_together(monkeypatch, tiny_bert, seconds, reason):
    made = Trial(monkeypatch, tiny_bert, seconds=seconds)
    found = made.backend._trial()
    assert found is None if reason is None else reason in found
    assert made.ran.count(True) == made.ran.count(False) == 2 * torch_backend.TRIAL_ROUNDS
    assert made.backend._packed is None
    assert made.backend.cross_encoder.model.config._attn_implementation == "sdpa"


def test_packed_batches_that_score_otherwise_or_fail_are_not_used(monkeypatch, tiny_bert, caplog):
    wrong = Trial(monkeypatch, tiny_bert, seconds=(0.5, 0.5), packed_logits=lambda batch, real: real(batch) + 1.0)
    with caplog.at_level(logging.INFO):
        assert not wrong.backend._packs_faster()
    assert "packed scores differ by 1.0" in caplog.text
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]

    def broken(batch, real):
        raise RuntimeError("no kernel for this device")

    caplog.clear()
    failing = Trial(monkeypatch, tiny_bert, packed_logits=broken)
    with caplog.at_level(logging.INFO):
        assert not failing.backend._packs_faster()
    assert "the trial failed (no kernel for this device)" in caplog.text
    nothing = Trial(monkeypatch, tiny_bert, packed_logits=lambda batch, real: real(batch) * np.nan)
    assert "differ by nan" in nothing.backend._trial()
    for made in (wrong, failing, nothing):
        assert made.backend.cross_encoder.model.config._attn_implementation == "sdpa" != ATTENTION
        assert made.backend.logits(batch_of([9, 4], pad_id=0)).shape == (2,)
