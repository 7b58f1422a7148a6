"""
The component that joins ranked lists by name: documents in, documents out; the arithmetic is
`haystack_ce_ranker.fusion.fuse`.

It decides where each input's scores come from (a record in the documents' provenance, a ranker's report, or `score`)
and notes in every document how its score came about.
"""

import keyword
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict, logging

from haystack_ce_ranker.fusion.fuse import (
    METHODS,
    MISSING_RULES,
    Fused,
    ScoredList,
    check_weights,
    fuse,
    parse_normalizations,
)
from haystack_ce_ranker.provenance import KEY, raw_score, score_in

logger = logging.getLogger(__name__)

_RESERVED = ("weights", "top_k", "score_threshold", "self")
_REPORT = "_report"
_SATURATED = 0.01  # this close to 0 or 1, a sigmoid has lost what the logit said
_SATURATED_SHARE = 0.5
_ENOUGH_TO_JUDGE = 5
_FAR_WIDER = 20.0
_REPEATS = 3  # runs in which a list was as short as before


@component
class HybridScoreJoiner:
    """
    Joins ranked lists into one by a weighted sum of their scores, or by their ranks; each list has an input of its
    name.

    `weights={"cross_encoder": 0.8, "bm25": 0.2}` makes two optional inputs, `cross_encoder` and `bm25`. An input's
    scores are taken from the record that the stage of that name left in `Document.meta["ce_ranker"]` (the
    cross-encoder's logit, even where `Document.score` is a probability: joined sigmoid scores ruin a ranking), else
    from `Document.score`.

    For each input there is a second, `<name>_report`, that takes the `report` of a `CrossEncoderRanker`: with it the
    documents that the ranker scored but its `top_k` cut count with their true logit. Without it they count with the
    lowest logit of that run, which the ranker notes in its documents. Neither the order in which lists arrive nor the
    components' names change the result, and an input that nothing arrives at (a router skipped its branch) gives its
    weight to the others.

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
    ) -> None:
        """
        Create the joiner and its inputs; nothing is loaded.

        :param weights: The inputs and how much each counts; divided by their sum. An input of weight 0 is left out,
            unless nothing else arrives.
        :param method: `weighted_sum`, or `reciprocal_rank`: the sum of weight / (rank_constant + rank).
        :param normalize: For `weighted_sum`, one normaliser for all inputs, or `{input: normaliser}` (an input that is
            not named: `none`). None for the default: `log` for an input named `bm25`, whose high scores overstate, and
            `none` for all others. A normaliser is a name or `{"name": name, parameters}`: `none`, `min_max`,
            `theoretical` (`low`, `high`), `z_score`, `rank` (`k`), `log` (`scale`), `logit` (undoes a sigmoid, for
            rankers that give only probabilities), `logistic` (`slope`, `intercept`).
        :param missing: What a document counts with that a list lacks: `min` that list's lowest score, `zero` a
            normalised value of 0, `impute` what its scores in the other lists suggest, or `drop`: it is left out (and
            named in the report).
        :param top_k: The most documents to return; None returns all.
        :param score_threshold: Return only documents that score at least this; None returns all.
        :param rank_constant: The k of `reciprocal_rank`.
        :param name: The key of this joiner's record in `Document.meta["ce_ranker"]`; give two joiners two names.
        :raises ValueError: If a parameter is out of its range, or the name of an input is reserved: `weights`, `top_k`,
            `score_threshold`, `self`, the joiner's own `name`, anything that ends in `_report` or is not an identifier.
        """
        self.weights = check_weights(weights)
        for given in weights:
            _check_input_name(given, own=name)
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, but got {method!r}")
        if missing not in MISSING_RULES:
            raise ValueError(f"missing must be one of {', '.join(MISSING_RULES)}, but got {missing!r}")
        if not _is_number(rank_constant) or rank_constant < 0:
            raise ValueError(f"rank_constant must be a number >= 0, but got {rank_constant!r}")
        _check_top_k(top_k)
        _check_threshold(score_threshold)
        self.method = method
        self.normalize = dict(normalize) if isinstance(normalize, Mapping) else normalize
        self.missing = missing
        self.top_k = top_k
        self.score_threshold = score_threshold
        self.rank_constant = rank_constant
        self.name = name
        self.normalizations = parse_normalizations(normalize, list(self.weights))
        self._warned: set[str] = set()
        self._lengths: dict[str, int] = {}
        self._repeats: dict[str, int] = {}
        for given in self.weights:
            component.set_input_type(self, given, list[Document] | None, None)
            component.set_input_type(self, given + _REPORT, dict[str, Any] | None, None)

    def to_dict(self) -> dict[str, Any]:
        """Return the component as plain values."""
        return default_to_dict(
            self,
            weights=dict(self.weights),
            method=self.method,
            normalize=_copied(self.normalize),
            missing=self.missing,
            top_k=self.top_k,
            score_threshold=self.score_threshold,
            rank_constant=self.rank_constant,
            name=self.name,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "HybridScoreJoiner":
        """Create the component from what `to_dict` returned."""
        return default_from_dict(cls, data)

    @component.output_types(documents=list[Document], report=dict[str, Any])
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
            `rank` and `inputs`: per input `score` (raw; None where the list lacks the document), `rank` (in that list,
            from 1; or None), `normalised`, `weight` (its share in this run) and `contribution`; the score is the
            correctly rounded sum of the contributions. All that other stages noted stays. `report`: `inputs` (per input
            in use: `documents` that arrived, scores `known`, `lacking` documents, `duplicates`, `unusable` scores,
            `weight`), `absent` inputs, and how many documents were `dropped` (ids), `below_threshold` and `cut` by
            `top_k`.
        :raises ValueError: If a parameter is out of its range or an input is not one of this joiner's.
        :raises TypeError: If an input is not a list of documents, or a report not a mapping.
        """
        used = self.weights if weights is None else check_weights(weights, inputs=list(self.weights))
        _check_top_k(top_k)
        _check_threshold(score_threshold)
        limit = self.top_k if top_k is None else top_k
        threshold = self.score_threshold if score_threshold is None else score_threshold

        arrived = self._documents(lists)
        scored = {
            given: _scored_list(given, documents, lists.get(given + _REPORT)) for given, documents in arrived.items()
        }
        for given, (listed, from_provenance) in scored.items():
            if not from_provenance:
                self._warn_of_probabilities(given, listed)
                self._warn_of_cut(given, used, arrived)
                self._warn_of_scale(given, scored)
        fused = fuse(
            {given: listed for given, (listed, _) in scored.items()},
            used,
            method=self.method,
            normalizations=self.normalizations,
            missing=self.missing,
            rank_constant=self.rank_constant,
            candidates=[document.id for documents in arrived.values() for document in documents],
        )
        above = len(fused.ids) if threshold is None else sum(score >= threshold for score in fused.scores)
        count = above if limit is None else min(above, limit)
        documents = self._joined(fused, arrived, count)
        report = {
            "inputs": {
                given: {
                    "documents": len(arrived[given]),
                    "known": len(scored[given][0].ids),
                    "lacking": int((fused.ranks[row] == 0).sum()),
                    "duplicates": fused.duplicates.get(given, 0),
                    "unusable": fused.unusable.get(given, 0),
                    "weight": fused.weights[given],
                }
                for row, given in enumerate(fused.names)
            },
            "absent": sorted(given for given in self.weights if given not in fused.names),
            "dropped": fused.dropped,
            "below_threshold": len(fused.ids) - above,
            "cut": above - count,
        }
        return {"documents": documents, "report": report}

    @component.output_types(documents=list[Document], report=dict[str, Any])
    async def run_async(
        self,
        weights: dict[str, float] | None = None,
        top_k: int | None = None,
        score_threshold: float | None = None,
        **lists: Any,
    ) -> dict[str, Any]:
        """Join the lists that arrived, as `run` does, and on the event loop: it takes less than a change of threads."""
        return self.run(weights=weights, top_k=top_k, score_threshold=score_threshold, **lists)

    def scored_lists(self, **lists: Any) -> dict[str, ScoredList]:
        """
        Return what `run` would join for these inputs: by input, ids with the scores it takes. Tuning works on these.

        :param lists: As `run` takes them.
        """
        arrived = self._documents(lists)
        return {given: _scored_list(given, found, lists.get(given + _REPORT))[0] for given, found in arrived.items()}

    def _documents(self, lists: Mapping[str, Any]) -> dict[str, list[Document]]:
        """Return, by input, the documents that arrived (none where only a report did), after checking every input."""
        arrived: dict[str, list[Document]] = {}
        for given, value in lists.items():
            base = given.removesuffix(_REPORT)
            if base not in self.weights:
                raise ValueError(
                    f"{given!r} is not an input of this joiner; its inputs: {', '.join(sorted(self.weights))}"
                )
            if value is None:
                continue
            if given != base:
                if not isinstance(value, Mapping) or not isinstance(value.get("scored"), Mapping):
                    raise TypeError(
                        f"{given} must be the report of a CrossEncoderRanker, with 'scored', but got {value!r:.100}"
                    )
                arrived.setdefault(base, [])
                continue
            if not isinstance(value, list) or not all(isinstance(document, Document) for document in value):
                raise TypeError(f"{given} must be a list of Documents, but got {value!r:.100}")
            arrived[base] = value
        return arrived

    def _joined(self, fused: Fused, arrived: Mapping[str, list[Document]], count: int) -> list[Document]:
        heaviest_first = sorted(arrived, key=lambda given: (-fused.weights.get(given, 0.0), given))
        copies: dict[str, list[tuple[str, Document]]] = {}
        for given in heaviest_first:
            documents = arrived[given]
            if given in fused.duplicates:  # of two documents with one id the copy whose score counts goes first
                documents = sorted(documents, key=partial(_worse, given=given))
            for document in documents:
                copies.setdefault(document.id, []).append((given, document))
        columns = [
            [
                {
                    "score": None if math.isnan(score) else score,
                    "rank": rank or None,
                    "normalised": value,
                    "weight": fused.weights[given],
                    "contribution": contribution,
                }
                for score, rank, value, contribution in zip(
                    *(
                        array[row, :count].tolist()
                        for array in (fused.raw, fused.ranks, fused.normalised, fused.contributions)
                    ),
                    strict=True,
                )
            ]
            for row, given in enumerate(fused.names)
        ]
        joined = []
        for place, values in enumerate(zip(*columns, strict=True)):
            score = fused.scores[place]
            base, meta = _merged(copies[fused.ids[place]])
            inputs = dict(zip(fused.names, values, strict=True))
            meta[KEY][self.name] = {"score": score, "rank": place + 1, "inputs": inputs}
            joined.append(_with(base, score, meta))
        return joined

    def _warn_of_probabilities(self, given: str, listed: ScoredList) -> None:
        """Say once per input that its scores look like probabilities of a saturated sigmoid, and what to do."""
        if (
            self.method != "weighted_sum"
            or given in self._warned
            or self.normalizations[given].name in ("logit", "rank")
        ):
            return
        scores = _finite(listed)
        if len(scores) < _ENOUGH_TO_JUDGE or min(scores) < 0.0 or max(scores) > 1.0:
            return
        saturated = sum(score < _SATURATED or score > 1.0 - _SATURATED for score in scores)
        if saturated >= _SATURATED_SHARE * len(scores):
            self._warned.add(given)
            logger.warning(
                "HybridScoreJoiner: {saturated} of {count} scores of input '{given}' are within {margin} of 0 or 1: "
                "they look like saturated probabilities, whose differences are lost when they are added to other "
                "scores. Name the input as the CrossEncoderRanker's `name`, so that its logits are used, or let "
                "another ranker give logits (scale_score=False), or undo its sigmoid with normalize={example}.",
                saturated=saturated,
                count=len(scores),
                given=given,
                margin=_SATURATED,
                example=f'{{"{given}": "logit"}}',
            )

    def _warn_of_scale(self, given: str, scored: Mapping[str, tuple[ScoredList, bool]]) -> None:
        """Say once per input that its scores (cosines, mostly) are too small to count beside another input's."""
        key = f"{given} scale"
        if self.method != "weighted_sum" or self.normalizations[given].name != "none" or key in self._warned:
            return
        scores = _finite(scored[given][0])
        if len(scores) < _ENOUGH_TO_JUDGE or min(scores) < -1.0 or max(scores) > 1.0 or min(scores) == max(scores):
            return
        for other, (listed, _) in scored.items():
            theirs = _finite(listed)
            if other == given or not theirs or self.normalizations[other].name != "none":
                continue
            if max(theirs) - min(theirs) > _FAR_WIDER * (max(scores) - min(scores)):
                self._warned.add(key)
                logger.warning(
                    "HybridScoreJoiner: the scores of input '{given}' span {span}, those of '{other}' {others}: as "
                    "they are, '{given}' counts for next to nothing whatever its weight. Bring cosines to the scale of "
                    "logits with normalize={example}, or find a normaliser with `haystack-ce-ranker tune`.",
                    given=given,
                    span=f"{max(scores) - min(scores):.2g}",
                    other=other,
                    others=f"{max(theirs) - min(theirs):.2g}",
                    example=f'{{"{given}": {{"name": "theoretical", "low": 0.0, "high": 0.05}}}}',
                )
                return

    def _warn_of_cut(self, given: str, weights: Mapping[str, float], arrived: Mapping[str, list[Document]]) -> None:
        """Say once per input that it looks like a ranker's list whose rest was cut, if it does so run after run."""
        key = given + _REPORT
        if (
            self.method != "weighted_sum"
            or self.missing in ("drop", "zero")
            or key in self._warned
            or not arrived[given]
        ):
            return
        ids = {document.id for document in arrived[given]}
        for other, documents in arrived.items():
            if other == given or weights[given] < weights[other] or len(documents) <= len(ids):
                continue
            if ids < {document.id for document in documents}:
                # A cut list is as long every time; one that is short because little matched is not.
                if self._lengths.setdefault(key, len(ids)) != len(ids):
                    self._warned.add(key)
                    return
                self._repeats[key] = self._repeats.get(key, 0) + 1
                if self._repeats[key] < _REPEATS:
                    return
                self._warned.add(key)
                logger.warning(
                    "HybridScoreJoiner: all {count} documents of input '{given}' are among the {others} of input "
                    "'{other}'. If a ranker scored those and its top_k cut the rest, the rest counts with its last "
                    "score, although it scored lower: give that ranker a top_k as large as its candidate list (a "
                    "CrossEncoderRanker notes what it cut, where the input has its name).",
                    count=len(ids),
                    given=given,
                    others=len(documents),
                    other=other,
                )
                return


