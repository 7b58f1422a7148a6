"""
One training run of a cross-encoder: what it learns from groups, and how it reads the dev queries.

`runs.py` takes the run to its end. The dev queries are read by `CrossEncoderScorer`, as a ranker reads them.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

from haystack_ce_ranker.backends.model_files import ModelOptions
from haystack_ce_ranker.checks import choice, number, whole_number
from haystack_ce_ranker.reading.documents import DocumentText
from haystack_ce_ranker.reading.policy import ReadingPolicy
from haystack_ce_ranker.scoring.scorer import CrossEncoderScorer
from haystack_ce_ranker.training.bases import Base, load_base
from haystack_ce_ranker.training.groups import Group, row_of
from haystack_ce_ranker.training.held_out import HeldOut, rank
from haystack_ce_ranker.training.losses import LEARNS, LOSSES, Rows, rows_for
from haystack_ce_ranker.training.resources import Resources, resources
from haystack_ce_ranker.training.runs import (
    Evaluation,
    Fitted,
    Interrupted,
    Lesson,
    Schedule,
    key_of,
    pairs_at_once,
    require_packages,
    run_to_the_end,
)

__all__ = ["DevSet", "Evaluation", "Fitted", "Interrupted", "Recipe", "fit", "require_packages"]

_PARTS_ON_GPU = 32
"""Pairs of the parts in which a loss that needs the whole batch computes on a GPU: as in sentence-transformers."""

DevSet = HeldOut
"""The held-out queries that a run stops by."""


@dataclass(frozen=True, kw_only=True)
class Recipe(Schedule):
    """
    How to train a cross-encoder. `Schedule` has the steps.

    :ivar loss: One of `losses.LOSSES`.
    :ivar learns: One of `losses.LEARNS`: whether the targets are the labels, or the teacher's logits.
    :ivar states: How much the teacher's hidden states count beside the loss; 0 for nothing. See `states.AlsoStates`.
    :ivar max_length: The most tokens of a pair; None for 512, or the model's limit if that is less.
    """

    loss: str = "bce"
    learns: str = "labels"
    states: float = 0.0
    max_length: int | None = None

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        checked: dict[str, object] = {
            "loss": choice("loss", self.loss, LOSSES),
            "learns": choice("learns", self.learns, LEARNS),
            "states": number("states", self.states, least=0),
            "max_length": whole_number("max_length", self.max_length, optional=True),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if self.states and LOSSES[self.loss].in_batch:
            raise ValueError(
                f"states must be 0 with the loss {self.loss!r}, which reads each pair twice, but got {self.states:g}: "
                "use another loss, or leave states out."
            )


def fit(
    base: ModelOptions | str,
    groups: Sequence[Group],
    dev: DevSet,
    folder: Path,
    recipe: Recipe | None = None,
    *,
    policy: ReadingPolicy | None = None,
    teacher: ModelOptions | None = None,
    threads: int | None = None,
    resume: bool = True,
    console: Console | None = None,
) -> Fitted:
    """
    Train a cross-encoder, and keep the best of its checkpoints by nDCG@10 on the dev queries.

    A run that is done already, with the same settings and the same data, is not done again.

    :param base: A cross-encoder with one label, or an encoder, which gets a fresh head.
    :param groups: What to learn from. The texts are what the model reads: of a long document its best window, or more.
    :param dev: Held-out queries. The model reads their documents by `policy`.
    :param folder: Where checkpoints and the model are written; `folder/model` is the result.
    :param policy: What the model may read of a dev document; as the ranker's defaults if None.
    :param teacher: Whose hidden states are learnt, where `recipe.states` is above 0: the model that the student was cut
        from, or one of its kind.
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
    if recipe.states and teacher is None:
        raise ValueError(f"teacher must be given where states ({recipe.states:g}) are learnt, but is None.")
    policy = ReadingPolicy() if policy is None else policy
    options = base if isinstance(base, ModelOptions) else ModelOptions(base)
    used = resources(options.device, threads if threads is not None else options.threads, recipe.dtype)
    options = replace(options, device=used.device, threads=used.threads, dtype=None)
    rows = rows_for(recipe.loss, groups, learns=recipe.learns, seed=recipe.seed)
    max_length = recipe.max_length if recipe.max_length is not None else policy.max_length
    settings = (asdict(recipe), asdict(policy), used.plain())
    key = key_of(options, *settings, dev.plain(), *map(row_of, groups))

    def lesson() -> Lesson:
        loaded = load_base(options, seed=recipe.seed, max_length=max_length, interpolate=recipe.interpolate)
        whole = _lesson(loaded, options, groups, rows, dev, recipe, policy, used)
        return whole if teacher is None or not recipe.states else _with_states(whole, teacher, recipe.states, used)

    return run_to_the_end(folder, key, lesson, recipe, used, resume=resume, console=console)


