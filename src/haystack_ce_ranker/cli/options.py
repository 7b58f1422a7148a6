"""Options that several commands have in common."""

from pathlib import Path
from typing import Annotated

import typer

Split = Annotated[
    str | None, typer.Option(help="The judgments to use: qrels/SPLIT.tsv. Without it test, or the only ones there are.")
]

# What train, adapt and distil have in common, or two of them.
Fresh = Annotated[bool, typer.Option("--fresh", help="Throw away what an interrupted run left.")]
Device = Annotated[str | None, typer.Option(help="Such as cpu or cuda:0; without it a GPU, if there is one.")]
TrainingDtype = Annotated[
    str | None,
    typer.Option("--dtype", help="float32 or bfloat16: what it multiplies in; bfloat16 without it if the chip has it."),
]
Threads = Annotated[int | None, typer.Option(help="Threads of one operation; torch's own number without it.")]
Batch = Annotated[int | None, typer.Option(help="Pairs of one step; 16 without it, and 96 of contrastive.")]
MaxLength = Annotated[int | None, typer.Option(help="The most tokens of a pair; 512 without it.")]
Interpolate = Annotated[
    float,
    typer.Option(help="How far the weights go from the base's to the trained ones: 1 all the way; less forgets less."),
]
Save = Annotated[str, typer.Option(help="better: write a model only if unseen queries say it is better; or always.")]
TestQueries = Annotated[int | None, typer.Option(min=1, help="At most this many judged queries in the test.")]
Log = Annotated[
    Path | None, typer.Option("--queries", help="Real queries to learn from, too: JSON lines, or a query a line.")
]
Recipes = Annotated[
    list[str] | None,
    typer.Option(
        "--recipe",
        help="title, first_sentence, inverse_cloze, rare_terms, question or question_terms; may be repeated. Without "
        "it all.",
    ),
]
