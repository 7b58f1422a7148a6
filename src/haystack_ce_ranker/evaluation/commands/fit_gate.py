"""Fits a gate in front of each ranker of an evaluation, and shows and saves it; `gating.fitting` computes it."""

import json
import re
import textwrap
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from haystack_ce_ranker.data.collections import Collection
from haystack_ce_ranker.data.sources import visible
from haystack_ce_ranker.data_files import write_text
from haystack_ce_ranker.evaluation.judging.comparison import Rankings
from haystack_ce_ranker.evaluation.judging.measures import ndcg_at_10
from haystack_ce_ranker.gating.fitting import TOLERANCE, GateAdvice, GateQuery, fit_gate
from haystack_ce_ranker.gating.plain import as_plain, fragment


def fit_gates(
    stages: Mapping[str, tuple[Rankings, Rankings]], collection: Collection, *, tolerance: float = TOLERANCE
) -> list[GateAdvice]:
    """
    Fit a gate in front of each ranker.

    :param stages: For each name, the rankings of the first stage and those after re-ranking, by query id.
    :param tolerance: nDCG@10 that a gate may give up.
    :returns: One advice for each name.
    :raises ValueError: If there is no pair of stages, or there are too few queries.
    """
    if not stages:
        raise ValueError("a gate needs a first stage and a stage after it, but nothing that was measured has two.")
    return [
        replace(fit_gate(gate_queries(first, last, collection), tolerance=tolerance), name=name)
        for name, (first, last) in stages.items()
    ]


def gate_queries(first: Rankings, reranked: Rankings, collection: Collection) -> list[GateQuery]:
    """
    Return what `fit_gate` needs of two runs, for each of the collection's queries.

    :param first: For each query id, document ids with the first stage's scores, as many as the gate will see.
    :param reranked: The same after re-ranking (and joining, where the pipeline joins).
    :raises ImportError: If ir_measures is missing.
    """
    judgments = {query_id: collection.judgments.get(query_id, {}) for query_id in collection.queries}
    kept, after = ndcg_at_10(first, judgments), ndcg_at_10(reranked, judgments)
    return [GateQuery(one, list(first.get(one, {}).values()), kept[one], after[one]) for one in collection.queries]


def show(advice: GateAdvice, console: Console) -> None:
    """Print the verdict, and the gate as YAML where one is recommended."""
    of = f" of {advice.name}" if advice.name else ""
    console.print(f"A gate in front of the ranker{of}. {advice.reason}", markup=False)
    if advice.recommended:
        console.print(fragment(advice), markup=False, highlight=False, soft_wrap=True)


def save(advice: GateAdvice, folder: str | Path) -> list[Path]:
    """
    Write `gate.json` with all that was found, and `gate.yaml` with the verdict as a comment and any gate recommended.

    The pipeline's name is part of both files' names.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    stem = "-".join(["gate", *re.findall(r"[A-Za-z0-9._-]+", advice.name)])
    found, component = folder / f"{stem}.json", folder / f"{stem}.yaml"
    write_text(found, json.dumps(as_plain(advice), indent=2, allow_nan=False) + "\n")
    comment = textwrap.fill(visible(advice.reason), 118, initial_indent="# ", subsequent_indent="# ")
    gate = fragment(advice) if advice.recommended else ""
    write_text(component, f"{comment}\n{gate}")
    return [found, component]
