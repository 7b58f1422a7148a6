"""
The torch runtime: a sequence-classification model loaded by sentence-transformers, run on packed pairs.

Loading (hub, revision, tokens, prompts) stays with sentence-transformers; tokenising and batching are the engine's.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from haystack_ce_ranker.backends import Batch, position_limit
from haystack_ce_ranker.models import ModelOptions, check_dtype, locate, not_found
from haystack_ce_ranker.pairs import PairTokenizer

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# Small batches of equal length win on CPU (caches), large ones on a GPU (occupancy); see benchmarks/speed.py.
BATCH_TOKENS = {"cpu": 1024, "cuda": 65536}
_FALLBACK_BATCH_TOKENS = 16384


class TorchBackend:
    """See `Backend`. One forward pass at a time on CPU, so that requests share the threads instead of fighting."""

    name = "torch"
    pads = True

    def __init__(self, cross_encoder: Any, options: ModelOptions) -> None:
        self.cross_encoder = cross_encoder
        self._model = cross_encoder.model.eval()
        self._device = next(self._model.parameters()).device
        self.device = str(self._device)
        self.dtype = str(next(self._model.parameters()).dtype).removeprefix("torch.")
        self.tokenizer = PairTokenizer(cross_encoder.tokenizer)
        self.max_length = position_limit(self._model.config)
        self.batch_tokens = BATCH_TOKENS.get(self._device.type, _FALLBACK_BATCH_TOKENS)
        self.query_prompt = _saved_prompt(cross_encoder, self.tokenizer)
        self._threads = options.threads
        self._one_at_a_time = threading.Lock()

    def logits(self, batch: Batch) -> NDArray[np.float32]:
        """Return the model's raw output for each pair, shape (pairs,)."""
        arrays = batch.padded()
        if not self.tokenizer.uses_token_types:
            del arrays["token_type_ids"]
        inputs = {name: torch.from_numpy(array) for name, array in arrays.items()}
        if self._device.type == "cuda":
            inputs = {name: tensor.pin_memory() for name, tensor in inputs.items()}
        inputs = {name: tensor.to(self._device, non_blocking=True) for name, tensor in inputs.items()}
        with self._one_at_a_time, _threads(self._threads), torch.inference_mode():
            output: torch.Tensor = self._model(**inputs).logits
        values: NDArray[np.float32] = output[:, 0].float().cpu().numpy()
        return values

    def is_out_of_memory(self, error: Exception) -> bool:
        """Tell whether `error` means that the batch was too large: the GPU's own error, or the CPU allocator's."""
        return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
            isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
        )

    def free_memory(self) -> None:
        """Give back what torch's allocator holds in reserve."""
        if self._device.type == "cuda":
            torch.cuda.empty_cache()


def load(options: ModelOptions) -> TorchBackend:
    """
    Load a cross-encoder with sentence-transformers.

    :raises ModelNotFoundError: If there is no such folder, and the hub does not have or cannot give it.
    :raises ValueError: If the model is not a sequence-classification model with one output label, or its weights are
        not safetensors.
    """
    from sentence_transformers import CrossEncoder

    model_kwargs = dict(options.model_kwargs)
    if model_kwargs.setdefault("use_safetensors", True) is not True:
        raise ValueError(
            f"model_kwargs['use_safetensors'] must be True, but got {model_kwargs['use_safetensors']!r}: "
            "pickled weights run code; convert them to safetensors."
        )
    if options.dtype is not None:
        model_kwargs["dtype"] = resolve_dtype(options.dtype, options.device)
    place = locate(options.model)
    try:
        cross_encoder = CrossEncoder(
            place,
            device=options.device,
            revision=options.revision,
            token=options.token,
            trust_remote_code=options.trust_remote_code,
            model_kwargs=model_kwargs,
            processor_kwargs=dict(options.tokenizer_kwargs),
            config_kwargs=dict(options.config_kwargs),
        )
    except OSError as error:
        if place == options.model and "safetensors" not in str(error):
            raise not_found(options.model, error) from error
        raise
    _require_classifier(cross_encoder, options.model)
    return TorchBackend(cross_encoder, options)


def resolve_dtype(dtype: str, device: str | None) -> torch.dtype:
    """
    Return the torch type for a name; `auto` is the fastest that ranks the same on this hardware.

    `auto` gives float16 on a GPU, bfloat16 on a CPU with AVX512-BF16 or AMX instructions, and float32 elsewhere:
    without them bfloat16 is emulated, and slower than float32.
    """
    check_dtype(dtype)
    if dtype != "auto":
        return DTYPES[dtype]
    on_gpu = device.startswith("cuda") if device is not None else torch.cuda.is_available()
    if on_gpu:
        return torch.float16
    on_cpu = device is None or device.startswith("cpu")
    return torch.bfloat16 if on_cpu and _cpu_has_bfloat16() else torch.float32


def _cpu_has_bfloat16() -> bool:
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") or capabilities.get("amx"))


def _require_classifier(cross_encoder: Any, model: str) -> None:
    if len(cross_encoder) != 1 or cross_encoder.model is None:
        raise ValueError(
            f"model {model!r} is not a sequence-classification cross-encoder but "
            f"{' + '.join(type(module).__name__ for module in cross_encoder)} (for example a causal re-ranker); "
            "use a model with an AutoModelForSequenceClassification form."
        )
    if cross_encoder.num_labels != 1:
        raise ValueError(
            f"model {model!r} has {cross_encoder.num_labels} output labels; "
            "a ranker needs one, the relevance of the document to the query."
        )


def _saved_prompt(cross_encoder: Any, tokenizer: PairTokenizer) -> str:
    """Return the prompt that the model was saved with, once our packing of a prompted pair equals the library's."""
    name = cross_encoder.default_prompt_name
    prompt: str = cross_encoder.prompts.get(name, "") if name is not None else ""
    pair = ("a question", "an answer")
    theirs = cross_encoder.preprocess([pair], prompt=prompt or None)["input_ids"]
    query, document = tokenizer.encode([prompt + pair[0], pair[1]])
    ours = tokenizer.format.pack(query.ids, document.ids).ids
    if np.asarray(theirs).reshape(-1).tolist() != ours.tolist():
        raise ValueError(
            f"model wraps its pairs in a way that cannot be budgeted (saved prompt {prompt!r}, or a chat template); "
            "use a model that reads plain query-document pairs."
        )
    return prompt


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Run with `count` threads, then restore the process's own number."""
    if count is None or count == torch.get_num_threads():
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
