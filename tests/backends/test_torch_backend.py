"""The torch runtime: equal to sentence-transformers, clear errors, and its number of threads."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder
from transformers import AutoModelForSequenceClassification

from fakes import CASES, DOCUMENTS, batch_of, padded_logits, save_bert, save_causal, scores_of, tiny_model
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.configuration import stores_quantised
from haystack_ce_ranker.backends.float32_head import keep_head_in_float32
from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions
from haystack_ce_ranker.backends.packed import PackedForm
from haystack_ce_ranker.backends.torch_backend import DTYPES, resolve_dtype
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from zoo import ZOO

THREE = ["the hut in the snow", "a car", "berlin is a city of germany. " * 3]


def test_torch_scores_equal_those_of_sentence_transformers(tiny_bert):
    expected = CrossEncoder(tiny_bert).predict(
        [("the hut", document) for document in DOCUMENTS], activation_fn=torch.nn.Identity()
    )
    assert np.ptp(expected) > 0.01
    backend = loading.load("torch", ModelOptions(tiny_bert, threads=1))
    assert scores_of(backend) == pytest.approx(expected, abs=1e-4)
    assert (backend.dtype, backend.device, backend.max_length) == ("float32", "cpu", 128)
    backend.free_memory()
    assert backend.is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    assert backend.is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert backend.is_out_of_memory(RuntimeError("CUDA error: out of memory"))
    assert backend.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory."))
    assert backend.is_out_of_memory(MemoryError())
    assert not backend.is_out_of_memory(RuntimeError("other"))
    assert not backend.is_out_of_memory(ValueError("out of memory"))


def test_a_saved_prompt_stands_before_the_query(tiny_bert, tmp_path):
    prompted = CrossEncoder(tiny_bert, prompts={"rank": "city "}, default_prompt_name="rank")
    prompted.save_pretrained(str(tmp_path / "prompted"))
    backend = loading.load("torch", ModelOptions(str(tmp_path / "prompted")))
    expected = prompted.predict([("the hut", text) for text in DOCUMENTS], activation_fn=torch.nn.Identity())
    assert backend.query_prompt == "city "
    assert scores_of(backend) == pytest.approx(expected, abs=1e-4)


def test_dtypes_by_name():
    assert resolve_dtype("bfloat16", "cpu") is torch.bfloat16
    assert resolve_dtype("auto", "cuda:0") is torch.float16
    assert resolve_dtype("auto", "cpu") in (torch.bfloat16, torch.float32)
    with pytest.raises(ValueError, match="dtype must be"):
        resolve_dtype("int4", None)


def test_low_precision_ranks_and_reports(tiny_bert):
    backend = loading.load("torch", ModelOptions(tiny_bert, dtype="bfloat16"))
    assert backend.dtype == "bfloat16"
    exact = scores_of(loading.load("torch", ModelOptions(tiny_bert)))
    assert np.corrcoef(scores_of(backend), exact)[0, 1] > 0.95
    assert scores_of(backend) == pytest.approx(exact, rel=0.2)


@pytest.fixture(scope="module")
def half_bert(tmp_path_factory):
    """A function that saves the tiny model in a dtype of two bytes, and returns the folder."""

    def save(dtype):
        folder = tmp_path_factory.mktemp("half") / str(dtype)
        model = AutoModelForSequenceClassification.from_pretrained(save_bert(folder))
        model.to(dtype).save_pretrained(folder)
        return str(folder)

    return save


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_a_checkpoint_of_two_bytes_computes_in_float32_by_default(half_bert, stored, name):
    pytest.importorskip(name)
    folder = half_bert(stored)
    exact = CrossEncoder(folder, model_kwargs={"dtype": "float32"})
    expected = exact.predict([("the hut", text) for text in DOCUMENTS], activation_fn=torch.nn.Identity())
    backend = loading.load(name, ModelOptions(folder, device="cpu"))
    assert backend.dtype == "float32"
    assert scores_of(backend) == pytest.approx(expected, abs=1e-4)


def test_a_quantised_checkpoint_keeps_its_own_dtypes(tmp_path):
    folder = Path(save_bert(tmp_path / "quantised"))
    options = ModelOptions(str(folder))
    assert not stores_quantised(str(folder), options)
    assert stores_quantised(str(folder), replace(options, model_kwargs={"quantization_config": {"bits": 8}}))
    described = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    described["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
    assert stores_quantised(str(folder), options)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", CASES)
def test_the_head_stays_in_float32_where_the_body_does_not(case, dtype):
    family, values = CASES[case]
    model = tiny_model(family, **values)
    batch = batch_of([100, 64, 33, 20, 20, 5, 3], pad_id=model.config.pad_token_id)
    token_types = family in ("Bert", "Electra")
    expected = padded_logits(model, batch, token_types=token_types)
    model.to(DTYPES[dtype])
    keep_head_in_float32(model)
    found = padded_logits(model, batch, token_types=token_types)
    assert found.dtype == torch.float32
    allowed = 0.15 * float(np.ptp(expected.numpy()))
    assert found.tolist() == pytest.approx(expected.tolist(), abs=allowed)
    form = PackedForm(model, uses_token_types=token_types)
    with torch.inference_mode():
        packed = model(**form.inputs(batch)).logits[:, 0]
    form.undo()
    assert packed.dtype == torch.float32
    assert packed.tolist() == pytest.approx(expected.tolist(), abs=allowed)
    kinds = {weight.dtype for name, weight in model.named_parameters() if not name.startswith(model.base_model_prefix)}
    assert kinds == {torch.float32}
    assert {weight.dtype for weight in model.base_model.embeddings.parameters()} == {DTYPES[dtype]}


@pytest.mark.parametrize("dtype", ["auto", "bfloat16", "float16"])
@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_near_equal_texts_do_not_tie_in_half_precision(tmp_path, name, dtype):
    pytest.importorskip(name)
    model = AutoModelForSequenceClassification.from_pretrained(save_bert(tmp_path))
    with torch.no_grad():
        model.classifier.bias.fill_(-60.0)  # next to -60, bfloat16 has steps of 0.25, and float16 of 0.03
        model.classifier.weight.mul_(0.01)
    model.save_pretrained(tmp_path)
    try:
        backend = loading.load(name, ModelOptions(str(tmp_path), dtype=dtype, device="cpu"))
    except ValueError as error:
        pytest.skip(str(error))
    texts = [f"the hut of berlin is in the city {number}" for number in range(30)]
    exact = scores_of(loading.load("torch", ModelOptions(str(tmp_path), device="cpu")), texts)
    assert len(set(scores_of(backend, texts))) >= 0.9 * len(set(exact)) > 20


def narrow(cross_encoder):
    """Move all scores, or the logits of both answers, far from zero, where half precision has wide steps."""
    last = cross_encoder[-1]
    with torch.no_grad():
        if hasattr(last, "true_token_id"):
            rows = cross_encoder.model.get_output_embeddings().weight
            rows[last.true_token_id] = 30 * rows[last.false_token_id] + 0.1 * rows[last.true_token_id]
            rows[last.false_token_id] *= 30
        else:
            last.linear.weight.mul_(0.01)
            last.linear.bias.fill_(-60.0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["modernbert, modular", "qwen2, modular, mean", "qwen3, chat", "qwen3, chat, tied"])
def test_near_equal_texts_do_not_tie_in_half_precision_whatever_the_head(tmp_path, name, dtype):
    cross_encoder = CrossEncoder(ZOO[name].save(tmp_path / "model"), device="cpu")
    narrow(cross_encoder)
    cross_encoder.save_pretrained(str(tmp_path / "narrow"))
    exact, half = (
        loading.load("torch", ModelOptions(str(tmp_path / "narrow"), dtype=one, device="cpu"))
        for one in ("float32", dtype)
    )
    texts = [f"the hut of berlin is in the snow {number}" for number in range(30)]
    expected, found = (scores_of(one, texts) for one in (exact, half))
    assert half.dtype == dtype
    assert len(set(found)) >= 0.9 * len(set(expected)) > 20


def test_torch_says_when_the_gpu_that_was_named_is_not_there(tiny_bert, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device must be one that torch can use here, but got 'cuda:0'"):
        loading.load("torch", ModelOptions(tiny_bert, device="cuda:0"))


@pytest.mark.parametrize("device", ["gpu", "GPU:0", ""])
def test_a_device_that_there_is_not_is_an_error_before_anything_is_loaded(tiny_bert, device):
    for place in (tiny_bert, "no/model"):
        with pytest.raises(ValueError, match=f"device must be one that torch can use here, but got '{device}'"):
            loading.load("torch", ModelOptions(place, device=device))


def test_a_model_with_two_labels_is_an_error(two_label_bert):
    with pytest.raises(ValueError, match="2 output labels"):
        loading.load("torch", ModelOptions(two_label_bert))


def test_pickled_weights_are_refused(tiny_bert):
    with pytest.raises(ValueError, match="use_safetensors"):
        loading.load("torch", ModelOptions(tiny_bert, model_kwargs={"use_safetensors": False}))


def test_a_folder_with_files_of_another_runtime_names_the_backend_that_reads_them(tmp_path):
    for place, file, expected in (
        ("onnx", "onnx/model.onnx", r"has only ONNX weights \(onnx/model.onnx\) in .*: set backend='onnx'"),
        ("openvino", "openvino_model.xml", r"has only OpenVINO weights \(openvino_model.xml\) .*backend='openvino'"),
    ):
        (tmp_path / place / file).parent.mkdir(parents=True)
        (tmp_path / place / file).write_bytes(b"")
        with pytest.raises(ModelNotFoundError, match=expected):
            loading.load("torch", ModelOptions(str(tmp_path / place)))


def test_a_causal_model_without_words_for_its_answer_is_an_error(tmp_path):
    model = save_causal(tmp_path)
    with pytest.raises(ValueError, match="one token for both"):
        loading.load("torch", ModelOptions(model))


def in_a_new_thread(call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def test_backends_with_other_numbers_of_threads_never_meet_and_leave_no_trace(tiny_bert, own_number):
    seen, running, most = {}, [], []
    lock = threading.Lock()

    def watch(model, threads):
        def before(*_):
            with lock:
                running.append(threads)
                most.append(len(running))
            seen.setdefault(threads, set()).add(torch.get_num_threads())
            time.sleep(0.002)  # long enough for another pass to begin, were it allowed to

        def after(*_):
            with lock:
                running.remove(threads)

        model.register_forward_pre_hook(before)
        model.register_forward_hook(after)

    scorers = []
    for threads in (1, 2, None):
        backend = loading.load("torch", ModelOptions(tiny_bert, device="cpu", threads=threads))
        watch(backend.cross_encoder.model, threads)
        scorers.append(CrossEncoderScorer(backend, batch_size=1))
    afterwards = []

    def ask(place):
        for _ in range(4):
            scorers[place % 3].score("the hut", THREE)
        afterwards.append(torch.get_num_threads())

    for _ in range(3):  # each time with threads that are new to torch
        threads = [threading.Thread(target=ask, args=(place,)) for place in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
    assert seen == {1: {1}, 2: {2}, None: {own_number}}
    assert set(most) == {1}
    assert set(afterwards) == {own_number}
    assert in_a_new_thread(torch.get_num_threads) == torch.get_num_threads() == own_number


def test_the_number_of_threads_is_restored_when_a_pass_fails(tiny_bert, own_number):
    backend = loading.load("torch", ModelOptions(tiny_bert, device="cpu", threads=1))

    def fail(*_):
        raise RuntimeError(f"with {torch.get_num_threads()} threads")

    backend.cross_encoder.model.register_forward_pre_hook(fail)
    with pytest.raises(RuntimeError, match="with 1 threads"):
        CrossEncoderScorer(backend).score("the hut", THREE)
    assert torch.get_num_threads() == own_number
    other = loading.load("torch", ModelOptions(tiny_bert, device="cpu", threads=2))
    assert None not in [d.logit for d in CrossEncoderScorer(other).score("the hut", THREE)[0].documents]
