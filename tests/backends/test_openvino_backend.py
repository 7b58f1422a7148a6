"""The OpenVINO runtime: equal to torch, safe from several threads, clear errors."""

import logging
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from haystack import Document, Pipeline

from fakes import DOCUMENTS, bert_tokenizer, save_causal, scores_of
from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends import openvino_backend as runtime
from haystack_ce_ranker.backends.devices import allowed_cpus
from haystack_ce_ranker.backends.exported import stored_dtype
from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions
from haystack_ce_ranker.quantizing import writers
from haystack_ce_ranker.quantizing.sample_texts import QUERIES, TEXTS
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer

openvino = pytest.importorskip("openvino", reason="needs the extra 'openvino'")

CPU = {"device": "cpu"}


def save(folder, model, tokenizer):
    model.eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def small_config(kind, tokenizer, **settings):
    return kind(
        vocab_size=len(tokenizer),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=1,
        initializer_range=0.4,
        pad_token_id=0,
        **settings,
    )


def save_kind(kind, folder):
    """Save a tiny cross-encoder of another architecture than BERT; its weights are always the same."""
    import torch
    import transformers

    torch.manual_seed(0)
    tokenizer = bert_tokenizer()
    if kind != "Bert":
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    config = getattr(transformers, f"{kind}Config")
    if kind == "DistilBert":
        made = config(
            vocab_size=len(tokenizer), dim=32, hidden_dim=64, n_layers=2, n_heads=2, num_labels=1, initializer_range=0.4
        )
    elif kind == "ModernBert":
        made = small_config(config, tokenizer, max_position_embeddings=128, cls_token_id=2, sep_token_id=3)
    else:
        made = small_config(config, tokenizer, max_position_embeddings=130)
    return save(folder, getattr(transformers, f"{kind}ForSequenceClassification")(made), tokenizer)


@pytest.fixture(scope="module")
def loaded(ir):
    return loading.load("openvino", ModelOptions(ir, threads=2, **CPU))


@pytest.mark.parametrize("kind", ["Bert", "Roberta", "DistilBert", "Electra", "ModernBert"])
def test_a_converted_checkpoint_scores_as_torch_does(kind, tmp_path):
    model = save_kind(kind, tmp_path / kind)
    exact, ours = (loading.load(name, ModelOptions(model, threads=2, **CPU)) for name in ("torch", "openvino"))
    expected = scores_of(exact)
    assert np.ptp(expected) > 0.005
    assert scores_of(ours) == pytest.approx(expected, abs=1e-4)
    assert (ours.name, ours.dtype, ours.device, ours.pads) == ("openvino", "float32", "cpu", False)
    assert ours.max_length == exact.max_length
    assert ("token_type_ids" in ours._signature.inputs) == exact.tokenizer.uses_token_types


def test_an_openvino_and_an_onnx_file_score_as_torch_does(tiny_bert, ir, float_onnx):
    expected = scores_of(loading.load("torch", ModelOptions(tiny_bert, **CPU)))
    for folder in (ir, float_onnx):
        ours = loading.load("openvino", ModelOptions(folder, threads=1, **CPU))
        assert scores_of(ours) == pytest.approx(expected, abs=1e-4)
        assert (ours.dtype, ours.max_length, ours.batch_tokens) == ("float32", 128, 1024)


@pytest.mark.parametrize("dtype", [None, "auto"])
def test_a_score_does_not_depend_on_its_neighbours(ir, dtype):
    ours = loading.load("openvino", ModelOptions(ir, dtype=dtype, threads=2, **CPU))
    assert scores_of(ours) == [scores_of(ours, [document])[0] for document in DOCUMENTS]
    _, stats = CrossEncoderScorer(ours).score("the hut", DOCUMENTS)
    assert stats.padding_share == 0.0


