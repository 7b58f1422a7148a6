"""What a ranker reads of its candidates: ours says so itself, of a stock ranker its own tokenizer and passes tell."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import lru_cache
from typing import Any

from haystack import Document

from haystack_ce_ranker.inspecting.truncation import longest_first
from haystack_ce_ranker.inspecting.watching import Call
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker

_KEPT_TEXTS = 10_000  # texts whose number of tokens is kept: queries find the same documents again and again


@dataclass(frozen=True)
class Reading:
    """
    What a ranker read. Of a ranker that runs elsewhere, only the first three figures are known; the others are None.

    :ivar candidates: Documents that it was given, each id once.
    :ivar without_text: Of these, how many have no text.
    :ivar milliseconds: How long it took.
    :ivar pairs: Pairs of the query and a text that it scored.
    :ivar unscored: Candidates that it left without a score of its model, as `depth` and a deadline do.
    :ivar cut: Candidates that it did not read whole.
    :ivar text_tokens: Tokens of the candidates' texts.
    :ivar unread_tokens: Of these, how many it never read.
    :ivar query_cut: Whether it read only a part of the query beside a candidate; 1 or 0, so that it adds up.
    :ivar filled_tokens: Tokens of text that it computed, special tokens included.
    :ivar computed_tokens: The same with padding.
    """

    candidates: int
    without_text: int
    milliseconds: float
    pairs: int | None = None
    unscored: int | None = None
    cut: int | None = None
    text_tokens: int | None = None
    unread_tokens: int | None = None
    query_cut: int | None = None
    filled_tokens: int | None = None
    computed_tokens: int | None = None

    @property
    def unread_share(self) -> float | None:
        """Share of the candidates' text that was never read; None if it is not known or there is no text."""
        return self.unread_tokens / self.text_tokens if self.text_tokens and self.unread_tokens is not None else None

    @property
    def padding_share(self) -> float | None:
        """Share of the computed tokens that are padding; None if it is not known or nothing was computed."""
        if not self.computed_tokens or self.filled_tokens is None:
            return None
        return 1 - self.filled_tokens / self.computed_tokens


def is_without_text(document: Document) -> bool:
    """Tell whether a document has no text that a ranker could read."""
    return not (document.content or "").strip()


def added(readings: list[Reading]) -> Reading:
    """Return the sum of readings; a figure that one of them lacks is None."""

    def total(name: str) -> Any:
        values = [getattr(one, name) for one in readings]
        return None if None in values else sum(values)

    return Reading(**{one.name: total(one.name) for one in fields(Reading)})


@dataclass
class Reader:
    """
    Tells what a ranker reads. Make one once its model is loaded.

    :ivar ranker: The component.
    :ivar most: The most tokens of a pair; None if that is not known.
    :ivar known: Whether more is known than how many candidates there are.
    """

    ranker: Any
    most: int | None = None
    known: bool = False
    _passes: list[tuple[int, int]] = field(default_factory=list)
    _tokenizer: Any = None
    _length: Callable[[str], int] = len

    def __post_init__(self) -> None:
        if isinstance(self.ranker, CrossEncoderRanker):
            self.known = True
            return
        encoder = getattr(self.ranker, "_cross_encoder", None)
        self._tokenizer = getattr(self.ranker if encoder is None else encoder, "tokenizer", None)
        module = getattr(self.ranker, "model", None) if encoder is None else encoder
        listen = getattr(module, "register_forward_pre_hook", None)
        if listen is None or not hasattr(self._tokenizer, "num_special_tokens_to_add"):
            return
        listen(self._note, with_kwargs=True)
        self._length = lru_cache(_KEPT_TEXTS)(self._tokens)
        self.most, self.known = int(self._tokenizer.model_max_length), True

    def read(self, call: Call) -> Reading:
        """Return what the ranker read in a run."""
        documents = list({one.id: one for one in call.received}.values())
        without = sum(map(is_without_text, documents))
        base = Reading(len(documents), without, 1000 * call.seconds)
        passes, self._passes[:] = list(self._passes), []
        if not self.known:
            return base
        if self._tokenizer is None:
            return _of_report(base, call.returned["report"])
        return self._by_tokenizer(base, str(call.given.get("query", "")), documents, passes)

    def _by_tokenizer(
        self, base: Reading, query: str, documents: list[Document], passes: list[tuple[int, int]]
    ) -> Reading:
        most = int(self._tokenizer.model_max_length) - int(self._tokenizer.num_special_tokens_to_add(pair=True))
        asked = self._length(self._around("query", query))
        texts = [self._length(self._around("document", self._joined(one))) for one in documents]
        kept = [longest_first(asked, length, most) for length in texts]
        return Reading(
            base.candidates,
            base.without_text,
            base.milliseconds,
            pairs=len(documents),
            unscored=0,
            cut=sum(one.document < length for one, length in zip(kept, texts, strict=True)),
            text_tokens=sum(texts),
            unread_tokens=sum(length - one.document for one, length in zip(kept, texts, strict=True)),
            query_cut=int(any(one.query < asked for one in kept)),
            filled_tokens=sum(filled for filled, _ in passes),
            computed_tokens=sum(computed for _, computed in passes),
        )

    def _around(self, side: str, text: str) -> str:
        """Return a text between the prefix and the suffix that the ranker gives it; the older one has no suffixes."""
        prefix, suffix = (getattr(self.ranker, f"{side}_{end}", None) for end in ("prefix", "suffix"))
        return f"{prefix or ''}{text}{suffix or ''}"

    def _joined(self, document: Document) -> str:
        names = getattr(self.ranker, "meta_fields_to_embed", None) or []
        values = [str(document.meta[name]) for name in names if document.meta.get(name) is not None]
        return str(getattr(self.ranker, "embedding_separator", "\n")).join([*values, document.content or ""])

    def _tokens(self, text: str) -> int:
        encoded = self._tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)
        return len(encoded["input_ids"])

    def _note(self, _module: Any, arguments: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        """Note a pass of the model: tokens of text, and with padding."""
        features = next((one for one in arguments if isinstance(one, Mapping)), named)
        ids, mask = features.get("input_ids"), features.get("attention_mask")
        if ids is not None:
            self._passes.append((int(ids.numel() if mask is None else mask.sum()), int(ids.numel())))


def _of_report(base: Reading, report: Mapping[str, Any]) -> Reading:
    tokens, padding = report["tokens"], report["padding_share"]
    return Reading(
        base.candidates,
        base.without_text,
        base.milliseconds,
        pairs=report["pairs"],
        unscored=len(report["unscored"]),
        cut=report["documents_cut"],
        text_tokens=report["content_tokens"],
        unread_tokens=report["tokens_unread"],
        query_cut=int(report["query_tokens_cut"] > 0),
        filled_tokens=tokens,
        computed_tokens=round(tokens / (1 - padding)) if padding < 1 else tokens,
    )
