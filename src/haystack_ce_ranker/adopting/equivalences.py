"""
The table of equivalences: which components of other packages become ours, and what becomes of each of their parameters.

The command, its tests and the manual's page read this table. To add a component, add an entry to `TABLE`, and run
`haystack_ce_ranker.adopting.manual.rewrite` on the page. `DocumentJoiner` depends on what is connected to it, so its
rule is in `joiners.py`; its parameters are here.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from haystack_ce_ranker.adopting.parameters import (
    REQUIRED,
    CannotMove,
    Equivalence,
    Parameter,
    all_or,
    is_open,
    needs,
    negated,
    retries,
    same,
    seconds,
    server,
    uncalibrated,
)

_OURS = "haystack_integrations.components"
RANKER = f"{_OURS}.rankers.ce_ranker.cross_encoder_ranker.CrossEncoderRanker"
RETRIEVER = f"{_OURS}.retrievers.ce_ranker.bm25_retriever.BM25Retriever"
JOINER = f"{_OURS}.joiners.ce_ranker.hybrid_score_joiner.HybridScoreJoiner"

_THEIRS = "haystack_integrations.components.rankers"
_IN_MEMORY = "haystack.document_stores.in_memory.document_store.InMemoryDocumentStore"
_HUB_TOKEN = {"type": "env_var", "env_vars": ["HF_API_TOKEN", "HF_TOKEN"], "strict": False}
_READS_WHOLE = "Long documents are read by their best windows; `long_documents: head` reads their start, as before."
_REMOVED = "removed: "

SOCKETS: Mapping[str, tuple[frozenset[str], frozenset[str]]] = {
    RANKER: (frozenset({"query", "documents", "top_k", "scale_score", "score_threshold"}), frozenset({"documents"})),
    RETRIEVER: (frozenset({"query", "filters", "top_k", "scale_score"}), frozenset({"documents"})),
    JOINER: (frozenset({"documents", "top_k"}), frozenset({"documents"})),
}
"""The inputs and outputs that ours have in common with what they replace; `documents` of the joiner is split up."""


def _embedded(prefix: bool) -> tuple[Parameter, ...]:
    """Return how the texts are put together; the legacy ranker has no suffixes."""
    suffixes = () if prefix else (same("query_suffix", ""), same("document_suffix", ""))
    return (
        same("query_prefix", ""),
        same("document_prefix", ""),
        *suffixes,
        same("meta_fields_to_embed", None),
        same("embedding_separator", "\n"),
    )


_MODEL = same("model", "cross-encoder/ms-marco-MiniLM-L-6-v2", "the default is the same model under its present name")
_BATCH = same("batch_size", 16, "without it, batches are filled by tokens (`batch_tokens`); scores are the same")

_SIMILARITY = Equivalence(
    "SentenceTransformersSimilarityRanker",
    (
        f"{_THEIRS}.sentence_transformers.sentence_transformers_similarity.SentenceTransformersSimilarityRanker",
        "haystack.components.rankers.sentence_transformers_similarity.SentenceTransformersSimilarityRanker",
    ),
    RANKER,
    (
        _MODEL,
        same("device", None),
        same("token", _HUB_TOKEN),
        same("top_k", 10),
        *_embedded(prefix=False),
        same("scale_score", True),
        same("score_threshold", None),
        same("trust_remote_code", False),
        same("model_kwargs", None),
        same("tokenizer_kwargs", None),
        same("config_kwargs", None),
        same("backend", "torch", "`onnx` needs an ONNX file in the model's folder: it exports none by itself"),
        _BATCH,
    ),
    {},
    _READS_WHOLE,
)

_TRANSFORMERS = Equivalence(
    "TransformersSimilarityRanker",
    ("haystack.components.rankers.transformers_similarity.TransformersSimilarityRanker",),
    RANKER,
    (
        _MODEL,
        same("device", None),
        same("token", _HUB_TOKEN),
        same("top_k", 10),
        *_embedded(prefix=True),
        same("scale_score", True),
        Parameter(
            "calibration_factor",
            1.0,
            None,
            _REMOVED + "the score is the plain sigmoid of the logit, which is what 1.0 gives. With another factor the "
            "order stays, the scores change, and `score_threshold` is set so that it keeps the same documents",
        ),
        same("score_threshold", None),
        same("model_kwargs", None),
        same("tokenizer_kwargs", None),
        _BATCH,
    ),
    {},
    _READS_WHOLE,
    derived=uncalibrated,
)

_FASTEMBED = Equivalence(
    "FastembedRanker",
    ("haystack_integrations.components.rankers.fastembed.ranker.FastembedRanker",),
    RANKER,
    (
        Parameter("model_name", "Xenova/ms-marco-MiniLM-L-6-v2", "model", written=True),
        same("top_k", 10),
        Parameter("cache_dir", None, "model_kwargs.cache_dir", "without it, the cache is the one of the hub"),
        same("threads", None),
        same("batch_size", 64, "without it, batches are filled by tokens (`batch_tokens`); scores are the same"),
        Parameter("parallel", None, None, _REMOVED + "one process scores, with `threads`"),
        Parameter("local_files_only", False, "model_kwargs.local_files_only"),
        same("meta_fields_to_embed", None),
        Parameter("meta_data_separator", "\n", "embedding_separator"),
    ),
    {"backend": "onnx", "scale_score": False},
    f"The same ONNX file is run by onnxruntime directly, and scores stay logits. {_READS_WHOLE}",
)


def _sends_token(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the token as the server's key; one that would go over plain http is refused."""
    url, token = given.get("url"), given.get("token", _HUB_TOKEN)
    parts = urlsplit("" if is_open(url) else str(url))
    if parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        if given.get("token") is not None:
            raise CannotMove(
                "its token goes over plain http, which ours refuses: use https in url, or remove the token"
            )
        return {}
    return {} if token is None else {"api_key": token}


