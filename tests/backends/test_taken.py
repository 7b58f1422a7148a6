"""Options that a runtime does not use are refused, and those that it takes have their effect, on every runtime."""

import json
import logging
import shutil
from pathlib import Path

import pytest

from fakes import DOCUMENTS, scores_of
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.auto import choose
from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions

RUNTIMES = ("torch", "onnx", "openvino", "openvino, converted", "auto")


@pytest.fixture
def load(tiny_bert, float_onnx):
    """A function that loads the tiny model with a runtime, in the form that the runtime reads."""

    def loaded(name, **options):
        runtime = name.partition(",")[0]
        pytest.importorskip("openvino")
        folder = tiny_bert if name in ("torch", "openvino, converted", "auto") else float_onnx
        return loading.load(runtime, ModelOptions(folder, **{"device": "cpu", "threads": 1, **options}))

    return loaded


@pytest.mark.parametrize("name", RUNTIMES)
@pytest.mark.parametrize(
    ("parameter", "key", "value", "hint"),
    [
        ("model_kwargs", "file_nam", "model.onnx", ""),
        ("model_kwargs", "provider", "CPUExecutionProvider", "the parameter device chooses"),
        ("model_kwargs", "providers", ["CPUExecutionProvider"], "the parameter device chooses"),
        ("model_kwargs", "revision", "main", "the parameter revision says it"),
        ("model_kwargs", "token", "hf_x", "the parameter token says it"),
        ("model_kwargs", "trust_remote_code", True, "the parameter trust_remote_code says it"),
        ("tokenizer_kwargs", "max_length", 48, "transformers calls it model_max_length"),
        ("tokenizer_kwargs", "model_max_lenght", 48, "model_max_length, pad_token, .* are always read"),
        ("tokenizer_kwargs", "padding_side", "left", "batches are padded by the ranker"),
        ("tokenizer_kwargs", "truncation_side", "left", "pairs are cut to max_length"),
        ("tokenizer_kwargs", "cache_dir", "x", r"model_kwargs\['cache_dir'\] counts for all files"),
        ("config_kwargs", "clasifier_dropout", 0.1, ""),
        ("config_kwargs", "torch_dtype", "float16", "the parameter dtype says it|an exported model"),
        ("config_kwargs", "local_files_only", True, "counts for all files|an exported model"),
    ],
)
def test_what_has_no_effect_is_refused(load, name, parameter, key, value, hint):
    with pytest.raises(ValueError, match=rf"{parameter}\['{key}'\] would have no effect: .*(?:{hint})"):
        load(name, **{parameter: {key: value}})


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("onnx", "backend='onnx' takes file_name, cache_dir, force_download, local_files_only"),
        ("openvino", "takes file_name, export, ov_config, cache_dir, force_download, local_files_only"),
    ],
)
def test_several_names_are_refused_at_once_and_what_is_taken_is_listed(load, name, taken):
    both = r"model_kwargs\['file'\], model_kwargs\['provider'\] would have no effect"
    with pytest.raises(ValueError, match=f"{both}.*{taken}"):
        load(name, model_kwargs={"file": 1, "provider": 2})


@pytest.mark.parametrize("name", ["onnx", "openvino"])
@pytest.mark.parametrize("key", ["attn_implementation", "device_map"])
def test_what_only_torch_takes_is_refused_for_exported_weights(load, name, key):
    with pytest.raises(ValueError, match=rf"model_kwargs\['{key}'\] would have no effect: backend='{name}'"):
        load(name, model_kwargs={key: "eager"})


@pytest.mark.parametrize("name", RUNTIMES)
def test_options_of_the_tokenizer_have_their_effect(load, name):
    assert load(name, tokenizer_kwargs={"model_max_length": 48}).tokenizer.max_length == 48
    assert load(name, tokenizer_kwargs={"pad_token": "[UNK]"}).tokenizer.pad_id == 1
    assert load(name, tokenizer_kwargs={"use_fast": True}).tokenizer.pad_id == 0
    own = load(name, tokenizer_kwargs={"additional_special_tokens": ["hut"]})
    assert len(own.tokenizer.encode(["snowhut"])[0].ids) < len(load(name).tokenizer.encode(["snowhut"])[0].ids)
    with pytest.raises(ValueError, match=r"tokenizer_kwargs\['use_fast'\] must be True"):
        load(name, tokenizer_kwargs={"use_fast": False})


def test_a_configuration_of_exported_weights_changes_what_is_read_of_it(float_onnx, tmp_path):
    for name in ("onnx", "openvino"):
        pytest.importorskip("openvino")
        options = ModelOptions(float_onnx, device="cpu", config_kwargs={"max_position_embeddings": 64})
        assert loading.load(name, options).max_length == 64
    bare = shutil.copytree(float_onnx, tmp_path / "bare", ignore=shutil.ignore_patterns("config.json"))
    with pytest.raises(ValueError, match="has no config.json that it could change"):
        loading.load("onnx", ModelOptions(str(bare), config_kwargs={"max_position_embeddings": 64}))


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_a_configuration_of_a_checkpoint_takes_what_its_model_has(tiny_bert, name):
    pytest.importorskip(name)
    options = ModelOptions(tiny_bert, device="cpu", config_kwargs={"layer_norm_eps": 0.5})
    changed = scores_of(loading.load(name, options))
    assert changed != pytest.approx(scores_of(loading.load(name, ModelOptions(tiny_bert, device="cpu"))), abs=1e-3)
    with pytest.raises(ValueError, match=r"config_kwargs\['layer_norm'\] would .*BertConfig takes .*layer_norm_eps"):
        loading.load(name, ModelOptions(tiny_bert, config_kwargs={"layer_norm": 0.5}, device="cpu"))