def _lesson(
    base: Base,
    options: ModelOptions,
    groups: Sequence[Group],
    rows: Rows,
    dev: DevSet,
    recipe: Recipe,
    policy: ReadingPolicy,
    used: Resources,
) -> Lesson:
    from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments

    from haystack_ce_ranker.backends.torch_backend import TorchBackend
    from haystack_ce_ranker.training.trainer import DevEvaluator, RankingTrainer

    backend = TorchBackend(base.cross_encoder, options, packed=False, learns=True)
    scorer = CrossEncoderScorer(backend, policy)
    at_once = pairs_at_once(recipe, used, base.cross_encoder, on_gpu=_PARTS_ON_GPU)
    return Lesson(
        base.cross_encoder,
        RankingTrainer,
        CrossEncoderTrainingArguments,
        LOSSES[recipe.loss].make(base.cross_encoder, at_once=at_once),
        DevEvaluator(base.cross_encoder, lambda: rank(scorer, dev), dev),
        rows.rows,
        pairs=rows.pairs,
        queries=rows.queries,
        unused_queries=rows.unused_queries,
        told=[*_announced(rows, recipe, used, base.fresh_head), *_cut(groups, scorer)],
        fresh_head=bool(base.fresh_head),
        more={"prompts": backend.prompt} if backend.prompt else {},  # or it would learn to read without it
        apart=rows.apart,
    )


def _with_states(lesson: Lesson, teacher: ModelOptions, weight: float, used: Resources) -> Lesson:
    from haystack_ce_ranker.training.states import AlsoStates

    options = replace(teacher, device=used.device, threads=used.threads, dtype="float32")
    return replace(lesson, loss=AlsoStates(lesson.loss, lesson.model, options, weight, bf16=used.bf16))


def _cut(groups: Sequence[Group], scorer: CrossEncoderScorer) -> list[str]:
    """Say how many texts the model does not read to their end, as a text that another model reads may be longer."""
    cut = texts = 0
    for group in groups:
        limit = scorer.pair_limit(group.query)
        lengths = scorer.document_lengths([DocumentText(one.text) for one in group.candidates])
        cut += sum(length > limit for length in lengths)
        texts += len(lengths)
    return [f"note: the model reads only the beginning of {cut:,} of {texts:,} texts"] if cut else []


def _announced(rows: Rows, recipe: Recipe, used: Resources, fresh_head: Sequence[str]) -> list[str]:
    left_out = [f"{rows.unused_queries} queries have nothing to learn from"] if rows.unused_queries else []
    left_out += [f"{rows.unused_documents} documents have no target"] if rows.unused_documents else []
    head = f"The base has no trained head: {', '.join(fresh_head)} are drawn at random with seed {recipe.seed}."
    where = f"{used.device}, {used.threads} threads" + (", bfloat16" if used.bf16 else "")
    others = f", {LOSSES[recipe.loss].in_batch} of each row drawn from other queries" if rows.apart else ""
    return [
        *([head] if fresh_head else []),
        f"learning {rows.pairs:,} pairs of {rows.queries:,} queries by {recipe.loss}{others} on {where}",
        *([f"left out: {'; '.join(left_out)}"] if left_out else []),
    ]
