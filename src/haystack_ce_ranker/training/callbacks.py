"""
What looks on while the library's trainer works: the bar with the time left, the meter, and the way out by Ctrl-C.

The callbacks read the trainer's state and set its flags. Nothing here learns.
"""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from transformers import TrainerCallback

from haystack_ce_ranker.machine.energy import EnergyMeter, Spent


class Bar(TrainerCallback):  # type: ignore[misc]
    """Shows steps, the time left, and the last evaluation."""

    def __init__(self, console: Console, metric: str) -> None:
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("steps"))
        self._bars = Progress(
            *columns,
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._metric = metric
        self._task = self._bars.add_task("training", total=None)

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Begin at the step that a checkpoint was left at."""
        self._bars.reset(self._task, total=state.max_steps, completed=state.global_step)
        self._bars.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Show the step."""
        self._bars.update(self._task, completed=state.global_step)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:  # noqa: ARG002
        """Say how the model ranks now."""
        told = f"step {state.global_step} of {state.max_steps}: dev nDCG@10 {metrics[self._metric]:.4f}"
        self._bars.console.print(told, highlight=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Take the bar away."""
        self._bars.stop()

    def stop(self) -> None:
        """Take the bar away, whatever happened."""
        self._bars.stop()


class SpentSoFar(TrainerCallback):  # type: ignore[misc]
    """
    Adds up seconds and joules over the parts of a run that was interrupted.

    What was spent is noted at each checkpoint. So work that was lost behind the last one is not counted.

    :ivar seconds: Up to the last checkpoint, or the end.
    :ivar joules: The same.
    """

    def __init__(self, meter: EnergyMeter, file: Path) -> None:
        self.seconds = self.joules = 0.0
        self._meter = meter
        self._file = file
        self._measuring = ExitStack()
        self._now = Spent()

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Take over what was spent up to the checkpoint that this part begins from."""
        if state.global_step and self._file.is_file():
            for line in self._file.read_text(encoding="utf-8").splitlines():
                with suppress(ValueError):  # a line that a kill left torn
                    noted = json.loads(line)
                    if noted["step"] <= state.global_step:
                        self.seconds, self.joules = noted["seconds"], noted["joules"]
        self._now = self._measuring.enter_context(self._meter.measure())

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Note what was spent up to this checkpoint."""
        self.on_train_end(args, state, control)
        noted = {"step": state.global_step, "seconds": self.seconds, "joules": self.joules}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(noted)}\n")
        self._now = self._measuring.enter_context(self._meter.measure())

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Add what was spent since the last checkpoint."""
        self._measuring.close()
        self.seconds += self._now.seconds
        self.joules += self._now.joules


class WayOut(TrainerCallback):  # type: ignore[misc]
    """Ends a run at the next step with a checkpoint, once it was asked to."""

    def __init__(self) -> None:
        self.asked = False

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Let the trainer save and stop, if it was asked for."""
        if self.asked:
            control.should_save = True
            control.should_training_stop = True


@contextmanager
def ctrl_c_ends(way_out: WayOut, console: Console) -> Iterator[None]:
    """
    Let Ctrl-C end a run with a checkpoint, and a second one end it at once.

    Python takes signals in the main thread alone. In another thread Ctrl-C is left as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(_number: int, _frame: Any) -> None:
        way_out.asked = True
        signal.signal(signal.SIGINT, before)
        console.print("stopping after this step; a second Ctrl-C stops at once, without a new checkpoint")

    signal.signal(signal.SIGINT, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
