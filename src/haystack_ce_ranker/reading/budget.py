"""
How a pair's tokens are split between query and document; integers in, integers out.

Knows nothing of texts, tokenizers or models. `plan.py` gives it the counts. `queries.py` and `passages.py` choose the
tokens to keep.
"""

from typing import NamedTuple


class Budget(NamedTuple):
    """The most tokens that each side of one pair may keep, without special tokens."""

    query: int
    document: int


def room_for_texts(max_length: int, special_tokens: int) -> int:
    """
    Return the tokens of a pair that are left for its texts.

    :param max_length: The most tokens of a pair, special tokens among them.
    :param special_tokens: How many special tokens the model's pair format adds.
    :raises ValueError: If nothing worth reading is left.
    """
    room = max_length - special_tokens
    if room < 2:
        raise ValueError(
            f"max_length must leave room for a query and a document token beside the {special_tokens} special tokens "
            f"of the model's pair format, but got {max_length}; set it to at least {special_tokens + 2}."
        )
    return room


def split_budget(
    query_length: int, document_length: int, *, room: int, window: int, max_query: int | None = None
) -> Budget:
    """
    Split the tokens of one pair between its two sides.

    A pair that fits is left whole. Otherwise the query stays whole if one window of the document fits beside it, and
    it never has to give up more than half of the room. The document gets what is left. The split depends on this pair
    alone, so a document's score does not depend on its neighbours.

    :param query_length: Tokens of the query, without special tokens.
    :param document_length: Tokens of the document with everything embedded around it, without special tokens.
    :param room: Tokens of a pair for its texts, see `room_for_texts`.
    :param window: Tokens of a window of the document with everything embedded around it.
    :param max_query: The most tokens the query may take, a hard limit; None for the rule above.
    :returns: How many tokens each side may keep.
    :raises ValueError: If `max_query` leaves no room for a document, or is below 1.
    """
    if max_query is not None and not 0 < max_query < room:
        raise ValueError(
            f"max_query_tokens must be between 1 and {room - 1}, so that the document has a token of the {room} "
            f"there are, but got {max_query}."
        )
    if max_query is not None:
        query = min(query_length, max_query)
    elif query_length + document_length <= room:
        query = query_length
    else:
        query = min(query_length, max(room - min(window, document_length), room // 2))
    return Budget(query=query, document=room - query)
