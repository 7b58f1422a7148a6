"""What tuning a joiner found, as plain values: the parameters of a pipeline file, and all figures for JSON."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from haystack_ce_ranker.fusion.advice import TuningResult
from haystack_ce_ranker.fusion.calibration import (
    PROBABILITIES,
    calibration_error,
    kept_above,
    reliability,
    score_thresholds,
)
from haystack_ce_ranker.fusion.judged import MEASURE, Setting
from haystack_ce_ranker.significance import bootstrap

FORMAT = 1
"""Raised when a key of `as_plain` changes its meaning."""


def parameters_of(setting: Setting) -> dict[str, Any]:
    """Return a setting as the joiner's init parameters: plain values, and all that a file may have had otherwise."""
    frame, weights = setting.frame, {name: round(weight, 6) for name, weight in setting.weights.items()}
    if frame.method == "reciprocal_rank":
        by_rank = {"method": frame.method, "normalize": "none", "missing": frame.missing, "adapt_weights": False}
        return {"weights": weights, **by_rank, "rank_constant": frame.rank_constant}
    specs = {name: frame.normalizations[name].spec() for name in weights if name in frame.normalizations}
    normalize: Any = _rounded(specs) if specs else "none"
    same = next(iter(specs.values()), None)
    if isinstance(same, str) and all(specs.get(name) == same for name in weights):
        normalize = same
    adapts = False if frame.adaptation is None else frame.adaptation.spec()
    how = {"method": frame.method, "normalize": normalize, "missing": frame.missing}
    return {"weights": weights, **how, "adapt_weights": adapts}


def as_plain(result: TuningResult) -> dict[str, Any]:
    """Return figures, ids and settings as plain values; no text of the collection."""
    calibrated = result.calibrated
    bins, error = reliability(calibrated.probabilities, calibrated.labels)
    at = score_thresholds(result.queries, result.recommended, PROBABILITIES)
    return {
        "format": FORMAT,
        "collection": result.collection,
        "queries": len(result.queries),
        "joiner": result.joiner,
        "systems": {
            key: {MEASURE: value._asdict(), f"over {result.base}": over._asdict()}
            for key, (value, over) in result.intervals().items()
        },
        "advice": asdict(result.advice),
        "recommended": parameters_of(result.recommended),
        "recommended_score_thresholds": {str(wanted): score for wanted, score in at.items()},
        "tuned": parameters_of(result.tuned.setting),
        "tuned_by_fold": [parameters_of(setting) for setting in result.tuned.chosen],
        "labelled_queries": {str(size): loss for size, loss in result.labelled.items()},
        "probabilities": {
            "parameters": parameters_of(calibrated.setting),
            MEASURE: bootstrap(calibrated.held_out)._asdict(),
            "calibration_error": error,
            "calibration_error_interval": calibration_error(calibrated.by_query)[1:],
            "reliability": [asdict(entry) for entry in bins],
            "thresholds": [row._asdict() for row in kept_above(calibrated)],
            "abstention": calibrated.abstention and asdict(calibrated.abstention),
        },
        f"{MEASURE}_by_query": {
            key: dict(zip((query.id for query in result.queries), values.tolist(), strict=True))
            for key, values in result.systems.items()
        },
        "notes": list(result.notes),
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _rounded(entry) for key, entry in value.items()}
    return float(f"{value:.6g}") if isinstance(value, float) else value
