"""The embeddings of a model's tokens, compared with what torch has loaded, in each form that a model comes in."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from fakes import FakeBackend, import_torch
from haystack_ce_ranker.backends import loading, token_embeddings
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.backends.onnx_file import read_matrix
from haystack_ce_ranker.backends.protocol import Embedding
from onnx_models import import_onnx, spread


@pytest.fixture(scope="module")
def expected(tiny_bert):
    """The table of the tiny model, and how many tokens its tokenizer knows."""
    import_torch()
    backend = loading.load("torch", ModelOptions(tiny_bert, device="cpu"))
    weight = backend.cross_encoder.model.get_input_embeddings().weight
    return weight.detach().numpy(), len(backend.tokenizer.vocabulary())


def table_of(runtime, model, **options):
    backend = loading.load(runtime, ModelOptions(str(model), device="cpu", **options))
    assert isinstance(backend, Embedding)
    rows = backend.token_embeddings()
    return np.concatenate([np.asarray(rows[:3]), np.asarray(rows[3:])])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_torch_shows_the_table_of_the_loaded_model(tiny_bert, expected, dtype):
    assert table_of("torch", tiny_bert, dtype=dtype) == pytest.approx(
        expected[0], abs=1e-6 if dtype == "float32" else 0.01
    )


def test_an_onnx_file_shows_its_table_also_where_weights_are_beside_it(float_onnx, tmp_path, expected):
    pytest.importorskip("onnxruntime")
    assert np.array_equal(table_of("onnx", float_onnx), expected[0])
    assert np.array_equal(table_of("onnx", spread(float_onnx, tmp_path / "m", location="w.bin")), expected[0])


def test_openvino_shows_the_table_of_each_kind_of_file(ir, float_onnx, tiny_bert, expected):
    for model in (ir, float_onnx, tiny_bert):
        assert table_of("openvino", model) == pytest.approx(expected[0], abs=1e-6)


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_an_int8_file_shows_the_same_cosines_around_the_mean(int8_onnx, expected, runtime):
    pytest.importorskip("onnxruntime" if runtime == "onnx" else "openvino")

    def cosines(table):
        around = table.astype(np.float64) - table.mean(axis=0)
        around /= np.linalg.norm(around, axis=1, keepdims=True)
        return around @ around.T

    assert np.abs(cosines(table_of(runtime, int8_onnx)) - cosines(expected[0])).max() < 0.05


def test_what_cannot_be_the_table_is_not_taken_for_it(float_onnx, ir, expected):
    openvino = pytest.importorskip("openvino")
    too_many = len(expected[0]) + 1
    assert token_embeddings.of_onnx(Path(float_onnx) / "model.onnx", too_many) is None
    model = openvino.Core().read_model(Path(ir) / "openvino_model.xml")
    assert token_embeddings.of_openvino(openvino, model, too_many) is None
    assert token_embeddings.of_module(SimpleNamespace(), 3) is None
    short = SimpleNamespace(get_input_embeddings=lambda: SimpleNamespace(weight=np.zeros((2, 2))))
    assert token_embeddings.of_module(short, 3) is None
    assert not isinstance(FakeBackend(), Embedding)


@pytest.mark.parametrize(
    ("cast", "ids", "found"), [(False, "input_ids", True), (True, "input_ids", True), (True, "x", False)]
)
def test_the_table_is_what_token_ids_are_looked_up_in(tmp_path, cast, ids, found):
    onnx = import_onnx()
    tables = [onnx.numpy_helper.from_array(np.full((9, 2), value, dtype=np.float32), f"t{value}") for value in (1, 2)]
    nodes = [onnx.helper.make_node("Cast", [ids], ["cast"], to=onnx.TensorProto.INT32)] if cast else []
    nodes += [
        onnx.helper.make_node("Gather", ["t1", "positions"], ["a"]),
        onnx.helper.make_node("Gather", ["t2", "cast" if cast else ids], ["b"]),
    ]
    graph = onnx.helper.make_graph(nodes, "all", [], [], tables)
    (tmp_path / "model.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    table = token_embeddings.of_onnx(tmp_path / "model.onnx", 5)
    assert (table is not None) is found
    assert table is None or (table == 2.0).all()


@pytest.mark.parametrize("kind", ["float32", "float16", "uint8", "int8"])
@pytest.mark.parametrize("raw", [True, False])
def test_a_weight_is_read_as_it_is_stored(tmp_path, kind, raw):
    onnx = import_onnx()
    values = np.arange(-6, 6).reshape(4, 3).astype(kind)
    if raw:
        tensor = onnx.numpy_helper.from_array(values, "w")
    else:
        tensor = onnx.helper.make_tensor(
            "w", onnx.helper.np_dtype_to_tensor_dtype(values.dtype), (4, 3), values.ravel()
        )
    graph = onnx.helper.make_graph([], "all", [], [], [tensor])
    (tmp_path / "model.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    found = read_matrix(tmp_path / "model.onnx", "w")
    if raw or kind == "float32":
        assert np.array_equal(found, values)
        assert found.dtype == values.dtype
    else:
        assert found is None  # spread over numbers of another size
    assert read_matrix(tmp_path / "model.onnx", "v") is None


def test_a_weight_that_is_cut_off_or_in_an_unknown_format_is_none(float_onnx, tmp_path):
    onnx = import_onnx()
    folder = Path(spread(float_onnx, tmp_path / "m", location="w.bin"))
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    name = next(one.name for one in model.graph.initializer if one.name.endswith("word_embeddings.weight"))
    whole = [
        one for one in onnx.load(folder / "model.onnx").graph.initializer if one.data_type == onnx.TensorProto.FLOAT
    ]
    assert name in {one.name for one in whole}
    for one in whole:  # one behind the other in the file beside
        assert np.array_equal(read_matrix(folder / "model.onnx", one.name), onnx.numpy_helper.to_array(one))
    shutil.copytree(folder, tmp_path / "cut")
    (tmp_path / "cut" / "w.bin").write_bytes(b"\x00" * 8)
    assert read_matrix(tmp_path / "cut" / "model.onnx", name) is None
    tensor = onnx.helper.make_tensor("w", onnx.TensorProto.BFLOAT16, (4, 3), [0.0] * 12)
    graph = onnx.helper.make_graph([], "all", [], [], [tensor])
    (tmp_path / "model.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
    assert read_matrix(tmp_path / "model.onnx", "w") is None


def test_a_file_that_names_weights_outside_its_folder_is_refused(float_onnx, tmp_path):
    onnx = import_onnx()
    folder = Path(spread(float_onnx, tmp_path / "m", location="w.bin"))
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../w.bin"
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ValueError, match="its own folder"):
        token_embeddings.of_onnx(folder / "model.onnx", 5)
