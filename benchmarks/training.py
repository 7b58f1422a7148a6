"""
What fine-tuning is worth: which loss to use, what it gains on each collection over the untouched model, and in which
numbers to multiply.

    python benchmarks/training.py                                    # a day on two cores; goes on where it was stopped
    python benchmarks/training.py losses --only stackfaq --seeds 0
    python benchmarks/training.py fine_tuning --only stackfaq --train-queries 150 --test-queries 100

A half of the queries of stackfaq and covidqa is learnt from, and the other half is the test. The other collections have
few queries: five folds, each of which is tested by a model that learned from the others. Each run is kept in the cache,
and what is kept is not run again. Needs the extras `train` and `evaluate`.
"""

import argparse
import hashlib
import json
import random
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

import common
from common import CannotRun, Report, collection_folder, weights_folder
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.backends.torch_backend import cpu_has_bfloat16
from haystack_ce_ranker.data.collections import Collection, load_collection
from haystack_ce_ranker.evaluation.judging.comparison import compare
from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10, mean
from haystack_ce_ranker.evaluation.running.journal import Journal
from haystack_ce_ranker.training.commands.train import DEV, TEST, TRAIN, TrainingRun, learn, with_candidates
from haystack_ce_ranker.training.fitting import Recipe
from haystack_ce_ranker.training.gate import BASE, FIRST_STAGE, TRAINED
from haystack_ce_ranker.training.losses import CONTRASTIVE, LOSSES, usual_batch, usual_loss
from haystack_ce_ranker.training.mining import Mining
from haystack_ce_ranker.training.resources import BFLOAT16, DTYPES
from haystack_ce_ranker.training.splits import split_queries

HALVES = {"stackfaq": 0.03, "covidqa": 0.02}
"""Collections whose queries are halved, and what fine-tuning is to gain there."""

FOLDED = ("cacm", "med", "vaswani")
FOLDS = 5
DEV_SHARE = 0.12
LEVEL = 0.05
USUAL = (usual_loss(0), usual_loss(10**6))
"""The losses that `train` takes for few queries, and for many."""

PLAIN, PLAIN_GAIN = "bi-minilm-l6", 0.10
"""A plain encoder, and what it is to gain over BM25 on stackfaq."""

BATCH, LENGTH = 16, 160
"""Pairs of a step that is timed, and their tokens."""

LAYERS, LENGTHS = (3, 6, 12), (80, LENGTH)
"""Of the models whose steps are computed in parts, and the tokens of their pairs."""

QUICK: dict[str, Any] = {"seeds": [0], "train_queries": 12, "test_queries": 10, "depth": 5, "epochs": 1, "steps": 1}

Values = Mapping[str, Mapping[str, float]]
"""For each system, nDCG@10 by query id."""


class Split(NamedTuple):
    """A division of a collection's queries, with a name for what is kept of it."""

    name: str
    ids: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Setting:
    """What is trained, and how; runs with equal settings are one run."""

    collection: str
    base: str
    recipe: Recipe
    mining: Mining
    depth: int
    train_queries: int | None
    test_queries: int | None

    def key(self, split: Split) -> str:
        """Return the name of a run in the journal."""
        return json.dumps({**asdict(self), "split": split.name}, sort_keys=True)


@cache
def collection_of(folder: Path) -> Collection:
    """Return a collection, read once."""
    return load_collection(folder)


def splits_of(collection: Collection, setting: Setting) -> Iterator[Split]:
    """Yield the halves of a collection, or its folds, with equal and near-equal queries on one side."""
    seed = setting.recipe.seed
    if setting.collection in HALVES:
        shares = {TRAIN: 0.5 - DEV_SHARE / 2, DEV: DEV_SHARE / 2, TEST: 0.5}
        yield Split("half", _capped(split_queries(collection.queries, shares, seed=seed), setting))
        return
    folds = split_queries(collection.queries, {str(fold): 1.0 for fold in range(FOLDS)}, seed=seed)
    for fold, test in folds.items():
        others = {name: text for name, text in collection.queries.items() if name not in set(test)}
        ids = split_queries(others, {TRAIN: 1 - DEV_SHARE, DEV: DEV_SHARE}, seed=seed)
        yield Split(f"fold {fold}", _capped({**ids, TEST: test}, setting))


def _capped(ids: Mapping[str, Sequence[str]], setting: Setting) -> dict[str, Sequence[str]]:
    most = {TRAIN: setting.train_queries, TEST: setting.test_queries, DEV: setting.test_queries}
    drawn = random.Random(setting.recipe.seed)
    return {
        name: of_part if (limit := most[name]) is None or len(of_part) <= limit else drawn.sample(of_part, limit)
        for name, of_part in ids.items()
    }


