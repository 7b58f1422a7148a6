"""
A cross-encoder as int8 ONNX: exported, optimised, its weights quantised, and written only if it ranks the same.

Activations are quantised while the model runs (dynamic), so no data is needed to quantise, only to verify. Needs no
optimum.
"""

import shutil
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker import backends
from haystack_ce_ranker.models import ModelOptions
from haystack_ce_ranker.scoring import CrossEncoderScorer, ReadingPolicy

MIN_CORRELATION = 0.95
MIN_OVERLAP = 0.9
TOP = 10

_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_QUANTIZED_OPERATORS = ("MatMul", "Gemm", "Gather")
_LARGEST_FILE = 2_000_000_000  # bytes of one ONNX file, a limit of protobuf

Request = tuple[str, Sequence[str]]


class RanksDifferentlyError(ValueError):
    """A quantised model does not rank as the model it was made from; nothing was written."""


@dataclass(frozen=True)
class Agreement:
    """
    How alike two models rank the same documents.

    :ivar correlation: Spearman's rank correlation of a query's documents, mean over queries.
    :ivar lowest_correlation: That of the query where it is lowest.
    :ivar overlap: Share of a query's top 10 (or best half, if it has fewer than 20 documents) that both have, mean.
    :ivar mean_difference: Of two logits, without sign.
    """

    queries: int
    pairs: int
    correlation: float
    lowest_correlation: float
    overlap: float
    mean_difference: float
    largest_difference: float


@dataclass(frozen=True)
class Quantized:
    """What was written: how it ranks, and the size of its weights."""

    agreement: Agreement
    megabytes: float


