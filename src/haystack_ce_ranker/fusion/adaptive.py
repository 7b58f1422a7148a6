"""
Decides for one query how much each list counts, by how sure the cross-encoder is and how far the others agree with it.

A cross-encoder that is at home finds much that it takes for relevant; on text of another kind it finds little. Its
*doubt* is the mean probability of not being relevant over its twenty best documents. The others count by their
deviations (`z_score`), and a deviation of one is worth so many logits:

==============  ==================================================================================
other lists     logits for a deviation
==============  ==================================================================================
two or more     doubt x correlation squared x 8 for BM25, x 16 for all others (more than two share)
one, not BM25   doubt x correlation squared x 8
BM25 alone      (1 - overlap) squared
==============  ==================================================================================

The *correlation* is that of the list's scores with the logits, the *overlap* that of the seven best of both, each over
the documents that both have scored. Two lists that were found independently corroborate each other, so they count for
more than one. A list that contradicts the cross-encoder counts for nothing. BM25 alone counts for more the less the two
first pages have in common: the cross-encoder has read the words that BM25 counts, so that it adds little where they
agree.

The probability is the sigmoid of the logit, as cross-encoders are trained, and constants are logits of
ms-marco-MiniLM-L12. A model on another scale needs the line (`slope`, `intercept`) that leads from its logits to those:
not a calibration on judgments, which says how often a document is relevant and not how sure the model is.
`benchmarks/watts.py` measures all of this, and leaves out every collection in turn when it chooses the constants.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from haystack_ce_ranker import checks
from haystack_ce_ranker.fusion.normalizers import NONE, FloatArray, parse_normalization, sigmoid
from haystack_ce_ranker.fusion.scales import Assumed, Scale, scale_of, undone

BEST = 20
"""How many of the cross-encoder's best documents its doubt looks at."""

FIRST = 7
"""How many of the best documents of both the overlap looks at."""


class Logits(NamedTuple):
    """
    What a deviation of another list is worth at most.

    :ivar bm25: BM25 beside others.
    :ivar own: Any other list beside others.
    :ivar own_alone: Any other list without others.
    :ivar bm25_alone: BM25 without others.
    """

    bm25: float = 8.0
    own: float = 16.0
    own_alone: float = 8.0
    bm25_alone: float = 1.0


LOGITS = Logits()
_AGREE_AT_LEAST = 3  # shared documents; two points always lie on a line
_Z_SCORE = parse_normalization("z_score")


@dataclass(frozen=True)
class Adaptation:
    """
    How the rule reads the cross-encoder.

    :param by: The input whose logits decide. None: the one that has logits.
    :param slope: Logits of the model that the constants are for, for each logit of this one.
    :param intercept: The same at a logit of 0.
    :param logits: What the others are worth; only benchmarks change it.
    """

    by: str | None = None
    slope: float = 1.0
    intercept: float = 0.0
    logits: Logits = LOGITS

    def spec(self) -> bool | dict[str, Any]:
        """Return the plain value that `parse_adaptation` reads back."""
        plain = {"by": self.by, "slope": self.slope, "intercept": self.intercept}
        return {key: value for key, value in plain.items() if value != getattr(Adaptation, key)} or True


class Agreement(NamedTuple):
    """
    How far a list agrees with the cross-encoder, over the documents that both have scored.

    :ivar correlation: Of the scores with the logits; None if too few documents are shared.
    :ivar overlap: Of the best of both, from 0 to 1; None if no document is shared.
    """

    correlation: float | None
    overlap: float | None


class Decision(NamedTuple):
    """
    What was decided for a query.

    :ivar weights: The share of each input; they add up to 1.
    :ivar assumed: What each input's scores were taken for, and how they are counted.
    :ivar by: The input that decided; None if the given weights were kept.
    :ivar doubt: From 0, sure, to 1; None if the given weights were kept.
    :ivar agreement: By input, how far each of the others agrees.
    :ivar kept_because: Why the given weights were kept; None if they were not.
    """

    weights: dict[str, float]
    assumed: dict[str, Assumed]
    by: str | None = None
    doubt: float | None = None
    agreement: Mapping[str, Agreement] = {}
    kept_because: str | None = None


def parse_adaptation(given: object, inputs: Sequence[str]) -> Adaptation | None:
    """
    Check `adapt_weights`.

    :param given: A boolean, or `{"by": input, "slope": ..., "intercept": ...}`, each of which may be omitted.
    :returns: None for False.
    :raises ValueError: If it is something else, a key is unknown, or a value is out of its range.
    """
    if isinstance(given, Mapping):
        if unknown := [key for key in given if key not in ("by", "slope", "intercept")]:
            raise ValueError(f"adapt_weights has no key {unknown[0]!r}; its keys: by, slope, intercept")
        by = given.get("by")
        return Adaptation(
            by=None if by is None else checks.choice("adapt_weights: by", by, inputs),
            slope=checks.number("adapt_weights: slope", given.get("slope", 1.0), above=0.0),
            intercept=checks.number("adapt_weights: intercept", given.get("intercept", 0.0)),
        )
    try:
        return Adaptation() if checks.flag("adapt_weights", given) else None
    except ValueError as error:
        raise ValueError(f"{error} Or {{'by': input, 'slope': ..., 'intercept': ...}}.") from None


