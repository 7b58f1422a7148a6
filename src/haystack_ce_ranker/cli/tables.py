"""The tables that `profile` and `quantize` print."""

from rich.table import Table

from haystack_ce_ranker.quantizing.quantize import Agreement
from haystack_ce_ranker.scoring.speed_profile import SpeedProfile


def speed_table(found: SpeedProfile) -> Table:
    """Return the speeds of all settings, one row for each number of threads, with a mark at the chosen setting."""
    budgets = sorted({one.batch_tokens for one in found.measured})
    speeds = {(one.threads, one.batch_tokens): one.pairs_per_second for one in found.measured}
    table = Table(title=f"{found.model}, {found.backend} {found.dtype} on {found.device}: pairs a second")
    table.add_column("threads", justify="right")
    for budget in budgets:
        table.add_column(f"{budget} tokens", justify="right")
    for threads in dict.fromkeys(one.threads for one in found.measured):
        cells = []
        for budget in budgets:
            speed = speeds.get((threads, budget))
            chosen = (threads, budget) == (found.threads, found.batch_tokens)
            cells.append("-" if speed is None else f"{speed:.1f}{' *' if chosen else ''}")
        table.add_row("own" if threads is None else str(threads), *cells)
    return table


def agreement_table(found: Agreement, *, title: str) -> Table:
    """Return how alike two models rank."""
    table = Table(title=title)
    table.add_column(f"{found.queries} queries, {found.pairs} pairs")
    table.add_column("value", justify="right")
    for label, value in (
        ("rank correlation, mean", found.correlation),
        ("rank correlation, lowest", found.lowest_correlation),
        ("top-10 overlap, mean", found.overlap),
        ("difference of logits, mean", found.mean_difference),
        ("difference of logits, largest", found.largest_difference),
    ):
        table.add_row(label, f"{value:.4f}")
    return table
