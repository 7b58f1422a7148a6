"""
CrossEncoderRanker: re-ranks documents with a cross-encoder within a token budget, and says what the model read.

It passes texts to the engine (`haystack_ce_ranker.scoring`), and returns the scores as documents and a report.
`parameters.py` checks the parameters, and `report.py` makes the report.
"""

import copy
import inspect
from contextlib import AbstractContextManager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from haystack import Document, component, default_from_dict, default_to_dict
from haystack.utils import ComponentDevice, Secret
from haystack.utils.hf import deserialize_hf_model_kwargs

from haystack_ce_ranker import checks
from haystack_ce_ranker.backends.devices import give_back_reserve
from haystack_ce_ranker.observing import observed
from haystack_ce_ranker.reading.blank import is_blank
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.reading.queries import QueryText
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.scoring.scores import OUT_OF_TIME, OVERLOAD, DocumentScore, ScoringCost, unscored
from haystack_ce_ranker.scoring.visits import Visit, visitors_of
from haystack_ce_ranker.scoring.waiting import in_thread
from haystack_integrations.components.rankers.ce_ranker.documents import (
    best_passage,
    deduplicated,
    ranked,
    read_documents,
    shown,
)
from haystack_integrations.components.rankers.ce_ranker.loading import load_scorer, loaded_in_time, loading
from haystack_integrations.components.rankers.ce_ranker.parameters import checked, depth_of, policy_of, threshold
from haystack_integrations.components.rankers.ce_ranker.report import (
    how_it_went,
    refuse_truncation,
    require_time,
    tags_of,
    warn_of_many,
    warn_of_refusals,
    warn_of_truncation,
    warn_of_unreadable,
    what_ran,
    what_was_done,
)

_MANY_CANDIDATES = 200  # with more, most of the time goes to documents that do not reach the top


