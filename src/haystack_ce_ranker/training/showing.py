"""What a training workflow shows in the terminal at its end: the table of the gate, and what became of the model."""

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from haystack_ce_ranker.evaluation.judging.formats import p_value
from haystack_ce_ranker.training.gate import SHOWN, TRAINED, GateResult


def gate_table(found: GateResult) -> Table:
    """Return the systems with their measures, and the trained model against each of the others."""
    title = f"{found.queries:,} queries that training never saw, judged by {escape(found.judged_by)}"
    caption = "p: paired randomisation test, corrected for the number of comparisons (Holm)"
    table = Table(title=title, box=SIMPLE_HEAD, caption=caption, caption_justify="left")
    table.add_column("system")
    for label in SHOWN:
        table.add_column(label, justify="right")
    for label in ("trained against it", "95 % interval", "p", "better / equal / worse"):
        table.add_column(label, justify="right")
    for name, means in found.means.items():
        told = ["", "", "", ""]
        if name != TRAINED:
            one = found.versus[name]
            told = [f"{one.difference:+.4f}", f"{one.low:+.4f} to {one.high:+.4f}", p_value(one.p_corrected)]
            told.append(f"{one.wins} / {one.ties} / {one.losses}")
        table.add_row(escape(name), *(f"{means[label]:.4f}" for label in SHOWN), *told)
    return table
