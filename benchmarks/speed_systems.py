"""
The re-rankers that `speed.py` measures: ours on each backend, and four others, each with its own defaults.

    python benchmarks/speed.py
"""

import copy
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from haystack import Document
from haystack.utils import ComponentDevice

from common import Report
from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.backends.loading import BACKENDS, load
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.quantizing.writers import export
from speed_tasks import LIMIT, STRESS

HAYSTACK, PREDICT = "SentenceTransformersSimilarityRanker", "CrossEncoder.predict"


class Answer(NamedTuple):
    """
    What a system made of a task.

    :ivar scores: Document ids with scores, best first; all or the first ones, as the system gives them.
    :ivar tokens: Tokens that the model read, padding not among them; 0 where that is not known.
    :ivar slots: The same with padding.
    :ivar report: The report of CrossEncoderRanker.
    """

    scores: dict[str, float]
    tokens: int = 0
    slots: int = 0
    report: dict[str, Any] | None = None


Rank = Callable[[str, list[Document]], Answer]


@dataclass(frozen=True)
class Setup:
    """Where the weights are, and what they run on."""

    models: Path
    device: str
    threads: int
    dtype: str | None = None

    @property
    def torch_model(self) -> str:
        """The folder of the float32 checkpoint."""
        return str(self.models / "ce-minilm-l12")

    @property
    def int8_model(self) -> str:
        """The folder of the int8 ONNX file."""
        return str(self.models / "ce-minilm-l12-int8")

    @property
    def model_kwargs(self) -> dict[str, Any]:
        """What makes a peer load the weights in `dtype`."""
        return {} if self.dtype is None else {"dtype": self.dtype}


@dataclass(frozen=True)
class System:
    """
    Something that ranks.

    :ivar start: Loads the model; raises ImportError where what it needs is not installed.
    :ivar most: The most candidates of the stress set that it is given.
    """

    name: str
    start: Callable[[Setup], Rank]
    ours: bool = False
    most: int = 300


def ours(backend: str, dtype: str | None, folder: str | None = None) -> Callable[[Setup], Rank]:
    """CrossEncoderRanker with everything but the model, the backend and its dtype left at the defaults."""

    def start(setup: Setup) -> Rank:
        if backend not in BACKENDS:
            raise ImportError(f"there is no backend {backend!r}")
        ranker = CrossEncoderRanker(
            model=folder or (setup.int8_model if backend == "onnx" else setup.torch_model),
            backend=backend,
            device=ComponentDevice.from_str(setup.device),
            threads=setup.threads if setup.device == "cpu" else None,
            depth=STRESS,  # says that so many are meant
            dtype=dtype,
        )
        ranker.warm_up()

        def rank(query: str, documents: list[Document]) -> Answer:
            found = ranker.run(query=query, documents=documents)
            report = found["report"]
            tokens = int(report["tokens"])
            slots = round(tokens / (1.0 - report["padding_share"]))
            return Answer({document.id: document.score for document in found["documents"]}, tokens, slots, report)

        return rank

    return start


class Slots:
    """Counts the token slots that a torch module is given, and those that hold no padding."""

    def __init__(self, module: Any) -> None:
        self._tokens: Any = 0  # on the device, which is not waited for
        self._slots = 0
        module.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _module: Any, features: Sequence[Mapping[str, Any]], named: Mapping[str, Any]) -> None:
        mask = (features[0] if features else named)["attention_mask"]
        self._tokens = self._tokens + mask.sum()
        self._slots += mask.numel()

    def take(self) -> tuple[int, int]:
        """Return both counts since the last call."""
        counts = (int(self._tokens), self._slots)
        self._tokens, self._slots = 0, 0
        return counts


def haystack(setup: Setup) -> Rank:
    """Haystack's ranker."""
    from haystack_integrations.components.rankers.sentence_transformers import SentenceTransformersSimilarityRanker

    ranker = SentenceTransformersSimilarityRanker(
        model=setup.torch_model, device=ComponentDevice.from_str(setup.device), model_kwargs=setup.model_kwargs
    )
    ranker.warm_up()
    slots = Slots(ranker._cross_encoder[0])

    def rank(query: str, documents: list[Document]) -> Answer:
        found = ranker.run(query=query, documents=documents)["documents"]
        return Answer({document.id: document.score for document in found}, *slots.take())

    return rank