@component
class CrossEncoderRanker:
    """
    Ranks documents by their relevance to a query with a cross-encoder, and never cuts a text without saying so.

    A document that fits is read whole. A document that does not fit is read by its best windows, each beside the whole
    query. `meta["ce_ranker"][name]` of every document tells what was read of it, and the run returns a report.

    The parameters that Haystack's `SentenceTransformersSimilarityRanker` also has mean what they mean there. The model
    is loaded by `warm_up`, or by the first run; `close` releases it, and a later run loads it again. Rankers that
    name one model with the same options share it.

    ```python
    from haystack import Document
    from haystack_ce_ranker import CrossEncoderRanker

    ranker = CrossEncoderRanker(model="cross-encoder/ms-marco-MiniLM-L6-v2")
    result = ranker.run(query="City in Germany", documents=[Document(content="Paris"), Document(content="Berlin")])
    result["documents"][0].content, result["report"]["tokens"]
    ```

    :param model: A hub id, a folder, or `package:<name>/<path>` for a folder inside an installed package. With
        `backend="remote"`, the address of a server.
    :param device: Where the model runs; None for the best device of the machine that the backend computes on.
    :param token: Access token of the Hugging Face hub. It is sent nowhere else.
    :param api_key: Key of the server that scores, with `backend="remote"`; sent as `Authorization: Bearer`, and over
        plain http only to this machine.
    :param revision: Branch, tag or commit of a hub model.
    :param top_k: How many documents to return. To join the ranking with another one, set it to the number of
        candidates, or connect `report` to the joiner as well.
    :param query_prefix: Text before the query.
    :param query_suffix: Text after the query.
    :param document_prefix: Text before each document; stands in every window of it.
    :param document_suffix: Text after each document; stands in every window of it.
    :param meta_fields_to_embed: Fields of the document's meta to show before its content, in every window. A field
        without text is left out, with its separator.
    :param embedding_separator: Text between embedded fields and before the content.
    :param scale_score: Whether `Document.score` is the sigmoid of the logit, between 0 and 1. The logit itself is
        in the meta either way.
    :param score_threshold: Return only documents with at least this score.
    :param trust_remote_code: Whether the model may bring code of its own.
    :param model_kwargs: For the model's `from_pretrained`. Weights are read as safetensors only. With
        `backend="onnx"` and `"openvino"`, `file_name` picks the file. With `"openvino"`, `export=True` converts the
        checkpoint even if there is a file, and `ov_config` holds properties of OpenVINO. `cache_dir`,
        `force_download` and `local_files_only` count for all files of a hub model. What the backend does not use is
        an error when the model is loaded; so it is in the next two.
    :param tokenizer_kwargs: For the tokenizer's `from_pretrained`, such as `model_max_length` and `pad_token`.
    :param config_kwargs: For the configuration's `from_pretrained`. The configuration of an exported model says only
        `max_position_embeddings`, `pad_token_id` and `architectures`; its file holds the rest.
    :param label: The label whose score is wanted, by number or name, for a model that has several, such as one for
        entailment. The logit is then the log-odds of that label against all others. None for a model that has one.
    :param prompt: The instruction that the model reads with every pair; its tokens count in the budget. None for the
        one that the model was saved with. A chat template puts it where the model expects it. A model without one
        reads it before the query.
    :param backend: What runs the model: `torch`, `onnx` (onnxruntime, the extra `onnx`; needs an ONNX file),
        `openvino` (the extra `openvino`; takes an OpenVINO or ONNX file or converts the checkpoint while it loads;
        runs on CPU), or `auto`: the fastest that is installed and ranks the same, by a fixed rule that times
        nothing. On a GPU that is `torch`. On a CPU it is `openvino` if it is installed, but `onnx` for a model that
        comes as an int8 ONNX file, and `torch` if neither can be used. `haystack_ce_ranker.backends.auto` states the
        whole rule. The report says what ran. `remote` asks the server at the address `model`, of the kind that
        `model_kwargs["api"]` names; it is used only if it is named.
    :param dtype: The number format that the model computes in. None: float32, or what a quantised file holds, and with
        `onnx` what any file holds; with `backend="auto"` the same as `"auto"`. `"auto"`: the fastest that ranks the
        same on this hardware: float16 on a GPU, bfloat16 on a CPU with instructions for it (AVX512-BF16, AMX), else
        float32; float32 too if near-equal texts tie in the others. A quantised file stays what it is, and accepts no
        other `dtype` than `"auto"`. A `dtype` that onnxruntime's file or, with `openvino`, this CPU does not have is an
        error.
    :param batch_size: The most pairs of one forward pass; None for no limit beside `batch_tokens`.
    :param batch_tokens: The most tokens of one forward pass, padding among them; None for the backend's default.
    :param max_length: Tokens of a pair, special tokens among them; None for 512, or the model's limit if that is less.
        The report says if the model could read more.
    :param max_query_tokens: The most tokens the query may take of a pair, a hard limit. None: the query stays
        whole if one window of the document fits beside it, and never gives up more than half of the pair.
    :param max_tokens_per_query: The most tokens of all pairs of a query together; None for no limit. Candidates for
        which no window worth reading is left are not scored. They stand below the others, in their order.
    :param long_documents: How a document that does not fit is read: its `best_passages`, all `windows`, its
        `head`, or its `head_tail`.
    :param passage_tokens: Tokens of a window. Short ones measured best and cost less; long ones suit a prompt better.
    :param passage_stride: Tokens from the start of one window to the start of the next.
    :param passages_per_document: The most windows read of one document.
    :param passage_evidence: The share of the best window's evidence that a further window needs, from 0 to 1.
    :param passage_matches: What is evidence: the query's own tokens (`exact`), or also those like them (`soft`).
    :param aggregate: How the logits of a document's windows become one. The default, `logsumexp`, is the maximum and a
        little more for each further window that agrees with it: at most log(`passages_per_document`).
    :param on_truncation: When a query or a document is not read whole: `report` it, `warn` in the log once a run,
        or raise an `error` before any scoring.
    :param return_passages: Whether the run also returns `passages`: one document per ranked document, with only
        the passage that the model scored highest (its beginning without a score), and the parent's id in its meta.
    :param depth: Score only the first `depth` candidates, in the order they come. The others stand below them in that
        order, with a score of None (so a `score_threshold` omits them). `"auto"`: score some at a time, and stop when
        the rest can no longer be expected to change the top; a dictionary of `DepthRule`'s values changes that rule.
        None: score all, and log one warning above 200 candidates.
    :param screen: With a `depth`, score those candidates of which most can be expected, by how similar their texts are
        to those scored so far, instead of the first. The others are left out as `screened`.
    :param deadline_ms: Score candidates in the order they come until so many milliseconds have passed since the run was
        called, loading and waiting included. The others stand below them in that order, with a score of None. The
        next batch begins only if it should end in time, by the speed so far, and is then finished.
    :param max_wait_ms: So many milliseconds, at most half of what a deadline leaves, a batch with room waits for pairs
        of other requests, where that changes no score (onnx and openvino on a CPU). 0: requests share no batch.
    :param max_waiting: How many requests may wait for the model beside the one whose turn it is, those of other
        rankers with the same model included. One more is refused: nothing of it is scored. None: no limit.
    :param on_overload: What a run returns that was refused, or whose deadline passed before anything was scored:
        `keep` returns the candidates in their order, with scores of None, and the report says it; `error` raises
        `haystack_ce_ranker.OverloadError`.
    :param cache_size: How many scores to keep in memory, each of a document for a query (under 2 KB). If several
        requests want the same score at once, one computes it. The key holds all that a score depends on: the model and
        how it was loaded, how documents are read, and the texts of query and document with the texts embedded around
        them. Runs with a `deadline_ms` or `max_tokens_per_query` do not use the cache, since a score then depends on
        the other candidates. 0: nothing is kept.
    :param threads: Threads that score on CPU; None for the number of `speed_profile`, or the backend's own.
    :param speed_profile: A file that `haystack-ce-ranker profile` wrote on this machine, read when the model is
        loaded: it sets `batch_tokens` and `threads` where these are None. A file for another model, backend, dtype
        or device is an error. A file made with another number of CPUs is ignored, with a warning.
    :param name: Key of this ranker's record in `meta["ce_ranker"]`, so that two rankers do not collide.
    :raises ValueError: If a value is out of range or not among the choices.
    """

    # The parameters of `__init__`, as plain values.
    model: str
    device: ComponentDevice | None
    token: Secret | None
    api_key: Secret | None
    revision: str | None
    top_k: int
    query_prefix: str
    query_suffix: str
    document_prefix: str
    document_suffix: str
    meta_fields_to_embed: list[str]
    embedding_separator: str
    scale_score: bool
    score_threshold: float | None
    trust_remote_code: bool
    model_kwargs: dict[str, Any] | None
    tokenizer_kwargs: dict[str, Any] | None
    config_kwargs: dict[str, Any] | None
    label: int | str | None
    prompt: str | None
    backend: str
    dtype: Literal["auto", "float32", "float16", "bfloat16"] | None
    batch_size: int | None
    batch_tokens: int | None
    max_length: int | None
    max_query_tokens: int | None
    max_tokens_per_query: int | None
    long_documents: str
    passage_tokens: int
    passage_stride: int
    passages_per_document: int
    passage_evidence: float
    passage_matches: Literal["exact", "soft"]
    aggregate: str
    on_truncation: Literal["report", "warn", "error"]
    return_passages: bool
    depth: int | str | dict[str, Any] | None
    screen: bool
    deadline_ms: float | None
    max_wait_ms: float
    max_waiting: int | None
    on_overload: Literal["keep", "error"]
    cache_size: int
    threads: int | None
    speed_profile: str | None
    name: str

    def __init__(
        self,
        *,
        model: str | Path = "cross-encoder/ms-marco-MiniLM-L6-v2",
        device: ComponentDevice | None = None,
        token: Secret | None = Secret.from_env_var(["HF_API_TOKEN", "HF_TOKEN"], strict=False),  # noqa: B008
        api_key: Secret | None = None,
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
        label: int | str | None = None,
        prompt: str | None = None,
        backend: str = "torch",
        dtype: Literal["auto", "float32", "float16", "bfloat16"] | None = None,
        batch_size: int | None = None,
        batch_tokens: int | None = None,
        max_length: int | None = ReadingPolicy.max_length,
        max_query_tokens: int | None = ReadingPolicy.max_query_tokens,
        max_tokens_per_query: int | None = ReadingPolicy.max_tokens_per_query,
        long_documents: str = ReadingPolicy.long_documents,
        passage_tokens: int = ReadingPolicy.passage_tokens,
        passage_stride: int = ReadingPolicy.passage_stride,
        passages_per_document: int = ReadingPolicy.passages_per_document,
        passage_evidence: float = ReadingPolicy.passage_evidence,
        passage_matches: Literal["exact", "soft"] = "exact",
        aggregate: str = ReadingPolicy.aggregate,
        on_truncation: Literal["report", "warn", "error"] = "report",
        return_passages: bool = False,
        depth: int | Literal["auto"] | dict[str, Any] | None = None,
        screen: bool = False,
        deadline_ms: float | None = None,
        max_wait_ms: float = 0.0,
        max_waiting: int | None = 1000,
        on_overload: Literal["keep", "error"] = "keep",
        cache_size: int = 0,
        threads: int | None = None,
        speed_profile: str | Path | None = None,
        name: str = "cross_encoder",
    ) -> None:
        """Create the ranker; nothing is loaded."""
        given = {parameter: value for parameter, value in locals().items() if parameter != "self"}
        vars(self).update(checked(given))
        self._policy = policy_of(vars(self))
        self._scorer: CrossEncoderScorer | None = None
        self._warned: set[str] = set()
        outputs: dict[str, Any] = {"documents": list[Document], "report": dict[str, Any]}
        if self.return_passages:
            outputs["passages"] = list[Document]
        component.set_output_types(self, **outputs)

    def __getstate__(self) -> dict[str, Any]:
        """Return what `pickle` keeps: all but the model, which the process that unpickles loads again."""
        return {**vars(self), "_scorer": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> "CrossEncoderRanker":
        """Copy the component; the copy shares the loaded model."""
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        vars(clone).update({name: copy.deepcopy(value, memo) for name, value in vars(self).items()})
        return clone

    def _get_telemetry_data(self) -> dict[str, Any]:
        # The address of a server is nobody else's business.
        return {"model": None if self.backend == "remote" else self.model, "backend": self.backend}

    def to_dict(self) -> dict[str, Any]:
        """
        Return the component as plain values. A device of None stays None: the machine that loads it decides.

        :raises ValueError: If options hold something that a YAML cannot, such as an `AddedToken`; the error names it.
        """
        parameters = {name: getattr(self, name) for name in _PARAMETERS}
        for name in ("device", "token", "api_key"):
            if parameters[name] is not None:
                parameters[name] = parameters[name].to_dict()
        return default_to_dict(self, **{name: checks.writable(name, value) for name, value in parameters.items()})

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "CrossEncoderRanker":
        """Create the component from what `to_dict` returned; `data` stays as it is."""
        parameters = dict(data.get("init_parameters", {}))
        checks.require_plain(parameters)
        if isinstance(parameters.get("device"), dict):
            parameters["device"] = ComponentDevice.from_dict(parameters["device"])
        for name in ("token", "api_key"):
            if isinstance(parameters.get(name), dict):
                parameters[name] = Secret.from_dict(parameters[name])
        for name in ("model_kwargs", "tokenizer_kwargs", "config_kwargs"):
            if isinstance(parameters.get(name), dict):
                parameters[name] = copy.deepcopy(parameters[name])
                if find_spec("torch") is not None:  # else the name of a dtype stays a name, which all backends take
                    deserialize_hf_model_kwargs(parameters[name])
        ranker: CrossEncoderRanker = default_from_dict(cls, {**data, "init_parameters": parameters})
        return ranker

    def warm_up(self) -> None:
        """Load the model, once; safe from several threads."""
        self._loaded(Visit())

    async def warm_up_async(self) -> None:
        """Do what `warm_up` does, in a thread, so that the event loop goes on."""
        await in_thread(self.warm_up, Visit(), self._server)

    def close(self) -> None:
        """Release the model; runs that have begun end with it, and a later run loads it again."""
        with loading():
            device = None if self._scorer is None else self._scorer.backend.device
            self._scorer = None
        if device is not None:
            give_back_reserve(device)

    async def close_async(self) -> None:
        """Do what `close` does, in a thread, since a model that is being loaded is waited for."""
        await in_thread(self.close, Visit(), self._server)

    @observed("rank", lambda _, output: tags_of(output["report"]))
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

        Of documents with one id, the one with the highest score stays. Documents with equal scores keep the order in
        which they came. Documents that were not scored follow in their order, with a score of None. These are the ones
        that `depth`, `deadline_ms`, `max_waiting` or `max_tokens_per_query` left out, those without text (in their
        content and embedded fields together; the prefix and suffix of all documents do not count), those whose
        embedded fields leave no room, and all of them if the query has no text.

        :param query: The query.
        :param documents: The candidates; they are not changed. Dictionaries of `Document.to_dict`, as they come from a
            server's request, are read as documents.
        :param top_k: Overrides the value of `__init__`.
        :param scale_score: Overrides the value of `__init__`.
        :param score_threshold: Overrides the value of `__init__`.
        :returns: `documents`, best first, and `report`, whose keys docs/report.md explains: what ran, what it cost,
            what was not read, and the logit of every scored document. With `return_passages` also `passages`.
        :raises ValueError: If `top_k` is not positive, `score_threshold` not a number, `query` not a text, a text does
            not fit and `on_truncation` is `error`, or `document_prefix` and `document_suffix` leave no room for one.
        :raises TypeError: If `documents` is not a list of documents.
        :raises OverloadError: If `on_overload` is `error`, and too many requests wait or the deadline leaves no time.
        """
        with self._entered() as visit:
            return self._run(visit, query, documents, top_k, scale_score, score_threshold)

    @observed("rank", lambda _, output: tags_of(output["report"]))
    async def run_async(
        self,
        query: str,
        documents: list[Document],
        top_k: int | None = None,
        scale_score: bool | None = None,
        score_threshold: float | None = None,
    ) -> dict[str, Any]:
        """
        Do what `run` does, in a thread, so that the event loop goes on.

        If the task is cancelled, what the model has not begun is dropped.
        """
        with self._entered() as visit:
            run = partial(self._run, visit, query, documents, top_k, scale_score, score_threshold)
            return run() if visit.refused else await in_thread(run, visit, self._server)

    @property
    def _server(self) -> str:
        """The server that scores; empty if this process does."""
        return self.model if self.backend == "remote" else ""

    def _entered(self) -> AbstractContextManager[Visit]:
        """Return a block for a request that comes now."""
        device = "" if self.device is None else self.device.to_torch_str()
        model = (self.backend, self.model, str(self.revision), device, str(self.dtype))
        visit = Visit(None if self.deadline_ms is None else self.deadline_ms / 1000.0)
        return visitors_of(*model).entered(visit, self.max_waiting)

    def _run(
        self,
        visit: Visit,
        query: str,
        documents: list[Document],
        top_k: int | None,
        scale_score: bool | None,
        score_threshold: float | None,
    ) -> dict[str, Any]:
        """Rank the documents of a request that has come."""
        checks.text("query", query)
        top_k = self.top_k if top_k is None else checks.whole_number("top_k", top_k)
        scale_score = self.scale_score if scale_score is None else checks.flag("scale_score", scale_score)
        least = self.score_threshold if score_threshold is None else threshold("score_threshold", score_threshold)
        given = read_documents(documents)
        candidates = deduplicated(given)
        found, report = self._score(visit, query, candidates, top_k)
        report["duplicates"] = len(given) - len(candidates)
        # The joiner needs this of all scored documents, because `top_k` may cut some of them.
        of_all = {"scored": len(report["scored"]), "lowest": min(report["scored"].values(), default=None)}
        best: list[tuple[Document, DocumentScore]] = []
        for rank, place in enumerate(sorted(range(len(found)), key=lambda place: found[place].sort_key), start=1):
            logit = found[place].logit
            score = found[place].scaled if scale_score else logit
            if len(best) < top_k and (least is None or (score is not None and score >= least)):
                record = {"rank": rank, **of_all}
                best.append((ranked(candidates[place], found[place], self.name, score, record), found[place]))
        output: dict[str, Any] = {"documents": [document for document, _ in best], "report": report}
        if self.return_passages:
            output["passages"] = [best_passage(*one, self.name, self.passage_tokens) for one in best]
        return output

    def _score(
        self, visit: Visit, query: str, candidates: list[Document], top_k: int
    ) -> tuple[tuple[DocumentScore, ...], dict[str, Any]]:
        """Score the candidates. Return a score for each, and the report."""
        depth = depth_of(self.depth)
        scorer = self._scorer if visit.refused else self._loaded(visit)
        waited = visit.stayed
        if visit.refused:
            scores, cost = unscored(len(candidates), OVERLOAD), ScoringCost()
        elif scorer is None or visit.left == 0.0:
            scores, cost = unscored(len(candidates), OUT_OF_TIME), ScoringCost()
        else:
            full_query = QueryText("") if is_blank(query) else QueryText(query, self.query_prefix, self.query_suffix)
            texts = [shown(document, vars(self)) for document in candidates]
            free = self.depth is self.max_tokens_per_query is self.deadline_ms is None
            if free and len(texts) > _MANY_CANDIDATES and self._is_first("candidates"):
                warn_of_many(self.name, len(texts))
            if self.on_truncation == "error":
                considered = depth if isinstance(depth, int) and not self.screen else None
                refuse_truncation(scorer, full_query, candidates[:considered], texts[:considered])
            scores, cost = scorer.score(
                full_query, texts, top_k=top_k, depth=depth, screen=self.screen, deadline=visit.deadline, visit=visit
            )
        if self.on_overload == "error":
            require_time(visit, scores, vars(self))
        report = {
            **what_ran(self.name, self.model, self.backend, scorer, self._policy),
            "trust_remote_code": self.trust_remote_code,
            **what_was_done(candidates, scores, cost, depth),
            **how_it_went(visit, waited, cost),
        }
        if self.on_truncation == "warn":
            warn_of_truncation(report)
        if report["unreadable"]["documents"] and self._is_first("unreadable"):
            warn_of_unreadable(report)
        if visit.refused and self._is_first("refusals"):
            warn_of_refusals(report, self.max_waiting)
        return scores.documents, report

    def _is_first(self, warning: str) -> bool:
        """Tell whether a warning is the first of its kind."""
        first = warning not in self._warned
        self._warned.add(warning)
        return first

    def _loaded(self, visit: Visit) -> CrossEncoderScorer | None:
        """Return the scorer with its model loaded; None if the visit's deadline passes before."""
        scorer = self._scorer  # another thread may close the ranker
        return scorer if scorer is not None else loaded_in_time(self._load, visit)

    def _load(self) -> CrossEncoderScorer:
        """Load the model, once; call it with the lock `loading` held."""
        scorer = self._scorer
        if scorer is None:
            scorer = self._scorer = load_scorer(vars(self), self._policy)
        return scorer


_PARAMETERS = [name for name in inspect.signature(CrossEncoderRanker.__init__).parameters if name != "self"]
