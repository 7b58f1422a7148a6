"""
The OpenVINO runtime: an OpenVINO or ONNX file, or a torch checkpoint converted while it loads, run on packed pairs.

Calls openvino directly, without optimum. Runs on CPU. Each pair runs alone on one thread (a stream of OpenVINO). That
scores a quarter more pairs in the same CPU time than batches that share the threads and needs no padding, and a pair's
score does not depend on its neighbours.
"""

import logging
import os
import queue
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker import forking
from haystack_ce_ranker.backends import export, loading, onnx_backend, token_embeddings
from haystack_ce_ranker.backends.configuration import BESIDE, PairsBeside, load_config, pairs_beside, position_limit
from haystack_ce_ranker.backends.exported import (
    BATCH_TOKENS_PER_THREAD,
    OneByOne,
    flops_of_file,
    run_first_pair,
    stored_dtype,
)
from haystack_ce_ranker.backends.flops import Flops
from haystack_ce_ranker.backends.model_files import (
    HUB_KWARGS,
    MissingWeightsError,
    ModelNotFoundError,
    ModelOptions,
    find_files,
    has_safetensors,
    locate,
    parts_of,
    unreadable,
)
from haystack_ce_ranker.backends.needs_torch import require_torch
from haystack_ce_ranker.backends.protocol import Batch
from haystack_ce_ranker.backends.signature import KNOWN, LOGITS, Port, Signature
from haystack_ce_ranker.backends.taken import refuse, refuse_others

logger = logging.getLogger(__name__)

CANDIDATES = ("openvino_model.xml", "openvino/openvino_model.xml")
# A YAML written for optimum may hold these in model_kwargs, for OpenVINO; the others are for the torch model.
OWN_KWARGS = ("file_name", "export", "ov_config")
TAKEN = (*OWN_KWARGS, *HUB_KWARGS)
"""What this runtime uses of `model_kwargs` for an exported file, beside the dtype."""
# Activations of an int8 model get one scale for this many values. That is a quarter faster than OpenVINO's 32, and
# moved logits of the MiniLM cross-encoder by 0.04 instead of 0.03.
INT8_GROUP = 128
# A wrong conversion freezes something that depends on the input, and moves logits by more than this.
SAME_LOGITS = 1e-3
# OpenVINO's names for a precision, and for the capability of a CPU that computes in it.
_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_CAPABILITIES = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16"}
# OpenVINO's names of numbers, and numpy's.
_NUMPY = {
    "i64": "int64",
    "i32": "int32",
    "boolean": "bool",
    "f64": "float64",
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
}


class ConversionError(ValueError):
    """OpenVINO cannot convert a torch model, or the result scores differently."""


class OpenVinoBackend:
    """
    See `Backend`.

    A compiled model has threads of its own, which a forked child lacks. So a child loads the model again.

    :param reload: Loads the same model again.
    :param embeddings: Reads the embeddings of a vocabulary of so many tokens.
    """

    name = "openvino"
    mixes_lengths = independent = True  # each pair runs alone
    device = "cpu"
    pads = False

    def __init__(
        self,
        compiled: Any,
        pairs: PairsBeside,
        *,
        signature: Signature,
        dtype: str,
        one_by_one: OneByOne,
        reload: Callable[[], Any],
        max_length: int | None,
        flops: Flops | None,
        embeddings: Callable[[int], token_embeddings.Rows | None],
    ) -> None:
        self.dtype = _report_dtype(dtype, compiled)
        self.tokenizer = pairs.tokenizer
        self.max_length = max_length
        self.flops = flops
        self.prompt, self.query_prompt = pairs.prompt, pairs.query_prompt
        self.batch_tokens = BATCH_TOKENS_PER_THREAD * one_by_one.threads
        self._signature = signature
        self._one_by_one = one_by_one
        self._reload = reload
        self._embeddings = embeddings
        self._reloading = threading.Lock()
        self._all_requests = [compiled.create_infer_request() for _ in range(one_by_one.threads)]
        self._compiled: Any | None = compiled
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for request in self._all_requests:
            self._requests.put(request)
        forking.renewed(self)

    def after_fork(self) -> None:
        """Give up the model of the parent, whose threads are gone; see `forking`."""
        for parents in (self._compiled, *self._all_requests):
            forking.keep_for_ever(parents)  # destroying them would end the process
        self._compiled = None
        self._reloading = threading.Lock()

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Return the model's raw output for each pair, shape (pairs,)."""
        if self._compiled is None:
            self._load_again()
        return self._one_by_one.logits(batch, self._run)

    def token_embeddings(self) -> token_embeddings.Rows | None:
        """Read the table from the model's file; see `Embedding`."""
        return self._embeddings(len(self.tokenizer.vocabulary()))

    def _load_again(self) -> None:
        with self._reloading:
            if self._compiled is None:
                logger.info("this process was forked after OpenVINO had loaded the model, which is loaded again.")
                again = self._reload()
                self._all_requests, self._requests = again._all_requests, again._requests
                self._compiled = again._compiled

    def _run(self, batch: Batch) -> NDArray[np.float32]:
        arrays = self._signature.arrays(batch)
        request = self._requests.get()  # as many as the pool has threads, so nobody waits
        try:
            found = request.infer(list(arrays.values()), share_inputs=True)
            return self._signature.logits(found[self._signature.output], len(batch.pairs))
        finally:
            self._requests.put(request)

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tell whether `error` means that the batch was too large. OpenVINO passes on the allocator's message."""
        return _is_out_of_memory(error)

    def free_memory(self) -> None:
        """Do nothing: the next pair reuses the memory of the one before."""


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or "bad_alloc" in str(error) or "Failed to allocate" in str(error)


