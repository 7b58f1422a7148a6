"""How much of a pair of texts a stock ranker reads: arithmetic on numbers of tokens, without a tokenizer."""

from typing import NamedTuple


class Kept(NamedTuple):
    """Tokens of a query and of a document that a model reads, special tokens not counted."""

    query: int
    document: int


def longest_first(query: int, document: int, most: int) -> Kept:
    """
    Return what is left of a pair where the longer text is cut first, and then both alike.

    This is the rule `longest_first` of the Hugging Face tokenizers, by which sentence-transformers and transformers
    cut pairs.

    :param query: Tokens of the query.
    :param document: Tokens of the document.
    :param most: The most tokens of both together, special tokens not counted.
    """
    if query + document <= most:
        return Kept(query, document)
    shorter = min(query, document)
    longer = max(shorter, most - shorter)
    if shorter + longer > most:
        shorter, longer = most // 2, most - most // 2
    return Kept(shorter, longer) if query <= document else Kept(longer, shorter)
