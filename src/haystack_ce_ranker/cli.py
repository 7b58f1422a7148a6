"""
The command line, `haystack-ce-ranker`: reads arguments, calls the package, prints; no logic of its own.

Each command imports what it needs when it runs, so that `--help` stays fast.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Re-ranking for Haystack pipelines.")
convert = typer.Typer(no_args_is_help=True, help="Turn a collection of another form into a BEIR folder for `evaluate`.")
app.add_typer(convert, name="convert")


@app.callback()
def main() -> None:
    """Re-ranking for Haystack pipelines: measure it, tune it, and see what the model reads."""


@app.command()
def demo(
    examples: Annotated[Path, typer.Option(help="The repository's examples folder.")] = Path("examples"),
) -> None:
    """Run BM25 -> cross-encoder -> hybrid on the example collection and show what was read."""
    from rich.console import Console

    from haystack_ce_ranker.demo import run_demo

    with _clear_errors():
        run_demo(examples, Console())


@app.command()
def evaluate(
    collection: Annotated[Path, typer.Argument(help="A folder in BEIR format.")],
    pipeline: Annotated[list[Path] | None, typer.Option(help="A pipeline's YAML; may be repeated.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A cross-encoder; may be repeated.")] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="What runs the models; may be repeated. All installed ones without it.")
    ] = None,
    strategy: Annotated[
        list[str] | None, typer.Option(help="How long documents are read: best_passages, head, ...; may be repeated.")
    ] = None,
    bi_encoder: Annotated[str | None, typer.Option(help="A bi-encoder as a second first stage.")] = None,
    run: Annotated[Path | None, typer.Option(help="Fixed candidates (TSV) in place of the first stage.")] = None,
    depth: Annotated[str, typer.Option(help="How many candidates are re-ranked, parted by commas.")] = "10,20,50,100",
    queries: Annotated[int | None, typer.Option(min=1, help="At most so many queries, drawn at random.")] = None,
    relevance_level: Annotated[
        int, typer.Option(min=1, help="The lowest grade that MRR, Recall, AP and Success count.")
    ] = 1,
    baseline: Annotated[str | None, typer.Option(help="The system to compare with; the first without it.")] = None,
    budget_ms: Annotated[
        float | None, typer.Option(min=0.001, help="The most milliseconds a query may take (95 % of them).")
    ] = None,
    budget_joules: Annotated[
        float | None, typer.Option(min=0.000001, help="The most joules a query may take, on average.")
    ] = None,
    memory: Annotated[
        bool, typer.Option(help="Measure peak memory by batch size, each in a process of its own.")
    ] = True,
    output: Annotated[
        Path | None, typer.Option(help="Where to write results.json, report.html and the run files, and to go on from.")
    ] = None,
    fit_gate: Annotated[
        float | None, typer.Option(min=0, help="Fit a RerankGate that gives up at most so much nDCG@10, such as 0.005.")
    ] = None,
) -> None:
    """
    Say whether re-ranking is worth it on a collection: which model, depth and backend, for how much time and energy.

    Measures the pipelines given, or else BM25 with a cross-encoder behind it, alone and joined, at several depths.
    """
    from rich.console import Console
    from rich.progress import track

    from haystack_ce_ranker.evaluation import collections, experiments, gate, groups, journal, report, sweep, tables

    console = Console()
    with _clear_errors():
        depths = sweep.parse_depths(depth)
        loaded = collections.load_collection(collection).sample(queries)
        path = None if run is None else run if run.exists() else collection / run
        given = (
            None
            if path is None
            else groups.GivenRun(path.stem, collections.load_run(path, collection=loaded, depth=max(depths)))
        )
        planned = sweep.plan(
            loaded,
            pipelines=pipeline or (),
            models=model or (),
            backends=backend or (),
            strategies=strategy or (),
            bi_encoder=bi_encoder,
            depths=depths,
            run=given,
        )
        experiments.check_baseline(baseline, planned.names)
        with journal.Journal(output) as kept:
            measured = experiments.measure(
                planned.groups,
                loaded,
                journal=kept,
                optional=planned.optional,
                track=lambda ids: track(ids, description="queries", console=console),
            )
            rows = []
            if memory and measured.complete and planned.variants:
                rows = experiments.memory_by_batch(
                    planned.variants, kept, track=lambda all_: track(all_, description="memory", console=console)
                )
        found = experiments.results(
            measured,
            baseline=baseline,
            relevance_level=relevance_level,
            memory=rows,
            notes=planned.notes,
            budget_ms=budget_ms,
            budget_joules=budget_joules,
        )
        console.print(tables.results_table(found))
        for line in tables.verdict_text(found):
            console.print(line, markup=False, highlight=False)
        if output is not None:
            for written in [*experiments.write(output, found, measured.systems), *report.write(output, found)]:
                console.print(f"wrote {written}")
        if fit_gate is not None:
            pairs = experiments.stages(measured, found["verdict"].get("choice"))
            for advice in gate.fit_gates(pairs, measured.collection, tolerance=fit_gate):
                gate.show(advice, console)
                for written in [] if output is None else gate.save(advice, output):
                    console.print(f"wrote {written}")
    if not measured.complete:
        raise typer.Exit(130)


@app.command()
def tune(
    collection: Annotated[Path, typer.Argument(help="A folder in BEIR format, with judgments.")],
    pipeline: Annotated[Path, typer.Option(help="A pipeline's YAML with a HybridScoreJoiner.")],
    queries: Annotated[int | None, typer.Option(help="At most so many queries, drawn at random.")] = None,
    run: Annotated[Path | None, typer.Option(help="Fixed candidates (TSV) in place of the first stage.")] = None,
    depth: Annotated[int, typer.Option(help="How many of the fixed candidates are used.")] = 50,
    joiner: Annotated[str | None, typer.Option(help="Which joiner, where there are several.")] = None,
    write: Annotated[bool, typer.Option("--write", help="Put the recommended setting into the pipeline file.")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Recommend the setting whose scores are probabilities.")
    ] = False,
    output: Annotated[Path, typer.Option(help="Where to write tune.json and the pictures.")] = Path("tuned"),
) -> None:
    """Find a joiner's weights, normaliser and missing rule from judged queries, and say whether to use them."""
    from rich.console import Console

    from haystack_ce_ranker.evaluation import collections
    from haystack_ce_ranker.evaluation.tune import run_tuning

    with _clear_errors():
        loaded = collections.load_collection(collection).sample(queries)
        path = None if run is None else run if run.exists() else collection / run
        candidates = None if path is None else collections.load_run(path, collection=loaded, depth=depth)
        run_tuning(
            loaded,
            pipeline,
            Console(),
            candidates=candidates,
            joiner=joiner,
            output=output,
            write=write,
            probabilities=probabilities,
        )


