"""The onnxruntime runtime: equal to torch, threads that are shared, the GPU where there is one, clear errors."""

import logging
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification

from fakes import DOCUMENTS, save_bert, scores_of
from haystack_ce_ranker.backends import loading, onnx_backend
from haystack_ce_ranker.backends.configuration import pairs_beside
from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions
from haystack_ce_ranker.backends.onnx_backend import (
    CPU_ONLY,
    CUDA,
    CUDA_BATCH_TOKENS,
    SLOW_ON_CPU,
    OnnxBackend,
    _providers,
)
from haystack_ce_ranker.backends.signature import Port, Signature
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from onnx_models import save_operator


@pytest.fixture(scope="module")
def onnx_bert(tmp_path_factory, tiny_bert):
    pytest.importorskip("onnx", reason="needs the extra 'onnx'")
    folder = Path(save_bert(tmp_path_factory.mktemp("onnx") / "tiny"))
    model = AutoModelForSequenceClassification.from_pretrained(tiny_bert).eval()

    class Logits(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.model(input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits

    names = ["input_ids", "attention_mask", "token_type_ids"]
    example = tuple(torch.ones(2, 8, dtype=torch.long) for _ in names)
    axes = {name: {0: "batch", 1: "length"} for name in names}
    torch.onnx.export(
        Logits(),
        example,
        str(folder / "model.onnx"),
        input_names=names,
        output_names=["logits"],
        dynamic_axes={**axes, "logits": {0: "batch"}},
        dynamo=False,
    )
    return str(folder)


def test_onnx_scores_equal_those_of_torch(tiny_bert, onnx_bert):
    backend = loading.load("onnx", ModelOptions(onnx_bert, threads=1))
    assert scores_of(backend) == pytest.approx(scores_of(loading.load("torch", ModelOptions(tiny_bert))), abs=1e-4)
    assert (backend.dtype, backend.device) == ("float32", "cpu")
    assert backend.is_out_of_memory(RuntimeError("Failed to allocate memory for requested buffer"))
    backend.free_memory()


def test_on_cpu_an_onnx_score_does_not_depend_on_the_batch(onnx_bert):
    backend = loading.load("onnx", ModelOptions(onnx_bert, threads=2))
    assert (backend.pads, backend.batch_tokens) == (False, 2048)
    expected = [scores_of(backend, [document])[0] for document in DOCUMENTS]
    assert scores_of(backend, DOCUMENTS) == expected
    _, stats = CrossEncoderScorer(backend).score("the hut", DOCUMENTS)
    assert stats.padding_share == 0.0


def test_on_cpu_requests_share_the_threads_of_an_onnx_model(monkeypatch, onnx_bert):
    backend = loading.load("onnx", ModelOptions(onnx_bert, device="cpu", threads=2))
    other = loading.load("onnx", ModelOptions(onnx_bert, device="cpu", threads=1))
    assert backend._session.get_session_options().intra_op_num_threads == 1
    changed = threading.Condition()
    most = {}

    def watch(one, name, threads):
        running, run = [], one._run

        def watched(batch):
            with changed:
                running.append(batch)
                most[name] = max(most.get(name, 0), len(running))
                changed.notify_all()
                # The first pair waits until as many run at once as may, and each leaves time for one too many.
                changed.wait_for(lambda: most[name] >= threads, timeout=60)
            try:
                time.sleep(0.002)
                return run(batch)
            finally:
                with changed:
                    running.pop()

        monkeypatch.setattr(one, "_run", watched)

    watch(backend, "two", 2)
    watch(other, "one", 1)
    expected = scores_of(backend)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(scores_of, [backend, other] * 6))
    assert found == [expected] * 12
    assert most == {"two": 2, "one": 1}


class OnGpu:
    """A session of onnxruntime as it would be on the second GPU; notes how many passes are under way at once."""

    def __init__(self, session):
        self._session = session
        self.under_way, self.most = 0, 0
        self._lock = threading.Lock()

    def get_providers(self):
        return [CUDA, "CPUExecutionProvider"]

    def get_provider_options(self):
        return {CUDA: {"device_id": "1"}, "CPUExecutionProvider": {}}

    def get_inputs(self):
        return self._session.get_inputs()

    def run(self, names, feed):
        with self._lock:
            self.under_way += 1
            self.most = max(self.most, self.under_way)
        time.sleep(0.01)
        found = self._session.run(names, feed)
        with self._lock:
            self.under_way -= 1
        return found


def test_on_a_gpu_onnx_runs_padded_batches_one_at_a_time(onnx_bert, tiny_bert):
    on_cpu = loading.load("onnx", ModelOptions(onnx_bert, device="cpu", threads=1))
    session = OnGpu(on_cpu._session)
    pairs = pairs_beside(Path(tiny_bert), ModelOptions(tiny_bert))
    models = [OnnxBackend(session, on_cpu._signature, pairs, None, dtype="float32", threads=None) for _ in range(2)]
    assert [(one.device, one.pads, one.batch_tokens) for one in models] == [("cuda:1", True, CUDA_BATCH_TOKENS)] * 2
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda number: scores_of(models[number % 2]), range(6)))
    assert session.most == 1
    assert found[0] == pytest.approx(scores_of(on_cpu), abs=1e-5)


