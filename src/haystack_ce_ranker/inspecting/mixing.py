"""Joiners that add up, or choose among, scores which do not compare, such as a sigmoid's and those of BM25."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from haystack_ce_ranker.adopting.inserting import NO_RANKERS
from haystack_ce_ranker.evaluation.running.graphs import takes_documents
from haystack_ce_ranker.evaluation.running.parts import sockets_of
from haystack_ce_ranker.inspecting.watching import Place, Watch, label_of
from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner

SATURATED = 0.99  # above it a sigmoid tells little apart


@dataclass
class Scores:
    """The scores that a component gave over all queries: the extremes, how many, and how many near 1."""

    low: float = float("inf")
    high: float = float("-inf")
    count: int = 0
    near_one: int = 0

    def add(self, score: float) -> None:
        """Take one more into account."""
        self.low, self.high = min(self.low, score), max(self.high, score)
        self.count += 1
        self.near_one += SATURATED < score <= 1


@dataclass(frozen=True)
class List:
    """
    One of the lists that are mixed.

    :ivar kind: What its scores are, in words.
    :ivar low: The lowest score of all queries; None if there was none.
    :ivar high: The highest.
    :ivar near_one: Share of scores above 0.99, where they are probabilities; else None.
    """

    kind: str
    low: float | None
    high: float | None
    near_one: float | None


@dataclass(frozen=True)
class MixedScores:
    """
    A joiner that mixes scores which do not compare.

    :ivar joiner: Its name.
    :ivar adds: Whether it adds scores up; else it keeps the highest of each document.
    :ivar lists: By sender.
    """

    joiner: str
    adds: bool
    lists: Mapping[str, List]


def mixed_scores(watch: Watch, scores: Mapping[Place, Scores]) -> Iterator[MixedScores]:
    """Yield the joiners whose lists have scores of different kinds, where these decide the order."""
    for place, joiner in watch.components.items():
        raw, adds = _raw_inputs(joiner)
        if not raw or _order_is_free(watch, place, joiner):
            continue
        lists = {}
        for sender, socket in watch.senders(place):
            kind = _kind_of(watch.components.get(sender)) if socket in raw else None
            if kind is not None:
                seen = scores.get(sender, Scores())
                known = seen.count > 0
                near = seen.near_one / seen.count if known and "probabilities" in kind else None
                low, high = (seen.low, seen.high) if known else (None, None)
                lists[label_of(sender)] = List(kind, low, high, near)
        if len({one.kind for one in lists.values()}) > 1:
            yield MixedScores(label_of(place), adds, lists)


def _raw_inputs(joiner: Any) -> tuple[set[str], bool]:
    """Return the inputs whose scores a joiner takes as they are, and whether it adds them up."""
    if isinstance(joiner, HybridScoreJoiner):
        if joiner.method != "weighted_sum":
            return set(), True
        return {name for name, one in joiner.normalizations.items() if one.name in ("none", "logistic")}, True
    mode = str(getattr(joiner, "join_mode", ""))
    if type(joiner).__name__ == "DocumentJoiner" and mode in ("concatenate", "merge"):
        return set(sockets_of(joiner, "input")), mode == "merge"
    return set(), False


def _order_is_free(watch: Watch, place: Place, joiner: Any) -> bool:
    """Tell whether only rankers read what a joiner returns, and all of it, so that its order decides nothing."""
    readers = [watch.components.get(one) for one in watch.receivers(place)]
    return bool(readers) and getattr(joiner, "top_k", None) is None and all(map(is_ranker, readers))


def is_ranker(component: Any) -> bool:
    """Tell whether a component orders documents by how relevant they are."""
    name = type(component).__name__
    takes = any(takes_documents(one.type) for one in sockets_of(component, "input").values()) if component else False
    return name.endswith("Ranker") and name not in NO_RANKERS and takes


def _kind_of(component: Any) -> str | None:
    """Return what a component's scores are; None if that is not known."""
    name, scaled = type(component).__name__, getattr(component, "scale_score", None)
    if name.endswith("BM25Retriever"):
        return "probabilities made of BM25" if scaled else "BM25 scores"
    if name.endswith("EmbeddingRetriever"):
        return "similarities"
    if is_ranker(component):
        return "probabilities of a cross-encoder" if scaled else "logits" if scaled is False else None
    return None
