"""ReadingPolicy: what the model may read of a query and its documents, with all defaults and checks."""

from collections.abc import Collection
from dataclasses import dataclass

from haystack_ce_ranker.checks import choice, number, whole_number
from haystack_ce_ranker.reading.passages import AGGREGATES, STRATEGIES, WindowSettings
from haystack_ce_ranker.reading.queries import REDUCTIONS

EXACT, SOFT = "exact", "soft"
MATCHES = (EXACT, SOFT)
"""Which tokens of a window count as evidence."""

_LIMITS = ("max_length", "max_query_tokens", "max_tokens_per_query")
_SIZES = ("passage_tokens", "passage_stride", "passages_per_document")
_CHOICES: dict[str, Collection[str]] = {
    "long_documents": STRATEGIES,
    "passage_matches": MATCHES,
    "aggregate": AGGREGATES,
    "query_reduction": REDUCTIONS,
}


@dataclass(frozen=True)
class ReadingPolicy:
    """
    What the model may read of a query and its documents. The ranker's parameters of these names mean the same.

    :ivar max_length: Tokens of a pair, special tokens among them; None for 512, or the model's limit if that is less.
    :ivar max_query_tokens: The most tokens the query may take of a pair; None for the rule of `budget.split_budget`.
    :ivar max_tokens_per_query: The most tokens of all pairs of a query together, special tokens among them; None for
        no limit.
    :ivar long_documents: How a document that does not fit is read, by its name in `passages.STRATEGIES`.
    :ivar passage_tokens: Tokens of a window.
    :ivar passage_stride: Tokens from one window's start to the next one's.
    :ivar passages_per_document: The most windows read of one document.
    :ivar passage_evidence: The share of the best window's evidence that a further window needs, from 0 to 1.
    :ivar passage_matches: What counts as evidence: `exact`, the query's own tokens, or `soft`, also tokens that are
        like them by the model's own embeddings; see `soft_matches`. A model that shows none is read with `exact`.
    :ivar aggregate: How the logits of a document's windows become one, by its name in `passages.AGGREGATES`.
    :ivar query_reduction: Which tokens of a query stay when not all do, by its name in `queries.REDUCTIONS`.
    :raises ValueError: If a value is out of range, or a name is not in its table.
    """

    max_length: int | None = None
    max_query_tokens: int | None = None
    max_tokens_per_query: int | None = None
    long_documents: str = "best_passages"
    passage_tokens: int = 64
    passage_stride: int = 32
    passages_per_document: int = 4
    passage_evidence: float = 0.8
    passage_matches: str = EXACT
    aggregate: str = "logsumexp"
    query_reduction: str = "rarest"

    def __post_init__(self) -> None:
        """Check every value, and keep it as a plain number."""
        checked: dict[str, object] = {
            **{name: whole_number(name, getattr(self, name), optional=True) for name in _LIMITS},
            **{name: whole_number(name, getattr(self, name)) for name in _SIZES},
            **{name: choice(name, getattr(self, name), table) for name, table in _CHOICES.items()},
            "passage_evidence": number("passage_evidence", self.passage_evidence, least=0, most=1),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.passage_stride > self.passage_tokens:
            raise ValueError(
                f"passage_stride must be <= passage_tokens ({self.passage_tokens}), or windows would skip what "
                f"stands between them, but got {self.passage_stride}."
            )

    @property
    def windows(self) -> WindowSettings:
        """The part of the policy that the choice of windows needs."""
        return WindowSettings(
            self.passage_tokens, self.passage_stride, self.passages_per_document, self.passage_evidence
        )
