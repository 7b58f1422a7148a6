"""
What a distilled student is worth: its share of the teacher's quality, its speed, a cascade of the two, and a bi-encoder
that was taught the same way.

    python benchmarks/training_distil.py                   # hours on two cores; a run that was stopped goes on
    python benchmarks/training_distil.py layers --collections stackfaq   # which of the teacher's layers to keep
    python benchmarks/training_distil.py states                          # what learning the hidden states is worth
    python benchmarks/training_distil.py passages --seeds 0 --made 2000 --epochs 1 --judge ce-minilm-l12-int8

The last makes a smaller student, in an hour on one thread: fewer made queries, fewer passes over them, and a teacher in
int8 whose logits are learnt and whose ranking is the one to match.

The students lie in the folder of kept scores (`--cache`), and none is made twice. Queries and judgments of dl19, and
the test half of the other collections, are not looked at in training. The student of a collection begins as the one of
dl19's passages, or as the one named (`--student`), as a team would begin with a small model that it has. Needs the
extras `train`, `evaluate` and `embedders`.
"""

import argparse
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import common
from common import Report

TEACHER, BI_ENCODER = "ce-minilm-l12", "bi-minilm-l6"
JUDGES = {TEACHER: "torch", "ce-minilm-l12-int8": "onnx"}
"""The teacher's forms, and what runs each."""

SERVED = ("stackfaq", "covidqa", "vaswani")
LAYERS = 3
KEEPS = ("even", "first", "last")
DEPTH, CASCADE_DEPTH = 100, 20

MAKING = {
    "made": 24_000,
    "settings": {"depth": 30, "candidates": 8},
    "recipe": {"loss": "margin_mse", "epochs": 4, "learning_rate": 3e-4, "batch": 128, "patience": 4},
}
"""How the student of the passages is made; the options change it. `layers` and `states` make smaller ones."""

SERVING = {
    "made": 6000,
    "settings": {"depth": 30, "candidates": 8},
    "recipe": {"loss": "margin_mse", "epochs": 4, "learning_rate": 2e-4, "batch": 128, "patience": 4},
}
"""How a student is fitted to the collection that it serves; the options change it."""

TAUGHT = {
    "made": 6000,
    "settings": {"depth": 30, "candidates": 8},
    "recipe": {"epochs": 2, "learning_rate": 2e-5, "batch": 64, "interpolate": 0.5},
}
"""How a bi-encoder is taught; the options change it. Its batch is a number of texts."""

LEARNT = "windows, in drawn pairs"
"""What a student learns of a document. It is changed with the code, so that no student of other lessons is taken."""

STATES = 10.0
WEIGHTS = (0.0, 1.0, 10.0, 100.0)
"""Of the hidden states beside the loss: what `states` tries."""

SMALL = {
    "made": 400,
    "settings": {"depth": 20, "candidates": 6},
    "recipe": {"loss": "margin_mse", "epochs": 2, "learning_rate": 1e-4},
}


QUICK: dict[str, Any] = {"queries": 6, "seeds": [0]}

TINY: dict[str, Any] = {
    "made": 30,
    "settings": {"depth": 6, "candidates": 4},
    "recipe": {"loss": "margin_mse", "epochs": 1, "learning_rate": 1e-4},
}


def distilled(
    arguments: argparse.Namespace, collection: str, name: str, how: Mapping[str, Any], seed: int, **changed: Any
) -> dict[str, Any]:
    """
    Return what `distil` says of a student, whose folder is under `folder`. A student that is there is not made again.

    :param name: Tells the student from others of the collection.
    :param seed: Draws everything.
    :param changed: Settings of `DistilRun`.
    """
    from rich.console import Console

    from haystack_ce_ranker.backends.model_files import ModelOptions
    from haystack_ce_ranker.training.adapting import Adapting
    from haystack_ce_ranker.training.commands.adapt import AdaptRun
    from haystack_ce_ranker.training.commands.distil import DistilRun, run_distilling
    from haystack_ce_ranker.training.fitting import Recipe
    from haystack_ce_ranker.training.made_queries import RECIPES

    if arguments.quick:
        how = {**TINY, "settings": {**how["settings"], **TINY["settings"]}}
        changed = {**changed, "own": 0.0}
    source = common.collection_folder(arguments, collection)
    teacher = ModelOptions(str(common.weights_folder(arguments, TEACHER)), device=arguments.device)
    judge = ModelOptions(str(common.weights_folder(arguments, arguments.judge)), device=arguments.device)
    settings, recipe = ({**how[part], "seed": seed} for part in ("settings", "recipe"))
    told = {key: Path(one.model).name if isinstance(one, ModelOptions) else one for key, one in changed.items()}
    told |= {} if arguments.judge == TEACHER else {"judge": arguments.judge}
    folder = arguments.cache / "distilled" / f"{collection}-{name}-{_key(how, told, seed, tuple(RECIPES), LEARNT)}"
    if not (folder / "training.json").is_file():
        run = AdaptRun(
            source,
            folder,
            teacher,
            teachers=(judge,),
            backend=JUDGES[arguments.judge],
            queries=how["made"],
            settings=Adapting(**{"blend": None, **settings}),
            recipe=Recipe(learns="teacher", **recipe),
            test_queries=arguments.queries,
            save="always",
            threads=arguments.threads,
        )
        if run_distilling(DistilRun(run, **changed), Console()) is None:
            raise KeyboardInterrupt
    facts: dict[str, Any] = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    return {**facts, "folder": str(folder)}