_TEI = Equivalence(
    "HuggingFaceTEIRanker",
    (
        "haystack_integrations.components.rankers.huggingface_api.ranker.HuggingFaceTEIRanker",
        "haystack.components.rankers.hugging_face_tei.HuggingFaceTEIRanker",
    ),
    RANKER,
    (
        Parameter("url", REQUIRED, "model", "without a path, which was not used", server, of_server=True),
        same("top_k", 10),
        Parameter("raw_scores", False, "scale_score", "the opposite", negated, of_server=True),
        Parameter("timeout", 30, "model_kwargs.timeout", "", seconds, written=True, of_server=True),
        Parameter("max_retries", 3, "model_kwargs.retries", "one less: the first try is none", retries, True, True),
        Parameter(
            "retry_status_codes",
            None,
            None,
            _REMOVED + "429, 502, 503 and 504 are tried again, and 500 once",
            of_server=True,
        ),
        Parameter(
            "token",
            _HUB_TOKEN,
            None,
            "`api_key`, which goes over plain http only to this machine",
            of_server=True,
        ),
    ),
    {"backend": "remote", "model_kwargs.api": "tei"},
    f"The server is asked for logits. {_READS_WHOLE}",
    derived=_sends_token,
    served=True,
)


def _needs_a_tokenizer(_given: Mapping[str, Any]) -> dict[str, Any]:
    raise CannotMove(
        "ours measures texts with the tokenizer of the server's model, which Cohere's ranker does not name: set it by "
        "hand as model_kwargs.tokenizer beside backend: remote and model_kwargs.api: cohere, or name a model of your "
        "own with --model"
    )


