"""
The onnxruntime runtime: an exported model (`model.onnx`), float32 or int8, run on packed pairs.

Calls onnxruntime directly, without optimum. On CPU each pair runs alone on one thread. That is a little faster than
batches that share the threads and needs no padding, and a pair's int8 score does not depend on its neighbours: int8
rounds activations on one scale for a whole batch, which moved logits by 0.13 on average and 1 at most.
"""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llvmlite import binding
from numpy.typing import NDArray

from haystack_ce_ranker import forking
from haystack_ce_ranker.backends import token_embeddings
from haystack_ce_ranker.backends.configuration import BESIDE, PairsBeside, load_config, pairs_beside, position_limit
from haystack_ce_ranker.backends.devices import pass_lock, require_process_of
from haystack_ce_ranker.backends.exported import (
    BATCH_TOKENS_PER_THREAD,
    OneByOne,
    flops_of_file,
    run_first_pair,
    stored_dtype,
)
from haystack_ce_ranker.backends.flops import Flops
from haystack_ce_ranker.backends.model_files import HUB_KWARGS, ModelOptions, find_files, parts_of, unreadable
from haystack_ce_ranker.backends.protocol import Batch
from haystack_ce_ranker.backends.signature import Port, Signature
from haystack_ce_ranker.backends.taken import refuse_others
from haystack_ce_ranker.backends.trials import mixes_lengths

TAKEN = ("file_name", *HUB_KWARGS)
"""What this runtime uses of `model_kwargs`, beside the dtype."""
CANDIDATES = ("model.onnx", "model_quantized.onnx", "onnx/model.onnx")
EXACT_INT8 = "session.x64quantprecision"
# The fused kernel takes eight times as long as the nodes that it replaces; without it a pair takes an eighth less time.
SLOW_ON_CPU = ["SkipLayerNormFusion"]
CUDA = "CUDAExecutionProvider"
CPU_ONLY = ["CPUExecutionProvider"]
CUDA_BATCH_TOKENS = 65536
# onnxruntime's names of numbers that numpy calls otherwise.
_NUMPY = {"float": "float32", "double": "float64"}
_OUT_OF_MEMORY = ("Failed to allocate memory", "out of memory", "ALLOC_FAILED")

logger = logging.getLogger(__name__)


class OnnxBackend:
    """See `Backend`."""

    name = "onnx"

    def __init__(
        self,
        session: Any,
        signature: Signature,
        pairs: PairsBeside,
        config: Any,
        *,
        dtype: str,
        threads: int | None,
        flops: Flops | None = None,
        file: Path | None = None,
    ) -> None:
        self._session = session
        self._file = file
        self._signature = signature
        self._process = os.getpid()
        self.dtype = dtype
        self.prompt, self.query_prompt = pairs.prompt, pairs.query_prompt
        self.tokenizer = pairs.tokenizer
        self.max_length = position_limit(config)
        self.flops = flops
        self.pads = session.get_providers()[0] == CUDA
        self.independent = not self.pads  # each pair runs alone
        if self.pads and signature.one_pair:
            raise ValueError(
                "model takes one pair at a time, which is slow on a GPU: set device='cpu', or export it again with the "
                "number of pairs left open (dynamic axes)."
            )
        self.device = f"cuda:{session.get_provider_options()[CUDA]['device_id']}" if self.pads else "cpu"
        self._one_by_one = OneByOne(threads)
        self.batch_tokens = CUDA_BATCH_TOKENS if self.pads else BATCH_TOKENS_PER_THREAD * self._one_by_one.threads
        self.mixes_lengths = not self.pads or mixes_lengths(self, len(self.tokenizer.vocabulary()))

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Return the model's raw output for each pair, shape (pairs,)."""
        if not self.pads:
            return self._one_by_one.logits(batch, self._run)
        require_process_of(self.device, self._process)
        with forking.uninterrupted(), pass_lock(self.device):
            return self._run(batch)

    def _run(self, batch: Batch) -> NDArray[np.float32]:
        found = self._session.run([self._signature.output_name], self._signature.arrays(batch))
        return self._signature.logits(found[0], len(batch.pairs))

    def token_embeddings(self) -> token_embeddings.Rows | None:
        """Read the table from the model's file; see `Embedding`."""
        return None if self._file is None else token_embeddings.of_onnx(self._file, len(self.tokenizer.vocabulary()))

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tell whether `error` means that the batch was too large. Only onnxruntime's message says so."""
        return _is_out_of_memory(error)

    def free_memory(self) -> None:
        """Do nothing: the next, smaller batch reuses onnxruntime's memory."""


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in _OUT_OF_MEMORY)


