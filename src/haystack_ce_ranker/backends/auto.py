"""
Chooses the runtime: by the device, what is installed, and what the model's folder holds. Nothing is timed.

The first of these that applies:

1. On a GPU (or another device than a CPU), if there is a torch checkpoint, or the model is one of the hub: `torch`.
   If there is none: `onnx`, then `openvino`, as the file and what is installed allow.
2. The folder has an int8 ONNX file, no `dtype` is asked for, and onnxruntime is installed: `onnx`.
3. The folder has an OpenVINO file, and openvino is installed: `openvino`.
4. The folder has a torch checkpoint, or the model is one of the hub, and openvino is installed: `openvino`. If OpenVINO
   cannot convert the model, `torch`.
5. The folder has an ONNX file but no torch checkpoint: `openvino` for float32, else `onnx`.
6. `torch`.

Where no `dtype` is asked for it is `auto`: float16 on a GPU; on a CPU int8 where the file holds it, else bfloat16 where
the CPU computes in it, else float32. An int8 file is only ever used where somebody put it beside the model. What a
model's repository on the hub holds beside its checkpoint is not downloaded to find out.

The order is that of speed, measured with MiniLM-L12 on a CPU with AVX512-BF16 and VNNI; each ranks as float32 does, to
0.005 of nDCG@10. `python benchmarks/speed.py --only runtimes` prints the table for your machine.
"""

import importlib.util
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from haystack_ce_ranker.backends import loading, onnx_backend, openvino_backend
from haystack_ce_ranker.backends.exported import stored_dtype
from haystack_ce_ranker.backends.model_files import ModelOptions, has_safetensors, locate
from haystack_ce_ranker.backends.protocol import Backend

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """A runtime, what it is to compute in, and why it was chosen."""

    backend: str
    dtype: str | None
    reason: str


def load(options: ModelOptions) -> Backend:
    """
    Choose a runtime and load the model with it; its name is the loaded backend's.

    :raises Exception: What the chosen runtime raises.
    """
    chosen = choose(options)
    logger.info("backend='auto' takes %s: %s.", chosen.backend, chosen.reason)
    with_dtype = replace(options, dtype=chosen.dtype)
    try:
        return loading.load(chosen.backend, with_dtype)
    except openvino_backend.ConversionError as error:
        logger.warning("backend='auto' takes torch: %s", error)
        return loading.load("torch", with_dtype)


def choose(options: ModelOptions) -> Choice:
    """
    Return what the rule above gives; loads no model and imports no runtime but torch, to see whether there is a GPU.

    :raises ModelNotFoundError: If `model` names a package or a folder that is not there.
    """
    dtype = options.dtype
    if dtype is None and not {"dtype", "torch_dtype"} & set(options.model_kwargs):
        dtype = "auto"
    device = options.device if options.device is not None else _best_device()
    folder = Path(locate(options.model))
    has_checkpoint = not folder.is_dir() or has_safetensors(folder)
    has_openvino, has_onnxruntime = _installed("openvino"), _installed("onnxruntime")
    file = onnx_backend.find_local(options, folder)
    if not device.startswith("cpu"):
        if not has_checkpoint and file is not None and has_onnxruntime:
            return Choice("onnx", dtype, f"the folder has {file.name}, but no torch checkpoint")
        if has_checkpoint or not has_openvino:
            return Choice("torch", dtype, f"the device is {device}")
    if file is not None and has_onnxruntime and options.dtype is None and stored_dtype(file) == "int8":
        return Choice("onnx", dtype, f"{file.name} holds int8")
    if has_openvino and any((folder / path).is_file() for path in openvino_backend.CANDIDATES):
        return Choice("openvino", dtype, "the folder has an OpenVINO file")
    if has_checkpoint and has_openvino:
        return Choice("openvino", dtype, "it is installed")
    if file is not None and not has_checkpoint:
        float_file = stored_dtype(file) != "int8"
        name = "openvino" if has_openvino and (float_file or not has_onnxruntime) else "onnx"
        return Choice(name, dtype, f"the folder has {file.name}, but no torch checkpoint")
    return Choice("torch", dtype, "openvino is not installed")


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def _best_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"