def _key(*parts: Any) -> str:
    import hashlib

    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.blake2b(text.encode(), digest_size=4).hexdigest()


def share_of_teacher(facts: Mapping[str, Any]) -> float:
    """Return the student's nDCG@10 by its teacher's."""
    systems = facts["gate"]["systems"]
    return float(systems["trained"]["nDCG@10"] / systems["teacher"]["nDCG@10"])


def _row(report: Report, label: str, facts: Mapping[str, Any]) -> None:
    found = {name: one["nDCG@10"] for name, one in facts["gate"]["systems"].items()}
    figures = [f"{found[name]:.4f}" for name in ("first stage", "untouched base", "trained", "teacher")]
    spent = f"{facts['fitted']['seconds'] / 60:.0f} min, {facts['fitted']['joules'] / 1000:.1f} kJ"
    report.row(label, facts["gate"]["queries"], *figures, f"{share_of_teacher(facts):.1%}", spent)


def _at_least(report: Report, name: str, made: Sequence[Mapping[str, Any]], least: float) -> None:
    """Hold the median of some seeds' students against the share of the teacher that was aimed for."""
    share = statistics.median(map(share_of_teacher, made))
    report.at_least(f"{name}: {least:.0%} of the teacher, median of {len(made)}", share, least, "{:.1%}")


_HEADINGS = ("", "test queries", "BM25", "student before", "student", "teacher", "share", "training")


def layers(arguments: argparse.Namespace, report: Report) -> None:
    """Which of the teacher's layers a student keeps."""
    for collection in arguments.collections:
        with report.or_left_out(collection):
            report.table(f"{LAYERS} of the teacher's layers, {collection}", *_HEADINGS)
            for keep in KEEPS:
                made = distilled(arguments, collection, keep, SMALL, arguments.seeds[0], layers=LAYERS, keep=keep)
                _row(report, keep, made)


def states(arguments: argparse.Namespace, report: Report) -> None:
    """What it is worth that a student learns its teacher's hidden states, too."""
    for collection in arguments.collections:
        with report.or_left_out(collection):
            report.table(f"{LAYERS} of the teacher's layers, {collection}, by the weight of the states", *_HEADINGS)
            for weight in WEIGHTS:
                how = {"layers": LAYERS, "states": weight}
                made = distilled(arguments, collection, "states", SMALL, arguments.seeds[0], **how)
                _row(report, f"{weight:g}", made)


