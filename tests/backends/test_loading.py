"""The table of runtimes: loading by name, clear errors, and a runtime added in one line."""

import os
import subprocess
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch

from fakes import FakeBackend, scores_of
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.loading import BACKENDS, Runtime
from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions


def test_an_unknown_runtime_is_an_error(tiny_bert):
    with pytest.raises(ValueError, match="backend must be one of 'torch', .*, but got 'jax'"):
        loading.load("jax", ModelOptions(tiny_bert))


def test_every_runtime_of_the_table_offers_load():
    for runtime in BACKENDS.values():
        assert callable(import_module(runtime.module).load)


def test_a_runtime_is_added_by_one_line_of_the_table(monkeypatch, tmp_path):
    given = []
    module = SimpleNamespace(load=lambda options: given.append(options) or FakeBackend())
    monkeypatch.setitem(sys.modules, "somewhere.fake_backend", module)
    monkeypatch.setitem(BACKENDS, "fake", Runtime("somewhere.fake_backend", "numpy", "fake", "*.fake"))
    options = ModelOptions("anything", dtype="float32")
    assert len(set(scores_of(loading.load("fake", options)))) > 1
    assert given == [options]
    assert "fake" in loading.installed()
    with pytest.raises(ValueError, match="backend must be one of .*'fake', but got 'jax'"):
        loading.load("jax", options)
    (tmp_path / "model.fake").write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match=r"has only fake weights \(model.fake\) in .*: set backend='fake'"):
        loading.load("torch", ModelOptions(str(tmp_path)))


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
@pytest.mark.parametrize("name", ["torch", "onnx", "openvino", "auto"])
def test_a_dtype_in_model_kwargs_is_the_option_for_every_runtime(tiny_bert, float_onnx, name, key):
    openvino = pytest.importorskip("openvino")
    folder = float_onnx if name == "onnx" else tiny_bert
    for dtype in ("float32", "torch.float32", torch.float32):
        assert loading.load(name, ModelOptions(folder, model_kwargs={key: dtype}, device="cpu")).dtype == "float32"
    with pytest.raises(ValueError, match=rf"model_kwargs\['{key}'\] must be one of .*, but got 'float64'"):
        loading.load(name, ModelOptions(folder, model_kwargs={key: torch.float64}))
    with pytest.raises(ValueError, match=rf"dtype='auto' and model_kwargs\['{key}'\]='bfloat16' say the same thing"):
        loading.load(name, ModelOptions(folder, dtype="auto", model_kwargs={key: "bfloat16"}))
    if name == "onnx":
        with pytest.raises(ValueError, match="dtype='bfloat16' is not what .*model.onnx holds"):
            loading.load(name, ModelOptions(folder, model_kwargs={key: "bfloat16"}))
        return
    if name == "torch" or "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert (
            loading.load(name, ModelOptions(folder, model_kwargs={key: "bfloat16"}, device="cpu")).dtype == "bfloat16"
        )


def test_runtimes_whose_package_is_there_are_installed_and_a_choice_among_them_is_none(monkeypatch):
    monkeypatch.setattr(loading, "find_spec", lambda package: package in ("sentence_transformers", "openvino") or None)
    assert loading.installed() == ["torch", "openvino"]


@pytest.mark.parametrize(("name", "package"), [("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_missing_runtime_names_the_extra(monkeypatch, tiny_bert, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert name not in loading.installed()
    with pytest.raises(ImportError, match=rf"ce-ranker-haystack\[{name}\]"):
        loading.load(name, ModelOptions(tiny_bert))


@pytest.mark.parametrize(("name", "package"), [("torch", "torch"), ("onnx", "onnxruntime"), ("openvino", "openvino")])
def test_a_model_that_is_nowhere_names_what_was_tried(name, package):
    pytest.importorskip(package)
    with pytest.raises(ModelNotFoundError, match=r"no/such-model.*tried the folder .*hub"):
        loading.load(name, ModelOptions("no/such-model"))


FIRST_QUERY = """
import builtins, sys, time
from haystack import Document
from haystack_ce_ranker import CrossEncoderRanker

ranker = CrossEncoderRanker(model=sys.argv[1], backend=sys.argv[2], threads=2)
imported = builtins.__import__

def slow(name, *args, **kwargs):
    if name.partition(".")[0] == "numpy":
        time.sleep(0.05)  # another thread gets the GIL
    return imported(name, *args, **kwargs)

ranker.warm_up()
builtins.__import__ = slow
found = ranker.run("the hut", [Document(content=f"the hut {number}") for number in range(8)])
print(len(found["documents"]))
"""


@pytest.mark.parametrize("name", ["openvino", "onnx", "torch"])
def test_threads_that_meet_a_runtime_first_never_freeze_the_process(request, tiny_bert, name):
    """A native module that imports numpy at its first call can freeze all threads, so one thread calls it first."""
    pytest.importorskip(loading.BACKENDS[name].package)
    model = tiny_bert if name == "torch" else request.getfixturevalue({"openvino": "ir", "onnx": "float_onnx"}[name])
    done = subprocess.run(
        [sys.executable, "-c", FIRST_QUERY, model, name],
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,  # a frozen process would wait for ever
    )
    assert done.stdout.split() == ["8"], done.stderr