def _scored_list(given: str, documents: list[Document], report: Mapping[str, Any] | None) -> tuple[ScoredList, bool]:
    """Return an input's scores, and whether they are its own stage's raw scores rather than `Document.score`."""
    ids = [document.id for document in documents]
    found = [document.meta.get(KEY) for document in documents]
    records = [stages.get(given) if isinstance(stages, dict) else None for stages in found]
    noted = [score_in(record) if isinstance(record, dict) else None for record in records]
    if report is not None:
        known = dict(zip(ids, noted, strict=True)) | dict(report["scored"])
        return ScoredList(list(known), list(known.values()), reranked=True), True
    if all(score is None for score in noted):
        return ScoredList(ids, [document.score for document in documents]), False
    own = [record for record in records if isinstance(record, dict)]
    lowest = [float(record["lowest"]) for record in own if "lowest" in record and _is_number(record["lowest"])]
    return ScoredList(ids, noted, min(lowest, default=None), any("logit" in record for record in own)), True


def _finite(listed: ScoredList) -> list[float]:
    return [float(score) for score in listed.scores if score is not None and math.isfinite(score)]


def _worse(document: Document, given: str) -> float:
    """Return what puts the document first whose score counts for an input."""
    noted = raw_score(document.meta, given)
    score = document.score if noted is None else noted
    return math.inf if score is None or math.isnan(score) else -score


