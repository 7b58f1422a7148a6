"""What the tests of bulk scoring score, and scorers that replicas load: the processes of a cluster can import them."""

import os
import re
import signal
import time
from contextlib import suppress

import psutil

from haystack_ce_ranker.bulk.replica import loaded

WORDS = ("brake", "hut", "snow", "car", "berlin", "paris", "city", "germany", "france")
TEXTS = {f"d{n}": f"{WORDS[n % 9]} of {WORDS[n % 7]} in {WORDS[n % 5]} number {n}" for n in range(40)}
TEXTS["long"] = "a car of berlin. " * 40 + "the hut is in the snow. " * 3 + "paris is a city. " * 40
TEXTS["empty"] = ""
QUERIES = {f"q{n}": f"the {WORDS[n]} and {WORDS[n - 1]} number {n}" for n in range(9)}


def write_run(path, rows):
    """Write a run in TREC's form: for each query ids of documents, best first."""
    lines = [
        f"{query_id} Q0 {document_id} {rank} {100 - rank}.5 first"
        for query_id, documents in rows.items()
        for rank, document_id in enumerate(documents, 1)
    ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


class Slowed:
    """A scorer that takes its time for each shard, so that a kill meets it at work."""

    def __init__(self, scorer, *, seconds=0.0, poison=None):
        self.scorer = scorer
        self.backend = scorer.backend
        self.seconds = seconds
        self.poison = poison

    def score_many(self, requests):
        time.sleep(self.seconds)
        if self.poison is not None and any(self.poison == query for query, _ in requests):
            os.kill(os.getpid(), signal.SIGKILL)
        return self.scorer.score_many(requests)


def slow(model):
    return Slowed(loaded(model), seconds=0.05)


def poisoned(model):
    return Slowed(loaded(model), poison=QUERIES["q4"])


def broken(model):
    raise ValueError("the weights are no weights")


def processes():
    """The processes of Ray that this one has started: they name themselves, or the folder of their cluster."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if re.search(r"^ray::|/ray-\w{8}/", " ".join(process.cmdline())):
                found.append(process)
    return found


def at_work():
    """The processes of replicas."""
    found = []
    for process in processes():
        with suppress(psutil.NoSuchProcess):
            if "".join(process.cmdline()[:1]).startswith("ray::MapWorker"):
                found.append(process)
    return found


def kill_one(*, but=()):
    """Kill a replica at work, and return its number; if all have died just now, wait for the next."""
    for _ in range(600):
        for process in at_work():
            if process.pid not in but:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
                    return process.pid
        time.sleep(0.05)
    raise AssertionError("no replica has come back")
