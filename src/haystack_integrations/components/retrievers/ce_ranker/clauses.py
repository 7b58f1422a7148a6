"""
What OpenSearch and Elasticsearch refuse: queries of too many words, and more hits than the index's window.

A query of more words than `indices.query.bool.max_clause_count` (1,024) is asked again with the words of the greatest
weight. The server's own term statistics say how rare each word is.
"""

import math
import re
from collections import Counter
from typing import Any, NamedTuple

_CLAUSES = re.compile(r"maxClauseCount is set to (\d+)").search
_WINDOW = re.compile(r"less than or equal to: \[(\d+)\]").search


class _Word(NamedTuple):
    """
    A word of a query.

    :param start: Where it begins in the query.
    :param weight: Its inverse document frequency.
    :param before: How often the query has had its term before.
    """

    start: int
    text: str
    weight: float
    before: int


class Attempts:
    """
    The texts to ask for one query, one after another: the query itself, and shorter ones as long as it is refused.

    :ivar text: What is to be asked now.
    :ivar left_out: How many words of the query it lacks.
    :ivar limit: How many words the server said it takes; None as long as it has refused none.
    """

    def __init__(self, store: Any, query: str, top_k: int) -> None:
        self.text = query
        self.left_out = 0
        self.limit: int | None = None
        self._store = store
        self._query = query
        self._top_k = top_k
        self._room = 0
        self._words: list[_Word] = []
        self._total = 0

    def shorten(self, error: Exception) -> None:
        """
        Make `text` shorter if the error says that it has too many words.

        :raises ValueError: If the error says that `top_k` is too large.
        :raises Exception: The error itself, if it says something else.
        """
        told = f"{error} {getattr(error, 'info', '')}"
        if window := _WINDOW(told):
            raise ValueError(
                f"top_k must be at most {window[1]} for this index, but got {self._top_k}: "
                "ask for less, or raise the index's setting index.max_result_window"
            ) from error
        refused = _CLAUSES(told)
        if refused is None or self._room == 1:
            raise error
        if self.limit is None:
            self.limit = self._room = int(refused[1])
            self._total, self._words = _weighed(self._store, self._query)
            if not self._words:
                raise error
        else:  # a search in several fields has a clause for each word in each
            self._room = max(1, min(self._room, len(self._words)) // 2)
        # Each word once, the rarest first, and then what the query repeats: a word counts as often as it stands there.
        best = sorted(self._words, key=lambda word: (word.before, -word.weight))[: self._room]
        self.text = " ".join(word.text for word in sorted(best))
        self.left_out = self._total - len(best)


def _weighed(store: Any, query: str) -> tuple[int, list[_Word]]:
    """Return how many words the server sees in a query, and those of them that its index has."""
    store._ensure_initialized()
    body = {
        "doc": {"content": query},
        "fields": ["content"],
        "offsets": True,
        "positions": False,
        "term_statistics": True,
        "field_statistics": True,
    }
    found = store._client.termvectors(index=store._index, body=body)["term_vectors"].get("content")
    if found is None:
        return 0, []
    count, words, total = found["field_statistics"]["doc_count"], [], Counter[str]()
    units = query.encode("utf-16-le", "surrogatepass")  # Java counts characters so
    for term, told in found["terms"].items():
        having = told.get("doc_freq", 0)
        weight = math.log(1.0 + (max(count, having) - having + 0.5) / (having + 0.5))
        for token in told["tokens"]:
            if having:
                text = units[2 * token["start_offset"] : 2 * token["end_offset"]].decode("utf-16-le", "surrogatepass")
                words.append(_Word(token["start_offset"], text, weight, total[term]))
            total[term] += 1
    return total.total(), words
