"""A small task, and a tiny model that learns it within seconds."""

import json
import random
from dataclasses import dataclass
from pathlib import Path

from fakes import save_bert


@dataclass(frozen=True)
class Task:
    """Groups to learn from, the same with labels drawn by chance, and held-out queries."""

    groups: list
    shuffled: list
    dev: object
    test: object


def make_task(queries=32, held_out=12, seed=0):
    """A document is relevant if it speaks of the hut; all others speak of the train, and chance decides all else."""
    from haystack_ce_ranker.training.groups import Candidate, Group
    from haystack_ce_ranker.training.held_out import HeldOut

    drawn = random.Random(seed)

    def document(relevant):
        words = drawn.choices(["the", "is", "in", "slow", "where"], k=drawn.randint(3, 8))
        words.insert(drawn.randrange(len(words)), "hut" if relevant else "train")
        return " ".join(words)

    def query():
        return f"where is the {drawn.choice(['snow', 'berlin'])}"

    def groups(relevant):
        made = []
        for number in range(queries):
            texts, labelled = [document(place == 0) for place in range(4)], relevant()
            candidates = (Candidate(f"{number}-{place}", texts[place], float(place == labelled)) for place in range(4))
            made.append(Group(f"q{number}", query(), tuple(candidates)))
        return made

    def unseen(start):
        names = [f"{start}{number}" for number in range(held_out)]
        texts = {name: {f"{name}-{place}": document(place == 4) for place in range(5)} for name in names}
        return HeldOut({name: query() for name in names}, texts, {name: {f"{name}-4": 1} for name in names})

    return Task(groups(lambda: 0), groups(lambda: drawn.randrange(4)), unseen("dev"), unseen("test"))


def save_learner(folder: Path, *, head: bool = True) -> str:
    """Save a tiny BERT that can learn, with a head for pairs or without one."""
    return save_bert(folder, head=head, spread=0.1)


def write_small_collection(folder: Path, *, queries: int = 40, each: int = 6, seed: int = 0) -> Path:
    """Write a collection in which BM25 finds the documents of each query, and only the hut tells which is relevant."""
    drawn = random.Random(seed)
    documents, asked, judged = [], [], ["query-id\tcorpus-id\tscore"]
    for number in range(queries):
        words = f"k{number} z{number * 7 + 3}"
        asked.append({"_id": f"q{number}", "text": f"{words} berlin"})
        relevant = drawn.randrange(each)
        for place in range(each):
            others = " ".join(drawn.choices(["the", "is", "in", "city"], k=drawn.randint(2, 5)))
            text = f"{words} {others} {'hut' if place == relevant else 'brake'}"
            documents.append({"_id": f"d{number}-{place}", "title": "", "text": text})
        judged.append(f"q{number}\td{number}-{relevant}\t1")
    (folder / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", documents), ("queries", asked)):
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("\n".join([*judged, ""]), encoding="utf-8")
    return folder
