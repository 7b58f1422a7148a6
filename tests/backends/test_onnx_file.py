"""What an ONNX file says of itself, compared with what the package onnx reads."""

import random
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from haystack_ce_ranker.backends.onnx_file import read_onnx
from onnx_models import import_onnx, save_operator, spread


@pytest.mark.parametrize("location", ["model.onnx_data", "weights.onnx.data"])
def test_the_files_that_hold_the_weights_are_those_that_onnx_reads(float_onnx, tmp_path, location):
    onnx = import_onnx()
    folder = spread(float_onnx, tmp_path / "m", location=location)
    found = read_onnx(tmp_path / "m" / "model.onnx")
    assert found.locations == (location,)
    model = onnx.load(f"{folder}/model.onnx", load_external_data=False)
    named = {
        entry.value for tensor in model.graph.initializer for entry in tensor.external_data if entry.key == "location"
    }
    assert set(found.locations) == named
    assert found.operators == {node.op_type for node in model.graph.node}
    assert read_onnx(Path(float_onnx) / "model.onnx").locations == ()


def test_weights_inside_of_operators_and_inner_graphs_are_seen(tmp_path):
    onnx = import_onnx()
    helper, kinds = onnx.helper, onnx.TensorProto

    def elsewhere(name, location):
        tensor = onnx.numpy_helper.from_array(np.zeros((2, 2), dtype=np.float16), name)
        tensor.ClearField("raw_data")
        tensor.data_location = kinds.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.external_data.add(key="length", value="8")
        return tensor

    constant = helper.make_node("Constant", [], ["c"], value=elsewhere("inner", "a.bin"))
    branch = helper.make_graph([constant], "branch", [], [helper.make_tensor_value_info("c", kinds.FLOAT16, [2, 2])])
    chosen = helper.make_node("If", ["yes"], ["logits"], then_branch=branch, else_branch=branch)
    graph = helper.make_graph(
        [chosen],
        "all",
        [helper.make_tensor_value_info("yes", kinds.BOOL, [])],
        [helper.make_tensor_value_info("logits", kinds.FLOAT16, [2, 2])],
        [elsewhere("outer", "b.bin"), elsewhere("again", "b.bin")],
    )
    file = tmp_path / "model.onnx"
    file.write_bytes(helper.make_model(graph).SerializeToString())
    found = read_onnx(file)
    assert set(found.locations) == {"a.bin", "b.bin"}
    assert len(found.locations) == 2
    assert found.operators == {"If", "Constant"}
    assert found.floats == "float16"


@pytest.mark.parametrize("content", [b"", b"\x00", b"version https://git-lfs.github.com/spec/v1\n", b"\x3a\xff\x01abc"])
def test_what_is_no_onnx_file_is_an_error(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"model.onnx is no ONNX file that can be read"):
        read_onnx(tmp_path / "model.onnx")


def test_a_file_with_changed_bytes_is_read_or_refused(tmp_path):
    save_operator(tmp_path / "model.onnx", "MatMul", np.float32)
    whole, chance = (tmp_path / "model.onnx").read_bytes(), random.Random(0)
    for _ in range(500):
        damaged = bytearray(whole[: chance.randrange(1, len(whole) + 1)])
        for _ in range(chance.randrange(4)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        (tmp_path / "model.onnx").write_bytes(damaged)
        with suppress(ValueError):
            read_onnx(tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "content",
    [
        b"\x80" * 1_000_000,  # a number without an end, of which each byte would make the sum longer
        b"\x3a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",  # a graph that claims to have 2**63 bytes
        b"\x08\x01" * 1_000_001,  # a million numbers, of which each would take a hundred times its size
        b"\x3a\xcf\x01\x2a\xcc\x01\x0a\xc8\x01" + b"\x01" * 200,  # a tensor of two hundred dimensions
    ],
)
def test_a_small_file_that_claims_to_be_large_is_refused_at_once(tmp_path, content):
    (tmp_path / "model.onnx").write_bytes(content)
    with pytest.raises(ValueError, match=r"model.onnx is no ONNX file that can be read"):
        read_onnx(tmp_path / "model.onnx")
