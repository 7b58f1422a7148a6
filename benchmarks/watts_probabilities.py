"""
Scores that mean something: how far fitted probabilities hold, when nothing answers a query, and what int8 changes.

    python benchmarks/watts.py probabilities

Fitted on one random half of the queries and measured on the other. The documents of covidqa are articles, which the
model reads by their best windows. Needs the extras `evaluate` and `onnx`.
"""

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from common import Report, weights_folder
from fusion_scores import CE, DEFAULT, Task, scores
from haystack_ce_ranker.fusion.calibration import (
    Labelled,
    calibrate,
    calibration_error,
    fit_lists,
    fit_logistic,
    labelled_lists,
    labelled_scores,
    logistic_setting,
    together,
)
from haystack_ce_ranker.fusion.calibration_picture import reliability_plot
from haystack_ce_ranker.fusion.judged import JudgedQuery, joined_scores
from haystack_ce_ranker.fusion.normalizers import Normalization

TASKS = {"stackfaq": Task(20, 400), "covidqa": Task(20, 400)}
EXACT = {"stackfaq, float32": Task(20, 60, "stackfaq")}
"""Small enough for float32 on a CPU: the same queries are scored in float32 and in int8."""
EXACT_WEIGHTS = "ce-minilm-l12"
DRAWS = 10
MOST = 0.05

Predict = Callable[[Sequence[JudgedQuery]], list[Labelled]]
"""Gives the documents of each query their probabilities."""
Fit = Callable[[Sequence[JudgedQuery]], Predict]


def probabilities(arguments: argparse.Namespace, report: Report) -> None:
    """How far probabilities hold on queries that the fit has not seen, and which queries have no answer."""
    data = scores(TASKS, arguments, report)
    _show_errors(data, report)
    _show_abstention(data, report)
    _show_precisions(arguments, report)


def by_logistic(params: Mapping[str, float], queries: Sequence[JudgedQuery]) -> list[Labelled]:
    """The cross-encoder's logits through one `logistic`."""
    normalization = Normalization("logistic", params)
    return [Labelled(normalization.apply(one.scores, one.scores), one.labels) for one in labelled_lists(queries, CE)]


def fit_sigmoid(_queries: Sequence[JudgedQuery]) -> Predict:
    return partial(by_logistic, {"slope": 1.0, "intercept": 0.0})


def fit_platt(queries: Sequence[JudgedQuery]) -> Predict:
    slope, intercept = fit_logistic(*labelled_scores(queries, CE))
    return partial(by_logistic, {"slope": slope, "intercept": intercept})


def fit_best(queries: Sequence[JudgedQuery]) -> Predict:
    return partial(by_logistic, fit_lists(labelled_lists(queries, CE)))


def fit_joined(queries: Sequence[JudgedQuery]) -> Predict:
    setting = logistic_setting(queries, DEFAULT)
    return lambda unseen: [Labelled(*joined_scores([query], setting)) for query in unseen]


FITS: Mapping[str, Fit] = {
    "sigmoid of the logit": fit_sigmoid,
    "slope and intercept": fit_platt,
    "as `tune` fits it": fit_best,
    "joined with BM25, as `tune --probabilities` fits it": fit_joined,
}


def _halves(queries: Sequence[JudgedQuery], seed: int) -> tuple[list[JudgedQuery], list[JudgedQuery]]:
    order = np.random.default_rng(seed).permutation(len(queries))
    half = len(queries) // 2
    return [queries[i] for i in order[:half]], [queries[i] for i in order[half:]]


def _log_loss(found: Sequence[Labelled]) -> float:
    """Mean over documents: what tells a probability that says more from one that is true and says little."""
    p, labels = together(found)
    right = np.clip(np.where(labels > 0, p, 1.0 - p), 1e-9, 1.0)
    return float(-np.log(right).mean())


def _show_errors(data: Mapping[str, list[JudgedQuery]], report: Report) -> None:
    report.table(
        f"Expected calibration error on the other half of the queries ({DRAWS} random halves)",
        *("collection", "probabilities", "mean", "worst", "first half [95 %, over queries]", "log loss"),
    )
    for name, queries in data.items():
        for label, fit in FITS.items():
            found, losses = [], []
            for seed in range(DRAWS):
                seen, unseen = _halves(queries, seed)
                held_out = fit(seen)(unseen)
                found.append(calibration_error(held_out))
                losses.append(_log_loss(held_out))
            mean = statistics.fmean(one.mean for one in found)
            first = f"{found[0].mean:.3f} [{found[0].low:.3f}, {found[0].high:.3f}]"
            worst, loss = max(one.mean for one in found), statistics.fmean(losses)
            report.row(f"{name} ({len(queries)})", label, f"{mean:.3f}", f"{worst:.3f}", first, f"{loss:.3f}")
            if fit in (fit_best, fit_joined):
                report.at_most(f"calibration error on halves of {name}, {label}", mean, MOST, "{:.3f}")
    name, queries = next(iter(data.items()))
    seen, unseen = _halves(queries, 0)
    drawn = reliability_plot(f"{name}: fitted on the other half", fit_best(seen)(unseen))
    report.picture("watts-probabilities.svg").write_text(drawn, encoding="utf-8")


def _show_abstention(data: Mapping[str, list[JudgedQuery]], report: Report) -> None:
    report.table(
        "Nothing here answers this: each query with its relevant candidates and without them; thresholds are chosen on "
        "one half of the queries and shown on the other",
        *("collection", "queries", "threshold", "precision", "recall", "answered queries that stay so"),
    )
    for name, queries in data.items():
        found = calibrate(queries, DEFAULT).abstention
        if found is not None:
            shares = (f"{share:.0%}" for share in (found.precision, found.recall, found.answered))
            report.row(name, found.queries, f"{found.threshold:.2f}", *shares)


def _show_precisions(arguments: argparse.Namespace, report: Report) -> None:
    """Probabilities fitted on float32, used on int8: the same queries and documents."""
    with report.or_left_out("float32"):
        exact = argparse.Namespace(**vars(arguments))
        exact.model, exact.backend = str(weights_folder(arguments, EXACT_WEIGHTS)), "torch"
        (name,) = EXACT
        in_float = scores(EXACT, exact, report)[name]
        in_int8 = scores({name: replace(EXACT[name])}, arguments, report)[name]
        report.table(
            f"Calibration error of int8 by what the probabilities were fitted on ({DRAWS} random halves of "
            f"{len(in_float)} queries of stackfaq)",
            *("fitted on", "measured on", "mean"),
        )
        same = {query.id: query for query in in_int8}
        other = [same[query.id] for query in in_float]
        for fitted, measured in (("float32", "float32"), ("float32", "int8"), ("int8", "int8")):
            errors = []
            for seed in range(DRAWS):
                seen, _ = _halves(in_float if fitted == "float32" else other, seed)
                _, unseen = _halves(in_float if measured == "float32" else other, seed)
                errors.append(calibration_error(fit_best(seen)(unseen)).mean)
            report.row(fitted, measured, f"{statistics.fmean(errors):.3f}")