def values_of(setting: Setting, arguments: argparse.Namespace, report: Report) -> Values:
    """Train on each split, and return nDCG@10 of the test queries of all splits together."""
    collection = collection_of(collection_folder(arguments, setting.collection))
    folder = arguments.cache / "training"
    together: dict[str, dict[str, float]] = {}
    way = "" if setting.recipe.interpolate == 1 else f" {setting.recipe.interpolate:g} of the way,"
    with Journal(folder) as journal:
        for split in splits_of(collection, setting):
            found = journal.get("run", setting.key(split))
            if found is None:
                found = _run(setting, split, collection, folder, arguments)
                journal.note("run", setting.key(split), found)
            for system, values in found["ndcg"].items():
                together.setdefault(system, {}).update(values)
            label = f"{setting.collection}, {setting.recipe.loss},{way} seed {setting.recipe.seed}, {split.name}"
            report.say(f"{label}: {told(found)}  ")
    return together


def told(found: Mapping[str, Any]) -> str:
    """Return what a run took, in words."""
    return (
        f"{found['pairs']} pairs, {found['steps']} steps, {found['seconds']:.0f} s, "
        f"{found['expected']:.0f} MB expected, {found['peak']:.0f} MB at most; dev {found['before']:.4f} -> "
        f"{found['dev']:.4f}"
    )


