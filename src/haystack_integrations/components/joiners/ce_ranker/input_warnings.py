"""Warnings about a joiner's inputs, each given once per input. They do not change the result."""

import math
from collections.abc import Mapping
from itertools import pairwise

from haystack import logging

from haystack_ce_ranker.fusion.fuse import ScoredList
from haystack_ce_ranker.fusion.normalizers import AUTO, Normalization
from haystack_integrations.components.joiners.ce_ranker.inputs import REPORT, Input

logger = logging.getLogger(__name__)

_SATURATED = 0.01  # this close to 0 or 1, a sigmoid has lost what the logit said
_SATURATED_SHARE = 0.5
_ENOUGH_TO_JUDGE = 5
_FAR_WIDER = 20.0
_REPEATS = 3  # runs in which a list was as short as before


class InputWarnings:
    """
    The warnings of one joiner. Remembers which were given, and how long lists were in earlier runs.

    :param normalizations: The joiner's, by input.
    :param missing: The joiner's rule for documents that a list lacks.
    """

    def __init__(self, normalizations: Mapping[str, Normalization], missing: str) -> None:
        self._normalizations = normalizations
        self._missing = missing
        self._warned: set[str] = set()
        self._lengths: dict[str, int] = {}
        self._repeats: dict[str, int] = {}

    def look_at(self, inputs: Mapping[str, Input], weights: Mapping[str, float], *, by_score: bool = True) -> None:
        """
        Warn of inputs whose scores should probably not be joined as they are.

        Scores that a stage noted itself are trusted.

        :param inputs: What arrived in this run.
        :param weights: The weights of this run, by input.
        :param by_score: Whether scores are joined. Ranks need only their order.
        """
        for name, one in inputs.items():
            self._warn_of_another_scorer(name, one.scores.scored_by)
            if not one.noted:
                self._warn_of_distances(name, one.scores)
            if not one.noted and by_score:
                self._warn_of_probabilities(name, one.scores)
                self._warn_of_cut(name, inputs, weights)
                self._warn_of_scale(name, inputs)

    def _warn_of_another_scorer(self, name: str, scored_by: str | None) -> None:
        """Say that probabilities were fitted on the scores of something else."""
        fitted_on, key = self._normalizations[name].fitted_on, f"{name} scorer"
        if key in self._warned or scored_by is None or fitted_on in (None, scored_by):
            return
        self._warned.add(key)
        logger.warning(
            "HybridScoreJoiner: the probabilities of input '{given}' were fitted on {fitted_on}, but {scored_by} has "
            "scored it. They may not hold: fit them again with `haystack-ce-ranker tune --probabilities`.",
            given=name,
            fitted_on=fitted_on,
            scored_by=scored_by,
        )

    def _warn_of_probabilities(self, name: str, listed: ScoredList) -> None:
        """Say that the scores look like probabilities of a saturated sigmoid, and what to do."""
        if name in self._warned or self._normalizations[name].name in (AUTO.name, "logit", "rank"):
            return
        scores = _finite(listed)
        if len(scores) < _ENOUGH_TO_JUDGE or min(scores) < 0.0 or max(scores) > 1.0:
            return
        saturated = sum(score < _SATURATED or score > 1.0 - _SATURATED for score in scores)
        if saturated >= _SATURATED_SHARE * len(scores):
            self._warned.add(name)
            logger.warning(
                "HybridScoreJoiner: {saturated} of {count} scores of input '{given}' are within {margin} of 0 or 1. "
                "They look like saturated probabilities, whose differences are lost when they are added to other "
                "scores. Give the input the `name` of the CrossEncoderRanker, so that its logits are used. Let another "
                "ranker give logits (scale_score=False), or undo its sigmoid with normalize={example}. Without "
                "`normalize`, the joiner does that itself.",
                saturated=saturated,
                count=len(scores),
                given=name,
                margin=_SATURATED,
                example=f'{{"{name}": "logit"}}',
            )

    def _warn_of_distances(self, name: str, listed: ScoredList) -> None:
        """Say that the list came in rising order of its scores, as distances do."""
        key = f"{name} order"
        scores = _finite(listed)
        if key in self._warned or len(scores) < _ENOUGH_TO_JUDGE:
            return
        if all(before < after for before, after in pairwise(scores)):
            self._warned.add(key)
            logger.warning(
                "HybridScoreJoiner: the scores of input '{given}' rise from its first document to its last "
                "({first} to {last}). If they are distances, for which less is better, turn them round before they are "
                "joined, for example by their sign: the joiner takes the highest score for the best.",
                given=name,
                first=f"{scores[0]:.3g}",
                last=f"{scores[-1]:.3g}",
            )

    def _warn_of_scale(self, name: str, inputs: Mapping[str, Input]) -> None:
        """Say that the scores (cosines, mostly) are too small to count beside another input's."""
        key = f"{name} scale"
        if self._normalizations[name].name != "none" or key in self._warned:
            return
        scores = _finite(inputs[name].scores)
        if len(scores) < _ENOUGH_TO_JUDGE or min(scores) < -1.0 or max(scores) > 1.0 or min(scores) == max(scores):
            return
        for other, given in inputs.items():
            theirs = _finite(given.scores)
            if other == name or not theirs or self._normalizations[other].name not in ("none", AUTO.name):
                continue
            if max(theirs) - min(theirs) > _FAR_WIDER * (max(scores) - min(scores)):
                self._warned.add(key)
                logger.warning(
                    "HybridScoreJoiner: the scores of input '{given}' span {span}, those of '{other}' {others}. "
                    "As they are, '{given}' counts for next to nothing, whatever its weight. Bring cosines to the "
                    "scale of logits with normalize={example}, or find a normalizer with `haystack-ce-ranker tune`.",
                    given=name,
                    span=f"{max(scores) - min(scores):.2g}",
                    other=other,
                    others=f"{max(theirs) - min(theirs):.2g}",
                    example=f'{{"{name}": "auto"}}',
                )
                return

    def _warn_of_cut(self, name: str, inputs: Mapping[str, Input], weights: Mapping[str, float]) -> None:
        """Say that the input looks like a ranker's list whose rest was cut, if it does so run after run."""
        key = name + REPORT
        if self._missing in ("drop", "zero") or key in self._warned or not inputs[name].documents:
            return
        ids = {document.id for document in inputs[name].documents}
        for other, given in inputs.items():
            if other == name or weights[name] < weights[other] or len(given.documents) <= len(ids):
                continue
            if ids < {document.id for document in given.documents}:
                # A cut list has the same length every time. A list that is short because little matched does not.
                if self._lengths.setdefault(key, len(ids)) != len(ids):
                    self._warned.add(key)
                    return
                self._repeats[key] = self._repeats.get(key, 0) + 1
                if self._repeats[key] < _REPEATS:
                    return
                self._warned.add(key)
                logger.warning(
                    "HybridScoreJoiner: all {count} documents of input '{given}' are among the {others} of input "
                    "'{other}'. If a ranker scored those and its top_k cut the rest, the rest counts with the lowest "
                    "score that is left, although it scored lower. Give that ranker a top_k as large as its candidate "
                    "list. (A CrossEncoderRanker notes what it cut, if the input has its name.)",
                    count=len(ids),
                    given=name,
                    others=len(given.documents),
                    other=other,
                )
                return


def _finite(listed: ScoredList) -> list[float]:
    return [float(score) for score in listed.scores if score is not None and math.isfinite(score)]