@convert.command("csv")
def convert_csv(
    path: Annotated[Path, typer.Argument(help="A CSV with a header: query, document, label.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the collection.")],
    query: Annotated[str, typer.Option(help="The column with the query's text.")] = "query",
    document: Annotated[str, typer.Option(help="The column with the document's text.")] = "document",
    label: Annotated[str, typer.Option(help="The column with the grade: a whole number, 0 if not relevant.")] = "label",
) -> None:
    """Turn a CSV of query, document and label into a BEIR folder."""
    from haystack_ce_ranker.evaluation import converters

    with _clear_errors():
        typer.echo(converters.convert_csv(path, folder, columns=converters.CsvColumns(query, document, label)))


@convert.command("trec")
def convert_trec(
    topics: Annotated[Path, typer.Option(help="TREC topics, or lines of id, tab, text.")],
    qrels: Annotated[Path, typer.Option(help="TREC judgments: query, iteration, document, grade.")],
    documents: Annotated[Path, typer.Option(help="The texts: JSON lines, or lines of id, tab, (title, tab,) text.")],
    folder: Annotated[Path, typer.Argument(help="Where to write the collection.")],
    field: Annotated[str, typer.Option(help="The query is a topic's title, description or narrative.")] = "title",
) -> None:
    """Turn TREC topics and judgments, with a collection of texts, into a BEIR folder."""
    from haystack_ce_ranker.evaluation import converters

    with _clear_errors():
        typer.echo(converters.convert_trec(topics, qrels, documents, folder, field=field))