def _run(
    setting: Setting, split: Split, collection: Collection, folder: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    parts = with_candidates(collection, split.ids, depth=setting.depth)
    base = ModelOptions(str(weights_folder(arguments, setting.base)), device=arguments.device)
    name = hashlib.blake2b(setting.key(split).encode(), digest_size=8).hexdigest()
    run = TrainingRun(
        collection_folder(arguments, setting.collection),
        folder / name,
        base,
        recipe=setting.recipe,
        mining=setting.mining,
        threads=arguments.threads,
    )
    learnt = learn(run, parts, folder / name, Console(force_terminal=False, width=160, stderr=True))
    fitted = learnt.fitted
    return {
        "ndcg": {system: dict(values[NDCG_AT_10]) for system, values in learnt.found.by_query.items()},
        "pairs": fitted.pairs,
        "steps": fitted.steps,
        "seconds": fitted.seconds,
        "joules": fitted.joules,
        "expected": fitted.expected_memory_mb,
        "peak": fitted.peak_memory_mb or 0.0,
        "before": fitted.before,
        "dev": fitted.best.ndcg,
    }


def setting_of(name: str, seed: int, arguments: argparse.Namespace, *, loss: str, base: str) -> Setting:
    """Return what the arguments ask for on a collection."""
    steps = {name: getattr(arguments, name) for name in ("epochs", "learning_rate", "interpolate")}
    recipe = Recipe(loss=loss, seed=seed, batch=usual_batch(loss), **steps)
    mining = Mining(negatives=arguments.negatives, positives=arguments.positives, last_rank=50, seed=seed)
    limits = arguments.train_queries, arguments.test_queries
    return Setting(name, base, recipe, mining, arguments.depth, *limits)


def loss_of(name: str, arguments: argparse.Namespace) -> str:
    """Return the loss that was asked for, or the one that `train` takes for as many queries."""
    if arguments.loss is not None:
        return str(arguments.loss)
    share = 0.5 - DEV_SHARE / 2 if name in HALVES else (1 - 1 / FOLDS) * (1 - DEV_SHARE)
    learnt = round(share * len(collection_of(collection_folder(arguments, name)).queries))
    return usual_loss(learnt if arguments.train_queries is None else min(learnt, arguments.train_queries))


class Figures(NamedTuple):
    """Of one seed: mean nDCG@10 of each system, and the p of the trained model against the one to beat."""

    first_stage: float
    base: float | None
    trained: float
    p: float
    worse: bool


def figures(values: Values) -> Figures:
    """Return the figures of all test queries."""
    to_beat = BASE if BASE in values else FIRST_STAGE
    found = compare(values[to_beat], values[TRAINED])
    base = mean(values[BASE]) if BASE in values else None
    worse = found.difference < 0 and found.p < LEVEL
    return Figures(mean(values[FIRST_STAGE]), base, mean(values[TRAINED]), found.p, worse)


def chosen(names: Iterable[str], arguments: argparse.Namespace) -> list[str]:
    """
    Return the collections that were asked for.

    :raises CannotRun: If none of them was.
    """
    found = [name for name in names if arguments.only is None or name in arguments.only]
    if not found:
        raise CannotRun(f"--only {' '.join(arguments.only)} names no collection of this part")
    return found


def losses(arguments: argparse.Namespace, report: Report) -> None:
    """Compare the losses: the default is the one with the highest mean over the collections."""
    names = chosen((*HALVES, *FOLDED), arguments)
    found: dict[tuple[str, str], list[Figures]] = {}
    for loss in LOSSES:
        for name in names:
            settings = [setting_of(name, seed, arguments, loss=loss, base=arguments.base) for seed in arguments.seeds]
            found[loss, name] = [figures(values_of(one, arguments, report)) for one in settings]
    report.table("Gain in nDCG@10 over the untouched model, median over the seeds", "loss", *names, "mean")
    for loss in LOSSES:
        gains = [statistics.median(one.trained - (one.base or 0.0) for one in found[loss, name]) for name in names]
        report.row(f"`{loss}`", *(f"{gain:+.4f}" for gain in gains), f"{statistics.fmean(gains):+.4f}")


def fine_tuning(arguments: argparse.Namespace, report: Report) -> None:
    """Say what fine-tuning gains on each collection, and whether that is what was aimed for."""
    names = chosen((*HALVES, *FOLDED), arguments)
    found = {
        name: [
            figures(
                values_of(
                    setting_of(name, seed, arguments, loss=loss_of(name, arguments), base=arguments.base),
                    arguments,
                    report,
                )
            )
            for seed in arguments.seeds
        ]
        for name in names
    }
    report.table(
        "nDCG@10 on queries that training never saw", "collection", "seed", "BM25", "untouched", "trained", "p"
    )
    for name, of_seeds in found.items():
        for seed, one in zip(arguments.seeds, of_seeds, strict=True):
            report.row(name, seed, f"{one.first_stage:.4f}", f"{one.base:.4f}", f"{one.trained:.4f}", f"{one.p:.4f}")
    for name, of_seeds in found.items():
        gain = statistics.median(one.trained - (one.base or 0.0) for one in of_seeds)
        if name in HALVES:
            p = statistics.median(one.p for one in of_seeds)
            report.target(
                f"{name}: gain >= {HALVES[name]}, p < {LEVEL}",
                gain >= HALVES[name] and p < LEVEL,
                f"{gain:+.4f}, p {p:.4f}",
            )
        else:
            worse = sum(one.worse for one in of_seeds)
            report.target(
                f"{name}: never significantly below the untouched model", not worse, f"{worse} of {len(of_seeds)}"
            )
        if name == "cacm":
            over = statistics.median(one.trained - one.first_stage for one in of_seeds)
            report.target("cacm: at least BM25", over >= 0, f"{over:+.4f}")


def few_queries(arguments: argparse.Namespace, report: Report) -> None:
    """Compare the losses that `train` takes for few and for many queries, where there are few."""
    _compared(USUAL, arguments, report)


def other_losses(arguments: argparse.Namespace, report: Report) -> None:
    """Compare the losses that `train` only takes if it is asked to, where there are few queries to learn from."""
    _compared([loss for loss in LOSSES if loss not in USUAL and loss != CONTRASTIVE], arguments, report)


def _compared(named: Sequence[str], arguments: argparse.Namespace, report: Report) -> None:
    names = chosen(FOLDED, arguments)
    of_loss: dict[str, list[float]] = {loss: [] for loss in named}
    rows: list[list[Any]] = []
    for name in names:
        for seed in arguments.seeds:
            found = {
                loss: figures(
                    values_of(setting_of(name, seed, arguments, loss=loss, base=arguments.base), arguments, report)
                )
                for loss in of_loss
            }
            for loss, one in found.items():
                of_loss[loss].append(one.trained - (one.base or 0.0))
            one = next(iter(found.values()))
            cells = (f"{each.trained:.4f} (p {each.p:.2f})" for each in found.values())
            rows.append([name, seed, f"{one.first_stage:.4f}", f"{one.base:.4f}", *cells])
    headings = ("collection", "seed", "BM25", "untouched", *of_loss)
    report.table("nDCG@10 where there are few queries to learn from; p against the untouched model", *headings)
    for row in rows:
        report.row(*row)
    told = ", ".join(f"{statistics.fmean(gains):+.4f} by {loss}" for loss, gains in of_loss.items())
    report.say(f"\nMean gain: {told}.")


def plain_encoder(arguments: argparse.Namespace, report: Report) -> None:
    """Say what a plain encoder learns on stackfaq."""
    settings = [
        setting_of("stackfaq", seed, arguments, loss=arguments.loss or "bce", base=PLAIN) for seed in arguments.seeds
    ]
    found = [figures(values_of(one, arguments, report)) for one in settings]
    report.table(f"stackfaq from {PLAIN}", "seed", "BM25", "trained", "p")
    for seed, one in zip(arguments.seeds, found, strict=True):
        report.row(seed, f"{one.first_stage:.4f}", f"{one.trained:.4f}", f"{one.p:.4f}")
    over = statistics.median(one.trained - one.first_stage for one in found)
    report.at_least("stackfaq from a plain encoder, over BM25", over, PLAIN_GAIN, "{:+.4f}")


def dtypes(arguments: argparse.Namespace, report: Report) -> None:
    """Compare what training multiplies in: what a model is worth then, and what a step costs."""
    for name in arguments.only or [next(iter(HALVES))]:
        report.table(f"{name}, trained in float32 and in bfloat16", "seed", *DTYPES, "difference", "p")
        for seed in arguments.seeds:
            setting = setting_of(name, seed, arguments, loss=loss_of(name, arguments), base=arguments.base)
            single, half = (
                values_of(replace(setting, recipe=replace(setting.recipe, dtype=dtype)), arguments, report)[TRAINED]
                for dtype in DTYPES
            )
            found = compare(single, half)
            report.row(seed, f"{mean(single):.4f}", f"{mean(half):.4f}", f"{found.difference:+.4f}", f"{found.p:.4f}")
    if arguments.device == "cpu":
        seconds = {dtype: step_seconds(arguments, dtype) for dtype in DTYPES}
        told = ", ".join(f"{each:.2f} in {dtype}" for dtype, each in seconds.items())
        report.say(f"\nCPU seconds of a step of {BATCH} pairs of {LENGTH} tokens, median of {arguments.steps}: {told}.")
        float32, bfloat16 = seconds.values()
        report.say(f"A step in bfloat16 takes {bfloat16 / float32:.0%} of that in float32.")


def at_once(arguments: argparse.Namespace, report: Report) -> None:
    """What it costs to compute a step in small parts, by the layers of the model."""
    sizes, dtype = (4, 8, BATCH), DTYPES[cpu_has_bfloat16()]
    headings = (f"{size} pairs at once" for size in sizes)
    report.table(f"CPU seconds of a step of {BATCH} pairs, {dtype}", "layers", "tokens", *headings)
    for layers in LAYERS:
        for length in LENGTHS:
            seconds = [step_seconds(arguments, dtype, length, at_once=size, layers=layers) for size in sizes]
            report.row(layers, length, *(f"{each:.2f}" for each in seconds))


def step_seconds(
    arguments: argparse.Namespace, dtype: str, length: int = LENGTH, *, at_once: int = BATCH, layers: int | None = None
) -> float:
    """
    Return the median CPU seconds of a step, forwards and backwards, on random tokens by random weights.

    :param length: Tokens of a pair.
    :param at_once: In parts of how many pairs.
    :param layers: How many of the model's layers are computed; None for all.
    """
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    cut = {} if layers is None else {"num_hidden_layers": layers}
    folder = weights_folder(arguments, arguments.base)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.from_pretrained(folder, **cut)).train()
    ids = torch.randint(1000, 20000, (BATCH, length), generator=torch.Generator().manual_seed(0))
    seconds = []
    for _ in range(arguments.steps):
        began = time.process_time()
        for part in ids.split(at_once):
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == BFLOAT16):
                logits = model(input_ids=part, attention_mask=torch.ones_like(part)).logits
            logits.float().square().mean().backward()
        seconds.append(time.process_time() - began)
    return statistics.median(seconds)


