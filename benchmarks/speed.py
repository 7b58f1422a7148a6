"""
How fast CrossEncoderRanker scores, and in how much memory, beside other re-rankers on the same weights and candidates.

    python benchmarks/speed.py                                    # all, on CPU: half an hour on two cores
    python benchmarks/speed.py --only dl19 --queries 10 --peer-queries 2
    python benchmarks/speed.py --device cuda                      # the part for a GPU, instead

The others: Haystack's SentenceTransformersSimilarityRanker, CrossEncoder.predict of sentence-transformers, rerankers
and FlashRank, each with its own defaults; one that is not installed is left out with a word (extra `peers`). Query by
query all systems run in turn, in an order that moves on by one each time, so that whatever else the machine does hits
all alike; a ratio is the median of the ratios of single queries, of those that both systems ran. Every system uses the
same threads. Memory is measured in a process per system.

Needs the weights that `make models` unpacks: `ce-minilm-l12` (float32, for torch) and `ce-minilm-l12-int8` (ONNX).
"""

import argparse
import inspect
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

import numpy as np
from haystack import Document
from haystack.utils import ComponentDevice

from haystack_ce_ranker import CrossEncoderRanker
from haystack_ce_ranker.backends.devices import allowed_cpus
from haystack_ce_ranker.backends.loading import BACKENDS, load
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.bm25.index import BM25Index
from haystack_ce_ranker.evaluation.data.collections import Collection, load_collection, load_run
from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10, ranked_scores
from haystack_ce_ranker.quantizing.quantize import quantize
from haystack_ce_ranker.quantizing.writers import export
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer

PARTS = ("dl19", "covidqa", "stress", "tokenising", "runtimes", "memory")
LIMIT = 512
"""Tokens of a pair that the model can read."""
STRESS_WORDS = (8, 370)
"""The fewest and most words of a candidate of the stress set; the most still fit into a pair."""
STRESS = 1000
SIZES = (10, 30, 100, 300, STRESS)
REPEATS = {10: 5, 30: 3, 100: 2}
GPU_TASKS = 5
ENOUGH_FOR_P95 = 20
HAYSTACK, PREDICT = "SentenceTransformersSimilarityRanker", "CrossEncoder.predict"


class Task(NamedTuple):
    """A query with its candidates."""

    id: str
    query: str
    documents: list[Document]


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


# The systems