@app.command()
def calibrate(
    model: Annotated[str, typer.Argument(help="A cross-encoder: a hub id, a folder, or package:<name>/<path>.")],
    backend: Annotated[str, typer.Option(help="What runs the model: torch, onnx, openvino or auto.")] = "torch",
    dtype: Annotated[str | None, typer.Option(help="What it computes in: float32, float16, bfloat16 or auto.")] = None,
    device: Annotated[str | None, typer.Option(help="Where it runs, such as cpu or cuda:0.")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    output: Annotated[Path, typer.Option(help="Where to write the setting.")] = Path("calibration.json"),
) -> None:
    """Measure how this machine scores fastest; the ranker reads the file as calibration=PATH."""
    from rich.console import Console
    from rich.progress import track

    from haystack_ce_ranker import calibration
    from haystack_ce_ranker.evaluation.tables import calibration_table
    from haystack_ce_ranker.models import ModelOptions

    console = Console()
    with _clear_errors():
        if output.is_dir():
            raise ValueError(f"output must be a file to write, but {str(output)!r} is a folder.")
        output.parent.mkdir(parents=True, exist_ok=True)
        found = calibration.calibrate(
            backend,
            ModelOptions(model, dtype=dtype, device=device, revision=revision),
            track=lambda runs: track(runs, description="runs", console=console),
        )
        console.print(calibration_table(found))
        found.save(output)
        console.print(f"wrote {output}: batch_tokens {found.batch_tokens}, threads {found.threads}")


@app.command()
def quantize(
    model: Annotated[str, typer.Argument(help="A cross-encoder: a hub id, a folder, or package:<name>/<path>.")],
    output: Annotated[Path, typer.Argument(help="The folder to write, not there yet or empty.")],
    backend: Annotated[str, typer.Option(help="What is to run it: onnx or openvino.")] = "onnx",
    calibrate: Annotated[
        Path | None, typer.Option(help="A folder in BEIR format to verify on; a few built-in texts without it.")
    ] = None,
    queries: Annotated[int, typer.Option(help="At most so many of its queries, drawn at random.")] = 20,
    depth: Annotated[int, typer.Option(help="How many of BM25's documents for each.")] = 20,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")] = None,
    min_correlation: Annotated[float, typer.Option(help="The lowest rank correlation with float32.")] = 0.95,
    min_overlap: Annotated[float, typer.Option(help="The smallest share of the top 10 in common.")] = 0.9,
) -> None:
    """Write an int8 form of a model, if it ranks as the model does in float32."""
    from rich.console import Console
    from rich.progress import Progress

    from haystack_ce_ranker import quantization
    from haystack_ce_ranker.evaluation.candidates import bm25_requests
    from haystack_ce_ranker.evaluation.collections import load_collection
    from haystack_ce_ranker.evaluation.tables import agreement_table
    from haystack_ce_ranker.models import ModelOptions
    from haystack_ce_ranker.sample_texts import sample_requests

    console = Console()
    with _clear_errors():
        requests = (
            sample_requests()
            if calibrate is None
            else bm25_requests(load_collection(calibrate).sample(queries), depth=depth)
        )
        with Progress(console=console, transient=True) as bars:
            bar = bars.add_task("verifying", total=None)
            found = quantization.quantize(
                ModelOptions(model, revision=revision),
                output,
                requests,
                backend=backend,
                min_correlation=min_correlation,
                min_overlap=min_overlap,
                report=lambda agreement: console.print(
                    agreement_table(agreement, title=f"{model}: int8 {backend} beside float32 torch")
                ),
                progress=lambda done, documents: bars.update(bar, completed=done, total=documents),
            )
        console.print(f"wrote {output} ({found.megabytes:.0f} MB)")


@contextmanager
def _clear_errors() -> Iterator[None]:
    """Print what a user can mend as one line, without a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        typer.secho(f"error: {error}", fg="red", err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
