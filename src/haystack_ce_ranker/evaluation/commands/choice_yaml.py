"""The choice of a sweep as part of a pipeline's YAML: its rankers and its joiner, and how they are connected."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from haystack_ce_ranker.data.sources import visible
from haystack_ce_ranker.data_files import write_text
from haystack_ce_ranker.evaluation.judging.results import Results
from haystack_ce_ranker.evaluation.judging.systems import Kind, System
from haystack_ce_ranker.evaluation.running.groups import RERANKED_INPUT, joiner
from haystack_ce_ranker.evaluation.running.sweep import given_as_of

NAME = "choice.yaml"

_RANKER = "haystack_integrations.components.rankers.ce_ranker.cross_encoder_ranker.CrossEncoderRanker"


def fragment(found: Results) -> str | None:
    """Return the choice's components and connections; None where it does not re-rank, or is a stage of a pipeline."""
    rankers = _rankers(found)
    if not rankers:
        return None
    chosen, first, deepest = rankers[-1], rankers[0].first_stage or "", rankers[0].depth
    names = [f"before_{RERANKED_INPUT}"] * (len(rankers) - 1) + [RERANKED_INPUT]
    components = {name: _ranker(name, one, deepest) for name, one in zip(names, rankers, strict=True)}
    edges = [(f"{one}.documents", f"{other}.documents") for one, other in pairwise(names)]
    takers = [f"{names[0]}.documents"]
    if chosen.weights is not None:
        given_as = given_as_of(first)
        made = joiner(given_as, chosen.weights).to_dict()
        kept = {key: made["init_parameters"][key] for key in ("weights", "adapt_weights")}
        components["joiner"] = {"type": made["type"], "init_parameters": kept}
        edges.append((f"{RERANKED_INPUT}.documents", f"joiner.{RERANKED_INPUT}"))
        takers.append(f"joiner.{given_as}")
    told = f"{chosen.name}: the query goes to each ranker, and the first {deepest} documents of {first} go to"
    connections = [{"sender": sender, "receiver": receiver} for sender, receiver in edges]
    described = {"components": components, **({"connections": connections} if connections else {})}
    return f"# {visible(told)}\n# {' and '.join(takers)}.\n{yaml.safe_dump(described, sort_keys=False)}"


def save(found: Results, folder: Path) -> list[Path]:
    """Write `choice.yaml`, where there is something to write; returns the paths."""
    text, path = fragment(found), folder / NAME
    if text is None:
        path.unlink(missing_ok=True)  # of an earlier run with another choice
        return []
    write_text(path, text)
    return [path]


def _rankers(found: Results) -> Sequence[System]:
    """Return the systems of the sweep that re-rank in the choice, the first one first."""
    systems: Mapping[str | None, System] = {one.name: one for one in found.systems}
    chain: list[System] = []
    one = systems.get(found.verdict.choice)
    while one is not None and one.kind in (Kind.CROSS_ENCODER, Kind.HYBRID):
        chain.insert(0, one)
        one = systems.get(one.first_stage)
    return chain


def _ranker(name: str, one: System, candidates: int | None) -> dict[str, Any]:
    """Return a ranker that returns all candidates: what comes after it needs them."""
    parameters = {"model": one.model, "backend": one.backend, "long_documents": one.strategy, "top_k": candidates}
    if one.depth != candidates:
        parameters["depth"] = one.depth
    if name != RERANKED_INPUT:
        parameters["name"] = name
    return {"type": _RANKER, "init_parameters": parameters}