_COHERE = Equivalence(
    "CohereRanker",
    ("haystack_integrations.components.rankers.cohere.ranker.CohereRanker",),
    RANKER,
    (
        Parameter("model", "rerank-v3.5", "model_kwargs.served_model", of_server=True),
        same("top_k", 10),
        Parameter("api_key", REQUIRED, "api_key", of_server=True),
        Parameter("api_base_url", "https://api.cohere.com", "model", of_server=True),
        same("meta_fields_to_embed", None),
        Parameter("meta_data_separator", "\n", "embedding_separator"),
        Parameter(
            "max_tokens_per_doc",
            4096,
            None,
            _REMOVED + "`max_length` is the most tokens of a pair, and all windows can be read",
            of_server=True,
        ),
        Parameter("max_chunks_per_doc", None, None, _REMOVED + "Cohere dropped it", of_server=True),
    ),
    {"backend": "remote", "model_kwargs.api": "cohere"},
    "Left as it is, unless `--model` names a model of your own: ours needs the tokenizer of the server's model.",
    derived=_needs_a_tokenizer,
    served=True,
)

_JINA_ON_THE_HUB = ("jina-reranker-v1-tiny-en", "jina-reranker-v1-turbo-en", "jina-reranker-v2-base-multilingual")


def _tokenizer_of_jina(given: Mapping[str, Any]) -> dict[str, Any]:
    model = given.get("model", "jina-reranker-v1-base-en")
    if model not in _JINA_ON_THE_HUB:
        raise CannotMove(
            f"ours measures texts with the tokenizer of the server's model, and none is known here for {model!r:.60}: "
            "set it by hand as model_kwargs.tokenizer beside backend: remote and model_kwargs.api: jina, or name a "
            "model of your own with --model"
        )
    return {"model_kwargs.tokenizer": f"jinaai/{model}", "model": "https://api.jina.ai"}


_JINA = Equivalence(
    "JinaRanker",
    ("haystack_integrations.components.rankers.jina.ranker.JinaRanker",),
    RANKER,
    (
        Parameter(
            "model",
            "jina-reranker-v1-base-en",
            "model_kwargs.served_model",
            f"with `model_kwargs.tokenizer` for {', '.join(f'`{name}`' for name in _JINA_ON_THE_HUB)}; left as it is "
            "for others, unless `--model` names a model of your own",
            written=True,
            of_server=True,
        ),
        Parameter(
            "api_key",
            {"type": "env_var", "env_vars": ["JINA_API_KEY"], "strict": True},
            "api_key",
            written=True,
            of_server=True,
        ),
        Parameter("top_k", None, "top_k", "none, which returns all documents, becomes 10000", all_or, written=True),
        same("score_threshold", None),
    ),
    {"backend": "remote", "model_kwargs.api": "jina"},
    f"Scores are the same probabilities. {_READS_WHOLE}",
    derived=_tokenizer_of_jina,
    served=True,
)