def load(options: ModelOptions) -> OpenVinoBackend:
    """
    Open an OpenVINO file with OpenVINO, else an ONNX file, else convert the torch checkpoint in memory.

    A torch checkpoint is preferred to an int8 ONNX file beside it, which OpenVINO runs at less than half the speed of
    onnxruntime.

    :raises ImportError: If openvino is not installed.
    :raises ModelNotFoundError: If the model has none of these.
    :raises ValueError: If it is not a cross-encoder with one output label, or `dtype` is not available: the file holds
        int8, or this CPU does not compute in it.
    :raises ConversionError: If the torch checkpoint cannot be converted.
    """
    core = import_openvino().Core()
    # A mapped file must not change as long as the model is used: if another program cuts it off, the process ends.
    core.set_property({"ENABLE_MMAP": False})
    if not (options.device or "cpu").startswith("cpu"):
        raise ValueError(
            f"device={options.device!r} is none that backend='openvino' computes on: it uses the CPU only. Set device "
            "to 'cpu', or omit it; for a GPU use backend='torch' or 'onnx'."
        )
    found = _find(options)
    if found is None:
        return _load_converted(core, options)
    refuse_others("model_kwargs", options.model_kwargs, TAKEN, "backend='openvino' with an exported file")
    folder, file = found
    stored = stored_dtype(file)
    dtype = _resolve_dtype(options.dtype, "int8" if stored == "int8" else "float32", core, file)
    if stored == "int8" and file.suffix == ".onnx":
        logger.warning("%s is an int8 ONNX file, which runs faster with backend='onnx' than with OpenVINO.", file)
    config = load_config(folder, options)
    model = _read(core, file)
    signature = _signature(model, config, options.model, options.label)
    one_by_one = OneByOne(options.threads)
    backend = OpenVinoBackend(
        _compile(core, model, dtype, one_by_one.threads, options.model_kwargs.get("ov_config", {})),
        pairs_beside(folder, options),
        signature=signature,
        dtype=dtype,
        one_by_one=one_by_one,
        reload=partial(loading.load, OpenVinoBackend.name, options),
        max_length=position_limit(config),
        flops=flops_of_file(file, config),
        embeddings=lambda tokens: token_embeddings.of_openvino(import_openvino(), _read(core, file), tokens),
    )
    run_first_pair(backend)
    return backend


def _read(core: Any, file: Path) -> Any:
    """
    Read a model file.

    The cache of the hub is made of links, and OpenVINO refuses weights behind a link that leaves the folder of an ONNX
    file. So such files are put into one folder while they are read.
    """
    parts = parts_of(file)
    try:
        return _read_with(core, file, parts)
    except RuntimeError as error:
        if _is_out_of_memory(error):
            raise
        raise unreadable(", ".join(map(str, [file, *parts])), error) from error


def _read_with(core: Any, file: Path, parts: Sequence[Path]) -> Any:
    if file.suffix != ".onnx" or not any(part.is_symlink() for part in parts):
        return core.read_model(file)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as place:
        for path in (file, *parts):
            there = Path(place) / path.relative_to(file.parent)
            there.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(path.resolve(), there)
            except OSError:  # on another disk
                shutil.copyfile(path, there)
        return core.read_model(Path(place) / file.name)


def import_openvino() -> Any:
    """
    Import openvino without its telemetry.

    :raises ImportError: If it is not installed. The error names the extra.
    """
    try:
        with without_telemetry():
            import openvino
    except ImportError as error:
        raise ImportError(
            "backend='openvino' needs openvino, which is not installed: pip install \"ce-ranker-haystack[openvino]\"."
        ) from error
    return openvino


