"""What tuning a joiner found, for the terminal: tables of systems and of score thresholds, with words around them."""

from collections.abc import Iterator
from functools import partial

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from haystack_ce_ranker.evaluation.judging.measures import NDCG_AT_10
from haystack_ce_ranker.fusion.abstention import in_words
from haystack_ce_ranker.fusion.advice import TuningResult
from haystack_ce_ranker.fusion.calibration import PROBABILITIES, calibration_error, kept_above, score_thresholds
from haystack_ce_ranker.fusion.judged import Setting

_LABELS = {
    "default": "default blend (the file's)",
    "adaptive": "adaptive blend (adapt_weights), untuned",
    "tuned": "tuned blend, on queries it was not tuned on",
}


def show(result: TuningResult, setting: Setting, fragment: str, console: Console, *, probabilities: bool) -> None:
    """
    Print what was found.

    :param setting: The one to use.
    :param fragment: The same as YAML.
    :param probabilities: Whether it was asked for because its scores are probabilities.
    """
    say = partial(console.print, markup=False)
    console.print(systems_table(result))
    say(f"advice: {result.advice.reason}")
    if result.labelled:
        lost = ", ".join(f"{loss:.4f} with {size}" for size, loss in result.labelled.items())
        say(f"{NDCG_AT_10} lost by tuning on fewer labelled queries (mean of 20 draws): {lost}")
    calibrated = result.calibrated
    error = calibration_error(calibrated.by_query)
    how = "chosen by --probabilities" if probabilities else "--probabilities chooses it"
    say(
        f"scores as probabilities of relevance (normalize: logistic; {how}): {NDCG_AT_10} "
        f"{float(calibrated.held_out.mean()):.4f}, calibration error {error.mean:.3f} "
        f"[{error.low:.3f}, {error.high:.3f}], held out. One `score_threshold` then "
        "means the same on every query; of the candidates of all queries it keeps"
    )
    console.print(thresholds_table(result))
    say(in_words(calibrated.abstention))
    for line in _notes(result, setting):
        say(line)
    what = "the setting whose scores are probabilities" if probabilities else "the recommended setting"
    say(f"{what}, for the pipeline file (--write puts it there):")
    say(fragment, highlight=False, soft_wrap=True)


def systems_table(result: TuningResult) -> Table:
    """Return each system with its interval and its difference to the heaviest input alone."""
    table = Table(
        title=f"{result.collection}: {len(result.queries)} queries, {NDCG_AT_10} with 95 % bootstrap intervals"
    )
    for header in ("system", NDCG_AT_10, f"over {result.base}"):
        table.add_column(header, justify="left" if header == "system" else "right")
    for key, (value, over) in result.intervals().items():
        shown = "" if key == result.base else f"{over.mean:+.4f} [{over.low:+.4f}, {over.high:+.4f}]"
        cells = (_LABELS.get(key, key), f"{value.mean:.4f} [{value.low:.4f}, {value.high:.4f}]", shown)
        table.add_row(*(escape(cell) for cell in cells))
    return table


def thresholds_table(result: TuningResult) -> Table:
    """Return what a `score_threshold` on the joined probability keeps."""
    table = Table()
    for header in ("score_threshold", "kept per query", "of them relevant", "of the relevant kept"):
        table.add_column(header, justify="right")
    candidates = result.calibrated.labels.size / len(result.queries)
    for row in kept_above(result.calibrated):
        kept = f"{row.kept * candidates:.2f} of {candidates:.1f}"
        table.add_row(f"{row.threshold:.2f}", kept, f"{row.precision:.1%}", f"{row.recall:.1%}")
    return table


def _notes(result: TuningResult, setting: Setting) -> Iterator[str]:
    if scores := score_thresholds(result.queries, result.recommended, PROBABILITIES):
        found = ", ".join(f"{score:.2f} for a probability of {wanted:g}" for wanted, score in scores.items())
        yield f"the recommended setting's own scores mean the same on every query too; `score_threshold`: {found}"
    yield from (f"note: {note}" for note in result.notes)
    if unused := sorted(name for name, weight in setting.weights.items() if weight == 0.0):
        yield (
            f"note: at weight 0 {', '.join(unused)} no longer counts, but what feeds it still runs: to save its time, "
            "take it out of the pipeline where nothing else needs it"
        )
