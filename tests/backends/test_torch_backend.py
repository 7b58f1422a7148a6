"""The torch runtime: equal to sentence-transformers, clear errors, and its number of threads."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from fakes import DOCUMENTS, save_causal, scores_of
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions
from haystack_ce_ranker.backends.torch_backend import resolve_dtype
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer

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


def test_torch_says_when_the_gpu_that_was_named_is_not_there(tiny_bert, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device must be one that torch can use here, but got 'cuda:0'"):
        loading.load("torch", ModelOptions(tiny_bert, device="cuda:0"))


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


def test_a_causal_re_ranker_is_an_error(tmp_path):
    model = save_causal(tmp_path)
    with pytest.raises(ValueError, match=r"Transformer \+ LogitScore \(for example a causal re-ranker\)"):
        loading.load("torch", ModelOptions(model))


def in_a_new_thread(call):
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


@pytest.fixture
def own_number():
    """A number of threads for this process that none of the backends below has."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


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