def test_requests_at_the_same_time_get_their_own_scores(loaded):
    queries = ["the hut", "a car", "berlin", "snow in the city"]
    expected = {query: scores_of(loaded, query=query) for query in queries}
    assert len({tuple(found) for found in expected.values()}) == len(queries)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda query: (query, scores_of(loaded, query=query)), queries * 10))
    assert all(scores == expected[query] for query, scores in found)


def test_requests_share_the_threads_that_were_asked_for(ir):
    ours = loading.load("openvino", ModelOptions(ir, threads=3, **CPU))
    assert (ours._requests.qsize(), ours._one_by_one.threads, ours.batch_tokens) == (3, 3, 3072)
    scores_of(ours)
    assert ours._requests.qsize() == 3
    everything = loading.load("openvino", ModelOptions(ir, **CPU))
    assert everything._one_by_one.threads == allowed_cpus()


def test_an_infer_request_comes_back_after_an_error(ir, monkeypatch):
    ours = loading.load("openvino", ModelOptions(ir, threads=1, **CPU))
    monkeypatch.setattr(ours._signature, "logits", lambda output, pairs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        scores_of(ours)
    ours._one_by_one.map(int, ["0"])  # waits for the other pairs
    assert ours._requests.qsize() == 1


def test_dtype_is_what_the_processor_computes_in(ir, tiny_bert, monkeypatch):
    exact = scores_of(loading.load("torch", ModelOptions(tiny_bert, **CPU)))
    able = "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    for folder in (ir, tiny_bert):
        ours = loading.load("openvino", ModelOptions(folder, dtype="auto", **CPU))
        assert ours.dtype == ("bfloat16" if able else "float32")
        assert scores_of(ours) == pytest.approx(exact, rel=0.2, abs=0.1)
    assert loading.load("openvino", ModelOptions(ir, dtype="float32", **CPU)).dtype == "float32"

    class Old:
        def get_property(self, device, name):
            return ["FP32", "INT8"]

    assert runtime._resolve_dtype("auto", "float32", Old(), None) == "float32"
    for dtype in ("bfloat16", "float16"):
        with pytest.raises(ValueError, match=f"dtype='{dtype}' is not what this CPU computes in"):
            runtime._resolve_dtype(dtype, "float32", Old(), None)
    with pytest.raises(ValueError, match="dtype must be one of 'auto', 'float32', 'float16', 'bfloat16' or None"):
        loading.load("openvino", ModelOptions(ir, dtype="int8", **CPU))


def test_an_int8_file_is_loaded_as_such_and_in_nothing_else(tiny_bert, tmp_path):
    pytest.importorskip("nncf", reason="needs the extra 'openvino'")
    exact = loading.load("torch", ModelOptions(tiny_bert, **CPU))
    shutil.copytree(tiny_bert, tmp_path / "int8", ignore=shutil.ignore_patterns("*.safetensors"))
    writers.write_openvino(exact, tmp_path / "int8")
    model = str(tmp_path / "int8")
    assert stored_dtype(tmp_path / "int8" / "openvino_model.xml") == "int8"
    for dtype in (None, "auto"):
        ours = loading.load("openvino", ModelOptions(model, dtype=dtype, **CPU))
        assert ours.dtype == "int8"
        assert np.corrcoef(scores_of(ours), scores_of(exact))[0, 1] > 0.95
    with pytest.raises(ValueError, match=r"dtype='float32' is not what .*openvino_model.xml holds, which is int8"):
        loading.load("openvino", ModelOptions(model, dtype="float32", **CPU))


def test_properties_of_openvino_can_be_given_and_are_reported(ir, tiny_bert):
    if "BF16" not in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16")
    for folder in (ir, tiny_bert):
        kwargs = {"ov_config": {"INFERENCE_PRECISION_HINT": "bf16"}}
        ours = loading.load("openvino", ModelOptions(folder, model_kwargs=kwargs, **CPU))
        assert ours.dtype == "bfloat16"


def test_the_file_to_open_can_be_named(ir, tiny_bert, tmp_path, monkeypatch):
    both = tmp_path / "both"
    shutil.copytree(tiny_bert, both)
    (both / "openvino").mkdir()
    for kind in ("xml", "bin"):
        shutil.copy(Path(ir) / f"openvino_model.{kind}", both / "openvino" / f"other.{kind}")
    expected = scores_of(loading.load("torch", ModelOptions(tiny_bert, **CPU)))
    monkeypatch.setattr(runtime, "_load_converted", lambda core, options: pytest.fail("converted"))
    for name in ("other.xml", "openvino/other.xml"):
        ours = loading.load("openvino", ModelOptions(str(both), model_kwargs={"file_name": name}, **CPU))
        assert scores_of(ours) == pytest.approx(expected, abs=1e-4)
    with pytest.raises(ModelNotFoundError, match=r"none of absent.xml, openvino/absent.xml"):
        loading.load("openvino", ModelOptions(str(both), model_kwargs={"file_name": "absent.xml"}))
    with pytest.raises(ValueError, match=r"must end in .xml or .onnx .* but got 'model.bin'"):
        loading.load("openvino", ModelOptions(str(both), model_kwargs={"file_name": "model.bin"}))


def test_the_checkpoint_is_converted_on_request_and_before_an_int8_onnx_file(
    ir, int8_onnx, tiny_bert, tmp_path, monkeypatch, caplog
):
    converted = []
    monkeypatch.setattr(runtime, "_load_converted", lambda core, options: converted.append(options.model))
    for place, source in (("ir", ir), ("int8", int8_onnx)):
        shutil.copytree(tiny_bert, tmp_path / place)
        shutil.copytree(source, tmp_path / place, dirs_exist_ok=True)
    loading.load("openvino", ModelOptions(str(tmp_path / "ir"), **CPU))
    assert converted == []
    loading.load("openvino", ModelOptions(str(tmp_path / "ir"), model_kwargs={"export": True}, **CPU))
    loading.load("openvino", ModelOptions(str(tmp_path / "int8"), **CPU))
    assert [Path(model).name for model in converted] == ["ir", "int8"]
    with caplog.at_level(logging.WARNING):
        alone = loading.load("openvino", ModelOptions(int8_onnx, **CPU))
    assert alone.dtype == "int8"
    assert "runs faster with backend='onnx'" in caplog.text


def test_a_saved_prompt_stands_before_the_query_of_a_converted_model(tiny_bert, tmp_path):
    from sentence_transformers import CrossEncoder

    prompted = CrossEncoder(tiny_bert, prompts={"rank": "city "}, default_prompt_name="rank")
    prompted.save_pretrained(str(tmp_path / "prompted"))
    exact, ours = (
        loading.load(name, ModelOptions(str(tmp_path / "prompted"), **CPU)) for name in ("torch", "openvino")
    )
    assert ours.query_prompt == "city "
    assert scores_of(ours) == pytest.approx(scores_of(exact), abs=1e-4)


def test_a_folder_without_any_weights_names_what_was_tried(tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(ModelNotFoundError, match=r"none of openvino_model.xml, .*model.onnx, .*\*.safetensors in "):
        loading.load("openvino", ModelOptions(str(tmp_path)))


def test_a_model_with_two_labels_needs_one_that_is_named(two_label_bert, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(two_label_bert).eval()

    class Labels(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, input_ids, attention_mask, token_type_ids):
            return self.model(input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids).logits

    folder = tmp_path / "two"
    shutil.copytree(two_label_bert, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    made = openvino.convert_model(Labels(), example_input=tuple(torch.ones(2, 8, dtype=torch.long) for _ in range(3)))
    for port, name in zip(made.inputs, ("input_ids", "attention_mask", "token_type_ids"), strict=True):
        port.get_tensor().set_names({name})
    openvino.save_model(made, folder / "openvino_model.xml", compress_to_fp16=False)
    expected = scores_of(loading.load("torch", ModelOptions(two_label_bert, label=1, **CPU)))
    for place in (two_label_bert, str(folder)):
        with pytest.raises(ValueError, match="2 output labels"):
            loading.load("openvino", ModelOptions(place, **CPU))
        found = scores_of(loading.load("openvino", ModelOptions(place, label=1, **CPU)))
        assert found == pytest.approx(expected, abs=1e-3)


def test_a_file_whose_configuration_names_another_kind_of_model_is_refused(ir, tmp_path):
    shutil.copytree(ir, tmp_path / "causal")
    config = (tmp_path / "causal" / "config.json").read_text(encoding="utf-8")
    (tmp_path / "causal" / "config.json").write_text(
        config.replace("BertForSequenceClassification", "BertLMHeadModel"), encoding="utf-8"
    )
    with pytest.raises(ValueError, match="is not a sequence-classification cross-encoder but BertLMHeadModel"):
        loading.load("openvino", ModelOptions(str(tmp_path / "causal"), **CPU))


def test_a_causal_model_without_words_for_its_answer_is_an_error(tmp_path):
    model = save_causal(tmp_path)
    with pytest.raises(ValueError, match="one token for both"):
        loading.load("openvino", ModelOptions(model, **CPU))


def test_a_conversion_that_scores_differently_is_refused(tiny_bert, monkeypatch):
    import torch

    convert = runtime.convert

    def wrong(exact):
        made = convert(exact)
        layer = exact.cross_encoder.model.classifier
        layer.weight = torch.nn.Parameter(-layer.weight)
        return made

    monkeypatch.setattr(runtime, "convert", wrong)
    with pytest.raises(runtime.ConversionError, match="scores differently once OpenVINO has converted it"):
        loading.load("openvino", ModelOptions(tiny_bert, **CPU))


def test_running_out_of_memory_is_told_from_other_errors(loaded):
    assert loaded.is_out_of_memory(MemoryError())
    assert loaded.is_out_of_memory(RuntimeError("Exception from src/inference: std::bad_alloc"))
    assert not loaded.is_out_of_memory(RuntimeError("shape mismatch"))
    loaded.free_memory()


def test_nothing_is_reported_to_anybody():
    code = (
        "import sys\n"
        "from haystack_ce_ranker.backends.openvino_backend import import_openvino\n"
        "import_openvino().Core()\n"
        "print('openvino_telemetry' in sys.modules, [m for m in sys.modules if m.startswith('openvino_telemetry')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False []"


def documents():
    return [Document(id=str(place), content=text) for place, text in enumerate(DOCUMENTS)]


def test_a_ranker_on_openvino_ranks_as_on_torch_and_round_trips(tiny_bert, ir):
    expected = CrossEncoderRanker(model=tiny_bert).run("the hut", documents())["documents"]
    pipeline = Pipeline()
    pipeline.add_component("ranker", CrossEncoderRanker(model=ir, backend="openvino", dtype="float32", threads=2))
    described = pipeline.dumps()
    again = Pipeline.loads(described)
    assert again.dumps() == described
    found = again.run({"ranker": {"query": "the hut", "documents": documents()}})["ranker"]
    assert [d.id for d in found["documents"]] == [d.id for d in expected]
    assert [d.score for d in found["documents"]] == pytest.approx([d.score for d in expected], abs=1e-4)
    assert (found["report"]["backend"], found["report"]["dtype"]) == ("openvino", "float32")


@pytest.mark.integration
def test_the_real_model_scores_the_same(models_dir):
    folder = str(models_dir / "ce-minilm-l12")
    exact, ours, fast = (
        loading.load(name, ModelOptions(folder, dtype=dtype, **CPU))
        for name, dtype in (("torch", "float32"), ("openvino", "float32"), ("openvino", "auto"))
    )
    expected = np.asarray(scores_of(exact, TEXTS, QUERIES[0]))
    assert np.abs(np.asarray(scores_of(ours, TEXTS, QUERIES[0])) - expected).max() < 1e-4
    assert np.abs(np.asarray(scores_of(fast, TEXTS, QUERIES[0])) - expected).max() < 0.1
