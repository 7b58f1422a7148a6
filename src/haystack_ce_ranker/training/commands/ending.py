"""How each training workflow ends: stopped by Ctrl-C, or judged on unseen queries and then written or refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.training.gate import GateResult, judge
from haystack_ce_ranker.training.held_out import HeldOut
from haystack_ce_ranker.training.runs import Interrupted
from haystack_ce_ranker.training.saving import save_model, save_refusal
from haystack_ce_ranker.training.showing import bar_on, gate_table, say

Ended = TypeVar("Ended")

FEW = 30
"""Below so many test queries a run says that they tell little."""

_TOLD = ("loss", "contrast", "learning_rate")


def or_stopped(workflow: Callable[[], Ended], console: Console) -> Ended | None:
    """Return what a workflow returns, or None after Ctrl-C; what to do then is said."""
    try:
        return workflow()
    except (Interrupted, KeyboardInterrupt) as error:
        say(console, str(error) or "stopped; start the same command again, and it goes on from there")
        return None


def judged(base: ModelOptions | None, trained: ModelOptions, test: HeldOut, console: Console, **how: Any) -> GateResult:
    """Compare models on unseen queries, with a bar; see `gate.judge`, which takes `how`."""
    with bar_on(console) as (bars, bar):

        def show(name: str, done: int, total: int) -> None:
            bars.update(bar, description=f"ranking: {name}", completed=done, total=total)

        return judge(base, trained, test, progress=show, **how)


def conclude(
    output: Path, save: str, model: Path, found: GateResult, facts: Mapping[str, Any], console: Console
) -> bool:
    """
    Show the table, and write the model or the report of what was tried.

    :param model: The folder of the trained model.
    :param facts: Plain values for the card, see `card`.
    :returns: Whether the model was written.
    """
    console.print(gate_table(found))
    if found.queries < FEW:
        say(console, f"Mind: {found.queries} queries tell little; a difference on so few may well be chance.")
    if found.saves(save):
        save_model(output, model, facts)
        asked = "" if found.decision.met else ", as was asked for"
        say(console, f"wrote {output}{asked}: {found.decision.reason}")
        return True
    report = save_refusal(output, facts)
    settings, fitted = facts["settings"], facts["fitted"]
    how = ", ".join(f"{key.replace('_', ' ')} {settings[key]}" for key in _TOLD if settings.get(key) is not None)
    tried = f"{how}, {fitted['steps']} steps on {fitted['pairs']} pairs"
    say(console, f"No model is written: {found.decision.reason}. Tried: {tried}; {report} has the rest.")
    return False
