"""Fixtures of the runtimes' tests: the tiny model as files of other runtimes."""

import shutil
import threading

import pytest

from fake_servers import GUARD, Server
from haystack_ce_ranker.backends import loading, openvino_backend, server_client
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.backends.rerank_servers import FORMS
from haystack_ce_ranker.quantizing import writers


@pytest.fixture(scope="session")
def ir(tmp_path_factory, tiny_bert):
    """A folder with the tiny model as an OpenVINO file, in float32."""
    openvino = pytest.importorskip("openvino", reason="needs the extra 'openvino'")
    folder = tmp_path_factory.mktemp("openvino") / "tiny"
    shutil.copytree(tiny_bert, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    exact = loading.load("torch", ModelOptions(tiny_bert, dtype="float32", device="cpu"))
    openvino.save_model(openvino_backend.convert(exact), folder / "openvino_model.xml", compress_to_fp16=False)
    return str(folder)


@pytest.fixture(scope="session")
def float_onnx(tmp_path_factory, tiny_bert):
    """A folder with the tiny model as an ONNX file, in float32, and no torch checkpoint."""
    pytest.importorskip("onnx", reason="needs the extra 'onnx'")
    folder = tmp_path_factory.mktemp("onnx") / "tiny"
    shutil.copytree(tiny_bert, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    exact = loading.load("torch", ModelOptions(tiny_bert, model_kwargs={"attn_implementation": "eager"}, device="cpu"))
    writers.export(exact, folder / "model.onnx")
    return str(folder)


@pytest.fixture(scope="session")
def int8_onnx(tmp_path_factory, tiny_bert):
    """A folder with the tiny model as an int8 ONNX file, and no torch checkpoint."""
    pytest.importorskip("onnxruntime", reason="needs the extra 'onnx'")
    folder = tmp_path_factory.mktemp("int8") / "tiny"
    shutil.copytree(tiny_bert, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    exact = loading.load("torch", ModelOptions(tiny_bert, model_kwargs={"attn_implementation": "eager"}, device="cpu"))
    writers.write_onnx(exact, folder)
    return str(folder)


@pytest.fixture
def server():
    with Server() as one:
        thread = threading.Thread(target=one.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield one
        one.released.set()
        one.shutdown()
        thread.join(GUARD)


@pytest.fixture
def sleeps(monkeypatch):
    """The seconds of all waits before another attempt; nobody waits for them."""
    waited = []
    monkeypatch.setattr(server_client, "sleep", lambda unwanted, seconds: waited.append(seconds))
    return waited


@pytest.fixture
def connect(server, tiny_bert):
    """Connect to the server, with a tokenizer that is here."""

    def connected(api="vllm", *, key=None, **model_kwargs):
        if server.api != api:
            server.speak(api)
        kwargs = {"api": api, "tokenizer": tiny_bert, "retries": 2, **model_kwargs}
        if FORMS[api].names_model:
            kwargs.setdefault("served_model", "m")
        return loading.load("remote", ModelOptions(server.url, model_kwargs=kwargs, api_key=key))

    return connected


@pytest.fixture
def own_number():
    """A number of threads of torch for this process that no backend of the test asks for."""
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)
