"""
`HybridScoreJoiner`: joins ranked lists by name, as a component.

It reads the inputs (`inputs.py`), lets `haystack_ce_ranker.fusion.fuse` join their scores, and notes in every document
how its score came about.
"""

import copy
import inspect
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from haystack import Document, component, default_from_dict, default_to_dict

from haystack_ce_ranker import checks
from haystack_ce_ranker.fusion.adaptive import Decision, parse_adaptation
from haystack_ce_ranker.fusion.fuse import (
    METHODS,
    MISSING_RULES,
    Fused,
    ScoredList,
    check_weights,
    fuse,
)
from haystack_ce_ranker.fusion.normalizers import AUTO, Normalization, parse_normalizations
from haystack_ce_ranker.observing import observed
from haystack_ce_ranker.provenance import KEY, noted_scores
from haystack_integrations.components.joiners.ce_ranker.input_warnings import InputWarnings
from haystack_integrations.components.joiners.ce_ranker.inputs import (
    REPORT,
    Input,
    check_input_name,
    number_or_none,
    read_inputs,
)


@component
class HybridScoreJoiner:
    """
    Joins ranked lists into one by a weighted sum of their scores, or by their ranks. Each list has its own input.

    `weights={"cross_encoder": 0.8, "bm25": 0.2}` makes two optional inputs, `cross_encoder` and `bm25`. An input's
    scores come from the record that the stage of that name left in `Document.meta["ce_ranker"]`, else from
    `Document.score`. For a cross-encoder the record holds the logit, even if `Document.score` is a probability: joined
    sigmoid scores ruin a ranking. A record counts only as long as the document has the score that the stage gave it,
    so that one of an earlier run cannot stand for a new score.

    By default, all lists are counted in logits: logits as they are, the probabilities of other rankers by their logit,
    BM25 by its logarithm, and cosines and other scores by the deviations from their list's mean. The report says what
    each input was taken for.

    Each input has a second one, `<name>_report`, that takes the `report` of a `CrossEncoderRanker`. With it, documents
    that the ranker scored but its `top_k` cut count with their true logit. Without it they count with the lowest logit
    of that run, which the ranker notes in its documents.

    The order in which lists arrive and the components' names do not change the result. If nothing arrives at an input,
    because a router skipped its branch, the other inputs share its weight.

    ```python
    from haystack import Document
    from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner

    joiner = HybridScoreJoiner(weights={"cross_encoder": 0.8, "bm25": 0.2})
    result = joiner.run(
        cross_encoder=[Document(id="a", score=4.1), Document(id="b", score=-2.0)],
        bm25=[Document(id="b", score=12.5), Document(id="a", score=11.0)],
    )
    best = result["documents"][0]
    print(best.id, best.score, best.meta["ce_ranker"]["hybrid"]["inputs"]["bm25"]["contribution"])
    ```
    """

    def __init__(
        self,
        weights: dict[str, float],
        *,
        method: str = "weighted_sum",
        normalize: str | dict[str, Any] | None = None,
        missing: str = "min",
        top_k: int | None = None,
        score_threshold: float | None = None,
        rank_constant: float = 60.0,
        name: str = "hybrid",
        adapt_weights: bool | dict[str, Any] = False,
    ) -> None:
        """
        Create the joiner and its inputs; nothing is loaded.

        :param weights: The inputs and how much each counts; divided by their sum. An input of weight 0 is ignored,
            unless nothing else arrives.
        :param method: `weighted_sum`, or `reciprocal_rank`: the sum of weight / (rank_constant + rank).
        :param normalize: For `weighted_sum`, one normalizer for all inputs, or `{input: normalizer}`. An input that is
            not named has `none`. None is `auto` for all inputs. A normalizer is a name or `{"name": name, parameters}`:
            `auto` (chosen for each list by the scale of its scores; see `fusion.scales`), `none`, `min_max`,
            `theoretical` (`low`, `high`), `z_score`, `rank` (`k`), `log` (`scale`), `logit` (`margin`; undoes a
            sigmoid), `logistic` (`slope`, `intercept`, `best`, `fitted_on`).
        :param missing: How a document counts in a list that lacks it. `min`: with the list's lowest score. `zero`: with
            a normalized value of 0. `impute`: with what its scores in the other lists suggest. `drop`: the document is
            omitted from the result, and the report names it.
        :param top_k: The most documents to return; None returns all.
        :param score_threshold: Return only documents that score at least this; None returns all.
        :param rank_constant: The k of `reciprocal_rank`.
        :param name: The key of this joiner's record in `Document.meta["ce_ranker"]`; give two joiners two names.
        :param adapt_weights: Whether a cross-encoder's logits decide, query by query, how much the lists count; see
            `fusion.adaptive`. The `weights` then say which lists take part, and count where nothing can be decided.
            `{"by": input, "slope": ..., "intercept": ...}` names the cross-encoder's input, and brings a model's logits
            to the scale of ms-marco-MiniLM-L12's; each may be omitted.
        :raises ValueError: If a parameter is out of its range, or the name of an input is reserved: `weights`, `top_k`,
            `score_threshold`, `self`, the joiner's own `name`, anything that ends in `_report` or is not an identifier.
        """
        self.name = checks.text("name", name, empty=False)
        self.weights = check_weights(weights)
        for given in weights:
            check_input_name(given, own=self.name)
        self.method = checks.choice("method", method, METHODS)
        self.normalizations = parse_normalizations(normalize, list(self.weights))
        self.normalize = _plain(normalize)
        self.missing = checks.choice("missing", missing, MISSING_RULES)
        self.top_k = checks.whole_number("top_k", top_k, optional=True)
        self.score_threshold = checks.number("score_threshold", score_threshold, infinite=True, optional=True)
        self.rank_constant = checks.number("rank_constant", rank_constant, least=0)
        self._adaptation = parse_adaptation(adapt_weights, list(self.weights))
        if self._adaptation is not None:
            _check_adaptable(self.method, self.normalizations)
        self.adapt_weights = False if self._adaptation is None else self._adaptation.spec()
        self._warnings = InputWarnings(self.normalizations, self.missing)
        for given in self.weights:
            component.set_input_type(self, given, list[Document] | None, None)
            component.set_input_type(self, given + REPORT, dict[str, Any] | None, None)

    def to_dict(self) -> dict[str, Any]:
        """Return the component as plain values."""
        names = [name for name in inspect.signature(type(self).__init__).parameters if name != "self"]
        return default_to_dict(self, **{name: copy.deepcopy(getattr(self, name)) for name in names})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "HybridScoreJoiner":
        """Create the component from what `to_dict` returned."""
        checks.require_plain(data.get("init_parameters", {}))
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Do nothing: the joiner has nothing to load."""

    async def warm_up_async(self) -> None:
        """Do nothing: the joiner has nothing to load."""

    def close(self) -> None:
        """Do nothing: the joiner holds nothing."""

    async def close_async(self) -> None:
        """Do nothing: the joiner holds nothing."""

    @component.output_types(documents=list[Document], report=dict[str, Any])
    @observed("join", lambda _, output: _tags(output))
    def run(
        self,
        weights: dict[str, float] | None = None,
        top_k: int | None = None,
        score_threshold: float | None = None,
        **lists: Any,
    ) -> dict[str, Any]:
        """
        Join the lists that arrived.

        :param weights: For this run in place of the joiner's own; must name every input (0.0 switches one off).
        :param top_k: For this run in place of the joiner's own.
        :param score_threshold: For this run in place of the joiner's own.
        :param lists: By input name, a list of documents or None; by `<name>_report`, a ranker's report or None.
        :returns: `documents`: best first, each with its joined `score` and, under `meta["ce_ranker"][name]`, `score`,
            `rank` and `inputs`: per input `score` (raw; None if the list lacks the document), `rank` (in that list,
            from 1; or None), `normalized`, `weight` (its share in this run) and `contribution`; the score is the
            correctly rounded sum of the contributions. The records of other stages stay. `report`: `inputs` (per input
            in use: `documents` that arrived, scores `known`, `lacking` documents, `duplicates`, `unusable` scores,
            `weight`, `assumed`: what `auto` took the scores for, or `no scores`, and `normalize`: how they were
            counted), `absent` inputs, and how many documents were `dropped` (ids), `below_threshold` and `cut` by
            `top_k`. An input without any score has the weight 0, but its documents are joined by `missing`.
        :raises ValueError: If a parameter is out of its range or an input is not one of this joiner's.
        :raises TypeError: If an input is not a list of documents, or a report not a mapping.
        """
        used = self.weights if weights is None else check_weights(weights, inputs=list(self.weights))
        limit = self.top_k if top_k is None else checks.whole_number("top_k", top_k)
        threshold = self.score_threshold
        if score_threshold is not None:
            threshold = checks.number("score_threshold", score_threshold, infinite=True)
        inputs = read_inputs(lists, list(self.weights))
        self._warnings.look_at(inputs, used, by_score=self.method == "weighted_sum")
        fused = fuse(
            {given: one.scores for given, one in inputs.items()},
            used,
            method=self.method,
            normalizations=self.normalizations,
            missing=self.missing,
            rank_constant=self.rank_constant,
            candidates=[document.id for one in inputs.values() for document in one.documents],
            adaptation=self._adaptation,
        )
        above = len(fused.ids) if threshold is None else sum(score >= threshold for score in fused.scores)
        count = above if limit is None else min(above, limit)
        report = {
            "inputs": _report(fused, inputs),
            "absent": sorted(given for given in self.weights if given not in fused.names),
            "dropped": fused.dropped,
            "below_threshold": len(fused.ids) - above,
            "cut": above - count,
            "adapted": None if fused.decision is None else _adapted(fused.decision),
        }
        return {"documents": self._joined(fused, inputs, count), "report": report}

    @component.output_types(documents=list[Document], report=dict[str, Any])
    async def run_async(
        self,
        weights: dict[str, float] | None = None,
        top_k: int | None = None,
        score_threshold: float | None = None,
        **lists: Any,
    ) -> dict[str, Any]:
        """Join the lists as `run` does, on the event loop: joining takes less time than a change of threads."""
        return self.run(weights=weights, top_k=top_k, score_threshold=score_threshold, **lists)

    def scored_lists(self, **lists: Any) -> dict[str, ScoredList]:
        """
        Return the ids and scores, by input, that `run` would join for these inputs. Tuning works on them.

        :param lists: As `run` takes them.
        """
        return {given: one.scores for given, one in read_inputs(lists, list(self.weights)).items()}

    def _joined(self, fused: Fused, inputs: Mapping[str, Input], count: int) -> list[Document]:
        """Return the best `count` documents, each with its score and with how the score came about."""
        heaviest_first = sorted(inputs, key=lambda given: (-fused.weights.get(given, 0.0), given))
        copies: dict[str, list[tuple[str, Document]]] = {}
        for given in heaviest_first:
            documents = inputs[given].documents
            if inputs[given].repeated:  # of two documents with one id, the one whose score counts goes first
                documents = sorted(documents, key=partial(_worse, given=given))
            for document in documents:
                copies.setdefault(document.id, []).append((given, document))
        arrays = (fused.raw, fused.ranks, fused.normalized, fused.contributions)
        columns = []
        for row, given in enumerate(fused.names):
            weight = fused.weights[given]
            columns.append(
                [
                    {
                        "score": score if score == score else None,  # NaN alone is not itself
                        "rank": rank or None,
                        "normalized": value,
                        "weight": weight,
                        "contribution": contribution,
                    }
                    for score, rank, value, contribution in zip(
                        *(array[row, :count].tolist() for array in arrays), strict=True
                    )
                ]
            )
        joined = []
        doubt = {} if fused.decision is None else {"doubt": fused.decision.doubt}
        for place, values in enumerate(zip(*columns, strict=True)):
            score = fused.scores[place]
            base, meta = _merged(copies[fused.ids[place]])
            shares = dict(zip(fused.names, values, strict=True))
            meta[KEY][self.name] = {"score": score, "rank": place + 1, "inputs": shares, **doubt}
            joined.append(_with(base, score, meta))
        return joined


def _tags(output: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a span tells of a run."""
    report = output["report"]
    return {
        "documents": len(output["documents"]),
        "inputs": len(report["inputs"]),
        "absent": len(report["absent"]),
        "dropped": len(report["dropped"]),
        "below_threshold": report["below_threshold"],
        "cut": report["cut"],
        "doubt": None if report["adapted"] is None else report["adapted"].get("doubt"),
    }


