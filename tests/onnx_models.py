"""ONNX files that tests build: one operator, and the tiny cross-encoder with other inputs, outputs and numbers."""

import shutil
from pathlib import Path

import numpy as np
import pytest


def import_onnx():
    """The package onnx; skips without it."""
    return pytest.importorskip("onnx", reason="needs the extra 'onnx'")


def save_operator(file: Path, operator: str, number: type) -> None:
    """Save an ONNX file with one operator and one weight of a kind of number; it need not run."""
    onnx = import_onnx()
    helper = onnx.helper
    weight = onnx.numpy_helper.from_array(np.zeros((4, 4), dtype=number), "weight")
    shape = [helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, [None, None])]
    node = helper.make_node(operator, ["input_ids", "weight"], ["logits"])
    graph = helper.make_graph(
        [node], "one", shape, [helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, [None, 1])], [weight]
    )
    onnx.save(helper.make_model(graph), str(file))


def with_inputs_of(model, element):
    """Return a model whose inputs are of another kind of number, cast to int64 inside."""
    onnx = import_onnx()
    helper, int64 = onnx.helper, onnx.TensorProto.INT64
    casts = []
    for port in model.graph.input:
        port.type.tensor_type.elem_type = element
        for node in model.graph.node:
            node.input[:] = [f"{name}_as_int64" if name == port.name else name for name in node.input]
        casts.append(helper.make_node("Cast", [port.name], [f"{port.name}_as_int64"], to=int64))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def with_positions(model):
    """Return a model with an input `position_ids` that counts: a pair's logit grows by the sum of its positions."""
    onnx = import_onnx()
    helper, kinds = onnx.helper, onnx.TensorProto
    logits = model.graph.output[0].name
    for node in model.graph.node:
        node.output[:] = ["logits_alone" if one == logits else one for one in node.output]
    model.graph.input.append(helper.make_tensor_value_info("position_ids", kinds.INT64, ["batch", "length"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], dtype=np.int64), "second_axis"))
    model.graph.node.extend(
        [
            helper.make_node("Cast", ["position_ids"], ["positions"], to=kinds.FLOAT),
            helper.make_node("ReduceSum", ["positions", "second_axis"], ["position_sum"], keepdims=1),
            helper.make_node("Add", ["logits_alone", "position_sum"], [logits]),
        ]
    )
    return model


def with_another_output_first(model, *, name="logits", first="pooled", sizes=("batch", 7)):
    """Return a model with an output of noughts before its logits, which are called `name`."""
    onnx = import_onnx()
    helper = onnx.helper
    logits = model.graph.output[0]
    for node in model.graph.node:
        node.output[:] = [name if one == logits.name else one for one in node.output]
    logits.name = name
    noughts = [1 if isinstance(size, str) else size for size in sizes]
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(noughts, dtype=np.float32), "noughts"))
    model.graph.node.append(helper.make_node("Identity", ["noughts"], [first]))
    both = [helper.make_tensor_value_info(first, onnx.TensorProto.FLOAT, list(sizes)), logits]
    copies = [type(port).FromString(port.SerializeToString()) for port in both]
    del model.graph.output[:]
    model.graph.output.extend(copies)
    return model


def in_float16(model):
    """Return a model with weights and output in float16."""
    float16 = pytest.importorskip("onnxruntime.transformers.float16")
    return float16.convert_float_to_float16(model, keep_io_types=False)


def save_changed(folder, to, *changes):
    """Copy a folder with an ONNX model, change the model, and return the new folder."""
    onnx = import_onnx()
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.onnx"))
    model = onnx.load(str(Path(folder) / "model.onnx"))
    for change in changes:
        model = change(model)
    onnx.save(model, str(to / "model.onnx"))
    return str(to)


def spread(folder, to, *, location="model.onnx_data"):
    """Copy a folder with an ONNX model, with all weights in another file, and return the new folder."""
    onnx = import_onnx()
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns("*.onnx"))
    model = onnx.load(str(Path(folder) / "model.onnx"))
    onnx.save_model(model, str(to / "model.onnx"), save_as_external_data=True, location=location, size_threshold=0)
    return str(to)
