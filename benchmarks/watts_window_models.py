"""
Whether the best rules for windows hold with another model, other scales of logits, and short documents among long ones.

    python benchmarks/watts.py window_models window_sizes

Two parts of `watts.py`, which prints and keeps them. `watts_windows.py` has the rules. The second model is
ms-marco-MiniLM-L12 without two of its layers, as int8: it ranks nearly as well, and its logits are other ones. A third
one is the model of `--second`, if it is given. Scales are tried by multiplying logits, and by adding to them. In the
mixed collection, half of each query's candidates of dl19 are short passages that are read whole. The other half are the
same passages hidden in long documents.
"""

import argparse
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from common import CannotRun, Report, collection_folder, weights_folder
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.data.collections import load_collection
from haystack_ce_ranker.fusion.normalizers import FloatArray
from haystack_ce_ranker.quantizing.quantize import quantize
from haystack_ce_ranker.quantizing.sample_texts import sample_requests
from haystack_ce_ranker.reading.soft_matches import SoftMatches, soft_matches_of
from haystack_ce_ranker.significance import bootstrap
from haystack_ce_ranker.training.cutting import cut
from token_scoring import DEFAULT, Remembering, backend_of, loaded
from watts_window_choices import Choose, by_evidence, by_settings, by_soft_matches
from watts_windows import (
    BUDGET,
    BY_BUDGET,
    DEFAULT_RULE,
    TRANSCRIPTS,
    Query,
    Rule,
    Window,
    all_of,
    by_default,
    by_level,
    difference,
    first_of,
    logsumexp,
    one_more_of_half,
    queries_of,
    windows_of,
)

MIXED, SHORT, LONG = "dl19, half of it long", "dl19", "dl19-long"
TASKS: Mapping[str, int | None] = {TRANSCRIPTS: None, "covidqa": 200, LONG: None, MIXED: None}
"""How many queries of each collection; None: all."""
KEPT_LAYERS = (0, 2, 3, 5, 6, 7, 8, 9, 10, 11)
"""The layers of the second model, chosen among four such sets on 30 queries of dl19."""

SIZES = (60, 64, 68)
"""Tokens of a window. So near each other, they differ by chance: windows begin elsewhere."""


class Scale(NamedTuple):
    """What is done to each logit."""

    times: float
    plus: float

    def __str__(self) -> str:
        return f"times {self.times:g}" if self.times != 1 else f"{self.plus:+g}"


OWN = Scale(1, 0)
SCALES = (Scale(0.5, 0), Scale(2, 0), Scale(1, -3), Scale(1, 3))


def by_mean_level(logits: Sequence[float]) -> float:
    """Return the level without what the number of logits adds, as `aggregate="level"` was at first."""
    return by_level(logits) - math.log(len(logits))


LEVEL = "3 of 64 by soft matches, by level"
RULES: Mapping[str, Rule] = {
    DEFAULT_RULE: Rule("default", all_of(by_default)),
    "3 of 64, by level": Rule("64", first_of(3, by_level)),
    "3 of 64 by soft matches, logsumexp": Rule("soft", first_of(3, logsumexp)),
    LEVEL: Rule("soft", first_of(3, by_level)),
    "3 of 64 by soft matches, by level without the number of windows": Rule("soft", first_of(3, by_mean_level)),
    "4 of 64 by soft matches, by level": Rule("soft", all_of(by_level)),
    BUDGET: Rule("soft", BY_BUDGET),
    "3 of 64 by soft matches, a fourth of the better half, by level": Rule("soft", one_more_of_half(4, by_level)),
}


def ways(soft: SoftMatches | None) -> dict[str, Choose]:
    """Return the ways to choose that rules name; those by soft matches only with their vectors."""
    found = {"default": by_settings(DEFAULT.windows, DEFAULT.long_documents), "64": by_evidence(64, 3)}
    return found if soft is None else {**found, "soft": by_soft_matches(soft, 64, 4)}


def second_of(arguments: argparse.Namespace) -> Remembering:
    """Return the second model: made once, and kept in `--cache`."""
    whole = weights_folder(arguments, "ce-minilm-l12")
    name = f"{whole.name}-{len(KEPT_LAYERS)}-layers"
    checkpoint, int8 = (arguments.cache / f"{name}{ending}" for ending in ("", "-int8"))
    if not checkpoint.is_dir():
        cut(ModelOptions(str(whole)), checkpoint, layers=len(KEPT_LAYERS), keep=",".join(map(str, KEPT_LAYERS)))
    if not int8.is_dir():
        quantize(ModelOptions(str(checkpoint)), int8, sample_requests())
    return loaded("onnx", str(int8), arguments.threads, arguments.cache)


def third_of(arguments: argparse.Namespace) -> Remembering:
    """Return the model of `--second`."""
    return loaded(arguments.second_backend, arguments.second, arguments.threads, arguments.cache)


def queries_for(arguments: argparse.Namespace, backend: Remembering, name: str) -> list[Query]:
    """Return the queries of a collection, or of the mixed one."""
    if name != MIXED:
        return queries_of(arguments, name, limit=TASKS[name], backend=backend)
    short = load_collection(collection_folder(arguments, SHORT)).documents

    def text_of(document_id: str, content: str) -> str:
        return short[document_id.partition("@")[0]].content if is_short(document_id) else content

    return queries_of(arguments, LONG, limit=TASKS[name], backend=backend, text_of=text_of)


def is_short(document_id: str) -> bool:
    """Tell whether a document of the mixed collection is the passage alone."""
    return hashlib.sha256(document_id.encode()).digest()[0] % 2 == 0


