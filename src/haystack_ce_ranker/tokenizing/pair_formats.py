"""
Learns the format of a model's pairs by probing: what stands before, between and behind the two texts.

Most models put special tokens there, which the tokenizer's own post-processor tells. Others put a template around the
texts, as chat models do. The template is read off one encoded pair, and the tokens where it meets the texts are found
by trying. Either way the format is compared with the model's own encoding of pairs of several lengths and scripts: a
difference is an error, not a silent loss.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, NamedTuple

import numpy as np

from haystack_ce_ranker.tokenizing.pairs import Frame, PackedPair, PairFormat
from haystack_ce_ranker.tokenizing.tokens import Tokens

PROBES = (
    ("a question", "an answer to it, longer than the question"),
    ("what is this?", "it"),
    ("Où est la cabane", "Der Zug ist langsam. Die Hütte liegt im Schnee!"),
    ("小屋在哪里？", "山上有一个小屋。"),
    ("где хижина", "الكوخ في الثلج. القطار بطيء"),
    ("12.5 + x(y)", '"quoted" and: (bracketed)'),
)
"""Pairs on which a format is compared with the model's own encoding."""

_SPACED = ("  two words\n", "\n a document ")
_MARKS = (("qoxj vwak", "jizq kuwv, oxq"), ("vwak qoxj zu", "kuwv"))


class Encoded(NamedTuple):
    """A pair as a model encodes it: token ids, and token types where it has them."""

    ids: Sequence[int]
    types: Sequence[int] | None = None


OwnEncoding = Callable[[str, str], Encoded]
"""Encodes a query and a document as the model's own library does, without truncation and padding."""

Framed = Callable[[Frame, Sequence[str]], list[Tokens]]
"""Encodes texts as they stand in a frame."""


def learn(tokenizer: Any, own: OwnEncoding, framed: Framed) -> PairFormat:
    """
    Return the format of a model's pairs.

    :param tokenizer: A tokenizer of the library `tokenizers`, without truncation and padding.
    :raises ValueError: If the pairs cannot be put together from the tokens of their texts. The error says why.
    """
    plain = _by_special_tokens(tokenizer)
    if isinstance(plain, PairFormat) and _difference(plain, own, framed) is None:
        return plain
    by_template = _by_template(tokenizer, own, framed)
    if isinstance(by_template, PairFormat):
        return by_template
    reason = by_template if isinstance(plain, PairFormat) else plain
    raise ValueError(
        f"model has a pair format that cannot be packed: {reason}. Use a model whose pairs are a query and then a "
        "document, each in one piece, between special tokens or in a chat template."
    )


def _by_special_tokens(tokenizer: Any) -> PairFormat | str:
    """Return the format by the tokenizer's post-processor, or why it has none that can be packed."""
    texts = PROBES[0]
    sides = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
    pair = tokenizer.encode(*texts)
    ids, types = np.asarray(pair.ids, dtype=np.int32), np.asarray(pair.type_ids, dtype=np.int32)
    owners = np.asarray([-1 if owner is None else owner for owner in pair.sequence_ids])
    places = [np.flatnonzero(owners == side) for side in (0, 1)]
    for side, place in enumerate(places):
        contiguous = len(place) > 0 and bool((np.diff(place) == 1).all())
        if not contiguous or ids[place].tolist() != sides[side] or len(set(types[place].tolist())) != 1:
            return "its tokenizer does not put a query and a document, each in one piece, between special tokens"
    (first, last), (second, end) = ((int(place[0]), int(place[-1]) + 1) for place in places)
    if second < last:
        return "the document stands before the query"
    return _format(ids, types, first, last, second, end)


def _by_template(tokenizer: Any, own: OwnEncoding, framed: Framed) -> PairFormat | str:
    """Return the format by the template around the texts of an encoded pair, or why there is none."""
    query, document = _MARKS[0]
    shown = tokenizer.decode(list(own(query, document).ids), skip_special_tokens=False)
    if shown.count(query) != 1 or shown.count(document) != 1:
        return f"the texts of a pair are not found again, each once, in what its tokens say: {shown!r}"
    if shown.index(document) < shown.index(query):
        return "the document stands before the query"
    before, rest = shown.split(query)
    between, behind = rest.split(document)
    encoded = [own(*texts) for texts in _MARKS]
    strips = list(own(*_SPACED).ids) == list(own(*(text.strip() for text in _SPACED)).ids)
    difference: str | None = None
    for frames in _frames(before, between, behind):
        query_frame, document_frame = (frame._replace(strips=strips) for frame in frames)
        sides = zip(
            *(
                framed(frame, side)
                for frame, side in zip((query_frame, document_frame), zip(*_MARKS, strict=True), strict=True)
            ),
            strict=True,
        )
        found = _placed(encoded, [(one.ids, other.ids) for one, other in sides])
        if found is None:
            continue
        found = replace(found, query=query_frame, document=document_frame)
        difference = _difference(found, own, framed, spaced=True)
        if difference is None:
            return found
    return difference or f"the tokens of a text depend on what its template puts around it: {shown!r}"


