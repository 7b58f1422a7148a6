"""What only a GPU can show: kernels, real lack of memory, speed. Skipped, with a reason, where there is none."""

import logging
import time

import numpy as np
import pytest
import torch

from fakes import CASES, batch_of, padded_logits, tiny_model
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.float32_head import keep_head_in_float32
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.backends.packed import PackedForm, why_not
from haystack_ce_ranker.backends.protocol import Batch
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.runner import LearntBatchSizes
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from small_tasks import make_task, save_learner

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU (CUDA)")

# How far scores may be from those of float32, as a share of the scores' range; random weights amplify rounding.
ALLOWED = {"float32": 0.002, "float16": 0.05, "bfloat16": 0.15}
WORDS = ["the", "a", "is", "of", "in", "brake", "hut", "snow", "car", "berlin", "paris", "city", "germany"]


def mixed_texts(count, *, longest, seed=0):
    rng = np.random.default_rng(seed)
    lengths = np.geomspace(4, longest, count).astype(int)
    return [" ".join(rng.choice(WORDS, length)) for length in rng.permutation(lengths)]


def close_to(expected, dtype):
    return pytest.approx(expected, abs=ALLOWED[dtype] * float(np.ptp(expected)))


def load(folder, dtype, attention=None):
    named = {} if attention is None else {"attn_implementation": attention}
    return loading.load("torch", ModelOptions(folder, device="cuda:0", dtype=dtype, model_kwargs=named))


def logits(backend, texts, **options):
    scores, stats = CrossEncoderScorer(backend, ReadingPolicy(long_documents="head"), **options).score("hut", texts)
    return np.array([document.logit for document in scores.documents]), stats


@pytest.fixture
def cpu_logits(tiny_bert):
    def score(texts):
        return logits(loading.load("torch", ModelOptions(tiny_bert, device="cpu")), texts)[0]

    return score


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_kernel_scores_as_padded_float32_does(case, dtype):
    family, values = CASES[case]
    model = tiny_model(family, **values)
    token_types = family in ("Bert", "Electra")
    batch = batch_of([100, 64, 33, 20, 20, 5, 3], pad_id=model.config.pad_token_id)
    expected = padded_logits(model, batch, token_types=token_types).numpy()
    model = model.to("cuda", getattr(torch, dtype))
    keep_head_in_float32(model)  # as the backend does: the mean that a head takes is in float32
    assert why_not(model) is None
    form = PackedForm(model, uses_token_types=token_types)
    inputs = {name: value.cuda() if hasattr(value, "cuda") else value for name, value in form.inputs(batch).items()}
    with torch.inference_mode():
        found = model(**inputs).logits[:, 0].float().cpu().numpy()
    assert found == close_to(expected, dtype)


@pytest.mark.parametrize("dtype", ALLOWED)
def test_scores_on_the_gpu_are_those_on_cpu(tiny_bert, cpu_logits, dtype):
    texts = mixed_texts(200, longest=110)
    found, stats = logits(load(tiny_bert, dtype), texts, batch_tokens=1024)
    assert found == close_to(cpu_logits(texts), dtype)
    assert stats.batches > 5


def test_batches_that_are_queued_come_back_in_their_order(tiny_bert):
    backend = load(tiny_bert, "float16")
    pairs = batch_of(range(60, 4, -1), pad_id=0).pairs
    waits = [backend.start(Batch(pairs[first : first + 8], 0)) for first in range(0, len(pairs), 8)]
    queued = np.concatenate([wait() for wait in waits])
    alone = np.concatenate([backend.logits(Batch([pair], 0)) for pair in pairs])
    assert queued == close_to(alone, "float16")


def test_real_lack_of_memory_makes_batches_smaller_and_loses_nothing(tiny_bert, cpu_logits):
    texts = mixed_texts(6000, longest=110)
    backend = load(tiny_bert, "float16")
    sizes = LearntBatchSizes()
    torch.cuda.empty_cache()
    room = torch.cuda.memory_allocated() + 20 * 2**20
    torch.cuda.set_per_process_memory_fraction(room / torch.cuda.get_device_properties(0).total_memory)
    try:
        found, stats = logits(backend, texts, batch_tokens=10**7, batch_sizes=sizes)
        learnt = dict(sizes._tokens)
        again, _ = logits(backend, texts, batch_tokens=10**7, batch_sizes=sizes)
        assert sizes._tokens == learnt != {}  # no second time
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert stats.pairs == len(set(texts))
    assert stats.batches > 1
    assert found == close_to(cpu_logits(texts), "float16")
    assert again == close_to(found, "float16")


@pytest.mark.integration
def test_every_form_scores_real_weights_alike_and_says_how_fast_it_is(models_dir, capsys, caplog):
    folder = str(models_dir / "ce-minilm-l12")
    texts = mixed_texts(2000, longest=480)
    found, pads = {}, {}
    for name, attention in (("padded", "sdpa"), ("packed", "packed"), ("chosen", None)):
        with caplog.at_level(logging.INFO):
            backend = load(folder, "float16", attention)
        pads[name] = backend.pads
        logits(backend, texts[:200])
        seconds = []
        for _ in range(3):
            started = time.perf_counter()
            found[name], stats = logits(backend, texts, cache_tokens=0)
            seconds.append(time.perf_counter() - started)
        with capsys.disabled():
            print(
                f"\n{name}: {len(texts) / min(seconds):.0f} pairs/s in float16 on {torch.cuda.get_device_name()}, "
                f"padding {stats.padding_share:.1%}, pads {backend.pads}"
            )
    # How fast each form is stands above for a reader; the benchmark holds it against the others.
    assert (pads["padded"], pads["packed"]) == (True, False)
    assert pads["chosen"] == ("faster, and used" not in caplog.text)
    assert "the trial failed" not in caplog.text
    for name in ("packed", "chosen"):
        assert found[name] == close_to(found["padded"], "float16")


def test_a_model_learns_on_the_gpu_and_says_what_it_took(tmp_path):
    pytest.importorskip("datasets")
    pytest.importorskip("codecarbon")
    from haystack_ce_ranker.training.fitting import Recipe, fit

    task, recipe = make_task(), Recipe(epochs=2, learning_rate=3e-3, batch=8)
    fitted = fit(save_learner(tmp_path / "base"), task.groups, task.dev, tmp_path / "run", recipe)
    assert fitted.used.device.startswith("cuda")
    assert fitted.best.ndcg > fitted.before + 0.1
    assert fitted.expected_memory_mb > 0
