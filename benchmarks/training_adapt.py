"""
Adapting without labels: what the teacher is worth, which recipes of made queries teach, and what is gained.

    python benchmarks/training_adapt.py                      # hours on two cores; goes on where it was stopped
    python benchmarks/training_adapt.py teacher              # a second: from kept scores alone
    python benchmarks/training_adapt.py adapt --only med --seeds 0 --threads 1
    python benchmarks/training_adapt.py adapt --loss contrastive      # what each query was made of, not the order

Judgments are used for nothing but the test. Each run keeps its work and its result in the cache; a result is taken from
there again as long as its settings are the same. Needs the extras `train` and `evaluate`.
"""

import argparse
import hashlib
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

import common
from common import CannotRun, Report, collection_folder, weights_folder
from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.evaluation.judging.measures import ndcg_at_10, ranked_scores
from haystack_ce_ranker.evaluation.running.journal import Journal
from haystack_ce_ranker.significance import randomisation_test
from haystack_ce_ranker.training.adapting import Adapting
from haystack_ce_ranker.training.blending import BM25, DENSE, Blend
from haystack_ce_ranker.training.commands.adapt import RECIPE, AdaptRun, run_adapting
from haystack_ce_ranker.training.fitting import Recipe
from haystack_ce_ranker.training.gate import BASE, TRAINED
from haystack_ce_ranker.training.losses import CONTRASTIVE, LOSSES, usual_batch
from haystack_ce_ranker.training.made_queries import RECIPES

COLLECTIONS = ("dl19", "stackfaq", "covidqa", "cacm", "med", "vaswani")
SCORED = ("dl19", "stackfaq", "cacm", "med", "vaswani")
"""Collections of which the scores of all three first stages are kept, in `join-scores`."""

GAIN, MINUTES, LEVEL = 0.02, 60.0, 0.05
LABEL = "nDCG@10"


@dataclass(frozen=True)
class Result:
    """
    What one run found.

    :ivar base: nDCG@10 of the untouched base.
    :ivar trained: Of the adapted model.
    :ivar p: Of the difference, corrected.
    :ivar minutes: Of training.
    :ivar met: Whether the gate let the model through.
    """

    base: float
    trained: float
    p: float
    minutes: float
    met: bool

    @property
    def gain(self) -> float:
        """The adapted model against the base."""
        return self.trained - self.base


def teacher(arguments: argparse.Namespace, report: Report) -> None:
    """Print how the blended teachers rank beside the model alone, on BM25's candidates of judged queries."""
    blends = {
        "cross-encoder": None,
        "with BM25": (Blend(), (BM25,)),
        "with BM25 and bi-encoder": (Blend(), (BM25, DENSE)),
        "the same, however sure": (Blend(unsure=0.999, sure=1.0), (BM25, DENSE)),
    }
    report.table("nDCG@10 of the teachers on BM25's 30 first; p against the cross-encoder", "", *blends)
    for name in chosen(arguments, SCORED):
        with report.or_left_out(name):
            path = collection_folder(arguments, "join-scores") / f"{name}.json"
            entries = json.loads(path.read_text(encoding="utf-8"))
            values = {label: quality(entries, blend) for label, blend in blends.items()}
            plain = values["cross-encoder"]
            cells = [f"{plain.mean():.3f}"]
            for label in list(blends)[1:]:
                difference = values[label] - plain
                cells.append(f"{difference.mean():+.3f} (p {randomisation_test(difference):.3f})")
            report.row(f"{name} ({len(plain)} queries)", *cells)


def quality(entries: Mapping[str, Any], blend: tuple[Blend, tuple[str, ...]] | None) -> np.ndarray:
    """Return nDCG@10 of each query."""
    run, judgments = {}, {}
    for query_id, entry in entries.items():
        names = list(entry["bm25"])
        scores = np.array([entry["ce"][name] for name in names])
        if blend is not None:
            lowest = min(entry["dense"].values())
            lists = {
                BM25: np.array([entry["bm25"][name] for name in names]),
                DENSE: np.array([entry["dense"].get(name, lowest) for name in names]),
            }
            scores = blend[0](scores, {name: lists[name] for name in blend[1]})
        order = np.argsort(-scores, kind="stable")
        run[query_id] = ranked_scores([names[place] for place in order], scores[order].tolist())
        judgments[query_id] = {name: int(grade) for name, grade in entry["rel"].items()}
    return np.array(list(ndcg_at_10(run, judgments).values()))


def recipes(arguments: argparse.Namespace, report: Report) -> None:
    """Print what each recipe of made queries teaches alone, and all of them together."""
    names = chosen(arguments, ("cacm", "vaswani"))
    report.table("nDCG@10 against the untouched base, by recipe", "recipe", *names)
    for mix in (*((name,) for name in RECIPES), tuple(RECIPES)):
        cells = []
        for name in names:
            found = results(name, arguments, seeds=arguments.seeds[:1], mix=mix)
            cells.append(f"{found[0].gain:+.4f} (p {found[0].p:.3f})")
        report.row(" + ".join(mix), *cells)


