"""Results, made up: a plain sweep, one full of markup, the least there can be, and a large one."""

from dataclasses import replace

import numpy as np

from haystack_ce_ranker.data.left_out import LeftOut
from haystack_ce_ranker.evaluation.judging.choosing import Judge, Limits
from haystack_ce_ranker.evaluation.judging.comparison import Evidence, Passage, Versus, helped_and_hurt, versus
from haystack_ce_ranker.evaluation.judging.measures import MEASURES, NDCG_AT_10, UNJUDGED
from haystack_ce_ranker.evaluation.judging.results import Results
from haystack_ce_ranker.evaluation.judging.segments import judge
from haystack_ce_ranker.evaluation.judging.systems import Kind, Latency, Stage, System
from haystack_ce_ranker.evaluation.judging.verdict import Answer, verdict
from haystack_ce_ranker.machine.memory import MemoryRow

NASTY = "<img src=x onerror=alert(1)> & 'quoted' \"name\" of-a-model-with-a-very-long-name-and-no-blank-anywhere"

ESTIMATED = "estimated: rated power and busy time"


def figures(name, quality, milliseconds, *, depth=None, kind="first stage", model=None, joules=None, **changes):
    """A system; `changes` replace its fields, and `unjudged` its share of unjudged documents."""
    deep = 0 if depth is None else depth
    measures = {**dict.fromkeys((one.label for one in MEASURES), 0.5), UNJUDGED: changes.pop("unjudged", 0.5)}
    against = Versus(quality - 0.5, quality - 0.54, quality - 0.46, 0.001, 5, 1, 2, p_corrected=0.004)
    given = {
        "name": name,
        "measures": {**measures, NDCG_AT_10: quality},
        "interval": {NDCG_AT_10: (quality - 0.04, quality + 0.04)},
        "kind": Kind(kind),
        "first_stage": None,
        "model": model,
        "backend": None if model is None else "onnx",
        "dtype": None if model is None else "int8",
        "strategy": None if model is None else "best_passages",
        "depth": depth,
        "latency_ms": Latency(milliseconds, milliseconds * 2, milliseconds * 3),
        "stages_ms": {Stage.RETRIEVE: 1.0, Stage.TOKENISE: 0.02 * deep, Stage.SCORE: milliseconds - 1.0},
        "tokens_per_query": deep * 90.0,
        "pairs_per_query": float(deep),
        "joules_per_query": joules,
        "energy_source": None if joules is None else ESTIMATED,
        "peak_memory_mb": 512.0,
        "read_share": None if depth is None else 0.875,
        "versus": None if depth is None else against,
    }
    return System(**(given | changes))


def rejudged(found, limits=None, **changes):
    """The same results with some fields replaced, and the verdict that follows."""
    changed = replace(found, **changes)
    limits = found.verdict.budget if limits is None and found.verdict is not None else limits
    judging = Judge(changed.systems, changed.baseline, changed.by_query, Limits() if limits is None else limits)
    told = verdict(
        judging,
        queries=changed.queries,
        complete=changed.complete,
        memory=changed.memory_by_batch,
        segments=changed.segments,
        left_out=changed.left_out,
    )
    return replace(changed, verdict=told)


def altered(found, name, **changes):
    """The same results with some figures of one system replaced, and the verdict that follows."""
    unjudged = {UNJUDGED: changes.pop("unjudged")} if "unjudged" in changes else {}
    systems = [
        replace(one, measures={**one.measures, **unjudged}, **changes) if one.name == name else one
        for one in found.systems
    ]
    return rejudged(found, systems=tuple(systems))


def by_name(found):
    """The systems by their names."""
    return {one.name: one for one in found.systems}


def made(systems, *, by_query, queries, baseline="bm25", limits=None, **changes):
    """Results of some systems, with the verdict that follows from them."""
    given = {
        "version": 2,
        "collection": "shop",
        "documents": 12345,
        "queries": queries,
        "relevance_level": 1,
        "complete": True,
        "baseline": baseline,
        "notes": ("2 queries without judgments are left out",),
        "machine": {"processor": "a CPU", "python": "3.11"},
        "systems": tuple(systems),
        "by_query": by_query,
        "memory_by_batch": (),
        "features": {},
        "segments": None,
        "helped_and_hurt": None,
        "verdict": None,
    }
    return rejudged(Results(**(given | changes)), limits)


def answering(found, *answers, **changes):
    """The same results with other answers in their verdict."""
    return replace(found, verdict=replace(found.verdict, answers=answers, **changes))


def results(*, models=("small",), depths=(10, 50), chosen="cross-encoder small@50", queries=8, **changes):
    """A sweep, with a verdict of one answer; `changes` replace fields at the top."""
    systems = [figures("bm25", 0.5, 1.0, joules=0.02)]
    for number, model in enumerate(models, start=1):
        for kind in ("cross-encoder", "hybrid"):
            for depth in depths:
                entry = {"depth": depth, "kind": kind, "model": model, "joules": depth * number * 0.1}
                systems.append(figures(f"{kind} {model}@{depth}", 0.5 + depth / 500, 8.0 * depth * number, **entry))
    by_query = {
        one.name: {NDCG_AT_10: {f"q{n}": 0.3 if place else (n % 8) / 10 for n in range(queries)}}
        for place, one in enumerate(systems)
    }
    answer = Answer("worth_it", "Is it worth it?", "Yes", "It gains +0.1000.", chosen)
    found = made(systems, by_query=by_query, queries=queries, **changes)
    return answering(found, answer, subject=None, not_compared=(), cautions=())