def changed(how: Mapping[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return how a student is made, with what the options say."""

    def asked(*names: str) -> dict[str, Any]:
        return {name: value for name in names if (value := getattr(arguments, name)) is not None}

    settings = {**how["settings"], **asked("depth", "candidates")}
    recipe = {**how["recipe"], **asked("epochs", "batch", "learning_rate", "interpolate")}
    return {**how, **asked("made"), "settings": settings, "recipe": recipe}


def _of_passages(arguments: argparse.Namespace, seed: int, how: Mapping[str, Any]) -> dict[str, Any]:
    return distilled(arguments, "dl19", "passages", how, seed, layers=LAYERS, own=0.0, states=STATES)


def student(arguments: argparse.Namespace, report: Report) -> None:
    """A student on the collection that it serves."""
    from haystack_ce_ranker.backends.model_files import ModelOptions

    how = changed(SERVING, arguments)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.collections}
    report.table(f"A student of {LAYERS} layers on the collection that it serves", *_HEADINGS)
    for seed in arguments.seeds:
        begun = arguments.student or _of_passages(arguments, seed, MAKING)["folder"]
        begin = ModelOptions(begun, device=arguments.device)
        for collection in arguments.collections:
            with report.or_left_out(collection):
                made = distilled(arguments, collection, "student", how, seed, student=begin, states=STATES)
                found[collection].append(made)
                _row(report, f"{collection}, seed {seed}", made)
    for collection, of_seeds in found.items():
        if of_seeds:
            _at_least(report, collection, of_seeds, 0.98)


def passages(arguments: argparse.Namespace, report: Report) -> None:
    """A student from dl19's passages alone, and how fast it is."""
    if arguments.student is None:
        made = [_of_passages(arguments, seed, changed(MAKING, arguments)) for seed in arguments.seeds]
        report.table("A student from passages alone, dl19", *_HEADINGS)
        for seed, one in zip(arguments.seeds, made, strict=True):
            _row(report, f"dl19, seed {seed}", one)
        _at_least(report, "dl19", made, 0.95)
    if arguments.device != "cpu":  # the speeds are those of a CPU
        return
    speeds = _speeds(arguments, _first_student(arguments))
    report.table("Pairs a second, dl19", "", "pairs/s")
    for label, speed in speeds.items():
        report.row(label, speed)
    report.at_least("2.5 times the teacher's pairs/s", speeds["student"] / speeds["teacher"], 2.5)
    report.at_least("int8: 10 times Haystack's ranker", speeds["student, int8"] / speeds["Haystack, teacher"], 10.0)


def _first_student(arguments: argparse.Namespace) -> Path:
    """Return the folder of the student that was named, or of the first seed's."""
    if arguments.student is not None:
        return Path(arguments.student)
    return Path(_of_passages(arguments, arguments.seeds[0], changed(MAKING, arguments))["folder"])


def _speeds(arguments: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Return the pairs a second of teacher, student, the student in int8, and Haystack's ranker; the best of five."""
    from haystack import Document
    from haystack_integrations.components.rankers.sentence_transformers import SentenceTransformersSimilarityRanker

    from haystack_ce_ranker.backends.model_files import ModelOptions
    from haystack_ce_ranker.data.collections import load_collection
    from haystack_ce_ranker.quantizing.quantize import quantize
    from haystack_ce_ranker.quantizing.sample_texts import sample_requests
    from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker

    quantised = folder.with_name(f"{folder.name}-int8")
    if not quantised.is_dir():
        quantize(ModelOptions(str(folder)), quantised, sample_requests(), min_correlation=0.9, min_overlap=0.8)
    teacher = str(common.weights_folder(arguments, TEACHER))
    collection = load_collection(common.collection_folder(arguments, "dl19")).sample(5, seed=arguments.seeds[0])
    documents = [Document(id=name, content=text.content) for name, text in list(collection.documents.items())[:DEPTH]]
    rankers: dict[str, Any] = {
        "teacher": CrossEncoderRanker(model=teacher, threads=arguments.threads),
        "student": CrossEncoderRanker(model=str(folder), threads=arguments.threads),
        "student, int8": CrossEncoderRanker(model=str(quantised), backend="onnx", threads=arguments.threads),
        "Haystack, teacher": SentenceTransformersSimilarityRanker(model=teacher),
    }
    seconds: dict[str, list[float]] = {label: [] for label in rankers}
    for ranker in rankers.values():
        ranker.warm_up()
    for query in collection.queries.values():  # in turns, so that a slower moment of the machine hits all alike
        for label, ranker in rankers.items():
            started = time.perf_counter()
            ranker.run(query=query, documents=documents, top_k=DEPTH)
            seconds[label].append(time.perf_counter() - started)
    return {label: len(documents) / min(some) for label, some in seconds.items()}


def cascade(arguments: argparse.Namespace, report: Report) -> None:
    """The student on all candidates and the teacher on 20 of them, against the teacher on all."""
    from haystack_ce_ranker.data.collections import load_collection
    from haystack_ce_ranker.evaluation.running.experiments import measure, results
    from haystack_ce_ranker.evaluation.running.journal import Journal
    from haystack_ce_ranker.evaluation.running.sweep import plan

    models = [str(_first_student(arguments)), str(common.weights_folder(arguments, TEACHER))]
    collection = load_collection(common.collection_folder(arguments, "dl19")).sample(arguments.queries)
    planned = plan(collection, models=models, backends=["torch"], depths=(DEPTH,))
    with Journal(arguments.cache / "distilled" / "cascade") as journal:
        measured = measure(planned.groups, collection, journal=journal)
    found = {one.name: one for one in results(measured).systems}
    alone = next(one for name, one in found.items() if name == f"cross-encoder {TEACHER}@{DEPTH}")
    both = next(one for name, one in found.items() if name.startswith("cascade"))
    student = next(one for name, one in found.items() if name == f"cross-encoder {Path(models[0]).name}@{DEPTH}")
    report.table(f"A cascade on dl19, depth {DEPTH}", "", "nDCG@10", "ms, median", "J a query", "tokens a query")
    for one in found.values():
        costs = (one.latency_ms.p50, one.joules_per_query, one.tokens_per_query)
        report.row(one.name, f"{one.quality:.4f}", *map(float, costs))
    report.say(f"\nThe student alone has {student.quality / alone.quality:.1%} of the teacher's nDCG@10.")
    report.at_least("cascade less the teacher alone", both.quality - alone.quality, -0.005, "{:+.4f}")
    report.at_most("its time", both.latency_ms.p50 / alone.latency_ms.p50, 0.45, "{:.0%}")
    report.at_most("its joules", both.joules_per_query / alone.joules_per_query, 0.45, "{:.0%}")


def bi_encoder(arguments: argparse.Namespace, report: Report) -> None:
    """A bi-encoder that the teacher taught without labels, as a first stage over the whole of vaswani."""
    from haystack_ce_ranker.backends.model_files import ModelOptions
    from haystack_ce_ranker.data.collections import load_collection
    from haystack_ce_ranker.evaluation.judging.comparison import compare
    from haystack_ce_ranker.evaluation.judging.measures import mean
    from haystack_ce_ranker.training.bi_encoders import BiEncoderRecipe
    from haystack_ce_ranker.training.blending import Blend

    base = str(common.weights_folder(arguments, BI_ENCODER))
    how = changed(TAUGHT, arguments)
    how["settings"] = {**how["settings"], "blend": Blend()}
    given = {"into": "bi-encoder", "student": ModelOptions(base, device=arguments.device), "own": 0.0}
    given["similar"] = BiEncoderRecipe(contrast=arguments.contrast, **how["recipe"])
    collection = load_collection(common.collection_folder(arguments, "vaswani"))
    before = _retrieval(collection, base)
    report.table("A bi-encoder as the first stage, vaswani", "seed", "undistilled", "distilled", "better", "worse", "p")
    gains = []
    for seed in arguments.seeds:
        after = _retrieval(collection, distilled(arguments, "vaswani", "bi-encoder", how, seed, **given)["folder"])
        found = compare(before, after)
        gains.append(found.difference)
        report.row(seed, f"{mean(before):.4f}", f"{mean(after):.4f}", found.wins, found.losses, f"{found.p:.4f}")
    gain = statistics.median(gains)
    report.at_least(f"distilled less undistilled, median of {len(gains)}", gain, 0.03, "{:+.4f}")


def _retrieval(collection: Any, model: str) -> Mapping[str, float]:
    """Return nDCG@10 of each query, over all documents."""
    from haystack_ce_ranker.evaluation.judging.measures import ndcg_at_10
    from haystack_ce_ranker.training.candidates import DENSE, BiEncoder, first_stage

    found = first_stage(collection, collection.queries, DENSE, 10, BiEncoder.load(model))
    run = {query_id: {one.document_id: one.score for one in some} for query_id, some in found.items()}
    return ndcg_at_10(run, collection.judgments)


PARTS = {
    "layers": layers,
    "states": states,
    "student": student,
    "passages": passages,
    "cascade": cascade,
    "bi_encoder": bi_encoder,
}


def options(made: argparse.ArgumentParser) -> None:
    """Add the script's own options."""
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one student for each")
    made.add_argument("--collections", nargs="+", default=list(SERVED), help="for `layers`, `states` and `student`")
    made.add_argument(
        "--student",
        help="a folder with a student: for `cascade`, the speeds of `passages`, and to begin `student` with",
    )
    made.add_argument("--device", default="cpu", help="a torch device to train on")
    made.add_argument("--made", type=int, help="for `passages`, `student`, `bi_encoder`: the most queries to make")
    made.add_argument("--epochs", type=int, help="for the same: the most passes over these queries")
    made.add_argument("--batch", type=int, help="for the same: pairs of a step, or texts of a bi-encoder's")
    made.add_argument("--learning-rate", type=float, help="for the same: the highest one")
    made.add_argument("--depth", type=int, help="for the same: how many documents are found for a query")
    made.add_argument("--candidates", type=int, help="for the same: how many of them are learnt from")
    made.add_argument("--contrast", default="teacher", help="for `bi_encoder`: teacher or in_batch, of its second loss")
    made.add_argument(
        "--interpolate", type=float, help="for `student`, `bi_encoder`: how far from the weights before it goes"
    )
    made.add_argument(
        "--judge", choices=tuple(JUDGES), default=TEACHER, help="the teacher in the form that gives logits"
    )


BENCHMARK = common.Benchmark(
    script=__file__,
    description=__doc__,
    parts=PARTS,
    quick=QUICK,
    options=options,
)

if __name__ == "__main__":
    BENCHMARK.main()
