"""Results as a table in the terminal (rich)."""

from collections.abc import Mapping
from typing import Any

from rich.table import Table

_COLUMNS = ("nDCG@10", "MRR@10", "Recall@10")


def results_table(found: Mapping[str, Any]) -> Table:
    """Return the figures of `experiments.results` as a table, a system a row."""
    table = Table(title=f"{found['collection']}: {found['documents']} documents, {found['queries']} queries")
    table.add_column("system")
    for column in (*_COLUMNS, "p50 ms", "p95 ms", "tokens / query"):
        table.add_column(column, justify="right")
    for name, figures in found["systems"].items():
        latency = figures["latency_ms"]
        table.add_row(
            name,
            *(f"{figures[column]:.4f}" for column in _COLUMNS),
            *("-" if latency[key] is None else f"{latency[key]:.1f}" for key in ("p50", "p95")),
            f"{figures['tokens_per_query']:.0f}",
        )
    return table