def load(options: ModelOptions) -> OnnxBackend:
    """
    Open an exported model with onnxruntime.

    :raises ImportError: If onnxruntime is not installed.
    :raises ModelNotFoundError: If the model has no ONNX file.
    :raises ValueError: If it is not a cross-encoder, has several labels and none is named, or `dtype` is not what the
        file holds.
    """
    onnxruntime = import_onnxruntime()
    refuse_others("model_kwargs", options.model_kwargs, TAKEN, "backend='onnx'")
    if (options.device or "cpu").partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(
            f"device={options.device!r} is none that backend='onnx' computes on; set it to 'cpu' or 'cuda:0'."
        )
    folder, file = find_files(options, candidates(options), beside=BESIDE)
    dtype = stored_dtype(file)
    if options.dtype not in (None, "auto", dtype):
        raise ValueError(
            f"dtype={options.dtype!r} is not what {file} holds, which is {dtype}. onnxruntime computes in what the "
            "file holds: omit dtype, or name another file with model_kwargs={'file_name': ...}."
        )
    config = load_config(folder, options)
    session = _session(onnxruntime, file, dtype, options.device)
    signature = Signature(
        _ports(session.get_inputs()), _ports(session.get_outputs()), config, options.model, options.label
    )
    pairs = pairs_beside(folder, options)
    flops = flops_of_file(file, config)
    backend = OnnxBackend(
        session, signature, pairs, config, dtype=dtype, threads=options.threads, flops=flops, file=file
    )
    run_first_pair(backend)
    return backend


def _session(onnxruntime: Any, file: Path, dtype: str, device: str | None) -> Any:
    """Open a file on a GPU if one is asked for and can be had, else on the CPU, which is said."""
    session_options = onnxruntime.SessionOptions()
    if not _has_exact_int8():
        session_options.add_session_config_entry(EXACT_INT8, "1")
    session_options.intra_op_num_threads = 1
    weights = _read_weights(session_options, file)

    def opened(providers: list[Any]) -> Any:
        slow = SLOW_ON_CPU if providers == CPU_ONLY else []
        try:
            return onnxruntime.InferenceSession(
                str(file), session_options, providers=providers, disabled_optimizers=slow
            )
        except Exception as error:  # onnxruntime has a class for each of its statuses
            if _is_out_of_memory(error):
                raise
            raise unreadable(", ".join(map(str, [file, *weights])), error) from error

    available = onnxruntime.get_available_providers()
    wanted = _providers(device, available, dtype)
    session = opened(wanted)
    if wanted != CPU_ONLY and session.get_providers()[0] != CUDA:
        session = opened(CPU_ONLY)  # without the fusion that is slow on CPU
    if not (device or "cpu").startswith("cpu") and session.get_providers()[0] != CUDA:
        reason = (
            "onnxruntime multiplies int8 on the CPU"
            if dtype == "int8"
            else "CUDA did not start"
            if CUDA in available
            else "this onnxruntime is built without CUDA (onnxruntime-gpu is the one with it)"
        )
        logger.warning("%s runs on the CPU and not on %s: %s.", file, device, reason)
    return session


def _read_weights(session_options: Any, file: Path) -> dict[Path, bytes]:
    """
    Read the files that hold a model's weights beside it, if any, so that onnxruntime does not map them.

    A mapped file must not change as long as the model is used: if another program cuts it off, the process ends.

    :returns: What must live until the session is open.
    """
    found = {part: part.read_bytes() for part in parts_of(file)}
    if found and hasattr(session_options, "add_external_initializers_from_files_in_memory"):
        names = [part.relative_to(file.parent).as_posix() for part in found]
        contents = list(found.values())
        session_options.add_external_initializers_from_files_in_memory(names, contents, list(map(len, contents)))
    return found


def _ports(described: Sequence[Any]) -> list[Port]:
    """Return the inputs or outputs of a session as `Signature` reads them."""
    ports = []
    for one in described:
        kind = one.type.removeprefix("tensor(").removesuffix(")")
        sizes = tuple(size if isinstance(size, int) and size > 0 else None for size in one.shape)
        ports.append(Port(one.name, _NUMPY.get(kind, kind), sizes))
    return ports


def import_onnxruntime() -> Any:
    """
    Import onnxruntime, whose telemetry is off unless the environment already says otherwise; see `backends`.

    :raises ImportError: If it is not installed. The error names the extra.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ImportError(
            "backend='onnx' needs onnxruntime, which is not installed: pip install \"ce-ranker-haystack[onnx]\"."
        ) from error
    return onnxruntime


def _has_exact_int8() -> bool:
    """
    Tell whether this CPU has the VNNI instructions, which compute int8 products exactly.

    Without VNNI, products saturate and the same file would rank differently, unless onnxruntime computes in a way that
    takes 1.7 times as long. With VNNI both ways give the same logits to the last bit, so the faster one is used.
    """
    try:
        features = binding.get_host_cpu_features()
    except RuntimeError:  # LLVM does not tell for this processor
        return False
    return bool(features.get("avx512vnni") or features.get("avxvnni"))


def candidates(options: ModelOptions) -> Sequence[str]:
    """Return the paths inside a model's folder that may be its ONNX file, the preferred one first."""
    named = options.model_kwargs.get("file_name")
    return (str(named), f"onnx/{named}") if named is not None else CANDIDATES


def find_local(options: ModelOptions, folder: Path) -> Path | None:
    """Return the ONNX file that `load` would open, or None if the folder holds none."""
    return next((folder / path for path in candidates(options) if (folder / path).is_file()), None)


def _providers(device: str | None, available: Sequence[str], dtype: str) -> list[Any]:
    """
    Return what onnxruntime tries in turn: the named GPU, or the first one if none is named, and then the CPU.

    int8 stays on the CPU: onnxruntime has no GPU kernels for int8 products and would copy back and forth.
    """
    kind, _, index = (device or "cuda").partition(":")
    if kind == "cuda" and CUDA in available and dtype != "int8":
        return [(CUDA, {"device_id": int(index or 0)}), *CPU_ONLY]
    return CPU_ONLY
