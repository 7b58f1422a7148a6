"""Fixtures of the runtimes' tests: the tiny model as files of other runtimes."""

import shutil

import pytest

from haystack_ce_ranker.backends import loading, openvino_backend
from haystack_ce_ranker.backends.model_files import ModelOptions
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
