"""What a pipeline's YAML can make a component do: nothing but what its parameters are for."""

import inspect
import json
import logging
import shutil

import pytest
from haystack.document_stores.in_memory import InMemoryDocumentStore

from fakes import import_torch
from haystack_ce_ranker import BM25Retriever, CrossEncoderRanker, HybridScoreJoiner
from haystack_ce_ranker.backends import loading, trusted
from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions
from haystack_integrations.components.routers.ce_ranker import RerankGate

STORE = InMemoryDocumentStore().to_dict()
NEEDED = {
    BM25Retriever: {"document_store": STORE},
    CrossEncoderRanker: {"model": "m"},
    HybridScoreJoiner: {"weights": {"a": 1.0}},
    RerankGate: {"threshold": 0.5},
}
OBJECTS = ("haystack.components.writers.document_writer.DocumentWriter", "subprocess.Popen", "tests.absent.Thing")


def made(kind, **parameters):
    name = f"{kind.__module__}.{kind.__qualname__}"
    return kind.from_dict({"type": name, "init_parameters": {**NEEDED[kind], **parameters}})


def parameters_of(kind):
    return [name for name in inspect.signature(kind.__init__).parameters if name != "self"]


@pytest.fixture
def nothing_is_imported(monkeypatch):
    """Fail the test if Haystack is asked for the class that a text names."""

    def refused(name, *_, **__):
        raise AssertionError(f"{name} was asked for")

    for place in ("serialization.import_class_by_name", "serialization._import_class_by_name"):
        monkeypatch.setattr(f"haystack.core.{place}", refused, raising=False)


@pytest.mark.parametrize("kind", NEEDED, ids=lambda kind: kind.__name__)
def test_no_parameter_but_the_store_names_a_class(nothing_is_imported, kind):
    for name in {*parameters_of(kind), "no_such_parameter"} - {"document_store"}:
        for thing in OBJECTS:
            with pytest.raises(ValueError, match=f"{name} must hold plain values, but names the class '{thing}'"):
                made(kind, **{name: {"type": thing, "init_parameters": {}}})


@pytest.mark.parametrize(
    "thing",
    [
        "haystack.components.writers.document_writer.DocumentWriter",
        "haystack.dataclasses.document.Document",
        "haystack.core.pipeline.pipeline.Pipeline",
        "haystack.core.serialization.default_from_dict",
    ],
)
def test_a_store_is_not_created_unless_its_class_is_one(monkeypatch, thing):
    monkeypatch.setattr("haystack.core.serialization.default_from_dict", None)  # nothing may be created
    with pytest.raises(ValueError, match=f"document_store must be a Haystack document store, but names '{thing}'"):
        made(BM25Retriever, document_store={"type": thing, "init_parameters": {}})


@pytest.mark.parametrize("kind", NEEDED, ids=lambda kind: kind.__name__)
def test_an_alias_that_holds_itself_or_many_others_ends_in_an_error(kind):
    endless: dict = {}
    endless["again"] = [endless]
    many: object = "ha"
    for _ in range(12):
        many = [many] * 10
    deep: object = 1
    for _ in range(500):
        deep = {"a": deep}
    name = parameters_of(kind)[-1]
    for value in (endless, {"a": many}, deep):
        with pytest.raises(ValueError, match=f"{name} must hold at most 100,000 values, 100 levels deep"):
            made(kind, **{name: value})


@pytest.mark.parametrize("backend", ["torch", "onnx", "openvino", "auto"])
@pytest.mark.parametrize(
    ("parameter", "key", "value"),
    [
        ("model_kwargs", "attn_implementation", "kernels-community/flash-attn"),
        ("model_kwargs", "attn_implementation", {"": "somebody/kernel@main:f"}),
        ("model_kwargs", "experts_implementation", "somebody/kernel"),
        ("config_kwargs", "attn_implementation", "somebody/kernel"),
        ("config_kwargs", "_attn_implementation", "somebody/kernel"),
        ("model_kwargs", "use_kernels", True),
        ("model_kwargs", "allow_all_kernels", True),
        ("model_kwargs", "kernel_config", {"a": "b"}),
    ],
)
def test_code_from_the_hub_is_refused_before_anything_is_loaded(backend, parameter, key, value):
    with pytest.raises(ValueError, match=rf"{parameter}\['{key}'\] is .* trust_remote_code=True if you trust that"):
        loading.load(backend, ModelOptions("/absent", **{parameter: {key: value}}))
    if backend == "torch":
        import_torch()
    elif backend != "auto":
        pytest.importorskip(backend if backend == "openvino" else "onnxruntime", reason=f"needs the extra '{backend}'")
    with pytest.raises((OSError, ValueError), match="was not found|would have no effect"):
        loading.load(backend, ModelOptions("/absent", trust_remote_code=True, **{parameter: {key: value}}))


