"""
The torch runtime: a cross-encoder loaded by sentence-transformers, run on packed pairs.

sentence-transformers loads the model (hub, revision, tokens, prompts), and `cross_encoders.py` knows how to use what it
loaded; the engine tokenises and makes batches. On a GPU
a batch is either one padded array or one row without padding (`packed.py`); a short trial at loading finds out which is
faster. The GPU paths have run on one H100; benchmarks/speed.md has the figures.
"""

import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from haystack_ce_ranker import forking
from haystack_ce_ranker.backends import cross_encoders, labels, token_embeddings
from haystack_ce_ranker.backends.batching import CPU_PASS_TOKENS, plan_batches
from haystack_ce_ranker.backends.configuration import position_limit, require_useful_tokenizer_kwargs, stores_quantised
from haystack_ce_ranker.backends.devices import pass_lock, require_device, require_process_of
from haystack_ce_ranker.backends.first_token import first_tokens_only, part_behind_the_last_attention
from haystack_ce_ranker.backends.float32_head import keep_head_in_float32, keep_stack_in_float32
from haystack_ce_ranker.backends.loading import BACKENDS
from haystack_ce_ranker.backends.model_files import (
    HUB_KWARGS,
    ModelNotFoundError,
    ModelOptions,
    check_dtype,
    has_safetensors,
    locate,
    not_found,
    require_shards,
    unreadable,
)
from haystack_ce_ranker.backends.packed import ARCHITECTURES, PackedForm, why_not
from haystack_ce_ranker.backends.protocol import Batch
from haystack_ce_ranker.backends.side_by_side import SideBySide
from haystack_ce_ranker.backends.taken import INSTEAD, refuse
from haystack_ce_ranker.backends.torch_threads import thread_with, use_threads
from haystack_ce_ranker.backends.trials import TOLERANCE, mixes_lengths, trial_batches
from haystack_ce_ranker.data_files import read_json
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer

logger = logging.getLogger(__name__)

Found = TypeVar("Found")

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Small batches of equal length win on CPU (caches), large ones on a GPU (occupancy); see benchmarks/speed.py. On CPU
# most batches are smaller than this: the scorer splits pairs where padding and passes cost least.
BATCH_TOKENS = {"cpu": 1024, "cuda": 65536}
_FALLBACK_BATCH_TOKENS = 16384
# torch on CPU, MPS, the CUDA driver, cuBLAS and cuDNN raise a plain RuntimeError with one of these texts.
_OUT_OF_MEMORY = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")

PART_TOKENS = 384
"""
The most tokens of a small batch that runs on one thread of a CPU. Much smaller ones cost passes; larger ones leave the
caches of a core, and threads without work at the end of a request.
"""

TRIAL_ROUNDS = 6
"""How often the trial of the packed form runs each batch. The first run warms up; the fastest of the others counts."""


