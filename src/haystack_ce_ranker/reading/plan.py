"""
The pieces of a document to show the model beside a query: a budget for the pair, then the choice within it.

A document that fits is read whole. If it does not fit, a strategy of `passages.py` picks the windows. The model reads a
piece as if its text had been given alone. Where the tokens of a slice of a text are no slice of the text's tokens, as
with byte pairs and templates, the text of a chosen piece is therefore encoded anew.

Where there is nothing to read or no room to read it, the plan has no pieces and says why.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from haystack_ce_ranker.reading.budget import room_for_texts, split_budget
from haystack_ce_ranker.reading.documents import DocumentText, EncodedDocument
from haystack_ce_ranker.reading.passages import STRATEGIES, TRUNCATIONS, Evidence, Piece, Span, characters
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.reading.queries import EncodedQuery
from haystack_ce_ranker.tokenizing.pair_tokenizer import PairTokenizer
from haystack_ce_ranker.tokenizing.pairs import NO_FRAME, PackedPair, PairFormat, PairTexts
from haystack_ce_ranker.tokenizing.tokens import Ids

NO_TEXT = "no_text"
"""Nothing of a document is to be read: neither its content nor its header has a token that anybody would see."""
NO_QUERY = "no_query"
"""The query has no such token."""
NO_ROOM = "no_room"
"""The document's header leaves no room for its content."""


@dataclass(frozen=True, eq=False)
class ReadingPlan:
    """
    The parts of one document that are to be read.

    :ivar text: The document's texts.
    :ivar document: The same as tokens.
    :ivar query: The query as its pairs show it.
    :ivar pieces: What to read, one pair each, the best first.
    :ivar format: The pair format of the model.
    :ivar why_unread: Why there are no pieces: `NO_TEXT`, `NO_QUERY` or `NO_ROOM`; None if there are.
    :ivar encoded: The tokens of those pieces whose texts were encoded anew, with what is embedded around them.
    """

    text: DocumentText
    document: EncodedDocument
    query: EncodedQuery
    pieces: tuple[Piece, ...]
    format: PairFormat
    why_unread: str | None = None
    encoded: Mapping[Piece, Ids] = field(default_factory=dict)

    def cost(self, piece: Piece) -> int:
        """Return the tokens of the pair that shows a piece, special tokens among them."""
        return self.format.special_tokens + len(self.query) + sum(map(len, self._parts(piece)))

    def pack(self, piece: Piece) -> PackedPair:
        """Return the pair that shows a piece; it can give its texts back."""
        packed = self.format.pack(self.query.tokens.ids, *self._parts(piece))
        return packed._replace(source=lambda: self.texts(piece))

    def _parts(self, piece: Piece) -> Sequence[Ids]:
        """Return the tokens of the document's side of a pair, in one part or several."""
        if piece in self.encoded:
            return [self.encoded[piece]]
        document = self.document
        body = [document.body.ids[span.start : span.stop] for span in piece.spans]
        return [document.header, *body, document.footer]

    def texts(self, piece: Piece) -> PairTexts:
        """Return what a piece's pair says: the query, and the document's passage between its header and footer."""
        content = self.text.content
        spans = [slice(*self.offsets(span)) for span in piece.spans]
        passage = " ".join(content[span] for span in spans)
        return PairTexts(self.query.shown(), self.text.prefix + self.text.header + passage + self.text.footer)

    def offsets(self, span: Span) -> tuple[int, int]:
        """Return where a span stands in the content, in characters. A span of all tokens is the whole content."""
        if span.stop - span.start == len(self.document.body.ids):
            return 0, len(self.text.content)
        return characters(self.document, self.text.content, span)


