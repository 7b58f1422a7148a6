"""What results.json holds, made up: a plain sweep, one full of markup, the least there can be, and a large one."""

import numpy as np

from haystack_ce_ranker.evaluation.judging.comparison import helped_and_hurt, versus
from haystack_ce_ranker.evaluation.judging.segments import judge
from haystack_ce_ranker.evaluation.judging.verdict import subject, verdict

NASTY = "<img src=x onerror=alert(1)> & 'quoted' \"name\" of-a-model-with-a-very-long-name-and-no-blank-anywhere"

ESTIMATED = "estimated: rated power and busy time"


def figures(quality, milliseconds, *, depth=None, kind="first stage", model=None, joules=None, source=ESTIMATED):
    """A system's entry in results.json."""
    deep = 0 if depth is None else depth
    against = {"difference": quality - 0.5, "low": quality - 0.54, "high": quality - 0.46, "p": 0.001}
    return {
        **dict.fromkeys(("MRR@10", "Recall@10", "Recall@100", "AP", "Success@1", "unjudged@10"), 0.5),
        "nDCG@10": quality,
        "interval": {"nDCG@10": [quality - 0.04, quality + 0.04]},
        "kind": kind,
        "model": model,
        "backend": None if model is None else "onnx",
        "dtype": None if model is None else "int8",
        "strategy": None if model is None else "best_passages",
        "depth": depth,
        "latency_ms": {"p50": milliseconds, "p95": milliseconds * 2, "p99": milliseconds * 3},
        "stages_ms": {"retrieve": 1.0, "tokenise": 0.02 * deep, "score": milliseconds - 1.0, "join": None},
        "tokens_per_query": deep * 90.0,
        "pairs_per_query": float(deep),
        "joules_per_query": joules,
        "energy_source": None if joules is None else source,
        "peak_memory_mb": 512.0,
        "read_share": None if depth is None else 0.875,
        "versus": None if depth is None else {**against, "p_corrected": 0.004, "wins": 5, "ties": 1, "losses": 2},
    }


def results(*, models=("small",), depths=(10, 50), chosen="cross-encoder small@50", queries=8, **changes):
    """What results.json holds of a sweep, with a verdict of one answer; `changes` replace keys at the top."""
    systems = {"bm25": figures(0.5, 1.0, joules=0.02)}
    for number, model in enumerate(models, start=1):
        for kind in ("cross-encoder", "hybrid"):
            for depth in depths:
                entry = {"depth": depth, "kind": kind, "model": model, "joules": depth * number * 0.1}
                systems[f"{kind} {model}@{depth}"] = figures(0.5 + depth / 500, 8.0 * depth * number, **entry)
    by_query = {
        name: {"nDCG@10": {f"q{n}": 0.3 if place else (n % 8) / 10 for n in range(queries)}}
        for place, name in enumerate(systems)
    }
    answer = {"question": "Is it worth it?", "answer": "Yes", "reason": "It gains +0.1000.", "system": chosen}
    return {
        "version": 2,
        "collection": "shop",
        "documents": 12345,
        "queries": queries,
        "relevance_level": 1,
        "baseline": "bm25",
        "notes": ["2 queries without judgments are left out"],
        "machine": {"processor": "a CPU", "python": "3.11"},
        "systems": systems,
        "by_query": by_query,
        "features": {},
        "segments": None,
        "memory_by_batch": [],
        "helped_and_hurt": None,
        "verdict": {"answers": [answer]},
        **changes,
    }


def nasty():
    """Every text that others chose is markup, and long."""
    found = results(models=(NASTY, "other"), chosen=f"hybrid {NASTY}@50")
    found |= {"collection": NASTY, "notes": [NASTY], "machine": {"processor": NASTY}}
    found["systems"][f"hybrid {NASTY}@50"]["energy_source"] = "measured"
    found["memory_by_batch"] = memory(NASTY)
    found["helped_and_hurt"] = helped(found, f"hybrid {NASTY}@50", document=NASTY)
    found["segments"] = {**judged(found, f"hybrid {NASTY}@50"), "system": NASTY}
    answer = {"key": "worth_it", "question": NASTY, "answer": NASTY, "reason": NASTY, "system": f"hybrid {NASTY}@50"}
    found["verdict"] = {**verdict(found), "answers": [answer], "cautions": [NASTY], "not_compared": [NASTY]}
    return found