class TorchBackend:
    """
    See `Backend` and `Asynchronous`.

    On a CPU a batch of a model that `packed.ARCHITECTURES` lists is split into small ones that run side by side, each
    on one thread: threads that share one wait for each other in each layer. How it is split depends on its own pairs
    alone, so scores do not depend on what other requests there are. Batches of other models run as a whole, since
    nothing says that such a model may run twice at once.

    Otherwise one forward pass runs at a time on a device, whichever model it belongs to. On a GPU a pass holds the lock
    only while it is queued, and the GPU needs the memory of one pass at a time. (Queueing a padded pass waits for the
    passes before it, because transformers looks at its mask. A packed pass has no mask.)

    :ivar call: Takes tensors of shape (pairs, tokens), and returns the raw outputs, shape (pairs, labels).
    :ivar label: The number of the output that is the score.
    :ivar splits: See `InParts`.
    :param packed: True packs batches, False pads them, None lets a trial decide on a GPU and pads elsewhere.
    :param learns: Whether the model is being trained. Then its modules stay as they are, and so they are saved.
    :raises ValueError: If `packed` is True and the model cannot read packed batches.
    """

    name = "torch"

    def __init__(
        self, cross_encoder: Any, options: ModelOptions, *, packed: bool | None = None, learns: bool = False
    ) -> None:
        self.cross_encoder = cross_encoder.eval()
        self._model = cross_encoder.model
        self._device = next(self._model.parameters()).device
        self.device = str(self._device)
        # before the head becomes float32, which may stand before the body
        self.dtype = str(next(self._model.parameters()).dtype).removeprefix("torch.")
        if not learns and cross_encoders.is_classifier(cross_encoder):
            keep_head_in_float32(self._model)
        elif not learns:
            keep_stack_in_float32(cross_encoder)
        self.max_length = position_limit(self._model.config)
        self.flops = cross_encoders.flops_in_closed_form(cross_encoder)
        self.prompt = cross_encoders.prompt_of(cross_encoder, options)
        own_encoding, self.query_prompt = cross_encoders.own_encoding(cross_encoder, self.prompt)
        self.tokenizer = PairTokenizer(
            cross_encoder.tokenizer, own_encoding, **cross_encoders.padding(cross_encoder, options)
        )
        self.call = cross_encoders.call_of(cross_encoder, self.prompt)
        self.label = labels.choose(options.label, cross_encoders.label_names(cross_encoder), options.model)
        self.batch_tokens = BATCH_TOKENS.get(self._device.type, _FALLBACK_BATCH_TOKENS)
        self._threads = options.threads
        self._process = os.getpid()
        self._own_threads: dict[int, int] = {self._process: torch.get_num_threads()}
        self._last_part = part_behind_the_last_attention(self._model)
        self._packed: PackedForm | None = None
        if packed or (packed is None and self._device.type == "cuda" and self._packs_faster()):
            self._packed = self._pack()
        self.pads, self.splits = self._packed is None, False
        self.mixes_lengths = not self.pads or mixes_lengths(self, self._model.config.vocab_size)
        if self.pads and self._device.type == "cpu" and not learns and _may_run_twice_at_once(cross_encoder):
            self.pads, self.splits = False, True
            self.batch_tokens *= self._threads_here()

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Return the model's raw output for each pair, shape (pairs,)."""
        return self.start(batch)()

    def token_embeddings(self) -> token_embeddings.Rows | None:
        """Return the table of the loaded model; see `Embedding`."""
        return token_embeddings.of_module(self._model, len(self.tokenizer.vocabulary()))

    def start(self, batch: Batch) -> Callable[[], NDArray[np.float32]]:
        """Queue a batch on a GPU, and return a function that waits for its logits. On CPU they are there at once."""
        with forking.uninterrupted():  # this thread, not the one that computes: a fork that waits lets no other one in
            if self._device.type != "cpu":
                return forking.in_own_thread(partial(self._start, batch))
            if self.splits and self._packed is None:
                values = self._in_parts(batch)
                return lambda: values
            return self._on_all_threads(self._start, batch)

    def parts(self, lengths: NDArray[np.int64]) -> list[NDArray[np.intp]]:
        """Return which pairs of a batch share an array; see `InParts`."""
        threads, tokens = self._threads_here(), BATCH_TOKENS["cpu"]
        if self._has_parts_for_all(len(lengths)):
            share = PART_TOKENS if threads == 1 else -(-int(lengths.sum()) // threads)
            tokens = max(min(share, PART_TOKENS), 1)
        return [*plan_batches(lengths, batch_tokens=tokens, pass_tokens=CPU_PASS_TOKENS)]

    def _has_parts_for_all(self, pairs: int) -> bool:
        """Whether so many pairs keep most threads busy if each has a part of its own."""
        return 2 * pairs > self._threads_here()

    def _in_parts(self, batch: Batch) -> NDArray[np.float32]:
        """Compute parts side by side, each on one thread, or if there are few pairs one by one, each on all threads."""
        parts = self.parts(np.asarray([len(pair.ids) for pair in batch.pairs], dtype=np.int64))
        batches = [replace(batch, pairs=[batch.pairs[place] for place in part]) for part in parts]
        threads = SideBySide(self._threads_here())
        if self._has_parts_for_all(len(batch.pairs)):
            found = threads.map(self._on_one_thread, batches, batch.on_idle)
        else:
            found = threads.map(partial(self._on_all_threads, self._computed), batches, each=threads.threads)
        logits = np.empty(len(batch.pairs), dtype=np.float32)
        logits[np.concatenate(parts)] = np.concatenate(found)
        return logits

    def _on_one_thread(self, part: Batch) -> NDArray[np.float32]:
        use_threads(1)
        return self._computed(part)

    def _on_all_threads(self, compute: Callable[[Batch], Found], batch: Batch) -> Found:
        try:
            begun = thread_with(self._threads_here()).submit(compute, batch)
        except RuntimeError:  # the process is ending, and the thread with it
            return compute(batch)
        return begun.result()

    def _computed(self, part: Batch) -> NDArray[np.float32]:
        with first_tokens_only(self._last_part), torch.inference_mode():
            output = self.call(self._inputs(part)).float()
            return labels.one_logit_each(output.numpy(), len(part.pairs), self.label)

    def _start(self, batch: Batch) -> Callable[[], NDArray[np.float32]]:
        require_process_of(self.device, self._process)
        inputs = {name: self._moved(value) for name, value in self._inputs(batch).items()}
        padded_only = self._last_part if self._packed is None else None
        with (
            pass_lock(self.device),
            first_tokens_only(padded_only),
            torch.inference_mode(),
        ):
            output = self.call(inputs).float()
            if self._device.type != "cuda":
                values = labels.one_logit_each(output.cpu().numpy(), len(batch.pairs), self.label)
                return lambda: values
            # The copy is queued, too: waiting for it does not wait for the passes that are queued after it.
            copy = torch.empty(output.shape, dtype=output.dtype, pin_memory=True)
            copy.copy_(output, non_blocking=True)
            done = torch.cuda.Event()
            done.record(torch.cuda.current_stream(self._device))

        def wait() -> NDArray[np.float32]:
            done.synchronize()
            return labels.one_logit_each(copy.numpy(), len(batch.pairs), self.label)

        return wait

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tell whether `error` means that the batch was too large: the GPU's own error, or the CPU allocator's."""
        return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
            isinstance(error, RuntimeError) and any(sign in str(error) for sign in _OUT_OF_MEMORY)
        )

    def free_memory(self) -> None:
        """Give back the memory that torch's allocator holds in reserve."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _threads_here(self) -> int:
        """
        Return the threads of a pass: what was asked for, else torch's own number when the model was loaded.

        In a forked child, this is torch's number before the first pass there.
        """
        if self._threads is not None:
            return self._threads
        return self._own_threads.setdefault(os.getpid(), torch.get_num_threads())

    def _inputs(self, batch: Batch) -> dict[str, torch.Tensor | int]:
        if self._packed is not None:
            return self._packed.inputs(batch)
        arrays = batch.padded()
        if not self.tokenizer.uses_token_types:
            del arrays["token_type_ids"]
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _moved(self, value: torch.Tensor | int) -> torch.Tensor | int:
        if not isinstance(value, torch.Tensor):
            return value
        if self._device.type == "cuda":
            value = value.pin_memory()  # or the copy would wait for what the GPU is doing
        return value.to(self._device, non_blocking=True)

    def _pack(self) -> PackedForm:
        return PackedForm(self._model, uses_token_types=self.tokenizer.uses_token_types)

    def _packs_faster(self) -> bool:
        reason = why_not(self._model) if cross_encoders.is_classifier(self.cross_encoder) else "it has several modules"
        if reason is None:
            reason = self._trial()
        logger.info("packed batches on %s: %s.", self.device, reason if reason is not None else "faster, and used")
        return reason is None

    def _trial(self) -> str | None:
        """
        Run two batches packed and padded, one of mixed and one of equal lengths.

        Candidates mostly mix lengths, windows of long documents are nearly equal, so both count alike. What the trial
        does not see speaks for packing: a padded pass of a new shape first plans its attention, which took 5 ms a layer
        on an H100, and new candidates bring new shapes.

        :returns: None if packing is faster on both together and scores the same; else the reason not to pack.
        """
        batches = trial_batches(self.tokenizer, self._model.config.vocab_size, self.max_length)
        seconds: dict[tuple[bool, int], list[float]] = {}
        found: dict[tuple[bool, int], NDArray[np.float32]] = {}
        for _ in range(TRIAL_ROUNDS):
            for packed in (False, True):
                try:
                    self._packed = self._pack() if packed else None
                    for nth, batch in enumerate(batches):
                        started = time.perf_counter()
                        found[packed, nth] = self.logits(batch)
                        seconds.setdefault((packed, nth), []).append(time.perf_counter() - started)
                except Exception as error:
                    # This GPU may lack the kernel or the memory: padded batches need neither.
                    return f"the trial failed ({error})"
                finally:
                    if self._packed is not None:
                        self._packed.undo()
                        self._packed = None
        padded, packed_logits = (np.concatenate([found[form, 0], found[form, 1]]) for form in (False, True))
        allowed = TOLERANCE[self.dtype] * max(float(np.abs(padded).max()), 1.0)
        difference = float(np.abs(padded - packed_logits).max())
        if not difference <= allowed:
            logger.warning("packed batches are not used on %s: scores differ by %.4f.", self.device, difference)
            return f"packed scores differ by {difference:.4f}"
        mixed, equal = (min(seconds[True, nth][1:]) / min(seconds[False, nth][1:]) for nth in (0, 1))
        if math.sqrt(mixed * equal) > 0.95:
            return f"packed ones take {mixed:.2f} of the time on mixed lengths, {equal:.2f} on equal ones"
        return None


def load(options: ModelOptions) -> TorchBackend:
    """
    Load a cross-encoder with sentence-transformers.

    `model_kwargs={"attn_implementation": "packed"}` asks for packed batches. Any other name goes to transformers, and
    batches are padded.

    :raises ModelNotFoundError: If there is no such folder, the model cannot be fetched from the hub, or the folder
        holds no safetensors.
    :raises ValueError: If the model has several labels and none is named, no trained head, or pairs that cannot be
        packed, its weights are not safetensors, torch cannot use `device` here, or packed batches were asked for
        and are impossible.
    """
    model_kwargs = dict(options.model_kwargs)
    if model_kwargs.setdefault("use_safetensors", True) is not True:
        raise ValueError(
            f"model_kwargs['use_safetensors'] must be True, but got {model_kwargs['use_safetensors']!r}: "
            "pickled weights run code; convert them to safetensors."
        )
    attention = model_kwargs.get("attn_implementation")
    packed = None if attention is None else attention == "packed"
    if packed:
        del model_kwargs["attn_implementation"]
    _require_devices(options)
    place = locate(options.model)
    if Path(place).is_dir():
        _require_safetensors(Path(place), options.model)
    refuse("model_kwargs", [key for key in options.model_kwargs if key in _NOT_TORCH], _TAKEN)
    refuse("config_kwargs", [key for key in options.config_kwargs if key in INSTEAD], _TAKEN)
    require_useful_tokenizer_kwargs(place, options)
    if options.dtype is not None or not stores_quantised(place, options):
        # transformers 5 would take the checkpoint's own, and float16 takes four times as long on a CPU
        model_kwargs["dtype"] = resolve_dtype(options.dtype if options.dtype is not None else "float32", options.device)
    cross_encoder = _cross_encoder(place, options, model_kwargs)
    _copy_mapped_weights(cross_encoder)
    if cross_encoder.tokenizer.pad_token_id is None:
        # The library pads even a single pair. Which token it takes is hidden by the mask, and by `padding` below.
        cross_encoder.tokenizer.pad_token = cross_encoder.tokenizer.unk_token or cross_encoder.tokenizer.eos_token
    cross_encoders.require_trained_head(cross_encoder, options)
    config = cross_encoder.model.config
    unknown = [key for key in options.config_kwargs if not hasattr(config, key)]
    refuse("config_kwargs", unknown, f"{type(config).__name__} takes {', '.join(sorted(config.to_dict()))}")
    return TorchBackend(cross_encoder, options, packed=packed)


def _require_devices(options: ModelOptions) -> None:
    mapped = options.model_kwargs.get("device_map")
    if mapped is not None and options.device not in (None, mapped):
        raise ValueError(
            f"device={options.device!r} and model_kwargs['device_map']={mapped!r} both say where the model runs; give "
            "one of them."
        )
    require_device("device", options.device)
    if isinstance(mapped, str) and mapped.startswith("cuda"):  # others are no devices, such as "auto"
        require_device("model_kwargs['device_map']", mapped)


_NOT_TORCH = ({*INSTEAD} - {*HUB_KWARGS}) | {"file_name", "export", "ov_config"}
_TAKEN = "backend='torch' takes what from_pretrained of transformers takes"


def _cross_encoder(place: str, options: ModelOptions, model_kwargs: dict[str, Any]) -> Any:
    from sentence_transformers import CrossEncoder

    try:
        return CrossEncoder(
            place,
            device=options.device,
            revision=options.revision,
            token=options.token,
            trust_remote_code=options.trust_remote_code,
            cache_folder=model_kwargs.pop("cache_dir", None),
            local_files_only=model_kwargs.pop("local_files_only", False),
            model_kwargs=model_kwargs,
            processor_kwargs=dict(options.tokenizer_kwargs),
            config_kwargs=dict(options.config_kwargs),
        )
    except SafetensorError as error:
        raise unreadable(_first_unreadable(place), error) from error
    except OSError as error:
        if place == options.model and "safetensors" not in str(error):
            raise not_found(options.model, error) from error
        raise
    except TypeError as error:
        unknown = [key for key in options.model_kwargs if repr(key) in str(error)]
        if "unexpected keyword argument" not in str(error) or not unknown:
            raise
        refuse("model_kwargs", unknown, _TAKEN)
        raise


def _first_unreadable(place: str) -> str:
    """Return the first weight file in a folder that safetensors cannot open, or the folder."""
    for file in sorted(Path(place).rglob("*.safetensors")):
        try:
            with safe_open(file, framework="numpy"):
                pass
        except (SafetensorError, OSError):
            return str(file)
    return place


def _copy_mapped_weights(module: torch.nn.Module) -> None:
    """
    Copy the weights that are still those of a mapped file into the process's own memory.

    On CPU, safetensors maps the file. If another program changes it, the model changes, too; if one cuts it off, the
    process ends.
    """
    with torch.no_grad():
        for weights in (*module.parameters(), *module.buffers()):
            held = weights.data
            if type(held) is torch.Tensor and held.device.type == "cpu" and not held.untyped_storage().resizable():
                weights.data = held.clone()


def resolve_dtype(dtype: str, device: str | None) -> torch.dtype:
    """
    Return the torch type for a name. `auto` is the fastest that ranks the same on this hardware.

    `auto` gives float16 on a GPU, bfloat16 on a CPU with AVX512-BF16 or AMX instructions, and float32 elsewhere: a CPU
    without these instructions emulates bfloat16, which is slower than float32.
    """
    check_dtype(dtype)
    if dtype != "auto":
        return DTYPES[dtype]
    on_gpu = device.startswith("cuda") if device is not None else torch.cuda.is_available()
    if on_gpu:
        return torch.float16
    on_cpu = device is None or device.startswith("cpu")
    return torch.bfloat16 if on_cpu and cpu_has_bfloat16() else torch.float32


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU has instructions for bfloat16, AVX512-BF16 or AMX."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("amx"))


def _require_safetensors(folder: Path, model: str) -> None:
    """
    Raise unless a folder holds weights as safetensors. The error says what to do instead.

    :raises ModelNotFoundError: If it does not. The error names what it holds, and the runtime that reads it.
    """
    described = any((folder / name).is_file() for name in ("config.json", "modules.json"))
    if (folder / "adapter_config.json").is_file() and not described:
        raise ModelNotFoundError(
            f"model {model!r} has only an adapter in {folder}, without the model that it changes. Load both with "
            "sentence_transformers.CrossEncoder and save them with save_pretrained, or merge the adapter."
        )
    if has_safetensors(folder):
        require_shards(folder)
        _refuse_pickled_parts(folder, model)
        return
    for name, runtime in BACKENDS.items():
        exported = (
            sorted(str(file.relative_to(folder)) for file in folder.rglob(runtime.files)) if runtime.files else []
        )
        if exported:
            raise ModelNotFoundError(
                f"model {model!r} has only {runtime.format} weights ({', '.join(exported)}) in {folder}: "
                f"set backend={name!r}."
            )
    held = sorted(file.name for file in folder.iterdir())
    raise ModelNotFoundError(
        f"model {model!r} has no weights as safetensors in {folder}, which holds {', '.join(held[:10]) or 'nothing'}. "
        "Pickled weights (pytorch_model.bin) are not read, as they run code; convert them to safetensors."
    )


def _refuse_pickled_parts(folder: Path, model: str) -> None:
    """Raise if a module or an adapter in a folder has only pickled weights, which libraries would read instead."""
    described = read_json(folder / "modules.json") if (folder / "modules.json").is_file() else []
    parts = [one.get("path") for one in described if isinstance(one, dict)] if isinstance(described, list) else []
    places = [folder, *(folder / path for path in parts if isinstance(path, str))]
    for pickled in (place / name for place in places for name in ("pytorch_model.bin", "adapter_model.bin")):
        exact = pickled.with_name(pickled.name.replace("pytorch_", "")).with_suffix(".safetensors")
        if pickled.is_file() and not any(exact.parent.glob(f"{exact.stem}*.safetensors")):
            raise ModelNotFoundError(
                f"model {model!r} has only pickled weights in {pickled}, which are not read, as they run code; convert "
                "them to safetensors."
            )


def _may_run_twice_at_once(cross_encoder: Any) -> bool:
    """Tell whether several threads may run a model at once: its forward pass changes nothing in it."""
    model = cross_encoder.model
    own = type(model).__module__.startswith("transformers.") and cross_encoders.is_classifier(cross_encoder)
    quantised = getattr(model.config, "quantization_config", None) is not None
    return own and model.config.model_type in ARCHITECTURES and not quantised