@contextmanager
def without_telemetry() -> Iterator[None]:
    """
    Hide the package with which OpenVINO and NNCF report each import and conversion to Google Analytics.

    Both work without it. If the application imported it first, it stays as the application wants it.
    """
    name = "openvino_telemetry"
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # this is how an import is made to fail
    try:
        yield
    finally:
        del sys.modules[name]


def convert(exact: Any) -> Any:
    """
    Return a loaded torch model as an OpenVINO model with batch and length left open.

    :param exact: A loaded `TorchBackend` in float32 on CPU.
    :raises ConversionError: If OpenVINO cannot convert it.
    """
    openvino = import_openvino()
    module, example = export.traceable(exact)
    try:
        with without_telemetry(), export.quiet():
            model = openvino.convert_model(module, example_input=example)
    except Exception as error:  # the converter raises many kinds, and each means that there is no model
        raise ConversionError(
            f"OpenVINO cannot convert the model ({export.first_line(error)}); use backend='torch'."
        ) from error
    for port, name in zip(model.inputs, export.input_names(exact), strict=True):
        port.get_tensor().set_names({name})
    return model


def _load_converted(core: Any, options: ModelOptions) -> OpenVinoBackend:
    instead = "Without it, this backend opens OpenVINO and ONNX files."
    require_torch("converting a torch checkpoint for backend='openvino'", instead)
    from haystack_ce_ranker.backends import torch_backend

    placed = ["device_map"] if options.model_kwargs.get("device_map") is not None else []
    refuse("model_kwargs", placed, "backend='openvino' computes on the CPU, and the parameter device says it")
    dtype = _resolve_dtype(options.dtype, "float32", core, None)
    kwargs = {key: value for key, value in options.model_kwargs.items() if key not in OWN_KWARGS}
    in_torch = replace(options, dtype="float32", device="cpu", model_kwargs=kwargs)
    exact = torch_backend.load(in_torch)
    model = convert(exact)
    signature = _signature(model, None, options.model)  # the model was checked when torch loaded it
    one_by_one = OneByOne(options.threads)
    config = options.model_kwargs.get("ov_config", {})

    def loaded(precision: str, properties: Mapping[str, Any]) -> OpenVinoBackend:
        return OpenVinoBackend(
            _compile(core, model, precision, one_by_one.threads, properties),
            PairsBeside(exact.tokenizer, exact.prompt, exact.query_prompt),
            signature=signature,
            dtype=precision,
            one_by_one=one_by_one,
            reload=partial(loading.load, OpenVinoBackend.name, options),
            max_length=exact.max_length,
            flops=exact.flops,
            embeddings=lambda _: torch_backend.load(in_torch).token_embeddings(),
        )

    in_float32 = loaded("float32", {})
    _require_same_logits(exact, in_float32, options.model)
    return in_float32 if dtype == "float32" and not config else loaded(dtype, config)


def _find(options: ModelOptions) -> tuple[Path, Path] | None:
    """Return the model's folder and the file to open in it; None if its torch checkpoint is to be converted."""
    named, export = (options.model_kwargs.get(key) for key in ("file_name", "export"))
    if export not in (None, True, False) or (export and named is not None):
        raise ValueError(
            "model_kwargs['export'] must be True to convert the checkpoint or False to open a file, not True beside "
            f"file_name, but got {export!r}."
        )
    if export:
        return None
    places: list[Sequence[str]] = [CANDIDATES, onnx_backend.candidates(options)]
    if named is not None:
        by_kind = {".xml": (str(named), f"openvino/{named}"), ".onnx": onnx_backend.candidates(options)}
        if Path(str(named)).suffix not in by_kind:
            raise ValueError(
                f"model_kwargs['file_name'] must end in .xml or .onnx for backend='openvino', but got {named!r}."
            )
        places = [by_kind[Path(str(named)).suffix]]
    for paths in places:
        weights = [path.removesuffix(".xml") + ".bin" for path in paths if path.endswith(".xml")]
        try:
            folder, file = find_files(options, paths, beside=[*BESIDE, *weights])
        except ModelNotFoundError as error:
            if named is not None or isinstance(error, MissingWeightsError):
                raise
            continue
        if file.suffix == ".onnx" and named is None and has_safetensors(folder) and stored_dtype(file) == "int8":
            continue
        return folder, file
    folder = Path(locate(options.model))
    if export is False:
        raise ModelNotFoundError(
            f"model {options.model!r} has no OpenVINO or ONNX file to open, and model_kwargs['export'] is False; omit "
            "it to convert the checkpoint."
        )
    if folder.is_dir() and not has_safetensors(folder):
        tried = ", ".join([*CANDIDATES, *onnx_backend.CANDIDATES, "*.safetensors"])
        raise ModelNotFoundError(f"model {options.model!r} has none of {tried} in {folder}.")
    return None