@pytest.mark.parametrize(
    ("name", "device"), [("openvino", "cuda:0"), ("openvino", "mps"), ("onnx", "mps"), ("onnx", "xpu")]
)
def test_a_device_that_a_runtime_never_uses_is_refused_and_auto_says_what_it_takes(load, ir, name, device, caplog):
    with pytest.raises(ValueError, match=f"device='{device}' is none that backend='{name}' computes on.*'cpu'"):
        load(name, device=device)
    if name == "openvino":
        with caplog.at_level(logging.WARNING):
            found = loading.load("auto", ModelOptions(ir, device=device, dtype="float32"))
        assert (found.name, found.device) == ("openvino", "cpu")
        assert f"backend='auto' takes openvino, which computes on the CPU and not on {device}" in caplog.text


def test_where_no_device_is_named_every_runtime_takes_its_own(load):
    for name in RUNTIMES:
        assert load(name, device=None).device.partition(":")[0] in ("cpu", "cuda")


def test_openvino_converts_or_opens_as_export_says(tiny_bert, float_onnx):
    pytest.importorskip("openvino")
    with pytest.raises(
        ModelNotFoundError, match=r"no OpenVINO or ONNX file to open, and model_kwargs\['export'\] is Fal"
    ):
        loading.load("openvino", ModelOptions(tiny_bert, model_kwargs={"export": False}))
    assert loading.load("openvino", ModelOptions(float_onnx, model_kwargs={"export": False})).dtype == "float32"
    for wrong in ({"export": "yes"}, {"export": True, "file_name": "model.onnx"}):
        with pytest.raises(ValueError, match=r"model_kwargs\['export'\] must be True to convert"):
            loading.load("openvino", ModelOptions(float_onnx, model_kwargs=wrong))
    with pytest.raises(ValueError, match=r"model_kwargs\['ov_config'\] has 'NO_SUCH', which OpenVINO does not take"):
        loading.load("openvino", ModelOptions(float_onnx, model_kwargs={"ov_config": {"NO_SUCH": 1}}))


def test_auto_takes_the_runtime_that_uses_what_was_given(tiny_bert, float_onnx, int8_onnx):
    pytest.importorskip("openvino")
    for device in ("cpu", "cuda:0"):
        for kwargs in ({"export": True}, {"ov_config": {}}, {"file_name": "other.xml"}):
            assert choose(ModelOptions(tiny_bert, device=device, model_kwargs=kwargs)).backend == "openvino"
    named = {"file_name": "model.onnx"}
    assert choose(ModelOptions(float_onnx, device="cpu", model_kwargs=named)).backend == "openvino"
    assert choose(ModelOptions(int8_onnx, device="cpu", model_kwargs=named)).backend == "onnx"
    for folder in (float_onnx, "owner/name"):
        assert choose(ModelOptions(folder, device="cuda:0", model_kwargs=named)).backend == "onnx"


def test_downloads_go_where_they_are_asked_to_for_every_file(monkeypatch, tiny_bert, tmp_path):
    given = []

    class Refuses:
        def __init__(self, place, **options):
            given.append(options)
            raise OSError("safetensors")

    monkeypatch.setattr("sentence_transformers.CrossEncoder", Refuses)
    downloads = {"cache_dir": str(tmp_path), "local_files_only": True}
    with pytest.raises(OSError, match="safetensors"):
        loading.load("torch", ModelOptions(tiny_bert, model_kwargs=downloads))
    assert (given[0]["cache_folder"], given[0]["local_files_only"]) == (str(tmp_path), True)
    assert not {*downloads} & {*given[0]["model_kwargs"]}


def test_what_has_no_effect_in_the_tokenizer_of_one_model_has_it_in_another(load, tmp_path, float_onnx):
    for name in ("torch", "onnx"):
        with pytest.raises(ValueError, match=r"tokenizer_kwargs\['do_lower_case'\] would have no effect"):
            load(name, tokenizer_kwargs={"do_lower_case": True})
    folder = Path(shutil.copytree(float_onnx, tmp_path / "m"))
    described = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**described, "model_max_length": 32}), encoding="utf-8")
    shutil.copytree(folder, folder / "tokenizer", dirs_exist_ok=False, ignore=lambda *_: ["tokenizer"])
    (folder / "tokenizer_config.json").write_text(json.dumps(described), encoding="utf-8")
    options = ModelOptions(str(folder), device="cpu", tokenizer_kwargs={"subfolder": "tokenizer"})
    found = loading.load("onnx", options)
    assert found.tokenizer.max_length == 32
    assert len(scores_of(found)) == len(DOCUMENTS)
