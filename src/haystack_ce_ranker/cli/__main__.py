"""`python -m haystack_ce_ranker.cli` is the command `haystack-ce-ranker`."""

from haystack_ce_ranker.cli import app

app()