def quantize(
    options: ModelOptions,
    output: Path,
    requests: Sequence[Request],
    *,
    backend: str = "onnx",
    min_correlation: float = MIN_CORRELATION,
    min_overlap: float = MIN_OVERLAP,
    report: Callable[[Agreement], object] | None = None,
) -> Quantized:
    """
    Write an int8 form of a model into a folder that `backend` loads, if it ranks as the model in float32 does.

    :param output: A folder that is not there yet, or empty. Nothing is left there if anything fails.
    :param requests: Queries with documents to verify on.
    :param report: Called with what the verification found, before that is held against the bounds.
    :raises ValueError: If `output` holds something, or the model cannot be quantised.
    :raises RanksDifferentlyError: If the result is below one of the bounds.
    :raises ImportError: If what is needed to write it is not installed.
    """
    if backend != "onnx":
        raise ValueError(
            f"backend must be 'onnx', but got {backend!r}: int8 is written for onnxruntime only; OpenVINO needs NNCF "
            "to quantise, which is not supported."
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"output must be a folder that is not there yet, or empty, but got {str(output)!r}.")
    if not sum(len(documents) for _, documents in requests):
        raise ValueError("there is nothing to verify the model on: no query has a document.")
    _require_onnx()
    exact: Any = backends.load("torch", _float32(options))
    if exact.query_prompt:
        raise ValueError(
            f"model {options.model!r} was saved with the prompt {exact.query_prompt!r}, which an ONNX folder does not "
            "keep; remove it from the model and give it to the ranker as query_prefix."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as place:
        made = Path(place) / "made"
        made.mkdir()
        _write_int8(exact, Path(place), made / "model.onnx")
        exact.cross_encoder.tokenizer.save_pretrained(made)
        exact.cross_encoder.model.config.save_pretrained(made)
        found = compare(exact, backends.load(backend, ModelOptions(str(made), device="cpu")), requests)
        if report is not None:
            report(found)
        if found.correlation < min_correlation or found.overlap < min_overlap:
            raise RanksDifferentlyError(
                f"model {options.model!r} in int8 ranks differently: its rank correlation with float32 is "
                f"{found.correlation:.4f} (at least {min_correlation}), {found.overlap:.4f} of the top {TOP} are the "
                f"same (at least {min_overlap}), over {found.queries} queries. Nothing was written; keep float32, or "
                "verify on texts that the model was trained for."
            )
        megabytes = (made / "model.onnx").stat().st_size / 1e6
        if output.exists():
            output.rmdir()
        shutil.move(made, output)
    return Quantized(found, megabytes)


def compare(exact: backends.Backend, other: backends.Backend, requests: Sequence[Request]) -> Agreement:
    """Score the same documents with two models, each read as the ranker would, by its best passage, and compare."""
    policy = ReadingPolicy(passages_per_document=1)
    logits = [_logits(CrossEncoderScorer(one, policy), requests) for one in (exact, other)]
    correlations, overlaps, differences = [], [], []
    for ours, theirs in zip(*logits, strict=True):
        correlations.append(_correlation(ours, theirs))
        overlaps.append(_overlap(ours, theirs))
        differences.append(np.abs(ours - theirs))
    gaps = np.concatenate(differences)
    return Agreement(
        queries=len(correlations),
        pairs=len(gaps),
        correlation=float(np.mean(correlations)),
        lowest_correlation=float(np.min(correlations)),
        overlap=float(np.mean(overlaps)),
        mean_difference=float(gaps.mean()),
        largest_difference=float(gaps.max()),
    )


def _logits(scorer: CrossEncoderScorer, requests: Sequence[Request]) -> list[NDArray[np.float64]]:
    results, _ = scorer.score_many([request for request in requests if len(request[1])])
    return [np.asarray([document.logit for document in result.documents], dtype=np.float64) for result in results]


def _correlation(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Spearman's rank correlation; 1 where either has nothing to order."""
    ranks = [_ranks(values) for values in (ours, theirs)]
    if any(np.ptp(of_one) == 0 for of_one in ranks):
        return 1.0
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks from the lowest value up, equal values sharing the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2.0)[places]
    return ranks


def _overlap(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    top = max(min(TOP, len(ours) // 2), 1)
    first, second = (set(np.argsort(-values, kind="stable")[:top].tolist()) for values in (ours, theirs))
    return len(first & second) / top


def _float32(options: ModelOptions) -> ModelOptions:
    # eager: scaled_dot_product_attention is exported with shape arithmetic that stands in the way of fusions
    model_kwargs = {**options.model_kwargs, "attn_implementation": "eager"}
    return replace(options, dtype="float32", device="cpu", model_kwargs=model_kwargs)


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime.quantization  # noqa: F401
    except ImportError as error:
        raise ImportError(
            'quantize needs onnx and onnxruntime, which are not installed: pip install "ce-ranker-haystack[onnx]".'
        ) from error


def _write_int8(exact: Any, scratch: Path, file: Path) -> None:
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    exported, optimised = scratch / "exported.onnx", scratch / "optimised.onnx"
    export(exact, exported)
    settings = onnxruntime.SessionOptions()
    # Only what is standard ONNX: fused operators of onnxruntime's own would not be quantised.
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.optimized_model_filepath = str(optimised)
    settings.log_severity_level = 3
    onnxruntime.InferenceSession(str(exported), settings, providers=["CPUExecutionProvider"])
    quantize_dynamic(
        optimised,
        file,
        op_types_to_quantize=list(_QUANTIZED_OPERATORS),
        weight_type=QuantType.QInt8,
    )


def export(exact: Any, file: Path) -> None:
    """
    Write a loaded torch model as float32 ONNX with batch and length left open.

    :param exact: A `backends.torch.TorchBackend` in float32 on CPU.
    :raises ValueError: If the model is too large for one ONNX file.
    """
    import torch

    model = exact.cross_encoder.model.eval()
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    if size > _LARGEST_FILE:
        raise ValueError(f"model has {size / 1e9:.1f} GB of weights, but one ONNX file holds 2 GB at most.")
    names = [name for name in _INPUTS if name != "token_type_ids" or exact.tokenizer.uses_token_types]

    class Logits(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *inputs: Any) -> Any:
            return self.model(**dict(zip(names, inputs, strict=True))).logits

    with warnings.catch_warnings():
        # The tracer warns of each constant it takes from the example; `compare` would show one that matters.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Logits().eval(),  # in training mode the exporter would leave the model there, with its dropout at work
            tuple(torch.ones(2, 8, dtype=torch.long) for _ in names),
            str(file),
            input_names=names,
            output_names=["logits"],
            dynamic_axes={**{name: {0: "batch", 1: "length"} for name in names}, "logits": {0: "batch"}},
            opset_version=17,
            dynamo=False,
        )
