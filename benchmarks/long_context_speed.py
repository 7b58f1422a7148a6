"""
How many short pairs a second each runtime scores with the models of `long_context.py`, all in turn in one process.

    python benchmarks/long_context.py speed
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from common import Report
from haystack_ce_ranker.backends.loading import load
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.backends.protocol import Backend, Batch
from haystack_ce_ranker.tokenizing.pairs import PackedPair
from long_context_models import L6, L12, LONG, Made

TOKENS = 95
"""Tokens of each pair: about what a passage of dl19 has with its query."""
FORMS: dict[str, tuple[str, str | None, Callable[[Made], str]]] = {
    "torch float32": ("torch", "float32", lambda made: str(made.torch)),
    "onnx float32": ("onnx", "float32", lambda made: str(made.onnx)),
    "openvino float32": ("openvino", "float32", lambda made: str(made.torch)),
    "openvino bfloat16": ("openvino", "bfloat16", lambda made: str(made.torch)),
    "onnx int8": ("onnx", None, lambda made: str(made.int8["onnx"])),
    "openvino int8": ("openvino", None, lambda made: str(made.int8["openvino"])),
}
"""Backend, dtype and folder of each form."""


class Rate(NamedTuple):
    """
    Pairs by time.

    :ivar wall: A second.
    :ivar cpu: For each CPU second, times the threads: a second of a machine that nobody else uses.
    """

    wall: float
    cpu: float


def rates(models: Mapping[str, Made], *, threads: int, pairs: int, rounds: int) -> dict[str, dict[str, list[Rate]]]:
    """Return the rates of each round by form and model; in each round all run in turn."""
    running = {
        form: {
            name: load(backend, ModelOptions(folder(made), device="cpu", dtype=dtype, threads=threads))
            for name, made in models.items()
        }
        for form, (backend, dtype, folder) in FORMS.items()
    }
    rng = np.random.default_rng(0)
    found: dict[str, dict[str, list[Rate]]] = {form: {name: [] for name in models} for form in FORMS}
    for _ in range(rounds + 1):  # the first is to warm up
        for form, of_form in running.items():
            for name, backend in of_form.items():
                found[form][name].append(_rate(backend, rng.integers(1000, 20_000, (pairs, TOKENS)), threads))
    return {form: {name: of_model[1:] for name, of_model in of_form.items()} for form, of_form in found.items()}


def _rate(backend: Backend, ids: np.ndarray, threads: int) -> Rate:
    packed = [PackedPair(row.astype(np.int32), np.zeros(TOKENS, dtype=np.int32)) for row in ids]
    step = backend.batch_tokens // TOKENS
    start, started = time.perf_counter(), time.process_time()
    for first in range(0, len(packed), step):
        backend.logits(Batch(packed[first : first + step], backend.tokenizer.pad_id))
    used = time.process_time() - started
    return Rate(len(packed) / (time.perf_counter() - start), threads * len(packed) / used)


def print_rates(found: Mapping[str, Mapping[str, list[Rate]]], threads: int, report: Report) -> None:
    """Print a row for each form."""
    names = (LONG, L6, L12)
    report.table(
        f"Pairs of {TOKENS} tokens on {threads} threads",
        "runtime",
        *(f"{name}, pairs/s" for name in names),
        *(f"{name}, pairs in {threads} CPU seconds" for name in names),
        *(f"times {name}" for name in (L6, L12)),
    )
    for form, of_form in found.items():
        cpu = {name: np.array([rate.cpu for rate in of_form[name]]) for name in names}
        report.row(
            form,
            *(f"{np.median([rate.wall for rate in of_form[name]]):.0f}" for name in names),
            *(f"{np.median(cpu[name]):.0f}" for name in names),
            *(float(np.median(cpu[LONG] / cpu[name])) for name in (L6, L12)),
        )
    best = max((float(np.median([rate.cpu for rate in found[form][LONG]])), form) for form in FORMS if "int8" in form)
    label = f"{LONG}, {best[1]}: at least 200 pairs of {TOKENS} tokens in {threads} CPU seconds"
    report.at_least(label, best[0], 200.0, "{:.0f}")