@pytest.mark.parametrize("key", ["file_name", "subfolder", "variant"])
@pytest.mark.parametrize("value", ["../model.onnx", "/etc/model.onnx", "a/../../b.onnx", "..\\b.onnx", "C:\\b.onnx"])
def test_no_option_leads_out_of_the_model(key, value):
    with pytest.raises(ValueError, match=rf"model_kwargs\['{key}'\] must be a path inside the model's own folder"):
        loading.load("onnx", ModelOptions("/absent", model_kwargs={key: value}))


def test_trusting_a_models_code_is_reported_and_warned_of_once(tiny_bert, caplog):
    trusted._warn.cache_clear()
    reports = []
    with caplog.at_level(logging.WARNING):
        for trust in (True, True, False):
            ranker = CrossEncoderRanker(model=tiny_bert, trust_remote_code=trust)
            reports.append(ranker.run(query="a", documents=[])["report"]["trust_remote_code"])
            ranker.close()
    assert reports == [True, True, False]
    told = [record.getMessage() for record in caplog.records if "trust_remote_code" in record.getMessage()]
    assert len(told) == 1
    assert tiny_bert in told[0]


CODE = """
from pathlib import Path
Path(__file__).with_name("ran").touch()
Path({mark!r}).touch()
from transformers import BertConfig as OwnConfig, BertForSequenceClassification as OwnModel
"""


@pytest.fixture
def with_code(tiny_bert, tmp_path):
    """A model whose configuration names code of its own, and the file that this code would make."""
    folder, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(tiny_bert, folder)
    (folder / "own.py").write_text(CODE.format(mark=str(mark)), encoding="utf-8")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config |= {"model_type": "a_type_of_its_own", "architectures": ["OwnModel"]}
    config["auto_map"] = {"AutoConfig": "own.OwnConfig", "AutoModelForSequenceClassification": "own.OwnModel"}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder, mark


def test_code_that_a_model_brings_does_not_run(with_code, monkeypatch, tmp_path):
    folder, mark = with_code
    with pytest.raises((ValueError, OSError)):
        loading.load("torch", ModelOptions(str(folder)))
    assert not mark.exists()
    with pytest.raises((ValueError, OSError)):  # nor does a configuration from the YAML bring it
        loading.load("torch", ModelOptions(str(folder), config_kwargs={"trust_remote_code": True}))
    assert not mark.exists()


def test_a_module_of_a_stack_runs_no_code_and_has_no_pickled_weights(tiny_bert, tmp_path):
    folder = tmp_path / "stack"
    shutil.copytree(tiny_bert, folder)
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.base.modules.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Own", "type": "subprocess.Popen"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    (folder / "1_Own").mkdir()
    (folder / "config_sentence_transformers.json").write_text('{"model_type": "CrossEncoder"}', encoding="utf-8")
    with pytest.raises((ValueError, OSError, ImportError), match=r"subprocess\.Popen|trust_remote_code"):
        loading.load("torch", ModelOptions(str(folder)))
    (folder / "1_Own" / "pytorch_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ModelNotFoundError, match=r"only pickled weights in .*1_Own/pytorch_model\.bin, which are not"):
        loading.load("torch", ModelOptions(str(folder)))
    (folder / "modules.json").unlink()
    (folder / "adapter_model.bin").write_bytes(b"a pickle")
    with pytest.raises(ModelNotFoundError, match=r"only pickled weights in .*adapter_model\.bin"):
        loading.load("torch", ModelOptions(str(folder)))