def _bm25_of_the_store(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters that rank as the in-memory store does, whose own parameters say how."""
    store = given.get("document_store")
    if not isinstance(store, Mapping) or store.get("type") != _IN_MEMORY:
        raise CannotMove("its document_store is not an InMemoryDocumentStore that is written out here")
    of_store = store.get("init_parameters") or {}
    if not isinstance(of_store, Mapping):
        raise needs("a mapping", of_store, "document_store.init_parameters")
    algorithm = of_store.get("bm25_algorithm", "BM25L")
    if algorithm != "BM25L":
        raise CannotMove(
            f"the store's bm25_algorithm {algorithm!r:.40} weighs rare words by another formula than ours: to change "
            "it, replace the type by hand and choose a method"
        )
    found: dict[str, Any] = {"method": "bm25l", "k1": 1.5, "language": None}
    of_bm25 = of_store.get("bm25_parameters") or {}
    if not isinstance(of_bm25, Mapping):
        raise needs("a mapping", of_bm25, "the store's bm25_parameters")
    for name, value in of_bm25.items():
        if name not in ("k1", "b", "delta"):
            continue  # a parameter of another algorithm, which BM25L does not read
        if is_open(value):
            raise CannotMove(f"the store's {name} is filled in only later: write it out, and adopt again")
        found[name] = value
    pattern = of_store.get("bm25_tokenization_regex")
    return found if pattern is None or pattern in _plain_patterns() else {**found, "tokenization_regex": pattern}


def _plain_patterns() -> tuple[str, ...]:
    """Return the pattern of the installed Haystack's store, if it reads as ours does by default."""
    from haystack.document_stores.in_memory import document_store

    return (getattr(document_store, "_DEFAULT_BM25_TOKENIZATION_REGEX", ""),)


_FOUND = (
    same("filters", None),
    same("top_k", 10, "written out: ours is 50", written=True),
    same("scale_score", False),
    same("filter_policy", "replace"),
)

_IN_MEMORY_BM25 = Equivalence(
    "InMemoryBM25Retriever",
    ("haystack.components.retrievers.in_memory.bm25_retriever.InMemoryBM25Retriever",),
    RETRIEVER,
    (same("document_store", REQUIRED, "its `bm25_...` parameters are written out here"), *_FOUND),
    {},
    "`method`, `k1` and `language` keep the ranking of the store (Haystack 3's; a word that stands twice in a query "
    "counts twice). Without these lines it stems words, as ours does by default: measure both.",
    derived=_bm25_of_the_store,
)

_THERE = "The store's own engine is asked as before."

_ELASTICSEARCH = Equivalence(
    "ElasticsearchBM25Retriever",
    ("haystack_integrations.components.retrievers.elasticsearch.bm25_retriever.ElasticsearchBM25Retriever",),
    RETRIEVER,
    (
        same("document_store", REQUIRED),
        *_FOUND,
        Parameter("fuzziness", "AUTO", "native_parameters.fuzziness", "written out: ours is 0", written=True),
    ),
    {},
    _THERE,
)

_OPENSEARCH = Equivalence(
    "OpenSearchBM25Retriever",
    ("haystack_integrations.components.retrievers.opensearch.bm25_retriever.OpenSearchBM25Retriever",),
    RETRIEVER,
    (
        same("document_store", REQUIRED),
        *_FOUND,
        Parameter("fuzziness", 0, "native_parameters.fuzziness"),
        Parameter("all_terms_must_match", False, "native_parameters.all_terms_must_match"),
        Parameter("custom_query", None, "native_parameters.custom_query"),
        Parameter("raise_on_failure", True, "native_parameters.raise_on_failure"),
    ),
    {},
    _THERE,
)

DOCUMENT_JOINER = Equivalence(
    "DocumentJoiner",
    ("haystack.components.joiners.document_joiner.DocumentJoiner",),
    JOINER,
    (
        Parameter(
            "join_mode",
            "concatenate",
            "method",
            "`reciprocal_rank_fusion`: `reciprocal_rank`, with the same order, but for documents with equal sums. "
            "`merge`: `weighted_sum` of the scores as they are, with 0 for a document that a list lacks. "
            "`concatenate` and `distribution_based_rank_fusion` "
            "take the best score of each document, which ours does not: they become `reciprocal_rank` where only "
            "rankers read all documents and order them anew, and are left as they are elsewhere",
        ),
        Parameter(
            "weights",
            None,
            "weights",
            "by input, in the order of the connections. There they are bound to the senders in the order in which "
            "these run; where that is not sure and they differ, the joiner is left as it is",
        ),
        same("top_k", None),
        Parameter("sort_by_score", True, None, "true: removed, ours always sorts. false: left as it is"),
    ),
    {},
    "Each list has an input of its own, named after its sender.",
)

TABLE: tuple[Equivalence, ...] = (
    _SIMILARITY,
    _TRANSFORMERS,
    _FASTEMBED,
    _TEI,
    _COHERE,
    _JINA,
    _IN_MEMORY_BM25,
    _ELASTICSEARCH,
    _OPENSEARCH,
)
"""The components that become ours by their parameters alone."""


def equivalence_of(kind: object) -> Equivalence | None:
    """Return the entry for a component's path, or None."""
    return next((entry for entry in (*TABLE, DOCUMENT_JOINER) if kind in entry.types), None)


def namesake_of(kind: object) -> Equivalence | None:
    """Return the entry whose class has the same name as a component of another path, or None."""
    name = str(kind).rpartition(".")[2]
    return next((entry for entry in (*TABLE, DOCUMENT_JOINER) if entry.name == name and kind not in entry.types), None)
