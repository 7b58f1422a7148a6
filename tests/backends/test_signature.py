"""What an exported model takes and gives: inputs are filled as it wants them, and the logits are found or refused."""

from functools import partial
from pathlib import Path

import pytest

from fakes import DOCUMENTS, batch_of, scores_of
from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.backends.signature import Port, Signature
from onnx_models import (
    import_onnx,
    in_float16,
    save_changed,
    with_another_output_first,
    with_inputs_of,
    with_positions,
)

RUNTIMES = [("onnx", "onnxruntime"), ("openvino", "openvino")]

OPEN = (None, None)


def load(name, package, folder):
    pytest.importorskip(package)
    return loading.load(name, ModelOptions(folder, device="cpu", threads=1))


@pytest.mark.parametrize(("name", "package"), RUNTIMES)
@pytest.mark.parametrize("element", ["INT32", "FLOAT", "INT64"])
def test_inputs_of_other_numbers_are_fed(float_onnx, tmp_path, name, package, element):
    changed = save_changed(
        float_onnx, tmp_path / "m", partial(with_inputs_of, element=getattr(import_onnx().TensorProto, element))
    )
    found = load(name, package, changed)
    assert scores_of(found) == pytest.approx(scores_of(load(name, package, float_onnx)), abs=1e-5)


@pytest.mark.parametrize(("name", "package"), RUNTIMES)
def test_positions_are_fed_and_need_a_configuration(float_onnx, tmp_path, name, package):
    changed = save_changed(float_onnx, tmp_path / "m", with_positions)
    plain, found = load(name, package, float_onnx), load(name, package, changed)
    query, *documents = found.tokenizer.encode(["the hut", *DOCUMENTS])
    lengths = [len(found.tokenizer.format.pack(query.ids, document.ids).ids) for document in documents]
    expected = [logit + n * (n - 1) / 2 for logit, n in zip(scores_of(plain), lengths, strict=True) if n <= 128]
    assert len(expected) == len(DOCUMENTS)
    assert scores_of(found) == pytest.approx(expected, rel=1e-5)
    (Path(changed) / "config.json").unlink()
    with pytest.raises(ValueError, match="takes 'position_ids', and without a config.json nothing says where"):
        load(name, package, changed)


def test_positions_of_roberta_start_behind_the_padding_id():
    class Config:
        model_type, pad_token_id, architectures = "roberta", 1, None

    ports = [Port("input_ids", "int32", OPEN), Port("position_ids", "int32", OPEN)]
    batch = batch_of([6, 3], pad_id=1)
    outputs = [Port("logits", "float32", (None, 1))]
    arrays = Signature(ports, outputs, Config(), "m").arrays(batch)
    assert arrays["position_ids"].tolist() == [[2, 3, 4, 5, 6, 1], [2, 3, 4, 0, 0, 0]]
    assert {array.dtype.name for array in arrays.values()} == {"int32"}
    Config.model_type = "bert"
    arrays = Signature(ports, outputs, Config(), "m").arrays(batch)
    assert arrays["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5], [0, 1, 2, 0, 0, 0]]


@pytest.mark.parametrize(("name", "package"), RUNTIMES)
@pytest.mark.parametrize(
    "change",
    [
        partial(with_another_output_first),
        partial(with_another_output_first, sizes=("batch", 1)),
        partial(with_another_output_first, name="scores"),
        partial(with_another_output_first, name="scores", sizes=("batch", 3, 7)),
    ],
)
def test_the_logits_are_found_among_outputs(float_onnx, tmp_path, name, package, change):
    found = load(name, package, save_changed(float_onnx, tmp_path / "m", change))
    assert scores_of(found) == pytest.approx(scores_of(load(name, package, float_onnx)), abs=1e-5)


@pytest.mark.parametrize(("name", "package"), RUNTIMES)
def test_outputs_that_cannot_be_told_apart_are_an_error(float_onnx, tmp_path, name, package):
    change = partial(with_another_output_first, name="scores", sizes=("batch", 1))
    with pytest.raises(ValueError, match=r"has 2 outputs, and none can be told to be the logits: 'pooled' .*'scores' "):
        load(name, package, save_changed(float_onnx, tmp_path / "m", change))


@pytest.mark.parametrize(("name", "package"), RUNTIMES)
def test_a_file_in_float16_gives_float32_logits(float_onnx, tmp_path, name, package):
    found = load(name, package, save_changed(float_onnx, tmp_path / "m", in_float16))
    assert found.dtype == ("float16" if name == "onnx" else "float32")
    assert scores_of(found) == pytest.approx(scores_of(load(name, package, float_onnx)), abs=0.05)


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        (
            [Port("ids", "int64", OPEN)],
            None,
            r"takes 'ids' \(int64, shape \[\?, \?\]\), but a cross-encoder's inputs are",
        ),
        ([Port("attention_mask", "int64", OPEN)], None, "does not take 'input_ids'"),
        ([Port("input_ids", "string", OPEN)], None, "takes 'input_ids' .string"),
        ([Port("input_ids", "int64", (None, 128))], None, r"takes pairs of one size only: 'input_ids' .*\[\?, 128\]"),
        ([Port("input_ids", "int64", (4, None))], None, "takes pairs of one size only"),
        (None, [Port("logits", "float32", (None, 2))], "2 output labels"),
        (None, [Port("logits", "float32", (None, None, 9))], "an output of 3 dimensions"),
        (None, [Port("label", "int64", (None,))], r"gives 'label' \(int64, shape \[\?\]\), but logits are float32"),
        (None, [Port("a", "float32", OPEN), Port("b", "float32", None)], "none can be told to be the logits"),
        (None, [], "has 0 outputs"),
    ],
)
def test_what_cannot_be_filled_or_read_is_refused_at_loading(inputs, outputs, message):
    fine = [Port("input_ids", "int64", OPEN)], [Port("logits", "float32", (None, 1))]
    with pytest.raises(ValueError, match=message):
        Signature(inputs if inputs is not None else fine[0], outputs if outputs is not None else fine[1], None, "m")


def test_a_model_for_one_pair_says_so():
    outputs = [Port("logits", "float32", (1, 1))]
    assert Signature([Port("input_ids", "int64", (1, None))], outputs, None, "m").one_pair
    assert not Signature([Port("input_ids", "int64", OPEN)], outputs, None, "m").one_pair
