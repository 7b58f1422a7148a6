"""
One training run of a cross-encoder, by the trainer of sentence-transformers: rows in, the best checkpoint out.

The run stops early by nDCG@10 on held-out queries, which `CrossEncoderScorer` reads as a ranker does. A run that was
killed goes on from its last checkpoint and ends with the same weights: the order of the rows depends on the seed and
the epoch alone, and a checkpoint holds the optimiser, the schedule and the state of random numbers.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from haystack_ce_ranker.backends.model_files import ModelOptions, locate
from haystack_ce_ranker.checks import choice, number, whole_number
from haystack_ce_ranker.machine.energy import meter_for
from haystack_ce_ranker.machine.memory import process_peak_megabytes
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.training.bases import load_base
from haystack_ce_ranker.training.groups import Group, row_of
from haystack_ce_ranker.training.held_out import HeldOut
from haystack_ce_ranker.training.losses import LEARNS, LOSSES, Rows, rows_for
from haystack_ce_ranker.training.resources import Memory, Resources, expected_memory, limited_threads, resources
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
    from haystack_ce_ranker.training.trainer import DevEvaluator, RankingTrainer

DevSet = HeldOut
"""The held-out queries that a run stops by."""

AT_ONCE = 4
"""Pairs that are computed at once on a CPU, which more pairs would not make faster."""


class Interrupted(Exception):  # noqa: N818 - the user's wish is no error
    """A run was ended by Ctrl-C, after a checkpoint."""


@dataclass(frozen=True)
class Recipe:
    """
    How to train.

    :ivar loss: One of `losses.LOSSES`.
    :ivar learns: One of `losses.LEARNS`: whether the targets are the labels, or the teacher's logits.
    :ivar epochs: The most passes over the rows.
    :ivar learning_rate: The highest rate of AdamW. It falls to 0 in a straight line.
    :ivar batch: Pairs of a query and a text of one step, as nearly as whole rows allow.
    :ivar at_once: How many of them are computed at once, which the memory depends on; None for `AT_ONCE` on a CPU, and
        all on a GPU.
    :ivar warmup: The share of the steps in which the rate rises.
    :ivar weight_decay: Of AdamW.
    :ivar evaluations: How often the model is evaluated and saved in one epoch.
    :ivar patience: After how many evaluations in a row without a better one the run stops.
    :ivar seed: Of the order, of dropout, and of a fresh head.
    :ivar max_length: The most tokens of a pair; None for 512, or the model's limit if that is less.
    """

    loss: str = "bce"
    learns: str = "labels"
    epochs: int = 2
    learning_rate: float = 2e-5
    batch: int = 16
    at_once: int | None = None
    warmup: float = 0.1
    weight_decay: float = 0.01
    evaluations: int = 2
    patience: int = 3
    seed: int = 0
    max_length: int | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        checked: dict[str, object] = {
            "loss": choice("loss", self.loss, LOSSES),
            "learns": choice("learns", self.learns, LEARNS),
            **{
                name: whole_number(name, getattr(self, name)) for name in ("epochs", "batch", "evaluations", "patience")
            },
            "at_once": whole_number("at_once", self.at_once, optional=True),
            "learning_rate": number("learning_rate", self.learning_rate, above=0),
            "warmup": number("warmup", self.warmup, least=0, most=1),
            "weight_decay": number("weight_decay", self.weight_decay, least=0),
            "seed": whole_number("seed", self.seed, least=0),
            "max_length": whole_number("max_length", self.max_length, optional=True),
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

    :ivar model: The folder of the best checkpoint's model. It is one that rankers load.
    :ivar before: nDCG@10 on the dev queries before the first step.
    :ivar evaluations: The same after some steps, in their order.
    :ivar best: The best of the evaluations.
    :ivar queries: Queries that were learnt from.
    :ivar pairs: Pairs of one epoch.
    :ivar unused_queries: Queries that had nothing to learn from.
    :ivar steps: Steps that were taken.
    :ivar fresh_head: Whether the head was drawn at random.
    :ivar max_length: The most tokens of a pair that were read.
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


def fit(
    base: ModelOptions | str,
    groups: Sequence[Group],
    dev: DevSet,
    folder: Path,
    recipe: Recipe | None = None,
    *,
    policy: ReadingPolicy | None = None,
    threads: int | None = None,
    resume: bool = True,
    console: Console | None = None,
) -> Fitted:
    """
    Train a cross-encoder, and keep the best of its checkpoints by nDCG@10 on the dev queries.

    A run that is done already, with the same settings and the same data, is not done again.

    :param base: A cross-encoder with one label, or an encoder, which gets a fresh head.
    :param groups: What to learn from. The texts are what the model reads: a long document's best window.
    :param dev: Held-out queries. The model reads their documents by `policy`.
    :param folder: Where checkpoints and the model are written; `folder/model` is the result.
    :param policy: What the model may read of a dev document; as the ranker's defaults if None.
    :param threads: Threads of one operation; None for torch's own number.
    :param resume: Whether to go on with what the folder holds. Otherwise it is emptied.
    :param console: Where progress is shown; nowhere if None.
    :raises OtherSettingsError: If the folder holds a run with other settings or data.
    :raises Interrupted: If Ctrl-C ended it.
    :raises ImportError: If a package of the extra `train` is missing.
    :raises ValueError: If there is nothing to learn from, or the model cannot be trained.
    """
    require_packages()
    recipe = Recipe() if recipe is None else recipe
    policy = ReadingPolicy() if policy is None else policy
    console = Console(quiet=True) if console is None else console
    options = base if isinstance(base, ModelOptions) else ModelOptions(base)
    used = resources(options.device, threads if threads is not None else options.threads)
    options = replace(options, device=used.device, threads=used.threads, dtype=None)
    folder = folder.absolute()
    claim(folder, _key(options, groups, dev, recipe, policy, used), resume=resume)
    if (folder / DONE).is_file():
        return _restored(folder)
    rows = rows_for(recipe.loss, groups, learns=recipe.learns)
    with limited_threads(used.threads), _without_other_bars():
        found = _train(options, rows, dev, folder, recipe, policy, used, console)
    write(folder / DONE, found.plain())
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    return found


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


def _train(
    options: ModelOptions,
    rows: Rows,
    dev: DevSet,
    folder: Path,
    recipe: Recipe,
    policy: ReadingPolicy,
    used: Resources,
    console: Console,
) -> Fitted:
    from haystack_ce_ranker.backends.torch_backend import TorchBackend
    from haystack_ce_ranker.training.callbacks import Bar, SpentSoFar, WayOut, ctrl_c_ends
    from haystack_ce_ranker.training.trainer import LOGGED, DevEvaluator

    max_length = recipe.max_length if recipe.max_length is not None else policy.max_length
    base = load_base(options, seed=recipe.seed, max_length=max_length)
    scorer = CrossEncoderScorer(TorchBackend(base.cross_encoder, options, packed=False), policy)
    evaluator = DevEvaluator(scorer, dev)
    before = _before(folder, evaluator)
    meter = meter_for(used.device)
    spent, way_out, bar = SpentSoFar(meter, folder / SPENT), WayOut(), Bar(console, LOGGED)
    trainer = _trainer(base.cross_encoder, rows, evaluator, folder / CHECKPOINTS, recipe, used, [spent, way_out, bar])
    memory = _memory(trainer, base.cross_encoder, used)
    for line in _announced(rows, recipe, used, memory, before, base.fresh_head):
        console.print(line, markup=False, highlight=False)
    checkpoint = last_checkpoint(folder / CHECKPOINTS)
    if checkpoint is not None:
        console.print(f"going on from {checkpoint.name}", markup=False, highlight=False)
    if checkpoint is None or not is_over(checkpoint, recipe.patience):
        try:
            with ctrl_c_ends(way_out, console):
                _start(trainer, recipe, checkpoint)
        finally:
            bar.stop()
        if way_out.asked:
            _require_end(trainer.state, folder)
    state = state_of(last_checkpoint(folder / CHECKPOINTS))
    evaluations = [Evaluation(one["step"], one[LOGGED]) for one in state["log_history"] if LOGGED in one]
    best = max(evaluations, key=lambda one: (one.ndcg, -one.step))
    keep(folder / CHECKPOINTS / f"checkpoint-{best.step}", folder / MODEL)
    return Fitted(
        model=folder / MODEL,
        before=before,
        evaluations=tuple(evaluations),
        best=best,
        queries=rows.queries,
        pairs=rows.pairs,
        unused_queries=rows.unused_queries,
        steps=state["global_step"],
        fresh_head=bool(base.fresh_head),
        max_length=base.cross_encoder.max_seq_length,
        seconds=spent.seconds,
        joules=spent.joules,
        energy=meter.source,
        expected_memory_mb=memory.peak,
        peak_memory_mb=process_peak_megabytes(),
        used=used,
    )


def _trainer(
    cross_encoder: Any,
    rows: Rows,
    evaluator: "DevEvaluator",
    folder: Path,
    recipe: Recipe,
    used: Resources,
    callbacks: list[Any],
) -> "RankingTrainer":
    from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments
    from transformers import EarlyStoppingCallback, PrinterCallback

    from haystack_ce_ranker.training.trainer import LOGGED, LastEvaluation, RankingTrainer

    at_once = recipe.at_once if recipe.at_once is not None else AT_ONCE if used.device == "cpu" else recipe.batch
    rows_at_once = max(1, round(min(at_once, recipe.batch) / rows.pairs_per_row))
    parts = max(1, round(recipe.batch / (rows_at_once * rows.pairs_per_row)))
    steps = -(-len(rows.rows) // (rows_at_once * parts))
    every = max(1, steps // recipe.evaluations)
    arguments = CrossEncoderTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=rows_at_once,
        gradient_accumulation_steps=parts,
        learning_rate=recipe.learning_rate,
        warmup_steps=round(recipe.warmup * steps * recipe.epochs),
        weight_decay=recipe.weight_decay,
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
        seed=recipe.seed,
        data_seed=recipe.seed,
        bf16=used.bf16,
        use_cpu=used.device == "cpu",
        dataloader_pin_memory=used.device != "cpu",
    )
    trainer = RankingTrainer(
        cross_encoder,
        arguments,
        rows.rows,
        loss=LOSSES[recipe.loss].make(cross_encoder),
        evaluator=evaluator,
        callbacks=[LastEvaluation(), EarlyStoppingCallback(recipe.patience), *callbacks],
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


def _start(trainer: "RankingTrainer", recipe: Recipe, checkpoint: Path | None) -> None:
    """Train to the end, from the beginning or from a checkpoint."""
    from transformers import set_seed

    set_seed(recipe.seed)  # whatever was drawn until here, dropout begins alike
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))


def _require_end(state: Any, folder: Path) -> None:
    """Raise unless the last step is done."""
    if state.global_step < state.max_steps:
        raise Interrupted(
            f"stopped after step {state.global_step} of {state.max_steps}; a checkpoint is in {folder / CHECKPOINTS}. "
            "Start the same command again, and it goes on from there."
        )


def _memory(trainer: "RankingTrainer", cross_encoder: Any, used: Resources) -> Memory:
    batch = trainer.largest_batch()
    cross_encoder.train()
    return expected_memory(cross_encoder, lambda: trainer.compute_loss(cross_encoder, dict(batch)), used.device)


def _announced(
    rows: Rows, recipe: Recipe, used: Resources, memory: Memory, before: float, fresh_head: Sequence[str]
) -> list[str]:
    left_out = [f"{rows.unused_queries} queries have nothing to learn from"] if rows.unused_queries else []
    left_out += [f"{rows.unused_documents} documents have no target"] if rows.unused_documents else []
    head = f"The base has no trained head: {', '.join(fresh_head)} are drawn at random with seed {recipe.seed}."
    where = f"{used.device}, {used.threads} threads" + (", bfloat16" if used.bf16 else "")
    return [
        *([head] if fresh_head else []),
        f"learning {rows.pairs:,} pairs of {rows.queries:,} queries by {recipe.loss} on {where}",
        *([f"left out: {'; '.join(left_out)}"] if left_out else []),
        memory.told(),
        f"before training: dev nDCG@10 {before:.4f}",
    ]


def _before(folder: Path, evaluator: "DevEvaluator") -> float:
    """Return how the base ranks the dev queries; it is noted, so that a run that goes on need not ask again."""
    file = folder / BEFORE
    if file.is_file():
        return float(json.loads(file.read_text(encoding="utf-8")))
    before = evaluator.ndcg()
    write(file, before)
    return before


def _key(
    options: ModelOptions,
    groups: Sequence[Group],
    dev: DevSet,
    recipe: Recipe,
    policy: ReadingPolicy,
    used: Resources,
) -> str:
    """Return a short key of all that the result depends on."""
    place = Path(locate(options.model))
    weights = [[one.name, one.stat().st_size, one.stat().st_mtime_ns] for one in sorted(place.glob("*.safetensors"))]
    digest = hashlib.blake2b(digest_size=12)
    parts: list[Any] = [options.model, options.revision, weights, asdict(recipe), asdict(policy), used.plain()]
    parts += [dict(dev.queries), {name: dict(texts) for name, texts in dev.documents.items()}]
    parts += [{name: dict(grades) for name, grades in dev.grades.items()}]
    for part in (*parts, *map(row_of, groups)):
        digest.update(json.dumps(part).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _restored(folder: Path) -> Fitted:
    """Return the run that a folder holds."""
    plain = json.loads((folder / DONE).read_text(encoding="utf-8"))
    evaluations = tuple(Evaluation(**one) for one in plain["evaluations"])
    read = {"model": folder / MODEL, "evaluations": evaluations, "best": Evaluation(**plain["best"])}
    return Fitted(**{**plain, **read, "used": Resources(**plain["used"])})