def ours(backend: str, dtype: str | None, folder: str | None = None) -> Callable[[Setup], Rank]:
    """CrossEncoderRanker with everything but the model, the backend and its dtype left at the defaults."""

    def start(setup: Setup) -> Rank:
        if backend not in BACKENDS:
            raise ImportError(f"there is no backend {backend!r}")
        options: dict[str, Any] = {}
        if dtype is not None:
            by_name = "dtype" in inspect.signature(CrossEncoderRanker.__init__).parameters
            options = {"dtype": dtype} if by_name else {"model_kwargs": {"dtype": dtype}}
        ranker = CrossEncoderRanker(
            model=folder or (setup.int8_model if backend == "onnx" else setup.torch_model),
            backend=backend,
            device=ComponentDevice.from_str(setup.device),
            threads=setup.threads if setup.device == "cpu" else None,
            depth=STRESS,  # says that so many are meant
            **options,
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

SLOWEST = "torch float32"
PREFERRED = (
    ("onnx int8", "openvino int8"),
    ("openvino int8", "openvino bfloat16"),
    ("openvino bfloat16", "torch bfloat16"),
    ("openvino float32", "onnx float32"),
    ("openvino float32", SLOWEST),
)
"""What `backends.auto` takes before what, where a model's folder and the machine have both."""


def started(systems: Iterable[System], setup: Setup) -> dict[System, Rank]:
    """Load the systems and run each once; name those that are left out, and why."""
    running: dict[System, Rank] = {}
    for system in systems:
        try:
            rank = system.start(setup)
            rank("a query to warm up", [Document(content="warm up " * length) for length in (10, 100)])
        except (ImportError, OSError, ValueError) as error:
            print(f"- left out: {system.name}: {str(error).splitlines()[0]}", flush=True)
        else:
            running[system] = rank
    return running


# The candidates


def dl19_tasks(folder: Path, queries: int) -> tuple[Collection, list[Task]]:
    """The first 50 passages of the given BM25 run."""
    collection = load_collection(folder / "dl19").sample(queries)
    run = load_run(folder / "dl19" / "run.bm25.tsv", collection=collection, depth=50)
    return collection, [
        Task(name, query, [_document(collection, found) for found in run[name]])
        for name, query in collection.queries.items()
    ]


def covidqa_tasks(folder: Path, queries: int) -> tuple[Collection, list[Task]]:
    """The first ten articles by BM25."""
    collection = load_collection(folder / "covidqa").sample(queries)
    names = list(collection.documents)
    index = BM25Index.build([document.content for document in collection.documents.values()])
    return collection, [
        Task(name, query, [_document(collection, names[row]) for row in index.search(query, 10).positions.tolist()])
        for name, query in collection.queries.items()
    ]


def stress_task(folder: Path, size: int = STRESS) -> Task:
    """
    Return candidates of mixed length: pieces of covidqa's articles, their words spread evenly on a logarithmic scale.

    Each piece starts at a random word of a random article (seed 0). A smaller size has the same mix of lengths.
    """
    collection = load_collection(folder / "covidqa")
    articles = [document.content.split() for document in collection.documents.values()]
    rng = random.Random(0)
    documents = []
    for number, words in enumerate(np.geomspace(*STRESS_WORDS, size).round().astype(int).tolist()):
        article = rng.choice([article for article in articles if len(article) >= words])
        start = rng.randrange(len(article) - words + 1)
        documents.append(Document(id=f"{size}-{number}", content=" ".join(article[start : start + words])))
    rng.shuffle(documents)
    return Task(f"stress-{size}", next(iter(collection.queries.values())), documents)


def full_task(folder: Path, setup: Setup, size: int) -> Task:
    """Return candidates that fill a pair: `LIMIT` tokens with the query, or a few less."""
    from tokenizers import Tokenizer

    collection = load_collection(folder / "covidqa")
    query = next(iter(collection.queries.values()))
    tokenizer = Tokenizer.from_file(str(Path(setup.torch_model) / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    room = LIMIT - len(tokenizer.encode(query, "").ids)
    documents: list[Document] = []
    for document in collection.documents.values():
        offsets = tokenizer.encode(document.content, add_special_tokens=False).offsets
        for first in range(0, len(offsets) - room, 37):  # overlapping pieces, so that there are enough
            text = document.content[offsets[first][0] : offsets[first + room - 5][1]]
            documents.append(Document(id=str(len(documents)), content=text))
            if len(documents) == size:
                return Task("full", query, documents)
    raise ValueError(f"--memory-candidates must be at most {len(documents)}, but got {size}.")


def _document(collection: Collection, name: str) -> Document:
    return Document(id=name, content=collection.documents[name].content)


def _best_first(names: Sequence[str], scores: Iterable[float]) -> dict[str, float]:
    return dict(sorted(zip(names, map(float, scores), strict=True), key=lambda item: -item[1]))


# Measuring


@dataclass
class Results:
    """What a system did with the tasks that it ran: seconds and answers by task id."""

    seconds: dict[str, float] = field(default_factory=dict)
    answers: dict[str, Answer] = field(default_factory=dict)
    pairs: dict[str, int] = field(default_factory=dict)

    @property
    def pairs_per_second(self) -> float:
        """The median over the tasks."""
        return float(np.median([self.pairs[task] / seconds for task, seconds in self.seconds.items()]))

    @property
    def padding(self) -> float | None:
        """Share of the token slots that held padding; None where that is not known."""
        slots = sum(answer.slots for answer in self.answers.values())
        return 1.0 - sum(answer.tokens for answer in self.answers.values()) / slots if slots else None

    def ndcg(self, judgments: Mapping[str, Mapping[str, int]], tasks: Iterable[str]) -> float:
        """Return nDCG@10 over some of the tasks."""
        chosen = list(tasks)
        run = {
            task: ranked_scores(list(self.answers[task].scores), list(self.answers[task].scores.values()))
            for task in chosen
        }
        return mean(ndcg_at_10(run, {task: judgments[task] for task in chosen}))


def in_turn(running: Mapping[System, Rank], tasks: Sequence[Task], peer_tasks: int) -> dict[str, Results]:
    """Run all systems on each task before the next; peers but Haystack's only on the first `peer_tasks`."""
    results = {system.name: Results() for system in running}
    systems = list(running)
    for number, task in enumerate(tasks):
        first = number % len(systems)
        for system in systems[first:] + systems[:first]:
            if number >= peer_tasks and not system.ours and system.name != HAYSTACK:
                continue
            start = time.perf_counter()
            answer = running[system](task.query, task.documents)
            of_system = results[system.name]
            of_system.seconds[task.id] = time.perf_counter() - start
            of_system.answers[task.id] = answer
            of_system.pairs[task.id] = len(task.documents)
    return results


def ratio(results: Mapping[str, Results], faster: str, slower: str) -> float:
    """Return how many times as fast one system is as another: the median over the tasks that both ran."""
    theirs, mine = results[slower].seconds, results[faster].seconds
    return float(np.median([theirs[task] / mine[task] for task in theirs if task in mine]))


def best_of_ours(results: Mapping[str, Results]) -> str:
    """Return the fastest of our systems."""
    mine = [name for name in results if name.startswith("CrossEncoderRanker")]
    return max(mine, key=lambda name: results[name].pairs_per_second)


def largest_difference(results: Mapping[str, Results]) -> float:
    """Return the largest difference between a logit of ours in float32 and that of CrossEncoder.predict."""
    differences = [0.0]
    for task, answer in results[PREDICT].answers.items():
        report = results[OURS_FLOAT32].answers[task].report
        if report is not None:
            differences += [abs(report["scored"][name] - logit) for name, logit in answer.scores.items()]
    return max(differences)


def largest_rank_difference(one: Results, other: Results) -> float:
    """Return the largest difference of the scores at one rank; which of two equal documents comes first is open."""
    return max(
        abs(mine - theirs)
        for task in other.answers
        for mine, theirs in zip(one.answers[task].scores.values(), other.answers[task].scores.values(), strict=True)
    )


# Printing


class Checks:
    """The targets, printed together at the end."""

    def __init__(self) -> None:
        self.lines: list[tuple[bool, str]] = []

    def add(self, label: str, holds: bool, figure: str) -> None:
        """Note whether a target holds."""
        self.lines.append((holds, f"- {'holds' if holds else 'MISSED'}: {label}: {figure}"))

    def print(self) -> None:
        """Print all of them."""
        print("\n## Targets\n")
        for _, line in self.lines:
            print(line)


def row(*cells: Any) -> None:
    """Print a row of a Markdown table."""
    print("| " + " | ".join("" if cell is None else str(cell) for cell in cells) + " |", flush=True)


def header(title: str, *cells: str) -> None:
    """Print the head of a Markdown table."""
    print(f"\n## {title}\n")
    row(*cells)
    row(*["---"] * len(cells))


def quality_table(
    title: str, results: Mapping[str, Results], judgments: Mapping[str, Mapping[str, int]], shared: Sequence[str]
) -> None:
    """Print speed, quality and latency; quality over all queries of a system, and over those that all systems ran."""
    header(
        title,
        *("system", "queries", "pairs/s", "times Haystack's", f"nDCG@10, {len(shared)} queries of all", "nDCG@10"),
        *("p50 ms", "p95 ms", "padding"),
    )
    for name, found in results.items():
        times = np.array(list(found.seconds.values())) * 1000
        row(
            *(name, len(times), f"{found.pairs_per_second:.1f}"),
            f"{ratio(results, name, HAYSTACK):.2f}" if HAYSTACK in results else None,
            f"{found.ndcg(judgments, shared):.4f}",
            f"{found.ndcg(judgments, found.answers):.4f}",
            f"{np.median(times):,.0f}",
            f"{np.percentile(times, 95):,.0f}" if len(times) >= ENOUGH_FOR_P95 else None,
            _percent(found.padding),
        )


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{share:.1%}"


# The parts


def dl19(arguments: argparse.Namespace, running: Mapping[System, Rank], checks: Checks) -> None:
    """Passages: everything is read by everyone."""
    collection, tasks = dl19_tasks(arguments.collections, arguments.queries)
    results = in_turn(running, tasks, arguments.peer_queries)
    shared = [task.id for task in tasks[: arguments.peer_queries]]
    quality_table("dl19, the 50 best passages of BM25", results, collection.judgments, shared)
    check_padding("dl19", results, checks)
    if HAYSTACK not in results:
        return
    best = best_of_ours(results)
    faster = ratio(results, best, HAYSTACK)
    checks.add(f"dl19, best backend ({best}) >= 3.5 times Haystack's speed", faster >= 3.5, f"{faster:.2f} times")
    everything = list(results[HAYSTACK].answers)
    gain = results[best].ndcg(collection.judgments, everything) - results[HAYSTACK].ndcg(
        collection.judgments, everything
    )
    checks.add("... with nDCG@10 within 0.005 of Haystack's", gain >= -0.005, f"{gain:+.4f}")
    if OURS_FLOAT32 in results:
        faster = ratio(results, OURS_FLOAT32, HAYSTACK)
        checks.add("dl19, torch float32 >= 1.25 times Haystack's speed", faster >= 1.25, f"{faster:.2f} times")
        off = largest_rank_difference(results[OURS_FLOAT32], results[HAYSTACK])
        checks.add("... the same ten scores, rank by rank (within 1e-5)", off <= 1e-5, f"{off:.1e}")
        if PREDICT in results:
            off = largest_difference(results)
            checks.add("... and equal logits (within 0.001 of CrossEncoder.predict's)", off <= 1e-3, f"{off:.1e}")


def covidqa(arguments: argparse.Namespace, running: Mapping[System, Rank], checks: Checks) -> None:
    """Whole articles: the others read the first 512 tokens, ours the best passages."""
    collection, tasks = covidqa_tasks(arguments.collections, arguments.long_queries)
    peers = min(arguments.peer_queries, len(tasks))
    results = in_turn(running, tasks, peers)
    title = "covidqa, the 10 best articles of BM25"
    quality_table(title, results, collection.judgments, [task.id for task in tasks[:peers]])
    check_padding("covidqa", results, checks)
    if HAYSTACK in results:
        best = best_of_ours(results)
        faster = ratio(results, best, HAYSTACK)
        checks.add(f"covidqa, best backend ({best}) >= 2 times Haystack's speed", faster >= 2.0, f"{faster:.2f} times")
        every = list(results[HAYSTACK].answers)
        gain = results[best].ndcg(collection.judgments, every) - results[HAYSTACK].ndcg(collection.judgments, every)
        checks.add("... and nDCG@10 at least 0.08 higher", gain >= 0.08, f"{gain:+.4f}")


def stress(arguments: argparse.Namespace, running: Mapping[System, Rank], checks: Checks) -> None:
    """Mixed lengths, from 10 candidates to 1,000: how time grows."""
    seconds: dict[str, dict[int, float]] = {system.name: {} for system in running}
    last: dict[str, Results] = {}
    for size in SIZES:
        task = stress_task(arguments.collections, size)
        taking_part = {system: rank for system, rank in running.items() if size <= system.most}
        rounds = [in_turn(taking_part, [task], 1) for _ in range(REPEATS.get(size, 1))]
        for name, results in rounds[0].items():
            seconds[name][size] = float(np.median([found[name].seconds[task.id] for found in rounds]))
            last[name] = results
    title = f"Mixed lengths ({STRESS_WORDS[0]} to {STRESS_WORDS[1]} words), seconds by candidates"
    header(
        title, "system", *(f"{size:,}" for size in SIZES), "pairs/s at the most", "exponent", "R² of a line", "padding"
    )
    for name, times in seconds.items():
        sizes, values = np.array(list(times)), np.array(list(times.values()))
        exponent, straight = growth(sizes, values)
        row(
            *(name, *(f"{times[size]:.2f}" if size in times else None for size in SIZES)),
            *(f"{sizes[-1] / values[-1]:.1f}", f"{exponent:.2f}", f"{straight:.4f}", _percent(last[name].padding)),
        )
    for system in running:
        if system.ours and system.most == STRESS:
            times = seconds[system.name]
            exponent, straight = growth(np.array(list(times)), np.array(list(times.values())))
            checks.add(
                f"{system.name}: time grows linearly from 10 to 1,000 candidates (R² >= 0.99, exponent <= 1.1)",
                straight >= 0.99 and exponent <= 1.1,
                f"R² {straight:.4f}, exponent {exponent:.2f}",
            )
    check_padding("mixed lengths", last, checks)
    if arguments.picture is not None:
        draw(seconds, arguments.picture)
        print(f"\nThe same as a picture: {arguments.picture.name}")


def growth(sizes: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Return the exponent of a power of the size that fits the times, and R² of a straight line through them."""
    exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    line = np.polyval(np.polyfit(sizes, seconds, 1), sizes)
    return exponent, float(1.0 - ((seconds - line) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum())


def draw(seconds: Mapping[str, Mapping[int, float]], file: Path) -> None:
    """Draw time by candidates on logarithmic axes, where linear growth is a line at 45 degrees."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "speed"}):
        figure = Figure(figsize=(7.5, 5), layout="constrained")
        axes = figure.subplots()
        for (name, times), marker in zip(seconds.items(), "os^DvPX*" * 2, strict=False):
            style = "-" if name.startswith("CrossEncoderRanker") else "--"
            axes.loglog(list(times), list(times.values()), style, marker=marker, label=name)
        axes.set_xticks(SIZES, [f"{size:,}" for size in SIZES])
        axes.set_xlabel("candidates")
        axes.set_ylabel("seconds")
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
        figure.savefig(file, format="svg", metadata={"Date": None})


def check_padding(where: str, results: Mapping[str, Results], checks: Checks) -> None:
    """Note whether ours pads less than 5 % everywhere."""
    shares = {name: found.padding for name, found in results.items() if name.startswith("CrossEncoderRanker")}
    worst = max(share for share in shares.values() if share is not None)
    checks.add(f"{where}, padding < 5 % with every backend of ours", worst < 0.05, f"at most {worst:.1%}")


def tokenising(arguments: argparse.Namespace, setup: Setup, checks: Checks) -> None:
    """The fastest backend, where tokenising counts most: documents that it sees for the first time, and again."""
    backend = load("onnx", ModelOptions(model=setup.int8_model, device="cpu", threads=setup.threads))
    kinds = {
        "dl19": dl19_tasks(arguments.collections, arguments.queries)[1],
        "covidqa": covidqa_tasks(arguments.collections, arguments.long_queries)[1],
        "mixed lengths": [stress_task(arguments.collections)],
    }
    header("Shares of the time, onnx int8", "candidates", "documents", "tokenising", "choosing what to read", "model")
    for name, tasks in kinds.items():
        shares: dict[str, list[tuple[float, float, float]]] = {"new": [], "seen before": []}
        for task in tasks:
            scorer = CrossEncoderScorer(backend)  # with an empty cache of documents
            for found in shares.values():
                start = time.perf_counter()
                _, stats = scorer.score(task.query, [str(document.content) for document in task.documents])
                whole = time.perf_counter() - start
                found.append((stats.tokenise / whole, stats.select / whole, stats.score / whole))
        for kind, found in shares.items():
            medians = np.median(found, axis=0)
            row(name, kind, *(f"{share:.1%}" for share in medians))
            checks.add(f"{name}, {kind}: tokenising < 5 % of the time", medians[0] < 0.05, f"{medians[0]:.1%}")


def runtimes(arguments: argparse.Namespace, setup: Setup, checks: Checks) -> None:
    """What `backend="auto"` chooses among, in the order that it prefers: on dl19, all in turn."""
    collection, tasks = dl19_tasks(arguments.collections, arguments.runtime_queries)
    with tempfile.TemporaryDirectory() as place:
        int8, float32 = Path(place) / "openvino-int8", Path(place) / "onnx-float32"
        options = ModelOptions(model=setup.torch_model, device="cpu", dtype="float32", threads=setup.threads)
        requests = [(task.query, [str(document.content) for document in task.documents[:10]]) for task in tasks[:3]]
        for make in (
            lambda: quantize(options, int8, requests, backend="openvino"),
            lambda: write_float32_onnx(options, float32),
        ):
            try:
                make()
            except (ImportError, ValueError) as error:  # the form is then left out below
                print(f"- not made: {error}")
        forms = {
            "onnx int8": ours("onnx", None),
            "openvino int8": ours("openvino", None, str(int8)),
            "openvino bfloat16": ours("openvino", "bfloat16"),
            "torch bfloat16": ours("torch", "bfloat16"),
            "openvino float32": ours("openvino", "float32"),
            "onnx float32": ours("onnx", "float32", str(float32)),
            SLOWEST: ours("torch", "float32"),
        }
        running = started([System(name, start, ours=True) for name, start in forms.items()], setup)
        results = in_turn(running, tasks, len(tasks))
    header(
        f"What backend='auto' chooses among, best first: dl19, 50 passages, {len(tasks)} queries",
        *("runtime", "pairs/s", f"times {SLOWEST}", "nDCG@10", "largest difference of a score"),
    )
    for name, found in results.items():
        off = largest_rank_difference(found, results[SLOWEST])
        speed = ratio(results, name, SLOWEST)
        quality = found.ndcg(collection.judgments, found.answers)
        row(name, f"{found.pairs_per_second:.1f}", f"{speed:.2f}", f"{quality:.4f}", f"{off:.1e}")
    for faster, slower in PREFERRED:
        if faster in results and slower in results:
            times = ratio(results, faster, slower)
            checks.add(f"auto prefers {faster} to {slower}: as fast, to 5 %", times >= 0.95, f"{times:.2f} times")


def write_float32_onnx(options: ModelOptions, folder: Path) -> None:
    """Export the torch checkpoint as it is, with its tokenizer and configuration beside it."""
    exact: Any = load("torch", replace(options, model_kwargs={"attn_implementation": "eager"}))
    folder.mkdir()
    export(exact, folder / "model.onnx")
    exact.cross_encoder.tokenizer.save_pretrained(folder)
    exact.cross_encoder.model.config.save_pretrained(folder)


def memory(arguments: argparse.Namespace, checks: Checks) -> None:
    """Peak memory of one run, each system in a process of its own."""
    header(
        f"Memory, candidates of {LIMIT} tokens, GB",
        *("system", "candidates", "model loaded", "peak", "added by the run", "seconds"),
    )
    for system in SYSTEMS:
        sizes = [arguments.memory_candidates if system.ours else arguments.memory_peer_candidates]
        if system.start is flashrank:
            sizes = [arguments.memory_peer_candidates // 2, arguments.memory_candidates]
        for size in sizes:
            measured = in_a_process(system, size, arguments)
            if "left out" in measured:
                print(f"- left out: {system.name}: {measured['left out']}")
                break
            cells = (f"{measured['own']:.2f}" if "own" in measured else None,)
            if "failed" in measured:
                row(system.name, f"{size:,}", *cells, f"over {arguments.memory_limit:g}", None, measured["failed"])
                continue
            added = measured["peak"] - measured["own"]
            row(
                *(system.name, f"{size:,}", *cells, f"{measured['peak']:.2f}", f"{added:.2f}"),
                f"{measured['seconds']:.0f}",
            )
            if system.ours:
                label = f"{system.name}: {size:,} candidates of {LIMIT} tokens add < 1 GB"
                checks.add(label, added < 1.0, f"{added:.2f} GB")


def in_a_process(system: System, candidates: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Run one system on full pairs in a process of its own; one that dies of its memory limit has failed."""
    command = [sys.executable, __file__, "--worker", system.name, "--candidates", str(candidates)]
    command += ["--collections", str(arguments.collections), "--models", str(arguments.models)]
    command += ["--threads", str(arguments.threads), "--memory-limit", str(arguments.memory_limit)]
    done = subprocess.run(command, capture_output=True, text=True)
    lines = done.stdout.strip().splitlines()
    measured: dict[str, Any] = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    if done.returncode and "failed" not in measured:
        measured["failed"] = f"ended with {done.returncode}"
    return measured


def worker(arguments: argparse.Namespace, setup: Setup) -> dict[str, Any]:
    """Measure one system's memory; allocations beyond the limit fail instead of taking the machine down."""
    limit = int(arguments.memory_limit * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    system = next(system for system in SYSTEMS if system.name == arguments.worker)
    task = full_task(arguments.collections, setup, arguments.candidates)
    try:
        rank = system.start(setup)
    except (ImportError, OSError, ValueError) as error:
        return {"left out": str(error).splitlines()[0]}
    rank(task.query, [Document(content="warm up")])
    measured: dict[str, Any] = {"own": _status_gb("VmRSS")}
    print(json.dumps(measured), flush=True)
    start = time.perf_counter()
    try:
        rank(task.query, task.documents)
    except Exception as error:  # each runtime has an error of its own for this
        no_memory = isinstance(error, MemoryError) or "allocate" in str(error)
        return {**measured, "failed": "out of memory" if no_memory else f"failed: {type(error).__name__}"}
    return {**measured, "peak": _status_gb("VmHWM"), "seconds": time.perf_counter() - start}


def _status_gb(key: str) -> float:
    """Memory of this process by a key of /proc: VmRSS is what it has now, VmHWM the most that it has had."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 2**20
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# The part for a GPU


def gpu(arguments: argparse.Namespace, setup: Setup, checks: Checks) -> None:
    """Three sets of candidates in float16 beside CrossEncoder.predict, and how much of the time the device is busy."""
    import torch

    print(f"\nOn {torch.cuda.get_device_name()}.")
    mine = System("CrossEncoderRanker, torch float16", ours("torch", "float16"), ours=True, most=STRESS)
    running = started([*SYSTEMS[:3], mine], setup)
    sizes = range(STRESS - GPU_TASKS, STRESS + 2)  # each of other texts: all are seen for the first time
    sets = {
        "dl19": dl19_tasks(arguments.collections, arguments.queries)[1],
        "covidqa": covidqa_tasks(arguments.collections, arguments.long_queries)[1],
        "1,000 candidates of mixed length": [stress_task(arguments.collections, size) for size in sizes],
    }
    for name, (*tasks, profiled, first) in sets.items():
        in_turn(running, [first], 1)  # the first passes choose kernels and allocate
        results = in_turn(running, tasks, len(tasks))
        header(
            f"GPU: {name}, float16, {len(tasks)} queries",
            *("system", "pairs/s", f"times {PREDICT}'s", "padding", "device busy"),
        )
        for system, rank in running.items():
            found = results[system.name]
            times = f"{ratio(results, system.name, PREDICT):.2f}"
            busy = busy_share(rank, profiled)
            row(system.name, f"{found.pairs_per_second:,.0f}", times, _percent(found.padding), f"{busy:.0%}")
        check_padding(f"GPU, {name}", results, checks)
        if tasks[0].id.startswith("stress"):
            faster = ratio(results, mine.name, PREDICT)
            checks.add("GPU, >= 2 times CrossEncoder.predict in float16", faster >= 2.0, f"{faster:.2f} times")


def busy_share(rank: Rank, task: Task) -> float:
    """Return the share of the time of one task that the device spends in kernels and copies."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        start = time.perf_counter()
        rank(task.query, task.documents)
        seconds = time.perf_counter() - start
    return sum(event.self_device_time_total for event in found.key_averages()) / 1e6 / seconds


# The command


def machine(setup: Setup) -> None:
    """Print what ran where."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    print(
        f"{cpu}, {setup.threads} threads of {os.cpu_count()} CPUs, load {os.getloadavg()[0]:.1f} at the start; ", end=""
    )
    names = ("haystack-ai", "sentence-transformers", "transformers", "torch", "onnxruntime", "openvino")
    versions = [f"Python {platform.python_version()}"]
    for name in (*names, "tokenizers", "rerankers", "flashrank"):
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            versions.append(f"no {name}")
    print(", ".join(versions) + ".", flush=True)


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").strip().splitlines()[0])
    parser.add_argument("--collections", type=Path, default=Path(os.environ.get("CE_RANKER_DATA", "../shared/data")))
    parser.add_argument("--models", type=Path, default=Path(os.environ.get("CE_RANKER_MODELS", ".models")))
    parser.add_argument("--only", choices=PARTS, nargs="*", default=list(PARTS), help="some of the parts")
    parser.add_argument("--device", default="cpu", help="cuda: the part for a GPU instead of all others")
    parser.add_argument("--threads", type=int, default=allowed_cpus(), help="of every system")
    parser.add_argument("--queries", type=int, default=43, help="of dl19")
    parser.add_argument("--long-queries", type=int, default=24, help="of covidqa")
    parser.add_argument("--peer-queries", type=int, default=5, help="of these, for all peers but Haystack's")
    parser.add_argument("--runtime-queries", type=int, default=20, help="of dl19, for the part on runtimes")
    parser.add_argument("--memory-candidates", type=int, default=1000)
    parser.add_argument("--memory-peer-candidates", type=int, default=100, help="for the other systems, which are slow")
    parser.add_argument("--memory-limit", type=float, default=8.0, help="GB that a process may allocate")
    parser.add_argument("--picture", type=Path, default=None, help="an SVG file for the growth of time")
    parser.add_argument("--strict", action="store_true", help="end with 1 if a target is missed")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--candidates", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Print the tables that were asked for, and at the end the targets."""
    arguments = parse()
    if not (arguments.collections / "dl19").is_dir():
        sys.exit(f"no collections in {arguments.collections}: name their folder with --collections or CE_RANKER_DATA")
    setup = Setup(
        arguments.models, arguments.device, arguments.threads, None if arguments.device == "cpu" else "float16"
    )
    if not Path(setup.torch_model).is_dir():
        sys.exit(f"no weights in {arguments.models}: name their folder with --models or CE_RANKER_MODELS")
    give_threads(arguments.threads)
    if arguments.worker is not None:
        print(json.dumps(worker(arguments, setup)))
        return
    machine(setup)
    checks = Checks()
    if arguments.device != "cpu":
        gpu(arguments, setup, checks)
    else:
        parts = {"dl19": dl19, "covidqa": covidqa, "stress": stress}
        chosen = [part for name, part in parts.items() if name in arguments.only]
        running = started(SYSTEMS, setup) if chosen else {}
        for part in chosen:
            part(arguments, running, checks)
        if "tokenising" in arguments.only:
            tokenising(arguments, setup, checks)
        if "runtimes" in arguments.only:
            runtimes(arguments, setup, checks)
        if "memory" in arguments.only:
            memory(arguments, checks)
    checks.print()
    if arguments.strict and not all(holds for holds, _ in checks.lines):
        sys.exit(1)


def give_threads(count: int) -> None:
    """Let torch use so many threads, and the process so many CPUs, by which the other runtimes go."""
    import torch

    torch.set_num_threads(count)
    if hasattr(os, "sched_setaffinity") and count < allowed_cpus():
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


if __name__ == "__main__":
    main()
