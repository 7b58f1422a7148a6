"""Files for other runtimes: exporting leaves the model as it was."""

import pytest

from fakes import scores_of
from haystack_ce_ranker.backends import loading, onnx_backend
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.quantizing import writers
from zoo import ZOO

pytest.importorskip("onnx", reason="needs the extra 'onnx'")


def test_exporting_leaves_the_model_as_it_was(tiny_bert, tmp_path):
    backend = loading.load("torch", ModelOptions(tiny_bert, device="cpu"))
    before = scores_of(backend)
    writers.export(backend, tmp_path / "model.onnx")
    assert not backend.cross_encoder.model.training
    assert scores_of(backend) == pytest.approx(before, abs=1e-5)


@pytest.mark.parametrize(("name", "kind"), [("bert", "INT8"), ("albert", "UINT8")])
def test_a_weight_that_several_products_take_is_one_that_every_cpu_multiplies(name, kind, tmp_path):
    """Where onnxruntime replaces int8 weights, it fails at the second product of a weight; the setting asks it to."""
    import onnx
    import onnxruntime

    exact = loading.load("torch", ModelOptions(ZOO[name].save(tmp_path / "exact"), device="cpu", dtype="float32"))
    writers.write_onnx(exact, tmp_path)
    graph = onnx.load(tmp_path / "model.onnx").graph
    types = {one.name: onnx.TensorProto.DataType.Name(one.data_type) for one in graph.initializer}
    products = [node.input[1] for node in graph.node if node.op_type == "MatMulInteger"]
    assert {types[weight] for weight in products if weight in types} == {kind}
    assert (len(set(products)) < len(products)) == (name == "albert")
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry(onnx_backend.EXACT_INT8, "1")
    onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), settings, providers=["CPUExecutionProvider"])
