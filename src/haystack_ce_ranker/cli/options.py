"""Options that several commands have in common."""

from typing import Annotated

import typer

Split = Annotated[
    str | None, typer.Option(help="The judgments to use: qrels/SPLIT.tsv. Without it test, or the only ones there are.")
]