class Planner:
    """
    Plans what to read by a policy, for one model.

    :param policy: What may be read.
    :param max_length: Tokens of a pair, special tokens among them.
    :param tokenizer: The model's tokenizer with its pair format.
    :param evidence: How windows are weighed; None for `passages.evidence`.
    :raises ValueError: If `policy` leaves no room in the model's pairs.
    """

    def __init__(
        self, policy: ReadingPolicy, max_length: int, tokenizer: PairTokenizer, evidence: Evidence | None = None
    ) -> None:
        self.policy = policy
        self._windows = policy.windows._replace(evidence=evidence)
        self.room = room_for_texts(max_length, tokenizer.format.special_tokens)
        self._tokenizer = tokenizer
        # A document that is cut at its end is cut as other libraries do it: between two of its tokens.
        cuts = policy.long_documents in TRUNCATIONS and tokenizer.format.document == NO_FRAME
        self._slices = tokenizer.slices or cuts
        split_budget(1, 1, room=self.room, window=1, max_query=policy.max_query_tokens)  # checks max_query_tokens

    def plan(self, query: EncodedQuery, text: DocumentText, document: EncodedDocument, *, place: int) -> ReadingPlan:
        """
        Decide what is read of a document, and of the query beside it.

        :param text: The document's texts.
        :param document: The same as tokens.
        :param place: Where the document stands in the caller's list, for the error.
        :raises ValueError: If what stands around all documents leaves no room.
        """
        policy = self.policy
        if not query.has_text or not document.own:
            return self._unread(query, text, document, NO_TEXT if query.has_text else NO_QUERY)
        budget = split_budget(
            len(query),
            len(document),
            room=self.room,
            window=policy.passage_tokens + document.embedded,
            max_query=policy.max_query_tokens,
        )
        kept = query.reduced(budget.query, policy.query_reduction)
        room = self.room - len(kept) - document.embedded
        if document.shared >= self.room - len(kept):
            raise ValueError(
                f"document_prefix and document_suffix take {document.shared} tokens of the {self.room - len(kept)} "
                f"that a pair has for document {place}, which leaves none for a text; shorten them "
                "or raise max_length."
            )
        tokens = len(document.body.ids)
        if room < min(tokens, 1):
            return self._unread(kept, text, document, NO_ROOM)
        if tokens <= room:
            pieces = [Piece((Span(0, tokens),))]
        else:
            pieces = STRATEGIES[policy.long_documents](document, query.asked, room, self._windows)
        plan = ReadingPlan(text, document, kept, tuple(pieces), self._tokenizer.format)
        if tokens <= room or self._slices:
            return plan
        return self._as_texts(plan, room + document.embedded)

    def showing(self, plan: ReadingPlan, piece: Piece) -> tuple[ReadingPlan, Piece]:
        """
        Return a plan that can show its first piece as a shared budget shortened it, and that piece.

        Where texts are encoded anew, it is shortened further until its pair has the tokens of the whole one's at most,
        less those of the content that were taken from it.
        """
        if self._slices or piece in plan.pieces:
            return plan, piece
        whole = plan.pieces[0]
        room = plan.cost(whole) - self._tokenizer.format.special_tokens - len(plan.query)
        alone = self._as_texts(replace(plan, pieces=(piece,)), max(room - (whole.tokens - piece.tokens), 1))
        return replace(plan, encoded={**plan.encoded, **alone.encoded}), alone.pieces[0]

    def _as_texts(self, plan: ReadingPlan, room: int) -> ReadingPlan:
        """Return a plan whose pieces are encoded anew, each shortened at its end until it fits into `room` tokens."""
        encoded: dict[Piece, Ids] = {}
        found = self._tokenizer.encode_documents([plan.texts(piece).document for piece in plan.pieces])
        for piece, tokens in zip(plan.pieces, found, strict=True):
            while len(tokens.ids) > room and piece.tokens > 1:
                piece = piece.shortened(len(tokens.ids) - room)
                [tokens] = self._tokenizer.encode_documents([plan.texts(piece).document])
            encoded[piece] = tokens.ids[:room]
        return replace(plan, pieces=tuple(encoded), encoded=encoded)

    def _unread(self, query: EncodedQuery, text: DocumentText, document: EncodedDocument, why: str) -> ReadingPlan:
        return ReadingPlan(text, document, query, (), self._tokenizer.format, why)

    def document_limit(self, query: EncodedQuery) -> int:
        """Return the most tokens a document may have to be read whole with `query`; 0 if the query itself is cut."""
        limit = self.policy.max_query_tokens
        return 0 if limit is not None and len(query) > limit else max(self.room - len(query), 0)