def adapt(arguments: argparse.Namespace, report: Report) -> None:
    """Print what adapting gains on each collection, as the median over the seeds."""
    headings = ("base", "adapted", "gain", "p", "minutes", "let through")
    report.table("nDCG@10 on judged queries, medians over the seeds", "", *headings)
    medians: dict[str, Result] = {}
    for name in chosen(arguments, COLLECTIONS):
        with report.or_left_out(name):
            found = results(name, arguments, seeds=arguments.seeds, mix=tuple(RECIPES))
            one = sorted(found, key=lambda result: result.gain)[(len(found) - 1) // 2]
            medians[name] = one
            through = f"{sum(result.met for result in found)} of {len(found)}"
            minutes = statistics.median(result.minutes for result in found)
            cells = (f"{one.base:.4f}", f"{one.trained:.4f}", f"{one.gain:+.4f}", f"{one.p:.3f}", f"{minutes:.0f}")
            report.row(name, *cells, through)
    better = [name for name, one in medians.items() if one.gain >= GAIN]
    worse = [name for name, one in medians.items() if one.gain < 0 and one.p < LEVEL]
    report.target(f"at least +{GAIN} on two", len(better) >= 2, ", ".join(better) or "none")
    report.target("significantly below the base on none", not worse, ", ".join(worse) or "none")
    slowest = max((one.minutes for one in medians.values()), default=0.0)
    report.at_most(f"at most {MINUTES:.0f} minutes each", slowest, MINUTES, "{:.0f}")


def results(name: str, arguments: argparse.Namespace, *, seeds: Sequence[int], mix: tuple[str, ...]) -> list[Result]:
    """Adapt to a collection with some seeds, or take what was kept of it."""
    return [result(name, arguments, seed=seed, mix=mix) for seed in seeds]


def result(name: str, arguments: argparse.Namespace, *, seed: int, mix: tuple[str, ...]) -> Result:
    """Adapt to a collection once."""
    base = weights_folder(arguments, arguments.base)
    run = AdaptRun(
        collection_folder(arguments, name),
        Path(),
        ModelOptions(str(base), device=arguments.device),
        bi_encoder=str(weights_folder(arguments, arguments.bi_encoder)),
        mix=mix,
        queries=arguments.made,
        settings=Adapting(candidates=arguments.candidates, seed=seed),
        recipe=recipe_of(arguments, seed),
        test_queries=arguments.queries,
        threads=arguments.threads,
        save="better",
    )
    settings = {**asdict(run), "collection": name, "base": base.name, "bi_encoder": arguments.bi_encoder}
    settings = {key: value for key, value in settings.items() if key not in ("output", "threads")}
    key = json.dumps(settings, sort_keys=True, default=str)
    folder = arguments.cache / "training_adapt"
    with Journal(folder) as journal:
        kept = journal.get(key, name)
        if kept is None:
            # the folder's name holds all that the run depends on, so that another command never finds its work there
            output = folder / folder_name(name, key)
            kept = asdict(_run(run, output))
            journal.note(key, name, kept)
    return Result(**kept)


def recipe_of(arguments: argparse.Namespace, seed: int) -> Recipe:
    """Return how a model learns, by this script's options."""
    is_contrastive = arguments.loss == CONTRASTIVE
    loss = {"loss": arguments.loss, "learns": "labels" if is_contrastive else "teacher"}
    steps = {name: getattr(arguments, name) for name in ("epochs", "learning_rate", "interpolate")}
    steps["max_length"] = arguments.tokens
    return replace(RECIPE, seed=seed, batch=usual_batch(arguments.loss), **loss, **steps)


def _run(run: AdaptRun, output: Path) -> Result:
    run = type(run)(**{**vars(run), "output": output})
    found = run_adapting(run, Console(stderr=True))
    if found is None:
        sys.exit(130)
    facts = output / ("training.json" if found.saves(run.save) else "report.json")
    seconds = json.loads(facts.read_text(encoding="utf-8"))["fitted"]["seconds"]
    means = {system: values[LABEL] for system, values in found.means.items()}
    p = found.versus[BASE].p_corrected
    return Result(means[BASE], means[TRAINED], p, seconds / 60.0, found.decision.met)


def folder_name(name: str, key: str) -> str:
    """Return a folder's name for a run."""
    return f"{name}-{hashlib.blake2b(key.encode(), digest_size=5).hexdigest()}"


def chosen(arguments: argparse.Namespace, names: tuple[str, ...]) -> list[str]:
    """Return those of the collections that were asked for."""
    found = [name for name in names if not arguments.only or name in arguments.only]
    if not found:
        raise CannotRun(f"none of {', '.join(names)} was asked for")
    return found


def options(made: argparse.ArgumentParser) -> None:
    """Add this script's options."""
    made.add_argument("--only", action="append", choices=COLLECTIONS, help="this collection; may be repeated")
    made.add_argument("--base", default="ce-minilm-l12", help="the cross-encoder to adapt, a folder of the weights")
    made.add_argument("--bi-encoder", default="bi-minilm-l6", help="the bi-encoder, a folder of the weights")
    made.add_argument("--made", type=int, default=1000, help="queries to make")
    made.add_argument("--candidates", type=int, default=8, help="documents of each to learn from")
    made.add_argument("--tokens", type=int, default=256, help="tokens of a pair")
    made.add_argument("--epochs", type=int, default=1, help="passes over the queries")
    made.add_argument("--loss", choices=tuple(LOSSES), default=RECIPE.loss, help="what the model learns by")
    made.add_argument("--learning-rate", type=float, default=RECIPE.learning_rate)
    made.add_argument("--interpolate", type=float, default=1.0, help="how far from the base's weights to go")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="one run for each")
    made.add_argument("--device", default="cpu", help="a torch device")


BENCHMARK = common.Benchmark(
    __file__,
    __doc__,
    {"teacher": teacher, "recipes": recipes, "adapt": adapt},
    quick={"made": 40, "candidates": 4, "seeds": [0], "queries": 5, "tokens": 96, "only": ["cacm"]},
    options=options,
)

if __name__ == "__main__":
    BENCHMARK.main()
