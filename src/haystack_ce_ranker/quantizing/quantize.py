"""
A cross-encoder in int8, written only if it ranks as it does in float32: compared on real pairs, held against bounds.

How the file of each runtime is made stands in `quantizers.py`.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.backends.protocol import Backend
from haystack_ce_ranker.quantizing.writers import WRITERS
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer

MIN_CORRELATION = 0.95
MIN_OVERLAP = 0.9
TOP = 10

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
    progress: Callable[[int, int], None] | None = None,
) -> Quantized:
    """
    Write an int8 form of a model into a folder that `backend` loads, if it ranks as the model in float32 does.

    :param output: A folder that is not there yet, or empty. Nothing is left there if anything fails.
    :param requests: Queries with documents to verify on.
    :param backend: One of `quantizers.WRITERS`.
    :param report: Called with what the verification found, before that is held against the bounds.
    :param progress: Called while the result is verified, with the documents scored so far and all of them.
    :raises ValueError: If `output` holds something, or the model cannot be quantised.
    :raises RanksDifferentlyError: If the result is below one of the bounds.
    :raises ImportError: If what is needed to write it is not installed.
    """
    if backend not in WRITERS:
        raise ValueError(f"backend must be one of {', '.join(map(repr, WRITERS))}, but got {backend!r}.")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"output must be a folder that is not there yet, or empty, but got {str(output)!r}.")
    if not sum(len(documents) for _, documents in requests):
        raise ValueError("there is nothing to verify the model on: no query has a document.")
    exact: Any = loading.load("torch", _float32(options))
    if exact.query_prompt:
        raise ValueError(
            f"model {options.model!r} was saved with the prompt {exact.query_prompt!r}, which the folder would not "
            "keep; remove it from the model and give it to the ranker as query_prefix."
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as place:
        made = Path(place) / "made"
        made.mkdir()
        WRITERS[backend](exact, made)
        megabytes = sum(file.stat().st_size for file in made.iterdir()) / 1e6
        exact.cross_encoder.tokenizer.save_pretrained(made)
        exact.cross_encoder.model.config.save_pretrained(made)
        found = compare(exact, loading.load(backend, ModelOptions(str(made), device="cpu")), requests, progress)
        if report is not None:
            report(found)
        if found.correlation < min_correlation or found.overlap < min_overlap:
            raise RanksDifferentlyError(
                f"model {options.model!r} in int8 ranks differently: its rank correlation with float32 is "
                f"{found.correlation:.4f} (at least {min_correlation}), {found.overlap:.4f} of the top {TOP} are the "
                f"same (at least {min_overlap}), over {found.queries} queries. Nothing was written; keep float32, or "
                "verify on texts that the model was trained for."
            )
        if output.exists():
            output.rmdir()
        shutil.move(made, output)
    return Quantized(found, megabytes)


def compare(
    exact: Backend,
    other: Backend,
    requests: Sequence[Request],
    progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """Score the same documents with two models, each read as the ranker would, by its best passage, and compare."""
    policy = ReadingPolicy(passages_per_document=1)
    logits = []
    for nth, one in enumerate((exact, other)):

        def scored(done: int, documents: int, nth: int = nth) -> None:
            if progress is not None:
                progress(nth * documents + done, 2 * documents)

        logits.append(_logits(CrossEncoderScorer(one, policy), requests, scored))
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


def _logits(
    scorer: CrossEncoderScorer, requests: Sequence[Request], progress: Callable[[int, int], None]
) -> list[NDArray[np.float64]]:
    results, _ = scorer.score_many([request for request in requests if len(request[1])], progress=progress)
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
