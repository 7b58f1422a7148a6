"""The choice of a runtime: each rule, on folders that hold what the rule asks for."""

import logging
import shutil
import sys
from pathlib import Path

import pytest
from haystack import Document

from fakes import DOCUMENTS
from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends import openvino_backend as runtime
from haystack_ce_ranker.backends.auto import choose
from haystack_ce_ranker.backends.model_files import ModelOptions

pytest.importorskip("openvino", reason="needs the extra 'openvino'")

CPU = {"device": "cpu"}


@pytest.fixture
def installed(monkeypatch):
    def only(*packages):  # beside torch; test_without_torch.py has the choice without it
        there = ("sentence_transformers", *packages)
        monkeypatch.setattr(loading, "find_spec", lambda package: package in there or None)

    only("openvino", "onnxruntime")
    return only


def test_another_device_than_a_cpu_takes_torch_where_there_is_a_checkpoint(
    installed, tiny_bert, ir, int8_onnx, float_onnx
):
    for device in ("cuda:0", "mps", "xpu"):
        for name in (tiny_bert, "owner/name"):
            chosen = choose(ModelOptions(name, device=device))
            assert (chosen.backend, chosen.dtype) == ("torch", "auto")
        assert choose(ModelOptions(ir, device=device)).backend == "openvino"
        for folder in (int8_onnx, float_onnx):
            assert choose(ModelOptions(folder, device=device)).backend == "onnx"
    installed("openvino")
    assert choose(ModelOptions(int8_onnx, device="cuda:0")).backend == "openvino"
    installed()
    assert choose(ModelOptions(ir, device="cuda:0")).backend == "torch"
    assert choose(ModelOptions(tiny_bert, device="cuda", dtype="float32")).dtype == "float32"


def test_without_a_device_the_machine_decides(installed, monkeypatch, tiny_bert):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose(ModelOptions(tiny_bert)).backend == "torch"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose(ModelOptions(tiny_bert)).backend == "openvino"


def test_a_checkpoint_takes_what_is_installed(installed, tiny_bert):
    for packages, expected in (
        (("openvino", "onnxruntime"), "openvino"),
        (("openvino",), "openvino"),
        (("onnxruntime",), "torch"),
        ((), "torch"),
    ):
        installed(*packages)
        assert choose(ModelOptions(tiny_bert, **CPU)).backend == expected
        assert choose(ModelOptions("owner/name", **CPU)).backend == expected


def test_a_file_takes_the_runtime_that_reads_it(installed, ir, int8_onnx, float_onnx):
    assert choose(ModelOptions(ir, **CPU)).backend == "openvino"
    assert choose(ModelOptions(int8_onnx, **CPU)).backend == "onnx"
    assert choose(ModelOptions(float_onnx, **CPU)).backend == "openvino"
    installed("onnxruntime")
    assert choose(ModelOptions(int8_onnx, **CPU)).backend == "onnx"
    assert choose(ModelOptions(float_onnx, **CPU)).backend == "onnx"
    installed("openvino")
    assert choose(ModelOptions(int8_onnx, **CPU)).backend == "openvino"


def test_a_folder_with_both_takes_the_int8_onnx_file_unless_a_dtype_is_asked_for(installed, ir, int8_onnx, tmp_path):
    folder = shutil.copytree(ir, tmp_path / "both")
    shutil.copy(Path(int8_onnx) / "model.onnx", folder)
    assert choose(ModelOptions(str(folder), **CPU)).backend == "onnx"
    assert choose(ModelOptions(str(folder), dtype="float32", **CPU)).backend == "openvino"
    installed("openvino")
    assert choose(ModelOptions(str(folder), **CPU)).backend == "openvino"


def test_what_is_hidden_from_imports_is_not_installed(monkeypatch, tiny_bert):
    assert choose(ModelOptions(tiny_bert, **CPU)).backend == "openvino"
    monkeypatch.setitem(sys.modules, "openvino", None)
    assert choose(ModelOptions(tiny_bert, **CPU)).backend == "torch"


def test_a_model_that_cannot_be_converted_runs_on_torch(tiny_bert, monkeypatch, caplog):
    def refuse(exact):
        raise runtime.ConversionError("no")

    monkeypatch.setattr(runtime, "convert", refuse)
    with caplog.at_level(logging.WARNING):
        found = loading.load("auto", ModelOptions(tiny_bert, **CPU))
    assert found.name == "torch"
    assert "backend='auto' takes torch: no" in caplog.text


def test_the_report_says_what_ran(tiny_bert, int8_onnx):
    documents = [Document(id=str(place), content=text) for place, text in enumerate(DOCUMENTS)]
    found = CrossEncoderRanker(model=tiny_bert, backend="auto", dtype="float32").run("the hut", documents)
    assert (found["report"]["backend"], found["report"]["dtype"]) == ("openvino", "float32")
    found = CrossEncoderRanker(model=int8_onnx, backend="auto").run("the hut", documents)
    assert (found["report"]["backend"], found["report"]["dtype"]) == ("onnx", "int8")
