"""
Writes a cross-encoder in int8, but only if it ranks as the model in float32 does: both score the same pairs.

`writers.py` makes the file of each runtime.
"""

import copy
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.export import first_line
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.backends.needs_torch import require_torch
from haystack_ce_ranker.backends.protocol import Backend
from haystack_ce_ranker.checks import choice, number
from haystack_ce_ranker.quantizing.writers import WRITERS
from haystack_ce_ranker.reading.blank import is_blank
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.tokenizing import saved_formats
from haystack_ce_ranker.tokenizing.pairs import NO_FRAME

MIN_CORRELATION = 0.95
MIN_OVERLAP = 0.9
TOP = 10

Request = tuple[str, Sequence[str]]


class RanksDifferentlyError(ValueError):
    """A quantised model does not rank as the original model does; nothing was written."""


@dataclass(frozen=True)
class Agreement:
    """
    How alike two models rank the same documents.

    :ivar queries: How many queries have documents.
    :ivar pairs: How many pairs both scored.
    :ivar correlation: Spearman's rank correlation of a query's documents, mean over queries.
    :ivar lowest_correlation: The lowest correlation of all queries.
    :ivar overlap: The share of a query's top 10 that both have, mean over queries. If a query has fewer than 20
        documents, the best half counts instead of the top 10.
    :ivar mean_difference: The absolute difference of two logits, mean over pairs.
    :ivar largest_difference: The largest absolute difference.
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
    """A quantised model that was written: how it ranks, and the size of its weights."""

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

    :param output: A folder that does not exist yet, or is empty. Nothing is left there if anything fails.
    :param requests: Queries with documents to verify on.
    :param backend: One of `writers.WRITERS`.
    :param report: Called with the agreement, before it is compared with the bounds.
    :param progress: Called during the verification, with the number of documents scored so far and of all documents.
    :raises ValueError: If `output` holds something, or the model cannot be quantised.
    :raises RanksDifferentlyError: If the result is below one of the bounds.
    :raises ImportError: If torch, or a package that writes it, is not installed.
    """
    choice("backend", backend, WRITERS)
    require_torch("quantize")
    min_correlation = number("min_correlation", min_correlation, least=-1, most=1)
    min_overlap = number("min_overlap", min_overlap, least=0, most=1)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"output must be a folder that is not there yet, or empty, but got {str(output)!r}.")
    if all(is_blank(text) for query, documents in requests if not is_blank(query) for text in documents):
        raise ValueError("requests must have a query with documents to verify the model on, but no query has any.")
    exact: Any = loading.load("torch", _float32(options))
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}-") as place:
        made = Path(place) / "made"
        made.mkdir()
        WRITERS[backend](exact, made)
        megabytes = sum(file.stat().st_size for file in made.iterdir()) / 1e6
        _save_beside(exact, made)
        found = agreement(exact, _loaded(backend, made, options.model), requests, progress)
        if report is not None:
            report(found)
        if not (found.correlation >= min_correlation and found.overlap >= min_overlap):  # NaN is no agreement
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


def _loaded(backend: str, folder: Path, model: str) -> Backend:
    """
    Load what was written.

    :raises ValueError: If it does not run: the converter took something from its example pair as constant.
    """
    try:
        return loading.load(backend, ModelOptions(str(folder), device="cpu"))
    except Exception as error:  # each runtime has its own kinds
        raise ValueError(
            f"model {model!r} cannot be written for {backend}: what its converter made does not run "
            f"({first_line(error)}). Use backend='torch'."
        ) from error


def _save_beside(exact: Any, folder: Path) -> None:
    """Save what the weights need beside them: tokenizer, pair format, prompt, and configuration, with the one label."""
    tokenizer = copy.deepcopy(exact.cross_encoder.tokenizer)
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(exact.tokenizer.pad_id)  # what the model knows as padding
    tokenizer.padding_side = "left" if exact.tokenizer.pads_left else "right"
    tokenizer.save_pretrained(folder)
    config = copy.deepcopy(exact.cross_encoder.model.config)
    if config.num_labels != 1 or len(exact.cross_encoder) > 1:
        config.num_labels, config.architectures = 1, None  # the file gives one logit, whatever the model was made of
    config.save_pretrained(folder)
    if exact.prompt:
        saved = {"prompts": {"default": exact.prompt}, "default_prompt_name": "default"}
        (folder / "config_sentence_transformers.json").write_text(json.dumps(saved), encoding="utf-8")
    if exact.tokenizer.format.query != NO_FRAME:
        saved_formats.save(exact.tokenizer.format, folder)


def agreement(
    exact: Backend,
    other: Backend,
    requests: Sequence[Request],
    progress: Callable[[int, int], None] | None = None,
) -> Agreement:
    """
    Score the same documents with two models, each document by its best passage, and say how alike they rank.

    :param requests: Queries with documents; those without documents, and documents without text, do not count.
    :param progress: As in `quantize`.
    """
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
    # A document without text has no logit, whichever of the models reads it.
    read = [[document.logit for document in result.documents if document.logit is not None] for result in results]
    return [np.asarray(logits, dtype=np.float64) for logits in read if logits]


def _correlation(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation. It is not defined if all values of one side are equal; then return 1."""
    if np.ptp(ours) == 0 or np.ptp(theirs) == 0:
        return 1.0
    return float(spearmanr(ours, theirs).statistic)


def _overlap(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    top = max(min(TOP, len(ours) // 2), 1)
    first, second = (set(np.argsort(-values, kind="stable")[:top].tolist()) for values in (ours, theirs))
    return len(first & second) / top


def _float32(options: ModelOptions) -> ModelOptions:
    # eager: scaled_dot_product_attention is exported with arithmetic on shapes, which prevents fusions
    model_kwargs = {**options.model_kwargs, "attn_implementation": "eager"}
    model_kwargs.pop("device_map", None)
    return replace(options, dtype="float32", device="cpu", model_kwargs=model_kwargs)
