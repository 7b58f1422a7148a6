"""
Chooses a runtime by the device, by what is installed, and by what the model's folder holds. Nothing is timed.

The first rule that applies counts:

0. `model_kwargs` holds what one runtime alone takes: `torch` for `device_map`; `openvino` for `export`, `ov_config`, or
   a `file_name` that ends in .xml. For one that ends in .onnx: `openvino` if it is installed, the device is a CPU and
   the file holds no int8, else `onnx`.
1. On a GPU, or another device than a CPU: `torch` if there is a torch checkpoint, or if the model is on the hub. If
   there is none: `onnx`, then `openvino`, if the folder has a file for it and it is installed.
2. The folder has an int8 ONNX file, no `dtype` is asked for, and onnxruntime is installed: `onnx`.
3. The folder has an OpenVINO file, and openvino is installed: `openvino`.
4. The folder has a torch checkpoint, or the model is on the hub, and openvino is installed: `openvino`. If OpenVINO
   cannot convert the model: `torch`.
5. The folder has an ONNX file but no torch checkpoint: `openvino` for float32, else `onnx`.
6. Else `torch`.

Without torch a checkpoint is of no use: the rules are those for a folder that has none. A model on the hub then takes
`onnx`, else `openvino`, which need an exported file there. Nobody then looks for a GPU: name it as `device`.

If no `dtype` is asked for, it is `auto`: float16 on a GPU; on a CPU int8 if the file holds int8, else bfloat16 if the
CPU computes in it, else float32. Where near-equal texts tie in float16 or bfloat16, it is float32 (`ties.py`). An int8
file is used only if somebody put it beside the model. Nothing is downloaded to find out what a repository on the hub
holds beside the checkpoint.

The rules follow the speed that was measured with MiniLM-L12 on a CPU with AVX512-BF16 and VNNI. Each choice ranks as
float32 does, to 0.005 of nDCG@10. `python benchmarks/speed.py runtimes` prints the table for your machine.
"""

import logging
from dataclasses import dataclass, replace
from pathlib import Path

from haystack_ce_ranker.backends import loading, onnx_backend, openvino_backend
from haystack_ce_ranker.backends.exported import stored_dtype
from haystack_ce_ranker.backends.model_files import ModelOptions, has_safetensors, locate
from haystack_ce_ranker.backends.protocol import Backend

COMPUTES_ON = {"onnx": ("cpu", "cuda"), "openvino": ("cpu",)}
"""The kinds of devices of the runtimes that have few."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice:
    """A runtime, the dtype that it is to compute in, and the reason for the choice."""

    backend: str
    dtype: str | None
    reason: str


def load(options: ModelOptions) -> Backend:
    """
    Choose a runtime and load the model with it; `name` of the backend says which it is.

    :raises Exception: Whatever the chosen runtime raises.
    """
    chosen = choose(options)
    logger.info("backend='auto' takes %s: %s.", chosen.backend, chosen.reason)
    with_dtype = replace(options, dtype=chosen.dtype)
    kind = (options.device or "cpu").partition(":")[0]
    if kind not in COMPUTES_ON.get(chosen.backend, (kind,)):
        logger.warning(
            "backend='auto' takes %s, which computes on the CPU and not on %s.", chosen.backend, options.device
        )
        with_dtype = replace(with_dtype, device="cpu")
    try:
        return loading.load(chosen.backend, with_dtype)
    except openvino_backend.ConversionError as error:
        logger.warning("backend='auto' takes torch: %s", error)
        return loading.load("torch", with_dtype)


def choose(options: ModelOptions) -> Choice:
    """
    Return what the rules above give.

    Loads no model. Imports no runtime but torch, if it is installed: it knows whether there is a GPU.

    :raises ModelNotFoundError: If `model` names a package or a folder that is not there.
    """
    dtype = options.dtype if options.dtype is not None else "auto"
    installed = loading.installed()
    has_torch, has_openvino, has_onnxruntime = (name in installed for name in ("torch", "openvino", "onnx"))
    device = options.device if options.device is not None else _best_device() if has_torch else "cpu"
    folder = Path(locate(options.model))
    has_checkpoint = has_torch and (not folder.is_dir() or has_safetensors(folder))
    file = onnx_backend.find_local(options, folder)
    named = options.model_kwargs.get("file_name")
    if options.model_kwargs.get("device_map") is not None:
        return Choice("torch", dtype, "model_kwargs hold a device_map, which only torch takes")
    if {"export", "ov_config"} & set(options.model_kwargs) or str(named).endswith(".xml"):
        return Choice("openvino", dtype, "model_kwargs hold what only OpenVINO takes")
    if named is not None:
        exact = device.startswith("cpu") and file is not None and stored_dtype(file) != "int8"
        name = "openvino" if has_openvino and (exact or not has_onnxruntime) else "onnx"
        return Choice(name, dtype, f"model_kwargs name {named}")
    if not has_torch and not folder.is_dir() and (has_onnxruntime or has_openvino):
        return Choice("onnx" if has_onnxruntime else "openvino", dtype, "torch is not installed")
    lacking = "it has no torch checkpoint" if has_torch else "torch is not installed"
    if not device.startswith("cpu"):
        if not has_checkpoint and file is not None and has_onnxruntime:
            return Choice("onnx", dtype, f"the folder has {file.name}, and {lacking}")
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
        return Choice(name, dtype, f"the folder has {file.name}, and {lacking}")
    return Choice("torch", dtype, "no other runtime that is installed reads the model")


def _best_device() -> str:
    import torch

    accelerator = getattr(torch, "accelerator", None)  # from torch 2.6 on; knows GPUs of other makers, too
    if accelerator is not None and accelerator.is_available():
        return str(accelerator.current_accelerator())
    return "cuda" if torch.cuda.is_available() else "cpu"
