"""
A training run by the library's trainer, whatever is trained: from the first step, or from a checkpoint, to the end.

The run stops early by nDCG@10 on held-out queries, and ends with the best of its checkpoints. A run that was killed
goes on from its last checkpoint and ends with the same weights: the order of the rows depends on the seed and the epoch
alone, and a checkpoint holds the optimiser, the schedule and the state of random numbers.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from haystack_ce_ranker.backends.model_files import ModelOptions, locate
from haystack_ce_ranker.backends.torch_threads import limited_threads
from haystack_ce_ranker.checks import choice, number, whole_number
from haystack_ce_ranker.machine.energy import meter_for
from haystack_ce_ranker.machine.memory import process_peak_megabytes
from haystack_ce_ranker.training.interpolating import copied, move_back
from haystack_ce_ranker.training.resources import DTYPES, Resources, expected_memory
from haystack_ce_ranker.training.run_folder import (
    BEFORE,
    CHECKPOINTS,
    DONE,
    MODEL,
    SPENT,
    claim,
    is_over,
    keep,
    last_checkpoint,
    state_of,
    write,
)

if TYPE_CHECKING:
    from haystack_ce_ranker.training.losses import Apart
    from haystack_ce_ranker.training.trainer import DevEvaluator

AT_ONCE = 4
"""Pairs that a model of `_LAYERS` layers computes at once on a CPU; more would take more memory, and save little."""

_LAYERS, _MOST_AT_ONCE = 12, 16
"""
A model of fewer layers computes more pairs at once: in the same memory, and up to so many.

