"""
Writes int8 files of a cross-encoder that torch has loaded in float32, by one function for each runtime.

Weights are quantised here, and activations while the model runs (dynamically). So no data is needed. `quantize.py`
verifies the files. Needs no optimum.
"""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from haystack_ce_ranker.backends import onnx_backend
from haystack_ce_ranker.backends.export import first_line, input_names, quiet, traceable

LARGEST_ONNX = 2_000_000_000  # bytes of one ONNX file, a limit of protobuf

_QUANTIZED_OPERATORS = ("MatMul", "Gemm", "Gather")

Writer = Callable[[Any, Path], None]


def write_onnx(exact: Any, folder: Path) -> None:
    """
    Write `model.onnx` for onnxruntime.

    :param exact: A loaded `TorchBackend` in float32 on CPU.
    :raises ImportError: If onnx or onnxruntime is not installed.
    :raises ValueError: If the model is too large for one ONNX file.
    """
    try:
        import onnx

        onnxruntime = onnx_backend.import_onnxruntime()
        from onnxruntime.quantization import QuantType, quantize_dynamic
    except ImportError as error:
        raise ImportError(
            'quantize needs onnx and onnxruntime, which are not installed: pip install "ce-ranker-haystack[onnx]".'
        ) from error

    exported, optimised = folder / "exported.onnx", folder / "optimised.onnx"
    export(exact, exported)
    settings = onnxruntime.SessionOptions()
    # Standard ONNX operators only: onnxruntime's own fused operators would not be quantised.
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(optimised)
    settings.log_severity_level = 3
    onnxruntime.InferenceSession(str(exported), settings, providers=["CPUExecutionProvider"])
    quantize_dynamic(
        optimised,
        folder / "model.onnx",
        op_types_to_quantize=list(_QUANTIZED_OPERATORS),
        # Where a CPU has no instructions for int8 times uint8, onnxruntime makes an uint8 weight of each int8 one, and
        # fails where several products take the same one.
        weight_type=QuantType.QUInt8 if _shares_weights(onnx.load(optimised)) else QuantType.QInt8,
    )
    exported.unlink()
    optimised.unlink()


def _shares_weights(model: Any) -> bool:
    """Tell whether several products of an ONNX model take one weight, as in ALBERT, whose layers are all the same."""
    weights = {one.name for one in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    taken = [node.input[1] for node in products if node.input[1] in weights]
    return len(set(taken)) < len(taken)


def write_openvino(exact: Any, folder: Path) -> None:
    """
    Write `openvino_model.xml` and `openvino_model.bin` for OpenVINO: weights as int8, with a scale for each row.

    OpenVINO then multiplies in int8, with a scale for each 128 values of an activation. That is more exact than int8
    with fixed ranges for activations (`nncf.quantize`), and no slower. On 150 pairs of dl19, logits moved by 0.03 on
    average and 0.13 at most, instead of 0.25 and 2.8.

    :param exact: A loaded `TorchBackend` in float32 on CPU.
    :raises ImportError: If openvino or nncf is not installed.
    """
    from haystack_ce_ranker.backends import openvino_backend as runtime

    openvino = runtime.import_openvino()
    try:
        with runtime.without_telemetry():
            import nncf
    except ImportError as error:
        raise ImportError(
            'quantize needs nncf, which is not installed: pip install "ce-ranker-haystack[openvino]".'
        ) from error

    nncf.set_log_level(logging.WARNING)  # it prints tables
    model = nncf.compress_weights(runtime.convert(exact), mode=nncf.CompressWeightsMode.INT8_ASYM)
    openvino.save_model(model, folder / runtime.CANDIDATES[0], compress_to_fp16=False)


WRITERS: dict[str, Writer] = {"onnx": write_onnx, "openvino": write_openvino}


def export(exact: Any, file: Path) -> None:
    """
    Write a loaded torch model as float32 ONNX with batch and length left open.

    :param exact: A loaded `TorchBackend` in float32 on CPU.
    :raises ValueError: If the model is too large for one ONNX file, or cannot be exported.
    """
    import torch

    size = sum(weight.numel() * weight.element_size() for weight in exact.cross_encoder.model.parameters())
    if size > LARGEST_ONNX:
        raise ValueError(f"model has {size / 1e9:.1f} GB of weights, but one ONNX file holds 2 GB at most.")
    module, example = traceable(exact)
    names = input_names(exact)
    axes = {**{name: {0: "batch", 1: "length"} for name in names}, "logits": {0: "batch"}}
    try:
        with quiet():
            torch.onnx.export(
                module,
                example,
                str(file),
                input_names=names,
                output_names=["logits"],
                dynamic_axes=axes,
                opset_version=17,
                dynamo=False,
            )
    except Exception as error:  # the exporter raises many kinds
        raise ValueError(f"model cannot be exported to ONNX ({first_line(error)}); use backend='torch'.") from error