def _stages(document: Document) -> dict[str, Any]:
    """Return the records in a document's meta by stage, to read only: unlike `provenance.records`, not a copy."""
    found = document.meta.get(KEY)
    return found if isinstance(found, dict) else {}


def _with(document: Document, score: float, meta: dict[str, Any]) -> Document:
    """Do what `dataclasses.replace` does in a fifth of its time: what the fields hold is not checked again."""
    changed = object.__new__(type(document))
    vars(changed).update(vars(document), score=score, meta=meta)
    return changed


def _merged(copies: list[tuple[str, Document]]) -> tuple[Document, dict[str, Any]]:
    """
    Return the copy from the heaviest input and a new meta in which the records of all copies stand.

    Copies come from branches: the retriever's carries its own record only, the ranker's both. Where two copies hold a
    record of the same stage, the copy that came through the input of that name is right about it, else the heavier one.
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


def _check_input_name(given: object, *, own: str) -> None:
    if not isinstance(given, str) or not given.isidentifier() or keyword.iskeyword(given):
        raise ValueError(f"weights: an input's name must be an identifier, such as 'cross_encoder', but got {given!r}")
    if given in _RESERVED or given.endswith(_REPORT) or given == own:
        raise ValueError(
            f"weights: {given!r} cannot name an input: {', '.join(_RESERVED)}, the joiner's own name {own!r} and names "
            f"that end in {_REPORT!r} are reserved; choose another, such as {given.removesuffix(_REPORT)}_list"
        )


def _check_top_k(top_k: object) -> None:
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int) or top_k <= 0):
        raise ValueError(f"top_k must be > 0 or None, but got {top_k!r}")


def _check_threshold(score_threshold: object) -> None:
    if score_threshold is not None and not _is_number(score_threshold):
        raise ValueError(f"score_threshold must be a finite number or None, but got {score_threshold!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _copied(normalize: str | dict[str, Any] | None) -> str | dict[str, Any] | None:
    if normalize is None or isinstance(normalize, str):
        return normalize
    return {given: dict(spec) if isinstance(spec, Mapping) else spec for given, spec in normalize.items()}