def nasty():
    """Every text that others chose is markup, and long."""
    name = f"hybrid {NASTY}@50"
    found = results(models=(NASTY, "other"))
    found = replace(found, collection=NASTY, notes=(NASTY,), machine={"processor": NASTY})
    found = replace(found, left_out=(LeftOut(NASTY),))
    found = altered(found, name, energy_source="measured")
    found = replace(found, memory_by_batch=memory(NASTY), helped_and_hurt=helped(found, name, document=NASTY))
    found = rejudged(found, segments=replace(judged(found, name), system=NASTY))
    answer = Answer("worth_it", NASTY, NASTY, NASTY, name)
    return answering(found, answer, cautions=(NASTY,), not_compared=(NASTY,))


def bare():
    """The least that there may be: one pipeline, nothing chosen, no energy, no queries."""
    nothing = {"read_share": None, "versus": None, "stages_ms": {}, "interval": {}, "peak_memory_mb": None}
    system = figures("mine/ranker", 0.5, 1.0, kind="pipeline", **nothing)
    found = made([system], by_query={}, queries=8, baseline=None, notes=())
    return answering(found, choice=None, cautions=())


def many():
    """A sweep of more systems than a picture of bars has room for, on many queries."""
    return completed(results(models=("small", "big", "bigger"), depths=(10, 20, 50, 100), queries=300))


def sweep(systems, *, queries=60, noise=0.1, seed=0, baseline="bm25", **changes):
    """
    A sweep whose figures fit together: values by query, their means, the comparisons made of them, and the verdict.

    :param systems: For each name a mapping with `quality`, `ms`, and whatever `figures` takes.
    :param changes: Fields of the results; `limits`: what a query may cost.
    """
    random = np.random.default_rng(seed)
    hardness = random.normal(0, 0.2, queries)
    by_query = {}
    for name, entry in systems.items():
        values = hardness + random.normal(0, noise, queries)
        values += entry["quality"] - values.mean()
        by_query[name] = {NDCG_AT_10: {f"q{place}": float(value) for place, value in enumerate(values)}}
    against = versus(by_query, baseline) if baseline is not None else {}
    entries = {name: {"versus": against.get(name), **entry} for name, entry in systems.items()}
    measured = [
        figures(name, quality, ms, **others)
        for name, entry in entries.items()
        for quality, ms, others in [(entry["quality"], entry["ms"], without(entry, "quality", "ms"))]
    ]
    given = {"by_query": by_query, "queries": queries, "baseline": baseline, "notes": ()}
    return made(measured, **(given | changes))


def without(entry, *keys):
    return {key: value for key, value in entry.items() if key not in keys}


def cross_encoders(curve, *, kind="cross-encoder", model="small", ms_each=4.0, joules_each=0.1, **others):
    """Entries for `sweep`, one a depth."""
    return {
        f"{kind} {model}@{depth}": {
            "quality": quality,
            "ms": 1.0 + ms_each * depth,
            "joules": joules_each * depth,
            "depth": depth,
            "kind": kind,
            "model": model,
            **others,
        }
        for depth, quality in curve.items()
    }


BM25 = {"bm25": {"quality": 0.5, "ms": 1.0, "joules": 0.02}}


def completed(found):
    """The same with segments, the queries most helped and hurt, memory and limits, made as `evaluate` makes them."""
    limits = Limits(ms=200.0, joules=3.0)
    name = rejudged(found, limits).verdict.subject
    changes = {"features": described(found), "memory_by_batch": memory("small")}
    if name is not None and found.baseline is not None:
        changes |= {"segments": judged(found, name), "helped_and_hurt": helped(found, name)}
    return rejudged(found, limits, **changes)


def described(found):
    """Features of the made-up queries."""
    random = np.random.default_rng(1)
    keys = ("query_words", "shared_words", "relevant_words", "candidate_words", "relative_margin", "nqc")
    ids = [f"q{place}" for place in range(found.queries)]
    return {query: dict(zip(keys, random.random(len(keys)).tolist(), strict=True)) for query in ids}


def judged(found, system):
    """Segments of the made-up queries."""
    return judge(described(found), found.by_query, baseline=found.baseline, system=system, fewest=2)


def helped(found, system, *, document="document"):
    """The queries most helped and hurt, with made-up documents."""
    ids = [f"{document}-{place}" for place in range(12)]
    queries = [f"q{place}" for place in range(found.queries)]
    read = (Passage(0, 620, 4.25), Passage(12_400, 13_050, -1.5))
    return helped_and_hurt(
        found.by_query,
        baseline=found.baseline,
        system=system,
        before={query: {one: 20.0 - place for place, one in enumerate(ids)} for query in queries},
        after={query: {one: 20.0 - place for place, one in enumerate(reversed(ids))} for query in queries},
        judgments={query: {ids[0]: 1, ids[11]: 2, ids[4]: 0} for query in queries},
        readings={query: {one: Evidence(4.25, 0.4, read) for one in ids[1:]} for query in queries},
    )


def memory(model):
    """Peak memory by the tokens of a batch."""
    rows = {1024: 310.0, 4096: 420.0, 16384: 903.0}
    return tuple(MemoryRow(model, "onnx", peak, tokens, "cpu") for tokens, peak in rows.items())
