"""
The command line, `haystack-ce-ranker`: reads arguments, calls the package, prints; no logic of its own.

Each command imports what it needs when it runs, so that `--help` stays fast.
"""

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Re-ranking for Haystack pipelines.")


@app.callback()
def main() -> None:
    """Re-ranking for Haystack pipelines: measure it, tune it, and see what the model reads."""


if __name__ == "__main__":
    app()
