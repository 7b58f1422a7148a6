"""
The model card of a trained model, and the report of one that was refused: data, settings, measures, cost.

Both are written from the same plain values, which stand beside the model as `training.json`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from haystack_ce_ranker.backends.model_files import is_folder
from haystack_ce_ranker.evaluation.judging.formats import p_value, short_name
from haystack_ce_ranker.training.gate import SHOWN, TRAINED

_CROSS_ENCODER = """\
```python
from haystack_ce_ranker import CrossEncoderRanker

ranker = CrossEncoderRanker(model="path/to/this/folder")
```

`haystack-ce-ranker quantize path/to/this/folder OUTPUT` writes it in int8. The model's output is a raw logit.
"""

_BI_ENCODER = """\
```python
from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersTextEmbedder

embedder = SentenceTransformersTextEmbedder(model="path/to/this/folder")
```

Embed the documents with `SentenceTransformersDocumentEmbedder` and the same folder. `examples/with_bi_encoder.yaml` of
ce-ranker-haystack is a pipeline for it.
"""


class _Kind(NamedTuple):
    """What the card says of a kind of model."""

    task: str
    tags: tuple[str, ...]
    what: str
    use: str


_KINDS = {
    "cross-encoder": _Kind(
        "text-ranking", ("cross-encoder", "reranker"), "A cross-encoder that re-ranks search results", _CROSS_ENCODER
    ),
    "bi-encoder": _Kind(
        "sentence-similarity", ("feature-extraction",), "A bi-encoder that finds documents by embeddings", _BI_ENCODER
    ),
}


def model_name(model: str) -> str:
    """Return how a card names a model: a folder by its end, whichever way it is named, and a hub id as it is."""
    return Path(model).name if is_folder(Path(model)) else short_name(model)


def card(facts: Mapping[str, Any]) -> str:
    """
    Return the text of a model card, in Markdown with the header that the Hugging Face Hub reads.

    :param facts: The plain values of a run: `title`, `base`, `data`, `settings`, `fitted` and `gate`, and its `kind`
        if it is no cross-encoder.
    """
    fitted, gate = facts["fitted"], facts["gate"]
    kind = _KINDS[facts.get("kind", "cross-encoder")]
    header = ["library_name: sentence-transformers", f"pipeline_tag: {kind.task}", "tags:"]
    header += [f"- {tag}" for tag in ("sentence-transformers", *kind.tags, "ce-ranker-haystack")]
    return "\n".join(
        [
            "---",
            *header,
            "---",
            f"# {facts['title']}",
            "",
            f"{kind.what}, trained from `{facts['base']}`.",
            *(["Its head was drawn at random before training."] if fitted["fresh_head"] else []),
            "",
            kind.use,
            "## Data",
            "",
            *_listed(facts["data"]),
            "",
            "## Settings",
            "",
            *_listed(facts["settings"]),
            "",
            "## Measures",
            "",
            f"{gate['queries']} queries that training never saw, judged by {gate['judged_by']}.",
            f"In short: {gate['decision']['reason']}.",
            "",
            *_measures(gate),
            "",
            f"On the dev queries, nDCG@10 was {fitted['before']:.4f} before the first step,",
            f"and {fitted['best']['ndcg']:.4f} after step {fitted['best']['step']}, {_whose(facts)}.",
            "",
            "## Cost",
            "",
            *_listed(_cost(fitted)),
            "",
        ]
    )


def _whose(facts: Mapping[str, Any]) -> str:
    """Say what the written weights have to do with those of the best checkpoint."""
    share = facts["settings"]["interpolate"]
    if share == 1:
        return "whose weights these are"
    return (
        f"and {facts['fitted']['written']:.4f} with these weights, which lie {share:g} of the way from the base's to "
        "those of that step"
    )


def _listed(values: Mapping[str, Any]) -> list[str]:
    return [f"- {name.replace('_', ' ')}: {_told(value)}" for name, value in values.items() if value is not None]


def _told(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(_told, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _measures(gate: Mapping[str, Any]) -> list[str]:
    rows = [f"| system | {' | '.join(SHOWN)} | trained against it | p |", f"|---|{'---|' * (len(SHOWN) + 2)}"]
    for name, means in gate["systems"].items():
        one = gate["versus"].get(name)
        against = ["", ""] if name == TRAINED else [f"{one['difference']:+.4f}", p_value(one["p_corrected"])]
        rows.append(f"| {name} | {' | '.join(f'{means[label]:.4f}' for label in SHOWN)} | {' | '.join(against)} |")
    return rows


def _cost(fitted: Mapping[str, Any]) -> dict[str, Any]:
    used, peak = fitted["used"], fitted["peak_memory_mb"]
    return {
        "training": f"{fitted['seconds']:.0f} s, {fitted['joules']:.0f} J ({fitted['energy']})",
        "device": f"{used['device']}, {used['threads']} threads" + (", bfloat16" if used["bf16"] else ""),
        "memory": f"{fitted['expected_memory_mb']:.0f} MB expected"
        + ("" if peak is None else f", {peak:.0f} MB at most"),
    }