class Gains(NamedTuple):
    """
    What a rule gains over the default on a collection, by query.

    :ivar by_scale: For each scale; the default has the same.
    :ivar over_bm25: Over BM25, on the model's own scale.
    :ivar tokens: Those that it reads, as a share of the head's.
    """

    by_scale: Mapping[Scale, FloatArray]
    over_bm25: FloatArray
    tokens: float


def gains_of(queries: Sequence[Query], choose: Mapping[str, Choose], backend: Remembering) -> dict[str, Gains]:
    """Return what each rule gains."""
    windows = {way: windows_of(queries, choice, backend) for way, choice in choose.items()}
    head = sum(query.head for query in queries)
    bm25 = np.asarray([query.quality(np.zeros(len(query))) for query in queries])

    def ranked(rule: Rule, scale: Scale) -> tuple[FloatArray, int]:
        found = [rule.spend(scaled(of_query, scale)) for of_query in windows[rule.way]]
        quality = [query.quality(one.scores) for query, one in zip(queries, found, strict=True)]
        return np.asarray(quality), sum(one.tokens for one in found)

    today = {scale: ranked(RULES[DEFAULT_RULE], scale)[0] for scale in (OWN, *SCALES)}
    result = {}
    for title, rule in RULES.items():
        if rule.way in choose:
            quality, tokens = ranked(rule, OWN)
            others = {scale: ranked(rule, scale)[0] - today[scale] for scale in SCALES}
            result[title] = Gains({OWN: quality - today[OWN], **others}, quality - bm25, tokens / head)
    return result


def scaled(windows: Sequence[Sequence[Window]], scale: Scale) -> list[list[Window]]:
    """Return windows whose logits have another scale."""
    return [[one._replace(logit=scale.times * one.logit + scale.plus) for one in of] for of in windows]


def window_models(arguments: argparse.Namespace, report: Report) -> None:
    """Each rule with each model, on each collection and each scale."""
    models: dict[str, Callable[[argparse.Namespace], Remembering]] = {
        "the model": backend_of,
        f"{len(KEPT_LAYERS)} of its layers": second_of,
    }
    if arguments.second is not None:
        models[Path(arguments.second).name] = third_of
    there = False
    for model, load in models.items():
        with report.or_left_out(model):
            backend = load(arguments)
            choose = ways(soft_matches_of(backend.forgetful))
            for name in TASKS:
                with report.or_left_out(f"{model}, {name}"):
                    queries = queries_for(arguments, backend, name)
                    show(f"{model}, {name}", queries, gains_of(queries, choose, backend), report)
                    there = True
    if not there:
        raise CannotRun(f"none of {', '.join(TASKS)} is there")


def show(title: str, queries: Sequence[Query], found: Mapping[str, Gains], report: Report) -> None:
    """Show the rules with one model on one collection."""
    half = np.asarray([query.half for query in queries])
    report.table(
        f"{title}, {len(queries)} queries: nDCG@10 over the default at the same scale",
        *("what is read of a long document", "over BM25", "over the default [95 %]", "by halves"),
        *map(str, SCALES),
        "tokens of the head's",
    )
    for rule, one in found.items():
        own = one.by_scale[OWN]
        halves = " / ".join(f"{own[half == which].mean():+.3f}" for which in np.unique(half))
        others = [f"{one.by_scale[scale].mean():+.4f}" for scale in SCALES]
        over = "" if rule == DEFAULT_RULE else difference(own)
        report.row(rule, f"{one.over_bm25.mean():+.4f}", over, halves, *others, f"{one.tokens:.0%}")
    if LEVEL in found:
        gains = found[LEVEL].by_scale
        worst = min(gains, key=lambda scale: gains[scale].mean())
        at = "its own scale" if worst == OWN else f"logits {worst}"
        label = f"{title}: {LEVEL}, at no scale significantly below the default"
        holds = all(bootstrap(gain).high >= 0.0 for gain in gains.values())
        report.target(label, holds, f"{difference(gains[worst])} at worst, for {at}")


def window_sizes(arguments: argparse.Namespace, report: Report) -> None:
    """The default's rule and the candidate's on transcripts, with windows a little shorter and longer."""
    backend = backend_of(arguments)
    soft = soft_matches_of(backend.forgetful)
    queries = queries_of(arguments, TRANSCRIPTS, limit=TASKS[TRANSCRIPTS])
    head = sum(query.head for query in queries)
    bm25 = np.asarray([query.quality(np.zeros(len(query))) for query in queries])
    report.table(
        f"{TRANSCRIPTS}, {len(queries)} queries: nDCG@10 by the tokens of a window",
        *("tokens", "the default's rule, over BM25", "3 by soft matches, by level, over BM25"),
        *("over the default's rule [95 %]", "tokens of the head's"),
    )
    gains = []
    for size in SIZES:
        as_default = by_settings(DEFAULT.windows._replace(passage_tokens=size, passage_stride=size // 2))
        rules = [(as_default, all_of(by_default))]
        rules += [] if soft is None else [(by_soft_matches(soft, size, 3), all_of(by_level))]
        found = []
        for choose, spend in rules:
            rankings = list(map(spend, windows_of(queries, choose, backend)))
            quality = [query.quality(one.scores) for query, one in zip(queries, rankings, strict=True)]
            found.append((np.asarray(quality), sum(one.tokens for one in rankings) / head))
        shares = " / ".join(f"{share:.0%}" for _, share in found)
        over_bm25 = [f"{(quality - bm25).mean():+.4f}" for quality, _ in found]
        if soft is None:
            report.row(size, *over_bm25, None, None, shares)
        else:
            gains.append(found[1][0] - found[0][0])
            report.row(size, *over_bm25, difference(gains[-1]), shares)
    if gains:
        report.row("mean", None, None, difference(np.mean(gains, axis=0)), None)


MODEL_PARTS = {"window_models": window_models, "window_sizes": window_sizes}