What each part of a batch costs apart from its pairs, such as the gradient of all words, weighs more in a small model.
`benchmarks/training.py at_once` measures it.
"""


class Interrupted(Exception):  # noqa: N818 - the user's wish is no error
    """A run was ended by Ctrl-C, after a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """
    The steps of a run.

    :ivar epochs: The most passes over the rows.
    :ivar learning_rate: The highest rate of AdamW. It falls to 0 in a straight line.
    :ivar batch: Pairs of a query and a text of one step, as nearly as whole rows allow.
    :ivar at_once: How many of them are computed at once, which the memory depends on; None for `AT_ONCE` on a CPU, more
        for a model of few layers, and all on a GPU.
    :ivar warmup: The share of the steps in which the rate rises.
    :ivar weight_decay: Of AdamW.
    :ivar evaluations: How often the model is evaluated and saved in one epoch.
    :ivar patience: After how many evaluations in a row without a better one the run stops.
    :ivar seed: Of the order, of dropout, and of what is drawn.
    :ivar dtype: What it multiplies in, one of `resources.DTYPES`; None for bfloat16 where the hardware has it.
    :ivar interpolate: How far the written weights lie from the base's towards those of the best checkpoint: 1 writes
        the checkpoint's. Part of the way forgets less of what the base knew, see `interpolating`.
    """

    epochs: int = 2
    learning_rate: float = 2e-5
    batch: int = 16
    at_once: int | None = None
    warmup: float = 0.1
    weight_decay: float = 0.01
    evaluations: int = 2
    patience: int = 3
    seed: int = 0
    dtype: str | None = None
    interpolate: float = 1.0

    def __post_init__(self) -> None:
        """Check every value."""
        checked: dict[str, object] = {
            **{
                name: whole_number(name, getattr(self, name)) for name in ("epochs", "batch", "evaluations", "patience")
            },
            "at_once": whole_number("at_once", self.at_once, optional=True),
            "learning_rate": number("learning_rate", self.learning_rate, above=0),
            "warmup": number("warmup", self.warmup, least=0, most=1),
            "weight_decay": number("weight_decay", self.weight_decay, least=0),
            "seed": whole_number("seed", self.seed, least=0),
            "dtype": choice("dtype", self.dtype, DTYPES, optional=True),
            "interpolate": number("interpolate", self.interpolate, above=0, most=1),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Evaluation:
    """nDCG@10 on the dev queries after a step."""

    step: int
    ndcg: float


@dataclass(frozen=True)
class Fitted:
    """
    A finished run.

    :ivar model: The folder of the best checkpoint's model.
    :ivar before: nDCG@10 on the dev queries before the first step.
    :ivar evaluations: The same after some steps, in their order.
    :ivar best: The best of the evaluations.
    :ivar written: The same of the written weights, which may lie between the base's and those of `best`.
    :ivar queries: Queries that were learnt from.
    :ivar pairs: Pairs of one epoch.
    :ivar unused_queries: Queries that had nothing to learn from.
    :ivar steps: Steps that were taken.
    :ivar fresh_head: Whether the head was drawn at random.
    :ivar max_length: The most tokens of a pair, or of a text of a bi-encoder, that were read.
    :ivar seconds: Of training and evaluating, without what a kill took away.
    :ivar joules: The same.
    :ivar energy: How the joules were found.
    :ivar expected_memory_mb: What was told before it started.
    :ivar peak_memory_mb: What the process took at most; None if the system does not tell.
    :ivar used: Device, threads, number format.
    """

    model: Path
    before: float
    evaluations: tuple[Evaluation, ...]
    best: Evaluation
    written: float
    queries: int
    pairs: int
    unused_queries: int
    steps: int
    fresh_head: bool
    max_length: int
    seconds: float
    joules: float
    energy: str
    expected_memory_mb: float
    peak_memory_mb: float | None
    used: Resources

    def plain(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "model": str(self.model)}


@dataclass(frozen=True)
class Lesson:
    """
    A loaded model with what it is to learn.

    :ivar trainer: The class of the trainer; one of `trainer.py`.
    :ivar arguments: The class of its arguments.
    :ivar more: Further arguments.
    :ivar rows: Of the data set.
    :ivar apart: Of each row, which others must not stand in its batch. Such a loss tells the rows of a batch apart, so
        it gets all rows of a step together, and limits by itself how many pairs it computes at once.
    :ivar told: Lines to show before the run begins.
    """

    model: Any
    trainer: Any
    arguments: Any
    loss: Any
    evaluator: "DevEvaluator"
    rows: Sequence[Mapping[str, Any]]
    pairs: int
    queries: int
    unused_queries: int
    told: Sequence[str] = ()
    fresh_head: bool = False
    more: Mapping[str, Any] = field(default_factory=dict)
    apart: Sequence["Apart"] = ()


def require_packages() -> None:
    """
    Check that what training needs is installed.

    :raises ImportError: If it is not. The error names the extra.
    """
    missing = [name for name in ("datasets", "accelerate") if find_spec(name) is None]
    if missing:
        raise ImportError(f'training needs {" and ".join(missing)}: pip install "ce-ranker-haystack[train]"')


@contextmanager
def _without_other_bars() -> Iterator[None]:
    """Hide the bars of transformers, which would be drawn over ours at every checkpoint."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def run_to_the_end(
    folder: Path,
    key: str,
    lesson: Callable[[], Lesson],
    schedule: Schedule,
    used: Resources,
    *,
    resume: bool = True,
    console: Console | None = None,
) -> Fitted:
    """
    Train a model, from the beginning or from the last checkpoint. A run that is done already is not done again.

    :param folder: Where checkpoints and the model are written; `folder/model` is the result.
    :param key: Names all that the result depends on; see `key_of`.
    :param lesson: Loads the model; not called if the run is done.
    :param resume: Whether to go on with what the folder holds. Otherwise it is emptied.
    :param console: Where progress is shown; nowhere if None.
    :raises OtherSettingsError: If the folder holds a run with another key.
    :raises Interrupted: If Ctrl-C ended it.
    """
    folder = folder.absolute()
    claim(folder, key, resume=resume)
    if (folder / DONE).is_file():
        return _restored(folder)
    with limited_threads(used.threads), _without_other_bars():
        found = _train(lesson(), folder, schedule, used, Console(quiet=True) if console is None else console)
    write(folder / DONE, found.plain())
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return found


def key_of(options: ModelOptions, *parts: Any) -> str:
    """Return a short key of a model's files and of plain values."""
    place = Path(locate(options.model))
    files = [(one.relative_to(place).as_posix(), one.stat()) for one in sorted(place.rglob("*.safetensors"))]
    weights = [[name, found.st_size, found.st_mtime_ns] for name, found in files]
    digest = hashlib.blake2b(digest_size=12)
    for part in (options.model, options.revision, weights, *parts):
        digest.update(json.dumps(part).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _train(lesson: Lesson, folder: Path, schedule: Schedule, used: Resources, console: Console) -> Fitted:
    from haystack_ce_ranker.training.callbacks import Bar, SpentSoFar, WayOut, ctrl_c_ends
    from haystack_ce_ranker.training.trainer import LOGGED

    base = copied(lesson.model) if schedule.interpolate < 1 else None
    before = _before(folder, lesson.evaluator)
    meter = meter_for(used.device)
    spent, way_out, bar = SpentSoFar(meter, folder / SPENT), WayOut(), Bar(console, LOGGED)
    trainer = _trainer(lesson, folder / CHECKPOINTS, schedule, used, [spent, way_out, bar])
    lesson.model.train()
    memory = expected_memory(lesson.model, trainer.largest_pass(), used.device)
    for line in (*lesson.told, memory.told(), f"before training: dev nDCG@10 {before:.4f}"):
        console.print(line, markup=False, highlight=False)
    checkpoint = last_checkpoint(folder / CHECKPOINTS)
    if checkpoint is not None:
        console.print(f"going on from {checkpoint.name}", markup=False, highlight=False)
    if checkpoint is None or not is_over(checkpoint, schedule.patience):
        try:
            with ctrl_c_ends(way_out, console):
                _start(trainer, schedule, checkpoint)
        finally:
            bar.stop()
        if way_out.asked:
            _require_end(trainer.state, folder)
    state = state_of(last_checkpoint(folder / CHECKPOINTS))
    evaluations = [Evaluation(one["step"], one[LOGGED]) for one in state["log_history"] if LOGGED in one]
    best = max(evaluations, key=lambda one: (one.ndcg, -one.step))
    checkpoint = folder / CHECKPOINTS / f"checkpoint-{best.step}"
    keep(checkpoint, folder / MODEL)
    written = best.ndcg
    if base is not None:
        trainer.load(checkpoint)
        move_back(lesson.model, base, schedule.interpolate)
        trainer.write(folder / MODEL)
        written = lesson.evaluator.ndcg()
        told = f"{schedule.interpolate:g} of the way from the base to step {best.step}: dev nDCG@10 {written:.4f}"
        console.print(told, markup=False, highlight=False)
    return Fitted(
        model=folder / MODEL,
        before=before,
        evaluations=tuple(evaluations),
        best=best,
        written=written,
        queries=lesson.queries,
        pairs=lesson.pairs,
        unused_queries=lesson.unused_queries,
        steps=state["global_step"],
        fresh_head=lesson.fresh_head,
        max_length=lesson.model.max_seq_length,
        seconds=spent.seconds,
        joules=spent.joules,
        energy=meter.source,
        expected_memory_mb=memory.peak,
        peak_memory_mb=process_peak_megabytes(),
        used=used,
    )


def pairs_at_once(schedule: Schedule, used: Resources, model: Any, *, on_gpu: int | None = None) -> int:
    """
    Return how many pairs are computed at once, which the memory depends on.

    :param model: A model of sentence-transformers.
    :param on_gpu: How many on a GPU, if the schedule does not say; None for the whole batch.
    """
    if schedule.at_once is not None:
        return schedule.at_once
    if used.device == "cpu":
        layers = getattr(getattr(model, "config", None), "num_hidden_layers", None) or _LAYERS
        return max(AT_ONCE, min(AT_ONCE * _LAYERS // layers, _MOST_AT_ONCE))
    return schedule.batch if on_gpu is None else min(on_gpu, schedule.batch)


def _trainer(lesson: Lesson, folder: Path, schedule: Schedule, used: Resources, callbacks: list[Any]) -> Any:
    from transformers import EarlyStoppingCallback, PrinterCallback

    from haystack_ce_ranker.training.trainer import LOGGED, LastEvaluation, multiply_in_bfloat16

    pairs_per_row = lesson.pairs / len(lesson.rows)
    if lesson.apart:
        rows_at_once = max(2, round(schedule.batch / pairs_per_row))  # one alone would have none to be told apart from
    else:
        rows_at_once = max(1, round(min(pairs_at_once(schedule, used, lesson.model), schedule.batch) / pairs_per_row))
    parts = 1 if lesson.apart else max(1, round(schedule.batch / (rows_at_once * pairs_per_row)))
    steps = -(-len(lesson.rows) // (rows_at_once * parts))
    every = -(-steps // schedule.evaluations)  # rounded down, the last but one would come a step or two before the end
    arguments = lesson.arguments(
        output_dir=str(folder),
        num_train_epochs=schedule.epochs,
        per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=parts,
        learning_rate=schedule.learning_rate,
        warmup_steps=round(schedule.warmup * steps * schedule.epochs),
        weight_decay=schedule.weight_decay,
        eval_strategy="steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,  # the best one and the last one
        load_best_model_at_end=True,
        metric_for_best_model=LOGGED,
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,  # or the patience would begin anew
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=schedule.seed,
        data_seed=schedule.seed,
        use_cpu=used.device == "cpu",
        dataloader_pin_memory=used.device != "cpu",
        **lesson.more,
    )
    trainer = lesson.trainer(
        lesson.model,
        arguments,
        lesson.rows,
        apart=lesson.apart,
        loss=lesson.loss,
        evaluator=lesson.evaluator,
        callbacks=[LastEvaluation(), EarlyStoppingCallback(schedule.patience), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    if used.bf16:
        multiply_in_bfloat16(lesson.model, used.device)
    return trainer


def _start(trainer: Any, schedule: Schedule, checkpoint: Path | None) -> None:
    """Train to the end, from the beginning or from a checkpoint."""
    from transformers import set_seed

    set_seed(schedule.seed)  # whatever was drawn until here, dropout begins alike
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _require_end(state: Any, folder: Path) -> None:
    """Raise unless the last step is done."""
    if state.global_step < state.max_steps:
        raise Interrupted(
            f"stopped after step {state.global_step} of {state.max_steps}; a checkpoint is in {folder / CHECKPOINTS}. "
            "Start the same command again, and it goes on from there."
        )


def _before(folder: Path, evaluator: "DevEvaluator") -> float:
    """Return how the base ranks the dev queries; it is noted, so that a run that goes on need not ask again."""
    file = folder / BEFORE
    if file.is_file():
        return float(json.loads(file.read_text(encoding="utf-8")))
    before = evaluator.ndcg()
    write(file, before)
    return before


def _restored(folder: Path) -> Fitted:
    """Return the run that a folder holds."""
    plain = json.loads((folder / DONE).read_text(encoding="utf-8"))
    evaluations = tuple(Evaluation(**one) for one in plain["evaluations"])
    read = {"model": folder / MODEL, "evaluations": evaluations, "best": Evaluation(**plain["best"])}
    return Fitted(**{**plain, **read, "used": Resources(**plain["used"])})
