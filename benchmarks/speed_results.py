"""
What `speed.py` makes of its measurements: systems run in turn, and their times, quality and padding compared.

    python benchmarks/speed.py
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from common import Report
from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10, ranked_scores
from speed_systems import HAYSTACK, OURS_FLOAT32, PREDICT, Answer, Rank, System
from speed_tasks import Task


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


def gain_over_haystack(results: Mapping[str, Results], name: str, judgments: Mapping[str, Mapping[str, int]]) -> float:
    """Return by how much nDCG@10 of a system is above Haystack's, on the queries that Haystack's ran."""
    tasks = list(results[HAYSTACK].answers)
    return results[name].ndcg(judgments, tasks) - results[HAYSTACK].ndcg(judgments, tasks)


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


def growth(sizes: np.ndarray, seconds: np.ndarray) -> tuple[float, float]:
    """Return the exponent of a power of the size that fits the times, and R² of a straight line through them."""
    exponent = float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])
    line = np.polyval(np.polyfit(sizes, seconds, 1), sizes)
    return exponent, float(1.0 - ((seconds - line) ** 2).sum() / ((seconds - seconds.mean()) ** 2).sum())


def check_padding(where: str, results: Mapping[str, Results], report: Report) -> None:
    """Note whether ours pads less than 5 % everywhere."""
    shares = {name: found.padding for name, found in results.items() if name.startswith("CrossEncoderRanker")}
    worst = max(share for share in shares.values() if share is not None)
    report.target(f"{where}, padding < 5 % with every backend of ours", worst < 0.05, f"at most {worst:.1%}")