def _report(fused: Fused, inputs: Mapping[str, Input]) -> dict[str, dict[str, Any]]:
    """Return the report's entry for each input in use."""
    found = {}
    for row, given in enumerate(fused.names):
        known = int((~np.isnan(np.asarray(inputs[given].scores.scores, dtype=np.float64))).sum())
        assumed = fused.assumed.get(given)
        found[given] = {
            "documents": len(inputs[given].documents),
            "known": known,
            "lacking": int((fused.ranks[row] == 0).sum()),
            "duplicates": inputs[given].repeated,
            "unusable": fused.unusable.get(given, 0),
            "weight": fused.weights[given],
            "assumed": "no scores" if not known else assumed and assumed.scale,
            "normalize": assumed and assumed.normalization.spec(),
        }
    return found


def _adapted(decision: Decision) -> dict[str, Any]:
    """Return the report's entry on what was decided for the query."""
    return {
        "by": decision.by,
        "doubt": decision.doubt,
        "agreement": {name: one._asdict() for name, one in decision.agreement.items()},
        "kept_because": decision.kept_because,
    }


def _check_adaptable(method: str, normalizations: Mapping[str, Normalization]) -> None:
    if method != "weighted_sum":
        raise ValueError(f"adapt_weights needs scores: omit it, or set method='weighted_sum', but got {method!r}")
    if given := [name for name, wanted in normalizations.items() if wanted != AUTO]:
        raise ValueError(
            f"adapt_weights decides itself how each list is counted, but normalize names "
            f"{normalizations[given[0]].name!r} for {given[0]!r}: omit normalize, or set adapt_weights=False"
        )


