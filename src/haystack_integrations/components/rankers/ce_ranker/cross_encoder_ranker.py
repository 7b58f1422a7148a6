"""
CrossEncoderRanker: re-ranks documents with a cross-encoder that is fed within a token budget and says what it read.

Thin: validates, hands texts to the engine (`haystack_ce_ranker.scoring`), and turns its scores into documents and a
report.
"""

import asyncio
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from haystack import Document, component, default_from_dict, default_to_dict, logging
from haystack.utils import ComponentDevice, Secret
from haystack.utils.hf import deserialize_hf_model_kwargs, serialize_hf_model_kwargs

from haystack_ce_ranker.backends import loading
from haystack_ce_ranker.backends.model_files import ModelOptions, check_dtype
from haystack_ce_ranker.provenance import KEY, with_record
from haystack_ce_ranker.reading.documents import DocumentText
from haystack_ce_ranker.scoring.cache import ScoreCache
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer, DocumentScore, QueryScores, ReadingPolicy, Stats
from haystack_ce_ranker.scoring.speed_profile import calibration_of_this_machine

logger = logging.getLogger(__name__)

_WARM_UP = threading.Lock()  # of the module: a lock on the instance would make copy.deepcopy(component) fail
_ON_TRUNCATION = ("report", "warn", "error")
_MANY_CANDIDATES = 200  # beyond, most of the time goes to documents that do not reach the top