def bare():
    """The least that results.json may hold: one pipeline, nothing chosen, no energy, no queries."""
    system = figures(0.5, 1.0)
    for key in ("kind", "depth", "read_share", "versus", "stages_ms", "interval", "peak_memory_mb"):
        system[key] = None
    return results(systems={"mine/ranker": system}, by_query={}, verdict={"answers": []}, baseline=None, notes=[])


def many():
    """A sweep of more systems than a picture of bars has room for, on many queries."""
    found = results(models=("small", "big", "bigger"), depths=(10, 20, 50, 100), queries=300)
    return completed(found)


def sweep(systems, *, queries=60, noise=0.1, seed=0, baseline="bm25", **changes):
    """
    A sweep whose figures fit together: values by query, their means, and the comparisons made of them.

    :param systems: For each name a mapping with `quality`, `ms`, and whatever `figures` takes or an entry has.
    """
    random = np.random.default_rng(seed)
    hardness = random.normal(0, 0.2, queries)
    by_query = {}
    for name, entry in systems.items():
        values = hardness + random.normal(0, noise, queries)
        values += entry["quality"] - values.mean()
        by_query[name] = {"nDCG@10": {f"q{place}": float(value) for place, value in enumerate(values)}}
    against = versus(by_query, baseline) if baseline is not None else {}
    made = {}
    for name, entry in systems.items():
        known = {key: entry[key] for key in ("depth", "kind", "model", "joules", "source") if key in entry}
        others = {key: entry[key] for key in entry if key not in (*known, "quality", "ms")}
        made[name] = {**figures(entry["quality"], entry["ms"], **known), "versus": against.get(name), **others}
    given = {"systems": made, "by_query": by_query, "queries": queries, "baseline": baseline, "notes": []}
    found = results(**given | changes)
    del found["verdict"]
    return found


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
    """The same with segments, the queries most helped and hurt, memory and a verdict, made as `evaluate` makes them."""
    budget = {"budget_ms": 200.0, "budget_joules": 3.0}
    name = subject(found, **budget)
    found["features"] = described(found)
    if name is not None and found["baseline"] is not None:
        found["segments"] = judged(found, name)
        found["helped_and_hurt"] = helped(found, name)
    found["memory_by_batch"] = memory("small")
    found["verdict"] = verdict(found, **budget)
    return found


def described(found):
    """Features of the made-up queries."""
    random = np.random.default_rng(1)
    keys = ("query_words", "shared_words", "relevant_words", "candidate_words", "relative_margin", "nqc")
    ids = [f"q{place}" for place in range(found["queries"])]
    return {query: dict(zip(keys, random.random(len(keys)).tolist(), strict=True)) for query in ids}


def judged(found, system):
    """Segments of the made-up queries."""
    return judge(described(found), found["by_query"], baseline=found["baseline"], system=system, fewest=2)


def helped(found, system, *, document="document"):
    """The queries most helped and hurt, with made-up documents."""
    ids = [f"{document}-{place}" for place in range(12)]
    queries = [f"q{place}" for place in range(found["queries"])]
    read = [[0, 620, 4.25], [12_400, 13_050, -1.5]]
    return helped_and_hurt(
        found["by_query"],
        baseline=found["baseline"],
        system=system,
        before={query: {one: 20.0 - place for place, one in enumerate(ids)} for query in queries},
        after={query: {one: 20.0 - place for place, one in enumerate(reversed(ids))} for query in queries},
        judgments={query: {ids[0]: 1, ids[11]: 2, ids[4]: 0} for query in queries},
        readings={query: {one: {"coverage": 0.4, "read": read, "logit": 4.25} for one in ids[1:]} for query in queries},
    )


def memory(model):
    """Peak memory by the tokens of a batch."""
    rows = {1024: 310.0, 4096: 420.0, 16384: 903.0}
    return [
        {"batch_tokens": tokens, "model": model, "backend": "onnx", "peak_memory_mb": peak}
        for tokens, peak in rows.items()
    ]