def predict(setup: Setup) -> Rank:
    """CrossEncoder.predict of sentence-transformers, which gives logits here."""
    from sentence_transformers import CrossEncoder
    from torch.nn import Identity

    model = CrossEncoder(setup.torch_model, device=setup.device, model_kwargs=setup.model_kwargs)
    slots = Slots(model[0])

    def rank(query: str, documents: list[Document]) -> Answer:
        logits = model.predict([(query, document.content) for document in documents], activation_fn=Identity())
        return Answer(_best_first([document.id for document in documents], logits), *slots.take())

    return rank


def rerankers(setup: Setup) -> Rank:
    """The package `rerankers` with its own way to run a cross-encoder of transformers."""
    from rerankers import Reranker

    ranker = Reranker(setup.torch_model, model_type="cross-encoder", device=setup.device, dtype=setup.dtype, verbose=0)
    slots = Slots(ranker.model)

    def rank(query: str, documents: list[Document]) -> Answer:
        found = ranker.rank(
            query=query,
            docs=[str(document.content) for document in documents],
            doc_ids=[document.id for document in documents],
        )
        return Answer({result.doc_id: result.score for result in found.results}, *slots.take())

    return rank


def flashrank(setup: Setup) -> Rank:
    """
    FlashRank with the int8 weights.

    It knows models only by its own names, so the files are laid out in a folder as it lays out its own download of this
    model. It has no setting for threads: onnxruntime takes one for each core that the process may use.
    """
    from flashrank import Ranker, RerankRequest
    from flashrank.Config import model_file_map

    name = "ms-marco-MiniLM-L-12-v2"
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / name
        place.mkdir()
        for file in Path(setup.int8_model).iterdir():
            (place / (model_file_map[name] if file.suffix == ".onnx" else file.name)).symlink_to(file.resolve())
        if not (place / "config.json").exists():
            (place / "config.json").symlink_to((Path(setup.torch_model) / "config.json").resolve())
        ranker = Ranker(model_name=name, cache_dir=folder, max_length=LIMIT, log_level="ERROR")

    def rank(query: str, documents: list[Document]) -> Answer:
        passages = [{"id": document.id, "text": document.content} for document in documents]
        found = ranker.rerank(RerankRequest(query=query, passages=passages))
        return Answer({passage["id"]: float(passage["score"]) for passage in found})

    return rank


OURS_FLOAT32 = "CrossEncoderRanker, torch float32"
SYSTEMS = (
    System(HAYSTACK, haystack),
    System(PREDICT, predict),
    System("rerankers", rerankers, most=100),
    System("FlashRank (int8)", flashrank, most=100),
    System(OURS_FLOAT32, ours("torch", "float32"), ours=True),
    System("CrossEncoderRanker, torch bfloat16", ours("torch", "bfloat16"), ours=True, most=STRESS),
    System("CrossEncoderRanker, openvino bfloat16", ours("openvino", "bfloat16"), ours=True, most=STRESS),
    System("CrossEncoderRanker, onnx int8", ours("onnx", None), ours=True, most=STRESS),
)


def _best_first(names: Sequence[str], scores: Iterable[float]) -> dict[str, float]:
    return dict(sorted(zip(names, map(float, scores), strict=True), key=lambda item: -item[1]))


def started(systems: Iterable[System], setup: Setup, report: Report) -> dict[System, Rank]:
    """Load the systems and run each once; name those that are left out, and why."""
    running: dict[System, Rank] = {}
    for system in systems:
        try:
            rank = system.start(setup)
            rank("a query to warm up", [Document(content="warm up " * length) for length in (10, 1000)])
        except (ImportError, OSError, ValueError) as error:
            report.leave_out(system.name, str(error).splitlines()[0])
        else:
            running[system] = rank
    return running


def write_float32_onnx(options: ModelOptions, folder: Path) -> None:
    """Export the torch checkpoint as it is, with its tokenizer and configuration beside it."""
    exact: Any = load("torch", replace(options, model_kwargs={"attn_implementation": "eager"}))
    folder.mkdir()
    export(exact, folder / "model.onnx")
    exact.cross_encoder.tokenizer.save_pretrained(folder)
    config = copy.deepcopy(exact.cross_encoder.model.config)
    config.num_labels, config.architectures = 1, None  # the file gives one logit, whatever the model was made of
    config.save_pretrained(folder)