def _frames(before: str, between: str, behind: str) -> Iterator[tuple[Frame, Frame]]:
    """Yield how much of a template may merge with the texts: white space, nothing, or the next word, on each side."""
    leads = [(left, right) for left, right in product(_ends(before), _ends(between))]
    tails = [(left, right) for left, right in product(_starts(between), _starts(behind))]
    for (query_lead, document_lead), (query_tail, document_tail) in product(leads, tails):
        if len(query_tail) + len(document_lead) > len(between):
            continue
        yield (
            Frame(before[: len(before) - len(query_lead)], query_lead, query_tail, between[len(query_tail) :]),
            Frame(
                between[: len(between) - len(document_lead)], document_lead, document_tail, behind[len(document_tail) :]
            ),
        )


def _ends(text: str) -> list[str]:
    found = (re.search(pattern, text) for pattern in (r"\s*\Z", r"\Z", r"\S+\s*\Z"))
    return list(dict.fromkeys(match.group() for match in found if match is not None))


def _starts(text: str) -> list[str]:
    found = (re.match(pattern, text) for pattern in (r"\s*", r"", r"\S+\s*"))
    return list(dict.fromkeys(match.group() for match in found if match is not None))


def _placed(encoded: Sequence[Encoded], sides: Sequence[tuple[Any, Any]]) -> PairFormat | None:
    """Find the tokens of the texts in those of the whole pairs, at one place in all of them."""
    ids = [np.asarray(one.ids, dtype=np.int32) for one in encoded]
    shared = min(map(len, ids))

    def begins(offsets: Sequence[int], side: int) -> int | None:
        for place in range(shared):
            if all(
                of_pair[offset + place : offset + place + len(texts[side])].tolist() == texts[side].tolist()
                for of_pair, offset, texts in zip(ids, offsets, sides, strict=True)
            ):
                return place
        return None

    first = begins([0] * len(ids), 0)
    if first is None:
        return None
    ends = [first + len(texts[0]) for texts in sides]
    gap = begins(ends, 1)
    if gap is None:
        return None
    types = encoded[0].types if encoded[0].types is not None else np.zeros(len(ids[0]))
    second = ends[0] + gap
    return _format(ids[0], np.asarray(types, dtype=np.int32), first, ends[0], second, second + len(sides[0][1]))


def _format(ids: Any, types: Any, first: int, last: int, second: int, end: int) -> PairFormat:
    """Return the format of a pair whose query is `ids[first:last]`, and whose document is `ids[second:end]`."""

    def part(start: int, stop: int) -> PackedPair:
        return PackedPair(ids[start:stop], types[start:stop])

    return PairFormat(
        prefix=part(0, first),
        query_type=int(types[first]),
        middle=part(last, second),
        document_type=int(types[second]),
        suffix=part(end, len(ids)),
    )


def _difference(found: PairFormat, own: OwnEncoding, framed: Framed, *, spaced: bool = False) -> str | None:
    """Return where packing by a format differs from the model's own encoding, or None if it is the same."""
    for texts in (*PROBES, *([_SPACED] if spaced else [])):
        [query], [document] = framed(found.query, texts[:1]), framed(found.document, texts[1:])
        packed = found.pack(query.ids, document.ids)
        theirs = own(*texts)
        types = theirs.types if theirs.types is not None else packed.types.tolist()
        if packed.ids.tolist() != list(theirs.ids) or packed.types.tolist() != list(types):
            return (
                "its own encoding of a pair differs from the tokens of its texts put together, so that they cannot be "
                f"budgeted: {list(theirs.ids)} instead of {packed.ids.tolist()} for {texts}"
            )
    return None