def _resolve_dtype(dtype: str | None, stored: str, core: Any, file: Path | None) -> str:
    """Return the dtype to compute in: int8 if the file holds it, else the one asked for, if this CPU computes in it."""
    if stored == "int8":
        if dtype not in (None, "auto"):
            raise ValueError(
                f"dtype={dtype!r} is not what {file} holds, which is int8: omit dtype, or name another file with "
                "model_kwargs={'file_name': ...}."
            )
        return stored
    capabilities = core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if dtype == "auto":
        return "bfloat16" if _CAPABILITIES["bfloat16"] in capabilities else "float32"
    wanted = dtype if dtype is not None else "float32"
    if wanted != "float32" and _CAPABILITIES[wanted] not in capabilities:
        raise ValueError(f"dtype={wanted!r} is not what this CPU computes in; use dtype='auto' or 'float32'.")
    return wanted


def _compile(core: Any, model: Any, dtype: str, threads: int, config: Mapping[str, Any]) -> Any:
    settings: dict[str, Any] = {
        # The other operations of an int8 model stay in float32: bfloat16 gave wrong logits.
        "INFERENCE_PRECISION_HINT": _HINTS.get(dtype, "f32"),
        "NUM_STREAMS": threads,
        "INFERENCE_NUM_THREADS": threads,
        "ENABLE_CPU_PINNING": False,  # or the workers of a server would share the first cores
    }
    if dtype == "int8":
        settings["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = INT8_GROUP
    try:
        return core.compile_model(model, "CPU", {**settings, **config})
    except RuntimeError as error:
        unknown = [key for key in config if key not in core.get_property("CPU", "SUPPORTED_PROPERTIES")]
        if not unknown:
            raise
        raise ValueError(
            f"model_kwargs['ov_config'] has {', '.join(map(repr, unknown))}, which OpenVINO does not take "
            f"({_last_line(error)}); remove it, or see OpenVINO's list of properties."
        ) from error


def _report_dtype(dtype: str, compiled: Any) -> str:
    """Name the dtype that the model computes in: `ov_config` may ask for another one than `dtype`."""
    hint = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return dtype if dtype == "int8" else next((name for name, known in _HINTS.items() if known == hint), hint)


def _signature(model: Any, config: Any, name: str, label: int | str | None = None) -> Signature:
    def ports(described: Sequence[Any]) -> list[Port]:
        return [_port(port) for port in described]

    return Signature(ports(model.inputs), ports(model.outputs), config, name, label)


def _port(described: Any) -> Port:
    """Return an input or output of a model as `Signature` reads it. It may have several names, or none."""
    names = described.names
    name = next((known for known in (*KNOWN, LOGITS) if known in names), min(names, default=""))
    shape = described.partial_shape
    sizes = tuple(size.get_length() if size.is_static else None for size in shape) if shape.rank.is_static else None
    kind = described.element_type.get_type_name()
    return Port(name, _NUMPY.get(kind, kind), sizes)


def _require_same_logits(exact: Any, converted: OpenVinoBackend, model: str) -> None:
    """Compare the two on pairs whose lengths differ from the example of the conversion."""
    texts = ["what is this?", "it", "an answer to it, longer than the question " * 3]
    [query] = exact.tokenizer.encode_queries(texts[:1])
    documents = exact.tokenizer.encode_documents(texts[1:])
    pairs = [exact.tokenizer.format.pack(query.ids, document.ids) for document in documents]
    batches = [Batch([pair], exact.tokenizer.pad_id) for pair in pairs]
    theirs = np.concatenate([exact.logits(batch) for batch in batches])
    try:
        ours = np.concatenate([converted.logits(batch) for batch in batches])
    except (RuntimeError, ValueError) as error:  # what depends on the input was frozen: it does not run, or is empty
        raise ConversionError(
            f"model {model!r} does not run once OpenVINO has converted it ({_last_line(error)}); use backend='torch'."
        ) from error
    if not np.allclose(ours, theirs, rtol=SAME_LOGITS, atol=SAME_LOGITS):
        raise ConversionError(
            f"model {model!r} scores differently once OpenVINO has converted it: {ours.tolist()} instead of "
            f"{theirs.tolist()}; use backend='torch'."
        )


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