class Unmasked(OnGpu):
    """The same with a model whose scores padding moves."""

    def run(self, names, feed):
        [logits] = super().run(names, feed)
        return [logits + 1 - feed["attention_mask"].mean(axis=1, keepdims=True)]


def test_on_a_gpu_pairs_of_different_lengths_run_together_unless_padding_moves_their_scores(onnx_bert, tiny_bert):
    on_cpu = loading.load("onnx", ModelOptions(onnx_bert, device="cpu", threads=1))
    pairs = pairs_beside(Path(tiny_bert), ModelOptions(tiny_bert))

    def loaded(session):
        return OnnxBackend(session, on_cpu._signature, pairs, None, dtype="float32", threads=None)

    assert on_cpu.mixes_lengths
    assert loaded(OnGpu(on_cpu._session)).mixes_lengths
    assert not loaded(Unmasked(on_cpu._session)).mixes_lengths


def test_a_model_for_one_pair_is_refused_on_a_gpu(onnx_bert, tiny_bert):
    on_cpu = loading.load("onnx", ModelOptions(onnx_bert, device="cpu", threads=1))
    shape = [Port("input_ids", "int64", (1, None))], [Port("logits", "float32", (1, 1))]
    with pytest.raises(ValueError, match="takes one pair at a time, which is slow on a GPU"):
        OnnxBackend(
            OnGpu(on_cpu._session),
            Signature(*shape, None, "m"),
            pairs_beside(Path(tiny_bert), ModelOptions(tiny_bert)),
            None,
            dtype="float32",
            threads=1,
        )


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (None, [(CUDA, {"device_id": 0}), *CPU_ONLY]),
        ("cuda", [(CUDA, {"device_id": 0}), *CPU_ONLY]),
        ("cuda:2", [(CUDA, {"device_id": 2}), *CPU_ONLY]),
        ("cpu", CPU_ONLY),
    ],
)
def test_onnx_takes_the_gpu_that_was_named(device, expected):
    assert _providers(device, [CUDA, *CPU_ONLY], "float32") == expected
    assert _providers(device, CPU_ONLY, "float32") == CPU_ONLY
    assert _providers(device, [CUDA, *CPU_ONLY], "int8") == CPU_ONLY


def test_onnx_says_when_it_cannot_use_the_gpu_that_was_asked_for(onnx_bert, caplog):
    with caplog.at_level(logging.WARNING):
        assert loading.load("onnx", ModelOptions(onnx_bert, device="cuda:0", threads=1)).device == "cpu"
    assert "runs on the CPU and not on cuda:0: this onnxruntime is built without CUDA" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        loading.load("onnx", ModelOptions(onnx_bert, threads=1))
        loading.load("onnx", ModelOptions(onnx_bert, device="cpu", threads=1))
    assert caplog.text == ""


def test_onnx_opens_a_session_for_the_cpu_where_cuda_does_not_start(onnx_bert, monkeypatch, caplog):
    import onnxruntime

    opened = []
    start = onnxruntime.InferenceSession

    def session(file, settings, *, providers, disabled_optimizers):
        opened.append((providers, disabled_optimizers))
        return start(file, settings, providers=CPU_ONLY, disabled_optimizers=disabled_optimizers)

    monkeypatch.setattr(onnxruntime, "InferenceSession", session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, *CPU_ONLY])
    with caplog.at_level(logging.WARNING):
        found = loading.load("onnx", ModelOptions(onnx_bert, device="cuda:1", threads=1))
    assert opened == [([(CUDA, {"device_id": 1}), *CPU_ONLY], []), (CPU_ONLY, SLOW_ON_CPU)]
    assert found.device == "cpu"
    assert "CUDA did not start" in caplog.text


