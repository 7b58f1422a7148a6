"""
The command line, `haystack-ce-ranker`: one file per command, which reads arguments and calls a workflow.

Each command imports what it needs when it runs, so that `--help` stays fast.
"""

import typer

from haystack_ce_ranker.cli import (
    adapt,
    adopt,
    convert,
    demo,
    distil,
    evaluate,
    index_definition,
    inspect,
    mine,
    profile,
    quantize,
    score,
    train,
    tune,
)

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Re-ranking for Haystack pipelines.")
app.add_typer(convert.app, name="convert")
for command in (
    *(demo.demo, inspect.inspect, adopt.adopt, evaluate.evaluate, tune.tune, profile.profile, quantize.quantize),
    *(score.score, mine.mine, train.train, adapt.adapt, distil.distil, index_definition.index_definition),
):
    app.command()(command)


@app.callback()
def main() -> None:
    """Re-ranking for Haystack pipelines: measure it, tune it, and see what the model reads."""