def decide(
    adaptation: Adaptation,
    raw: FloatArray,
    known: Mapping[str, FloatArray],
    scales: Mapping[str, Scale | None],
    assumed: Mapping[str, Assumed],
    shares: Mapping[str, float],
) -> Decision:
    """
    Decide how much each list of one query counts.

    :param raw: Scores of shape `[inputs, documents]`, in the order of `known`; NaN where a list has none.
    :param known: By input, the finite scores of its whole list.
    :param scales: What is known of each list's scale; None if nothing is.
    :param assumed: How each list is counted if the weights are kept.
    :param shares: The given weights, as shares.
    """
    heard = [name for name in known if known[name].size]
    found = {name: scale_of(name, known[name], scales[name]) for name in heard}
    by, reason = _judge(adaptation, heard, found, scales)
    if by is not None and found[by] != "probabilities":
        found[by] = "logits"
    others = [name for name in heard if name != by]
    if by is not None and not others:
        reason = f"nothing but {by} has scores"
    if by is None or reason is not None:
        return Decision(dict(shares), dict(assumed), kept_because=reason)
    counted = undone(known[by]) if found[by] == "probabilities" else NONE
    rows = dict(zip(known, raw, strict=True))
    held = ~np.isnan(rows[by])
    if (reason := _too_little(by, rows[by][held])) is not None:
        return Decision(dict(shares), dict(assumed), kept_because=reason)
    logits = np.full(held.shape, np.nan)
    logits[held] = counted.apply(known[by], rows[by][held])
    agreement = {name: _agreement(logits, rows[name]) for name in others}
    doubt = _doubt(adaptation, logits[held])
    worth = {by: adaptation.slope}
    for name in others:
        worth[name] = worth_of(found[name], doubt, agreement[name], others=len(others), logits=adaptation.logits)
    total = sum(worth[name] for name in sorted(worth))
    return Decision(
        weights={name: worth[name] / total if name in worth else 0.0 for name in shares},
        assumed={
            name: Assumed(found[name], counted if name == by else _Z_SCORE) if name in worth else one
            for name, one in assumed.items()
        },
        by=by,
        doubt=doubt,
        agreement=agreement,
    )


def _judge(
    adaptation: Adaptation, heard: Sequence[str], found: Mapping[str, Scale], scales: Mapping[str, Scale | None]
) -> tuple[str | None, str | None]:
    """Return the input whose logits decide, or None and why there is none. A record counts before looks."""
    if adaptation.by is not None:
        return (adaptation.by, None) if adaptation.by in heard else (None, f"{adaptation.by} has no scores")
    judges = [name for name in heard if scales[name] == "logits"]
    judges = judges or [name for name in heard if found[name] in ("logits", "probabilities")]
    if len(judges) == 1:
        return judges[0], None
    if not judges:
        return None, "no input has logits"
    return (
        None,
        f"more than one input has logits ({', '.join(sorted(judges))}); name one by adapt_weights={{'by': ...}}",
    )


def _too_little(by: str, scores: FloatArray) -> str | None:
    """Return why a list cannot decide; None if it can."""
    if scores.size < _AGREE_AT_LEAST:
        return f"{by} has scores of fewer than {_AGREE_AT_LEAST} documents"
    return f"{by} gives all documents the same score" if float(np.ptp(scores)) == 0.0 else None


def _doubt(adaptation: Adaptation, logits: FloatArray) -> float:
    best = np.sort(logits)[-BEST:]
    return float(sigmoid(-(adaptation.slope * best + adaptation.intercept)).mean())


def _agreement(logits: FloatArray, scores: FloatArray) -> Agreement:
    shared = ~np.isnan(logits) & ~np.isnan(scores)
    order = np.lexsort((scores[shared], logits[shared]))  # so that the order in which they came cannot count
    x, y = logits[shared][order], scores[shared][order]
    if not x.size:
        return Agreement(None, None)
    first = min(FIRST, x.size)
    best_x, best_y = (values >= np.sort(values)[-first] for values in (x, y))
    overlap = float((best_x & best_y).sum() / max(best_x.sum(), best_y.sum()))
    if x.size < _AGREE_AT_LEAST:
        return Agreement(None, overlap)
    flat = np.ptp(x) == 0.0 or np.ptp(y) == 0.0
    return Agreement(0.0 if flat else float(np.corrcoef(x, y)[0, 1]), overlap)


def worth_of(scale: Scale, doubt: float, agreement: Agreement, *, others: int, logits: Logits = LOGITS) -> float:
    """
    Return how many logits a deviation of a list is worth; see the module.

    :param scale: The list's.
    :param agreement: Without shared documents the list is worth nothing.
    :param others: How many lists there are beside the cross-encoder's.
    :param logits: What a deviation is worth at most.
    """
    if others == 1 and scale == "bm25":
        return 0.0 if agreement.overlap is None else logits.bm25_alone * (1.0 - agreement.overlap) ** 2
    agreed = 0.0 if agreement.correlation is None else doubt * max(agreement.correlation, 0.0) ** 2
    if others == 1:
        return logits.own_alone * agreed
    return (logits.bm25 if scale == "bm25" else logits.own) * agreed * 2.0 / others