@pytest.mark.parametrize(
    "words", ["Failed to allocate memory for a buffer", "CUDA failure 2: out of memory", "CUBLAS_STATUS_ALLOC_FAILED"]
)
def test_onnx_knows_the_words_for_a_lack_of_memory(words):
    assert OnnxBackend.is_out_of_memory(None, RuntimeError(words))
    assert OnnxBackend.is_out_of_memory(None, MemoryError())
    assert not OnnxBackend.is_out_of_memory(None, RuntimeError("invalid input"))


def unknown():
    raise RuntimeError("no information")


@pytest.mark.parametrize(
    ("features", "asked"),
    [
        (dict, True),
        (lambda: {"avx512vnni": False, "avxvnni": False}, True),
        (lambda: {"avx512vnni": True}, False),
        (lambda: {"avxvnni": True}, False),
        (unknown, True),
    ],
)
def test_onnx_asks_for_exact_int8_products_where_the_processor_does_not_give_them(
    onnx_bert, monkeypatch, features, asked
):
    monkeypatch.setattr(onnx_backend.binding, "get_host_cpu_features", features)
    options = loading.load("onnx", ModelOptions(onnx_bert, threads=1))._session.get_session_options()
    with nullcontext() if asked else pytest.raises(RuntimeError):
        assert options.get_session_config_entry("session.x64quantprecision") == "1"


@pytest.mark.skipif(not hasattr(torch.cpu, "get_capabilities"), reason="needs a torch that tells")
def test_the_processor_is_said_to_have_what_torch_says_that_it_has():
    told = torch.cpu.get_capabilities()
    assert onnx_backend._has_exact_int8() == bool(told.get("avx512_vnni") or told.get("avx_vnni"))


def test_int8_scores_are_those_of_exact_products_on_any_processor(onnx_bert, tmp_path, monkeypatch):
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder = tmp_path / "int8"
    shutil.copytree(onnx_bert, folder)
    quantize_dynamic(Path(onnx_bert) / "model.onnx", folder / "model.onnx", weight_type=QuantType.QInt8)
    found = scores_of(loading.load("onnx", ModelOptions(str(folder), threads=1)))
    monkeypatch.setattr(onnx_backend.binding, "get_host_cpu_features", dict)
    exact = loading.load("onnx", ModelOptions(str(folder), threads=1))
    assert exact.dtype == "int8"
    assert found == scores_of(exact)


def test_onnx_computes_in_what_the_file_holds_and_refuses_another_dtype(onnx_bert, tmp_path):
    for dtype in (None, "auto", "float32"):
        assert loading.load("onnx", ModelOptions(onnx_bert, dtype=dtype)).dtype == "float32"
    with pytest.raises(ValueError, match=r"dtype='bfloat16' is not what .*model.onnx holds, which is float32"):
        loading.load("onnx", ModelOptions(onnx_bert, dtype="bfloat16"))
    for operator, number, stored in (
        ("MatMulInteger", np.int8, "int8"),
        ("DequantizeLinear", np.int8, "int8"),
        ("MatMul", np.float16, "float16"),
    ):
        save_operator(tmp_path / "model.onnx", operator, number)
        with pytest.raises(ValueError, match=f"dtype='float32' is not what .*model.onnx holds, which is {stored}"):
            loading.load("onnx", ModelOptions(str(tmp_path), dtype="float32"))


def test_an_onnx_file_can_be_named_with_and_without_its_folder(onnx_bert, tmp_path):
    shutil.copytree(onnx_bert, tmp_path / "named", ignore=shutil.ignore_patterns("*.onnx"))
    (tmp_path / "named" / "onnx").mkdir()
    shutil.copy(Path(onnx_bert) / "model.onnx", tmp_path / "named" / "onnx" / "other.onnx")
    for name in ("other.onnx", "onnx/other.onnx"):
        backend = loading.load("onnx", ModelOptions(str(tmp_path / "named"), model_kwargs={"file_name": name}))
        assert backend.dtype == "float32"


def test_a_folder_without_an_onnx_file_is_an_error(tiny_bert):
    with pytest.raises(ModelNotFoundError, match=r"none of model.onnx"):
        loading.load("onnx", ModelOptions(tiny_bert))