PARTS = {
    "losses": losses,
    "fine_tuning": fine_tuning,
    "few_queries": few_queries,
    "other_losses": other_losses,
    "plain_encoder": plain_encoder,
    "dtypes": dtypes,
    "at_once": at_once,
}


def options(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--base", default="ce-minilm-l12", help="a folder below --models")
    parser.add_argument("--only", choices=(*HALVES, *FOLDED), nargs="+", help="some of the collections")
    parser.add_argument("--loss", choices=tuple(LOSSES), help="of parts that compare none; else what `train` takes")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run for each")
    parser.add_argument("--device", default="cpu", help="a torch device")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--interpolate", type=float, default=1.0, help="how far from the base's weights to go")
    parser.add_argument("--steps", type=int, default=7, help="how many are timed, where steps are")
    parser.add_argument("--negatives", type=int, default=4, help="the most for each query")
    parser.add_argument("--positives", type=int, default=2, help="the most for each query")
    parser.add_argument("--depth", type=int, default=20, help="candidates of a held-out query")
    parser.add_argument("--train-queries", type=int, default=None, help="at most so many to learn from")
    parser.add_argument("--test-queries", type=int, default=None, help="at most so many dev and test queries")


BENCHMARK = common.Benchmark(__file__, __doc__, PARTS, QUICK, options, pin=False)

if __name__ == "__main__":
    BENCHMARK.main()
