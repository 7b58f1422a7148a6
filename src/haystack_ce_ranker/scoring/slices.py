"""
Many documents in slices of bounded memory, and the next slice prepared while the last one is at work.

Lengths in, ranges out. The caller says how a slice is prepared.
"""

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, TypeVar

CHARACTERS_PER_TOKEN = 4
"""About how many characters of a document make a token."""

SLICE_TOKENS = 262_144
"""About how many tokens are read before the next documents are tokenised: a few MB, and enough for even batches."""

FIRST_SLICE = 8
"""The first slice of packed pairs for a GPU is 8 times smaller, so that the GPU starts early; later slices double."""

SLICE_BATCHES = 8
"""The fewest full batches of a slice if batches are padded. With fewer, pairs of unequal lengths share a batch."""

UNREAD_SHARE = 8
"""A slice holds at most 8 times the tokens that it reads, however long its documents are."""

Prepared = TypeVar("Prepared")


class SlicePart(NamedTuple):
    """Consecutive documents of one request."""

    request: int
    documents: range


def plan_slices(
    characters: Sequence[Sequence[int]],
    overheads: Sequence[int],
    *,
    max_length: int,
    batch_tokens: int,
    pads: bool,
    starts_small: bool,
) -> list[list[SlicePart]]:
    """
    Split the documents of some requests into slices that read about `SLICE_TOKENS` tokens each.

    :param characters: For each request the characters of its documents.
    :param overheads: For each request the tokens that each of its pairs has beside the document.
    :param max_length: The most tokens of a pair.
    :param batch_tokens: The most tokens of a batch.
    :param pads: Whether batches are padded.
    :param starts_small: Whether the first slice is to be small; see `FIRST_SLICE`.
    """
    most = max(SLICE_TOKENS, SLICE_BATCHES * batch_tokens) if pads else SLICE_TOKENS
    room = most // FIRST_SLICE if starts_small else most
    slices: list[list[SlicePart]] = [[]]
    taken = 0
    for number, (lengths, overhead) in enumerate(zip(characters, overheads, strict=True)):
        first = 0
        for place, length in enumerate(lengths):
            tokens = length // CHARACTERS_PER_TOKEN + overhead
            if taken >= room:
                if place > first:
                    slices[-1].append(SlicePart(number, range(first, place)))
                slices.append([])
                first, taken, room = place, 0, min(2 * room, most)
            taken += max(min(tokens, max_length), tokens // UNREAD_SHARE)
        if len(lengths) > first:
            slices[-1].append(SlicePart(number, range(first, len(lengths))))
    return slices


def prepared(
    slices: Sequence[list[SlicePart]], prepare: Callable[[list[SlicePart]], Prepared], *, ahead: bool
) -> Generator[Prepared, None, None]:
    """
    Prepare the slices one after the other, as they are asked for.

    Close the iterator to be sure that the thread has ended.

    :param ahead: Whether a thread prepares the next slice while the caller works on the last one. On CPU the two would
        take each other's cores.
    """
    if not ahead or len(slices) < 2:
        yield from map(prepare, slices)
        return
    with ThreadPoolExecutor(1, thread_name_prefix="ce-ranker-tokenise") as thread:
        following = thread.submit(prepare, slices[0])
        for one in slices[1:]:
            ready = following.result()
            following = thread.submit(prepare, one)
            yield ready
        yield following.result()
