"""What fitting a gate found, as plain values for JSON, and the gate as a component of a pipeline's YAML."""

import math
from dataclasses import asdict
from typing import Any

import yaml

from haystack_ce_ranker.gating.fitting import GateAdvice

FORMAT = 3
"""Raised when a key of `as_plain` changes its meaning."""

_TYPE = "haystack_integrations.components.routers.ce_ranker.rerank_gate.RerankGate"


def as_plain(advice: GateAdvice) -> dict[str, Any]:
    """Return everything as plain values; an infinite threshold (no query is spared) as None."""
    threshold = advice.threshold if math.isfinite(advice.threshold) else None
    verdict = {"recommended": advice.recommended, "reason": advice.reason}
    return {"format": FORMAT, **asdict(advice), "threshold": threshold, **verdict}


def fragment(advice: GateAdvice) -> str:
    """Return the gate as a component of a pipeline's YAML."""
    parameters = {"predictor": advice.predictor, "threshold": advice.threshold}
    return yaml.safe_dump({"gate": {"type": _TYPE, "init_parameters": parameters}}, sort_keys=False)