def _worse(document: Document, given: str) -> float:
    """Return a sorting key for which the document whose score counts for an input comes first."""
    noted = noted_scores([document.score], [document.meta], given)
    score = number_or_none(document.score) if noted is None else noted.scores[0]
    return math.inf if score is None or math.isnan(score) else -score


def _stages(document: Document) -> dict[str, Any]:
    """Return the records in a document's meta by stage, to read only: unlike `provenance.records`, not a copy."""
    found = document.meta.get(KEY)
    return found if isinstance(found, dict) else {}


def _with(document: Document, score: float, meta: dict[str, Any]) -> Document:
    """Do what `dataclasses.replace` does, in a fifth of its time: the other fields are not checked again."""
    changed = object.__new__(type(document))
    vars(changed).update(vars(document), score=score, meta=meta)
    return changed


def _merged(copies: list[tuple[str, Document]]) -> tuple[Document, dict[str, Any]]:
    """
    Return the copy from the heaviest input, and a new meta with the records of all copies.

    Copies come from branches: the retriever's has only its own record, the ranker's has both. If two copies have a
    record of one stage, the copy that came through the input of that name counts, else the one from the heavier input.
    """
    base = copies[0][1]
    if len(copies) == 1:
        return base, {**base.meta, KEY: dict(_stages(base))}
    meta: dict[str, Any] = {}
    stages: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for given, document in reversed(copies):
        noted = _stages(document)
        meta |= document.meta
        stages |= noted
        if given in noted:
            own[given] = noted[given]
    stages |= own
    return base, {**meta, KEY: stages}


def _plain(normalize: Any) -> Any:
    """Return a copy of a checked `normalize` in which numbers, texts and normalizers are plain."""
    if isinstance(normalize, Normalization):
        return normalize.spec()
    if isinstance(normalize, Mapping):
        return {str.__str__(name): _plain(value) for name, value in normalize.items()}
    if isinstance(normalize, str):
        return str.__str__(normalize)
    return checks.number("normalize", normalize) if checks.is_number(normalize) else normalize