@component
class CrossEncoderRanker:
    """
    Ranks documents by their relevance to a query with a cross-encoder, and never cuts a text without saying so.

    A document that fits is read whole. One that does not is read by its best windows, each beside the whole query.
    Every document tells in `meta["ce_ranker"][name]` what was read of it, and the run returns a report.

    The parameters that Haystack's `SentenceTransformersSimilarityRanker` also has mean what they mean there.

    ```python
    from haystack import Document
    from haystack_ce_ranker import CrossEncoderRanker

    ranker = CrossEncoderRanker(model="cross-encoder/ms-marco-MiniLM-L6-v2")
    result = ranker.run(query="City in Germany", documents=[Document(content="Paris"), Document(content="Berlin")])
    result["documents"][0].content, result["report"]["tokens"]
    ```
    """

    def __init__(
        self,
        *,
        model: str | Path = "cross-encoder/ms-marco-MiniLM-L6-v2",
        device: ComponentDevice | None = None,
        token: Secret | None = Secret.from_env_var(["HF_API_TOKEN", "HF_TOKEN"], strict=False),  # noqa: B008
        revision: str | None = None,
        top_k: int = 10,
        query_prefix: str = "",
        query_suffix: str = "",
        document_prefix: str = "",
        document_suffix: str = "",
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        scale_score: bool = True,
        score_threshold: float | None = None,
        trust_remote_code: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        tokenizer_kwargs: dict[str, Any] | None = None,
        config_kwargs: dict[str, Any] | None = None,
        backend: Literal["torch", "onnx", "openvino", "auto"] = "torch",
        dtype: Literal["auto", "float32", "float16", "bfloat16"] | None = None,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        max_query_tokens: int | None = None,
        max_tokens_per_query: int | None = None,
        long_documents: Literal["best_passages", "head", "head_tail", "windows"] = "best_passages",
        passage_tokens: int = 64,
        passage_stride: int = 32,
        passages_per_document: int = 4,
        passage_evidence: float = 0.8,
        aggregate: Literal["max", "first", "mean_top2", "logsumexp"] = "logsumexp",
        on_truncation: Literal["report", "warn", "error"] = "report",
        return_passages: bool = False,
        depth: int | None = None,
        deadline_ms: float | None = None,
        cache_size: int = 0,
        threads: int | None = None,
        calibration: str | Path | None = None,
        name: str = "cross_encoder",
    ) -> None:
        """
        Create the ranker; the model is loaded by `warm_up`, or by the first run.

        :param model: A hub id, a folder, or `package:<name>/<path>` for a folder inside an installed package.
        :param device: Where the model runs; None for the best device of the machine that runs it.
        :param token: Access token of the Hugging Face hub.
        :param revision: Branch, tag or commit of a hub model.
        :param top_k: How many documents to return. To join the ranking with another one, set it to the number of
            candidates, or connect `report` to the joiner as well.
        :param query_prefix: Text before the query.
        :param query_suffix: Text after the query.
        :param document_prefix: Text before each document; stands in every window of it.
        :param document_suffix: Text after each document; stands in every window of it.
        :param meta_fields_to_embed: Fields of the document's meta to show before its content, in every window.
        :param embedding_separator: Text between embedded fields and before the content.
        :param scale_score: Whether `Document.score` is the sigmoid of the logit, between 0 and 1. The logit itself is
            in the meta either way.
        :param score_threshold: Return only documents with at least this score.
        :param trust_remote_code: Whether the model may bring code of its own.
        :param model_kwargs: For the model's `from_pretrained`. Weights are read as safetensors only. With
            `backend="onnx"` and `"openvino"`, `file_name` picks the file; with `"openvino"`, `export=True` converts the
            checkpoint even where there is one, and `ov_config` holds properties of OpenVINO.
        :param tokenizer_kwargs: For the tokenizer's `from_pretrained`.
        :param config_kwargs: For the configuration's `from_pretrained`.
        :param backend: What runs the model: `torch`, `onnx` (onnxruntime, the extra `onnx`; needs an ONNX file),
            `openvino` (the extra `openvino`; takes an OpenVINO or ONNX file or converts the checkpoint while it loads;
            runs on CPU), or `auto`: the fastest that is installed and ranks the same, by a fixed rule that times
            nothing. On a GPU that is `torch`. On a CPU it is `openvino` if it is installed, but `onnx` for a model that
            comes as an int8 ONNX file, and `torch` where neither can be had; `haystack_ce_ranker.backends.auto` has the
            rule in full. The report says what ran.
        :param dtype: What it computes in. None: what the weights are loaded as, which is float32 but for a quantised
            file; with `backend="auto"` the same as `"auto"`. `"auto"`: the fastest that ranks the same on this
            hardware: float16 on a GPU, bfloat16 on a CPU with instructions for it (AVX512-BF16, AMX), else float32. A
            quantised file stays what it is, and any other `dtype` than `"auto"` is an error there, as is one that
            onnxruntime's file or, with `openvino`, this CPU does not have.
        :param batch_size: The most pairs of one forward pass; None for no limit beside `batch_tokens`.
        :param batch_tokens: The most tokens of one forward pass, padding among them; None for the backend's default.
        :param max_length: Tokens of a pair, special tokens among them; None for the model's own limit.
        :param max_query_tokens: The most tokens the query may take of a pair, a hard limit. None: the query stays
            whole as long as one window of the document fits beside it, and never gives up more than half of the pair.
        :param max_tokens_per_query: The most tokens of all pairs of a query together; None for no limit. Candidates
            that it leaves no window worth reading for are not scored and stand below the others, in their order.
        :param long_documents: How a document that does not fit is read: its `best_passages`, all `windows`, its
            `head`, or its `head_tail`.
        :param passage_tokens: Tokens of a window. Short windows measured better than long ones, and cost less; longer
            ones make longer `passages` for a prompt.
        :param passage_stride: Tokens from the start of one window to the start of the next.
        :param passages_per_document: The most windows read of one document.
        :param passage_evidence: Of those, only windows with at least this share of the best one's lexical evidence.
        :param aggregate: One logit from those of a document's windows. The default, `logsumexp`, is the maximum and a
            little more for each further window that agrees with it: at most log(`passages_per_document`).
        :param on_truncation: When a query or a document is not read whole: `report` it, `warn` in the log once a run,
            or raise an `error` before any scoring.
        :param return_passages: Whether the run also returns `passages`: one document per ranked document, with only
            the passage that the model liked best, and the parent's id in its meta.
        :param depth: Score only so many candidates, the first in the order they come; the others stand below them in
            that order, with a score of None (so that a `score_threshold` leaves them out). None: all, with a warning in
            the log, once, above 200 candidates.
        :param deadline_ms: Score candidates in the order they come until so many milliseconds of a run have passed
            (loading the model not counted), and leave the others below them in that order, with a score of None. The
            next batch begins only if it can be expected to end in time, by the speed so far, and is then finished.
        :param cache_size: How many scores to keep in memory, each of a document for a query (under 2 KB). Of requests
            that want the same score at once, one computes it. The key is all that a score depends on: the model and how
            it was loaded, how documents are read, and the texts of query and document with what is embedded around
            them. Runs with a `deadline_ms` or `max_tokens_per_query` pass by the cache, since there a score depends on
            the other candidates. 0: nothing is kept.
        :param threads: Threads that score on CPU; None for the calibration's, or the backend's own number.
        :param calibration: A file that `haystack-ce-ranker calibrate` wrote on this machine, read when the model is
            loaded: it sets `batch_tokens` and `threads` where these are None. One made for another model, backend,
            dtype or device is an error; one made with another number of CPUs is left aside, with a warning.
        :param name: Key of this ranker's record in `meta["ce_ranker"]`, so that two rankers do not collide.
        :raises ValueError: If a value is out of range or not among the choices.
        """
        _check_top_k(top_k)
        if backend not in loading.BACKENDS:
            choices = ", ".join(map(repr, loading.BACKENDS))
            raise ValueError(f"backend must be one of {choices}, but got {backend!r}.")
        check_dtype(dtype)
        twice = {"dtype", "torch_dtype"} & set(model_kwargs if model_kwargs is not None else {})
        if dtype is not None and twice:
            raise ValueError(f"dtype={dtype!r} and model_kwargs[{min(twice)!r}] say the same thing; give one of them.")
        if on_truncation not in _ON_TRUNCATION:
            choices = ", ".join(map(repr, _ON_TRUNCATION))
            raise ValueError(f"on_truncation must be one of {choices}, but got {on_truncation!r}.")
        if not name:
            raise ValueError(f"name must not be empty, but got {name!r}.")
        if not str(model).strip():
            raise ValueError(f"model must be a hub id, a folder or 'package:<name>/<path>', but got {model!r}.")
        if isinstance(meta_fields_to_embed, str):
            raise ValueError(f"meta_fields_to_embed must be a list of names, but got {meta_fields_to_embed!r}.")
        _check_threshold(score_threshold)
        for parameter, value in (("batch_size", batch_size), ("batch_tokens", batch_tokens), ("threads", threads)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"{parameter} must be >= 1 or None, but got {value!r}.")
        if depth is not None and (isinstance(depth, bool) or not isinstance(depth, int) or depth < 1):
            raise ValueError(f"depth must be a whole number >= 1 or None, but got {depth!r}.")
        if deadline_ms is not None and not _is_positive(deadline_ms):
            raise ValueError(f"deadline_ms must be a finite number > 0 or None, but got {deadline_ms!r}.")
        if isinstance(cache_size, bool) or not isinstance(cache_size, int) or cache_size < 0:
            raise ValueError(f"cache_size must be a whole number >= 0, but got {cache_size!r}.")
        self._policy = ReadingPolicy(
            max_length=max_length,
            max_query_tokens=max_query_tokens,
            max_tokens_per_query=max_tokens_per_query,
            long_documents=long_documents,
            passage_tokens=passage_tokens,
            passage_stride=passage_stride,
            passages_per_document=passages_per_document,
            passage_evidence=passage_evidence,
            aggregate=aggregate,
        )
        self.model = str(model)
        self.device = device
        self.token = token
        self.revision = revision
        self.top_k = top_k
        self.query_prefix = query_prefix
        self.query_suffix = query_suffix
        self.document_prefix = document_prefix
        self.document_suffix = document_suffix
        self.meta_fields_to_embed = list(meta_fields_to_embed) if meta_fields_to_embed is not None else []
        self.embedding_separator = embedding_separator
        self.scale_score = scale_score
        self.score_threshold = score_threshold
        self.trust_remote_code = trust_remote_code
        self.model_kwargs = model_kwargs
        self.tokenizer_kwargs = tokenizer_kwargs
        self.config_kwargs = config_kwargs
        self.backend = backend
        self.dtype = dtype
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.max_length = max_length
        self.max_query_tokens = max_query_tokens
        self.max_tokens_per_query = max_tokens_per_query
        self.long_documents = long_documents
        self.passage_tokens = passage_tokens
        self.passage_stride = passage_stride
        self.passages_per_document = passages_per_document
        self.passage_evidence = passage_evidence
        self.aggregate = aggregate
        self.on_truncation = on_truncation
        self.return_passages = return_passages
        self.depth = depth
        self.deadline_ms = deadline_ms
        self.cache_size = cache_size
        self.threads = threads
        self.calibration = str(calibration) if calibration is not None else None
        self.name = name
        self._scorer: CrossEncoderScorer | None = None
        self._warned_of_candidates = False
        outputs: dict[str, Any] = {"documents": list[Document], "report": dict[str, Any]}
        if return_passages:
            outputs["passages"] = list[Document]
        component.set_output_types(self, **outputs)

    def _get_telemetry_data(self) -> dict[str, Any]:
        return {"model": self.model, "backend": self.backend}

    def to_dict(self) -> dict[str, Any]:
        """Serialize to plain values; a device of None stays None, so that the machine that loads it decides."""
        model_kwargs = dict(self.model_kwargs) if self.model_kwargs is not None else None
        if model_kwargs is not None:
            serialize_hf_model_kwargs(model_kwargs)
        return default_to_dict(
            self,
            model=self.model,
            device=self.device.to_dict() if self.device is not None else None,
            token=self.token.to_dict() if self.token is not None else None,
            revision=self.revision,
            top_k=self.top_k,
            query_prefix=self.query_prefix,
            query_suffix=self.query_suffix,
            document_prefix=self.document_prefix,
            document_suffix=self.document_suffix,
            meta_fields_to_embed=list(self.meta_fields_to_embed),
            embedding_separator=self.embedding_separator,
            scale_score=self.scale_score,
            score_threshold=self.score_threshold,
            trust_remote_code=self.trust_remote_code,
            model_kwargs=model_kwargs,
            tokenizer_kwargs=_copy(self.tokenizer_kwargs),
            config_kwargs=_copy(self.config_kwargs),
            backend=self.backend,
            dtype=self.dtype,
            batch_size=self.batch_size,
            batch_tokens=self.batch_tokens,
            max_length=self.max_length,
            max_query_tokens=self.max_query_tokens,
            max_tokens_per_query=self.max_tokens_per_query,
            long_documents=self.long_documents,
            passage_tokens=self.passage_tokens,
            passage_stride=self.passage_stride,
            passages_per_document=self.passages_per_document,
            passage_evidence=self.passage_evidence,
            aggregate=self.aggregate,
            on_truncation=self.on_truncation,
            return_passages=self.return_passages,
            depth=self.depth,
            deadline_ms=self.deadline_ms,
            cache_size=self.cache_size,
            threads=self.threads,
            calibration=self.calibration,
            name=self.name,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CrossEncoderRanker":
        """Deserialize; `data` stays as it is."""
        parameters = dict(data.get("init_parameters", {}))
        if isinstance(parameters.get("device"), dict):
            parameters["device"] = ComponentDevice.from_dict(parameters["device"])
        if isinstance(parameters.get("token"), dict):
            parameters["token"] = Secret.from_dict(parameters["token"])
        if parameters.get("model_kwargs") is not None:
            parameters["model_kwargs"] = dict(parameters["model_kwargs"])
            deserialize_hf_model_kwargs(parameters["model_kwargs"])
        ranker: CrossEncoderRanker = default_from_dict(cls, {**data, "init_parameters": parameters})
        return ranker

    def warm_up(self) -> None:
        """Load the model, once; safe from several threads."""
        if self._scorer is not None:
            return
        with _WARM_UP:
            if self._scorer is None:
                self._scorer = self._load()

    def run(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, Any]:
        """
        Rank documents by their relevance to the query.

        Of documents with one id, that with the highest score stays. Documents with equal scores keep the order in which
        they came; those that were not scored (see `depth`, `deadline_ms`, `max_tokens_per_query`) follow in theirs,
        with a score of None.

        :param query: The query.
        :param documents: The candidates; they are not changed. Dictionaries of `Document.to_dict`, as they come from a
            server's request, are read as documents.
        :param top_k: Overrides the value of `__init__`.
        :param scale_score: Overrides the value of `__init__`.
        :param score_threshold: Overrides the value of `__init__`.
        :returns: `documents`, best first, and `report`. With `return_passages` also `passages`. The report's keys:
            `name`, `model`, `backend`, `dtype`, `device` and `strategy`, what ran; `documents`, the number of
            candidates, and `duplicates`, those left out; `pairs`, `batches`, `tokens` (padding not among them),
            `padding_share` and `seconds` (by step), what it cost; `cached`, how many documents cost nothing because
            their score was kept (see `cache_size`) or is that of an equal text; `content_tokens`, of the candidates'
            contents; `documents_cut` and `tokens_unread`, how many were not read whole and by how much, with the share
            read of each under `coverage`; `query_tokens` and `query_tokens_cut`; `scored`, the logit of every scored
            document, also of those that `top_k` cut; `unscored`, the ids of the others, in their order; `beyond_depth`,
            how many of these `depth` left out (they do not count as cut); and `deadline_reached`, whether `deadline_ms`
            stopped the scoring: documents that it left out do not count as cut either.
        :raises ValueError: If `top_k` is not positive, `score_threshold` not a number, `query` not a text, a text does
            not fit and `on_truncation` is `error`, or what is embedded around a document leaves no room for its
            content.
        :raises TypeError: If `documents` is not a list of documents.
        """
        if not isinstance(query, str):
            raise ValueError(f"query must be a text, but got {query!r}.")
        if top_k is not None:
            _check_top_k(top_k)
        top_k = self.top_k if top_k is None else top_k
        scale_score = self.scale_score if scale_score is None else scale_score
        score_threshold = self.score_threshold if score_threshold is None else score_threshold
        _check_threshold(score_threshold)
        documents = _documents(documents)
        candidates = _deduplicate(documents)
        self.warm_up()
        scorer = self._scorer
        if scorer is None:  # pragma: no cover - warm_up either sets it or raises
            raise RuntimeError("the model was not loaded.")
        deadline = None if self.deadline_ms is None else time.monotonic() + self.deadline_ms / 1000.0
        full_query = self.query_prefix + query + self.query_suffix
        texts = [self._text(document) for document in candidates[: self.depth]]
        self._warn_of_many(len(texts))
        if self.on_truncation == "error":
            _refuse_truncation(scorer, full_query, candidates[: self.depth], texts)
        # Equal texts are scored once: in one batch their logits can differ in the last digit, and break the tie.
        unique = list(dict.fromkeys(texts))
        scores, stats = scorer.score(full_query, unique, top_k=top_k, deadline=deadline)
        score_of = dict(zip(unique, scores.documents, strict=True))
        beyond_depth = (DocumentScore(logit=None),) * (len(candidates) - len(texts))
        scores = replace(
            scores,
            documents=(*(score_of[text] for text in texts), *beyond_depth),
            cached=scores.cached + len(texts) - len(unique),
        )
        order = sorted(range(len(candidates)), key=lambda place: _sort_key(scores.documents[place]))
        report = self._report(scorer, documents, candidates, scores, stats)
        if self.on_truncation == "warn":
            _warn_of_truncation(report)
        # What the joiner needs to know of all that were scored, should `top_k` cut some of them off.
        of_all = {"scored": len(report["scored"]), "lowest": min(report["scored"].values(), default=None)}
        ranked = []
        for rank, place in enumerate(order, start=1):
            found = scores.documents[place]
            score = None if found.logit is None else _sigmoid(found.logit) if scale_score else found.logit
            if score_threshold is not None and (score is None or score < score_threshold):
                continue
            ranked.append((self._ranked(candidates[place], found, score, rank, of_all), found))
        ranked = ranked[:top_k]
        output: dict[str, Any] = {"documents": [document for document, _ in ranked], "report": report}
        if self.return_passages:
            output["passages"] = [_passage(document, found, self.name) for document, found in ranked]
        return output

    async def run_async(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, Any]:
        """Do what `run` does, in a thread, so that the event loop goes on."""
        return await asyncio.to_thread(self.run, query, documents, top_k, scale_score, score_threshold)

    def _warn_of_many(self, candidates: int) -> None:
        """Say once per ranker that it scores more candidates than is worth it, unless that was asked for."""
        if self.depth is None and candidates > _MANY_CANDIDATES and not self._warned_of_candidates:
            self._warned_of_candidates = True
            logger.warning(
                "{ranker}: all {candidates} candidates are scored, which takes long and rarely changes the top: set "
                "depth (for example 100), or a lower top_k of the retriever. A depth of {candidates} says that it is "
                "meant.",
                ranker=self.name,
                candidates=candidates,
            )

    def _load(self) -> CrossEncoderScorer:
        measured = calibration_of_this_machine(self.calibration) if self.calibration is not None else None
        threads, batch_tokens = self.threads, self.batch_tokens
        if measured is not None:
            threads = measured.threads if threads is None else threads
            batch_tokens = measured.batch_tokens if batch_tokens is None else batch_tokens
        options = ModelOptions(
            model=self.model,
            revision=self.revision,
            token=self.token.resolve_value() if self.token is not None else None,
            trust_remote_code=self.trust_remote_code,
            device=ComponentDevice.resolve_device(self.device).to_torch_str(),
            dtype=self.dtype,
            threads=threads,
            model_kwargs=self.model_kwargs if self.model_kwargs is not None else {},
            tokenizer_kwargs=self.tokenizer_kwargs if self.tokenizer_kwargs is not None else {},
            config_kwargs=self.config_kwargs if self.config_kwargs is not None else {},
        )
        backend = loading.load(self.backend, options)
        if measured is not None:
            measured.require(self.model, backend)
        return CrossEncoderScorer(
            backend,
            self._policy,
            batch_tokens=batch_tokens,
            batch_size=self.batch_size,
            model_name=self.model,
            scores=ScoreCache(self.cache_size) if self.cache_size else None,
            identity=[
                repr(part) for part in (self.revision, self.model_kwargs, self.tokenizer_kwargs, self.config_kwargs)
            ],
        )

    def _text(self, document: Document) -> DocumentText:
        fields = [str(document.meta[key]) for key in self.meta_fields_to_embed if document.meta.get(key) is not None]
        header = self.document_prefix + "".join(field + self.embedding_separator for field in fields)
        return DocumentText(_content(document), header, self.document_suffix)

    def _ranked(
        self, document: Document, found: DocumentScore, score: float | None, rank: int, of_all: dict[str, Any]
    ) -> Document:
        record = {
            "logit": found.logit,
            "rank": rank,
            "read": [{"start": part.start, "end": part.end, "logit": part.logit} for part in found.read],
            "coverage": found.coverage if found.logit is not None else 0.0,
            **of_all,
        }
        return replace(document, score=score, meta=with_record(document.meta, self.name, record))

    def _report(
        self,
        scorer: CrossEncoderScorer,
        documents: Sequence[Document],
        candidates: Sequence[Document],
        scores: QueryScores,
        stats: Stats,
    ) -> dict[str, Any]:
        found = list(zip(candidates, scores.documents, strict=True))
        cut = [(doc.id, score) for doc, score in found if score.tokens_read < score.tokens]
        return {
            "name": self.name,
            "model": self.model,
            "backend": scorer.backend.name,
            "dtype": scorer.backend.dtype,
            "device": scorer.backend.device,
            "strategy": self.long_documents,
            "documents": len(candidates),
            "duplicates": len(documents) - len(candidates),
            "pairs": scores.pairs,
            "tokens": scores.tokens,
            "content_tokens": sum(score.tokens for score in scores.documents),
            "documents_cut": len(cut),
            "tokens_unread": sum(score.tokens - score.tokens_read for _, score in cut),
            "coverage": {doc_id: score.coverage for doc_id, score in cut},
            "query_tokens": scores.query_tokens,
            "query_tokens_cut": scores.query_tokens - scores.query_tokens_read,
            "cached": scores.cached,
            "batches": stats.batches,
            "padding_share": stats.padding_share,
            "scored": {doc.id: score.logit for doc, score in found if score.logit is not None},
            "unscored": [doc.id for doc, score in found if score.logit is None],
            "beyond_depth": 0 if self.depth is None else max(len(candidates) - self.depth, 0),
            "deadline_reached": scores.out_of_time,
            "seconds": {"tokenise": stats.tokenise, "select": stats.select, "score": stats.score},
        }


def _check_top_k(top_k: int) -> None:
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k <= 0:
        raise ValueError(f"top_k must be > 0, but got {top_k}")


def _check_threshold(score_threshold: float | None) -> None:
    is_number = isinstance(score_threshold, int | float) and not isinstance(score_threshold, bool)
    if score_threshold is not None and not (is_number and not math.isnan(score_threshold)):
        raise ValueError(f"score_threshold must be a number or None, but got {score_threshold!r}.")


def _is_positive(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value > 0


def _copy(values: dict[str, Any] | None) -> dict[str, Any] | None:
    return dict(values) if values is not None else None


def _content(document: Document) -> str:
    return document.content if document.content is not None else ""


def _documents(given: Sequence[Document | dict[str, Any]]) -> list[Document]:
    """Return what came as documents: servers hand over dictionaries where a pipeline's input is a list of documents."""
    if not isinstance(given, list | tuple):
        raise TypeError(f"documents must be a list of Documents, but got {given!r:.100}")
    documents = [Document.from_dict(one) if isinstance(one, dict) else one for one in given]
    for document in documents:
        if not isinstance(document, Document):
            raise TypeError(f"documents must be a list of Documents, but one of them is {document!r:.100}")
    return documents


def _deduplicate(documents: Sequence[Document]) -> list[Document]:
    """Of documents with one id keep that with the highest score, in the place of the first; None and NaN are lowest."""
    best: dict[str, Document] = {}
    for document in documents:
        kept = best.get(document.id)
        if kept is None or _incoming_score(document) > _incoming_score(kept):
            best[document.id] = document
    return list(best.values())


def _incoming_score(document: Document) -> float:
    return -math.inf if document.score is None or math.isnan(document.score) else float(document.score)


def _sort_key(score: DocumentScore) -> tuple[bool, float]:
    return (score.logit is None, 0.0 if score.logit is None else -score.logit)


def _sigmoid(logit: float) -> float:
    return 1.0 / (1.0 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1.0 + math.exp(logit))


def _refuse_truncation(
    scorer: CrossEncoderScorer, query: str, documents: Sequence[Document], texts: Sequence[DocumentText]
) -> None:
    """Raise before any scoring if a text would not be read whole."""
    limit = scorer.pair_limit(query)
    lengths = scorer.document_lengths(texts)
    too_long = {doc.id: length for doc, length in zip(documents, lengths, strict=True) if length > limit}
    if too_long:
        shown = ", ".join(f"{doc_id} ({length} tokens)" for doc_id, length in list(too_long.items())[:5])
        raise ValueError(
            f"on_truncation='error': {len(too_long)} of {len(documents)} documents do not fit into the {limit} tokens "
            f"that a pair of max_length {scorer.max_length} leaves beside the query: {shown}. "
            "Split them, or set on_truncation='report'."
        )


def _warn_of_truncation(report: dict[str, Any]) -> None:
    if report["documents_cut"] or report["query_tokens_cut"]:
        logger.warning(
            "{ranker}: {cut} of {documents} documents were not read whole, {unscored} of them not at all "
            "({tokens} tokens unread); {query_cut} of {query_tokens} query tokens were cut.",
            ranker=report["name"],
            cut=report["documents_cut"],
            documents=report["documents"],
            unscored=len(set(report["unscored"]) & set(report["coverage"])),
            tokens=report["tokens_unread"],
            query_cut=report["query_tokens_cut"],
            query_tokens=report["query_tokens"],
        )


def _passage(document: Document, found: DocumentScore, name: str) -> Document:
    """A document with only the passage that the model liked best."""
    content = _content(document)
    best = found.read[0] if found.read else None
    start, end = (best.start, best.end) if best is not None else (0, len(content))
    meta = {key: value for key, value in document.meta.items() if key != KEY}
    meta.update({"parent_id": document.id, "passage_start": start, "passage_end": end})
    record = {"logit": found.logit}
    return Document(
        id=f"{document.id}:{start}-{end}",
        content=content[start:end],
        meta=with_record(meta, name, record),
        score=document.score,
    )
