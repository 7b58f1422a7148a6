"""
RerankGate: sends a query's documents to the ranker, or past it.

It takes the scores out of the documents and notes the decision in them. `haystack_ce_ranker.gating` decides.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict

from haystack_ce_ranker.checks import choice, is_number, number, require_plain, text
from haystack_ce_ranker.gating.decision import PREDICTORS, decide
from haystack_ce_ranker.observing import observed
from haystack_ce_ranker.provenance import noted_scores, with_record
from haystack_integrations.components.rankers.ce_ranker.documents import read_documents


@component
class RerankGate:
    """
    Routes the documents of a first stage past the ranker if their scores say that re-ranking is not worth it.

    Whether that helps depends on the collection. On most collections that we measured it does not (see
    `benchmarks/gate.md`). Fit `predictor` and `threshold` on judged queries with
    `haystack-ce-ranker evaluate COLLECTION --fit-gate 0.005`, which also says what they give up. Use no gate if it
    recommends none.

    ```python
    from haystack import Document
    from haystack_integrations.components.routers.ce_ranker import RerankGate

    gate = RerankGate(predictor="nqc", threshold=0.3)
    sure = [Document(content="a", score=19.0), Document(content="b", score=8.5)]
    print("keep" in gate.run(query="a very rare word", documents=sure))
    ```
    """

    def __init__(
        self, *, threshold: float, predictor: str = "nqc", stage: str | None = "bm25", name: str = "gate"
    ) -> None:
        """
        Create the gate; nothing is loaded.

        :param threshold: Re-ranking is spared from this value of the predictor on. Infinity re-ranks every query. A
            threshold holds for one collection, first stage and number of candidates: fit it.
        :param predictor: `nqc` or `smv`; see `gating.decision.PREDICTORS`.
        :param stage: The stage whose scores decide: the key in `meta["ce_ranker"]` under which it noted them. With
            None, or if no such record agrees with `Document.score`, `Document.score` decides.
        :param name: The key of this gate's record in `meta["ce_ranker"]`.
        :raises ValueError: If a value is out of range or not among the choices.
        """
        self.threshold = float(number("threshold", threshold, infinite=True))
        self.predictor = choice("predictor", predictor, PREDICTORS)
        self.stage = text("stage", stage, empty=False, optional=True)
        self.name = text("name", name, empty=False)
        if self.name == self.stage:
            raise ValueError(f"name must not be empty or the name of the stage ({stage!r}), but got {name!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Return the component as plain values."""
        return default_to_dict(
            self, threshold=self.threshold, predictor=self.predictor, stage=self.stage, name=self.name
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "RerankGate":
        """Create the component from what `to_dict` returned."""
        require_plain(data.get("init_parameters", {}))
        gate: RerankGate = default_from_dict(cls, data)
        return gate

    def warm_up(self) -> None:
        """Do nothing: the gate has nothing to load."""

    async def warm_up_async(self) -> None:
        """Do nothing: the gate has nothing to load."""

    def close(self) -> None:
        """Do nothing: the gate holds nothing."""

    async def close_async(self) -> None:
        """Do nothing: the gate holds nothing."""

    @component.output_types(rerank=list[Document], keep=list[Document], report=dict[str, Any])
    @observed("route", lambda _, output: _tags(output["report"]))
    def run(self, query: str, documents: list[Document], threshold: float | None = None) -> dict[str, Any]:
        """
        Send the documents one way or the other, in the order they came; they are not changed.

        Fewer than two documents are sent to `keep`. Documents without a predicted value are re-ranked; see
        `gating.decision.decide`. Of documents with one id the highest score counts.

        :param query: The query. It plays no part in the decision; the gate takes it because a ranker does.
        :param documents: What the first stage found.
        :param threshold: For this run in place of the gate's own.
        :returns: Either `rerank` or `keep`, with the documents, which say under `meta["ce_ranker"][name]` how it was
            decided; and `report`: `decision` (`rerank` or `keep`), `reason` in words, `predictor`, `value` (None where
            it has none), `threshold`, `documents`, and `usable`, how many of their scores are numbers.
        :raises ValueError: If `query` is not a text, or `threshold` is not a number.
        :raises TypeError: If `documents` is not a list of documents.
        """
        text("query", query)
        used = self.threshold if threshold is None else float(number("threshold", threshold, infinite=True))
        documents = read_documents(documents)
        found = decide(self.predictor, self._scores(documents), threshold=used)
        way = "rerank" if found.rerank else "keep"
        noted = {"decision": way, "predictor": self.predictor, "value": found.value, "threshold": used}
        report = {**noted, "reason": found.reason, "documents": len(documents), "usable": found.usable}
        routed = [replace(document, meta=with_record(document.meta, self.name, noted)) for document in documents]
        return {way: routed, "report": report}

    @component.output_types(rerank=list[Document], keep=list[Document], report=dict[str, Any])
    async def run_async(self, query: str, documents: list[Document], threshold: float | None = None) -> dict[str, Any]:
        """Do what `run` does, on the event loop: it takes less than a change of threads."""
        return self.run(query=query, documents=documents, threshold=threshold)

    def _scores(self, documents: Sequence[Document]) -> list[float | None]:
        """Return one score for each id: the stage's own if its records speak for the list, else `Document.score`."""
        shown = [document.score for document in documents]
        metas = [document.meta for document in documents]
        noted = noted_scores(shown, metas, self.stage) if self.stage is not None else None
        best: dict[str, float | None] = {}
        for document, score in zip(documents, shown if noted is None else noted.scores, strict=True):
            if document.id not in best or _height(score) > _height(best[document.id]):
                best[document.id] = score
        return list(best.values())


def _tags(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a span tells of a run."""
    return {key: report[key] for key in ("decision", "predictor", "value", "threshold", "documents", "usable")}


def _height(score: float | None) -> float:
    return -math.inf if score is None or not is_number(score) or math.isnan(score) else score
