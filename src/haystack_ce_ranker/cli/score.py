"""`haystack-ce-ranker score`: score all pairs of a run with a cross-encoder."""

from pathlib import Path
from typing import Annotated

import typer

from haystack_ce_ranker.cli.errors import clear_errors
from haystack_ce_ranker.cli.options import Device, Fresh, MaxLength

Run = Annotated[Path, typer.Argument(help="The pairs: a TREC run, or a table of qid, docid and score.")]
Collection = Annotated[Path, typer.Option(help="A folder in BEIR format with the texts; qrels are not read.")]
Model = Annotated[str, typer.Option(help="A cross-encoder: a hub id, a folder, or package:<name>/<path>.")]
Output = Annotated[Path, typer.Option(help="The file to write: .run with raw logits, or .parquet.")]
Backend = Annotated[str, typer.Option(help="What runs the model: torch, onnx, openvino or auto.")]
Engine = Annotated[str, typer.Option(help="local: in this process; ray: by replicas on Ray.")]
Replicas = Annotated[
    int | None, typer.Option(min=1, help="Models that Ray loads; without it one for each CPU, or each GPU.")
]
Address = Annotated[
    str | None,
    typer.Option(envvar="RAY_ADDRESS", help="A Ray cluster that runs; without it one is started on this machine."),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of each model. Other numbers may change the last bits.")]
Dtype = Annotated[str | None, typer.Option(help="What it computes in: float32, float16, bfloat16 or auto.")]
Depth = Annotated[int | None, typer.Option(min=1, help="Only so many of each query's documents.")]
Budget = Annotated[int | None, typer.Option(help="The most tokens of all pairs of a query together.")]
Strategy = Annotated[
    str, typer.Option(help="How documents that do not fit are read: best_passages, head, head_tail or windows.")
]
Passages = Annotated[int, typer.Option(help="The most windows of a document.")]
Aggregate = Annotated[str, typer.Option(help="One logit of its windows: logsumexp, level, max, mean_top2 or first.")]
ShardSize = Annotated[int, typer.Option(min=1, help="Pairs that are scored, and kept, as one.")]


def score(
    run: Run,
    collection: Collection,
    model: Model,
    output: Output,
    backend: Backend = "torch",
    engine: Engine = "local",
    replicas: Replicas = None,
    address: Address = None,
    threads: Threads = 1,
    device: Device = None,
    dtype: Dtype = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    depth: Depth = None,
    max_length: MaxLength = None,
    max_tokens_per_query: Budget = None,
    long_documents: Strategy = "best_passages",
    passages_per_document: Passages = 4,
    aggregate: Aggregate = "logsumexp",
    shard: ShardSize = 500,
    fresh: Fresh = False,
    force: Annotated[bool, typer.Option("--force", help="Write over an output that exists.")] = False,
) -> None:
    """
    Score all pairs of a run: to re-rank it, to mine, or to label it by a teacher.

    A run that was stopped goes on where it was. The output is the same to the last byte, whatever the engine, the
    number of replicas, and how often it was stopped.
    """
    from rich.console import Console

    from haystack_ce_ranker.backends.model_files import ModelOptions
    from haystack_ce_ranker.bulk import engines, replica, scoring
    from haystack_ce_ranker.reading.policy import ReadingPolicy

    with clear_errors():
        policy = ReadingPolicy(
            max_length=max_length,
            max_tokens_per_query=max_tokens_per_query,
            long_documents=long_documents,
            passages_per_document=passages_per_document,
            aggregate=aggregate,
        )
        options = ModelOptions(model, revision=revision, dtype=dtype, device=device, threads=threads)
        loads = replica.Model(options, backend, policy)
        workers = engines.Workers(replicas, address if engine == "ray" else None)
        settings = scoring.BulkScoring(
            run, collection, output, loads, engine, workers, depth, shard, force=force, fresh=fresh
        )
        if scoring.run_scoring(settings, Console()) is None:
            raise typer.Exit(130)
