"""
One training run of a bi-encoder that learns from a cross-encoder's logits, by the trainer of sentence-transformers.

`taught.py` has what it learns. The run stops early by nDCG@10 on held-out queries, goes on after a kill, and ends with
the best of its checkpoints, as that of a cross-encoder does (`runs.py`).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from haystack_ce_ranker.backends.model_files import ModelNotFoundError, ModelOptions, locate, not_found
from haystack_ce_ranker.checks import choice, number, whole_number
from haystack_ce_ranker.evaluation.judging.measures import ranked_scores
from haystack_ce_ranker.training.groups import Group
from haystack_ce_ranker.training.held_out import HeldOut, Run
from haystack_ce_ranker.training.resources import resources
from haystack_ce_ranker.training.runs import Fitted, Lesson, Schedule, key_of, require_packages, run_to_the_end
from haystack_ce_ranker.training.taught import CONTRASTS, Taught, TaughtLoss, scales, taught_rows


@dataclass(frozen=True, kw_only=True)
class BiEncoderRecipe(Schedule):
    """
    How to teach a bi-encoder. `Schedule` has the steps; a batch is a number of texts.

    Half of what it learns is taken back, as it forgets much; benchmarks/training_distil.md has what that is worth.

    :ivar contrast: One of `taught.CONTRASTS`: what the contrastive loss tells a text apart from.
    :ivar weight: Of the contrastive loss beside MarginMSE; 0 leaves it out.
    :ivar temperature: Of the contrast `teacher`, in standard deviations of the teacher's logits.
    :ivar ways: Texts beside each query of a row.
    """

    batch: int = 64
    at_once: int | None = 64
    interpolate: float = 0.5
    contrast: str = "teacher"
    weight: float = 1.0
    temperature: float = 0.5
    ways: int = 4

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        checked: dict[str, object] = {
            "contrast": choice("contrast", self.contrast, CONTRASTS),
            "weight": number("weight", self.weight, least=0),
            "temperature": number("temperature", self.temperature, above=0),
            "ways": whole_number("ways", self.ways, least=2),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)


def teach(
    student: ModelOptions | str,
    groups: Sequence[Group],
    dev: HeldOut,
    folder: Path,
    recipe: BiEncoderRecipe | None = None,
    *,
    threads: int | None = None,
    resume: bool = True,
    console: Console | None = None,
) -> Fitted:
    """
    Teach a bi-encoder a cross-encoder's logits, and keep the best of its checkpoints by nDCG@10 on the dev queries.

    :param student: A bi-encoder.
    :param groups: Queries with documents, as the bi-encoder reads them in serving, and the teacher's raw logits.
    :param dev: Held-out queries, whose candidates the bi-encoder ranks.
    :param folder: Where checkpoints and the model are written; `folder/model` is the result.
    :param threads: Threads of one operation; None for torch's own number.
    :param resume: Whether to go on with what the folder holds. Otherwise it is emptied.
    :param console: Where progress is shown; nowhere if None.
    :raises OtherSettingsError: If the folder holds a run with other settings or data.
    :raises Interrupted: If Ctrl-C ended it.
    :raises ImportError: If a package of the extra `train` is missing.
    :raises ValueError: If there is nothing to learn from, or the student is no bi-encoder.
    """
    require_packages()
    recipe = BiEncoderRecipe() if recipe is None else recipe
    options = ModelOptions(student) if isinstance(student, str) else student
    used = resources(options.device, threads if threads is not None else options.threads, recipe.dtype)
    options = replace(options, device=used.device, threads=used.threads, dtype=None)
    taught = taught_rows(groups, ways=recipe.ways, seed=recipe.seed)
    key = key_of(options, asdict(recipe), used.plain(), dev.plain(), taught.rows)

    def lesson() -> Lesson:
        return _lesson(load_bi_encoder(options), taught, dev, recipe)

    return run_to_the_end(folder, key, lesson, recipe, used, resume=resume, console=console)


def _lesson(model: Any, taught: Taught, dev: HeldOut, recipe: BiEncoderRecipe) -> Lesson:
    from sentence_transformers.sentence_transformer.training_args import SentenceTransformerTrainingArguments

    from haystack_ce_ranker.training.trainer import DevEvaluator, TeachingTrainer

    found = scales(model, taught.rows, seed=recipe.seed)
    settings: dict[str, Any] = {one: getattr(recipe, one) for one in ("contrast", "weight", "temperature")}
    learning = (
        f"learning {len(taught.rows):,} rows of {recipe.ways} texts for {taught.queries:,} queries; similarities are "
        f"stretched {found.stretch:.1f} times, to spread as the teacher's logits do"
    )
    left_out = [f"left out: {taught.unused} queries have too few documents"] if taught.unused else []
    return Lesson(
        model,
        TeachingTrainer,
        SentenceTransformerTrainingArguments,
        TaughtLoss(model, found, **settings),
        DevEvaluator(model, lambda: rank_by_similarity(model, dev), dev),
        taught.rows,
        pairs=len(taught.rows) * recipe.ways,
        queries=taught.queries,
        unused_queries=taught.unused,
        told=[learning, *left_out],
        more={"prompts": model.prompts.get(model.default_prompt_name or "")},
    )


def load_bi_encoder(options: ModelOptions) -> Any:
    """
    Load a bi-encoder in float32.

    :raises ModelNotFoundError: If the model is nowhere, or its weights are no safetensors.
    :raises ValueError: If it is a cross-encoder.
    """
    from sentence_transformers import SentenceTransformer
    from transformers import AutoConfig

    place = locate(options.model)
    local = Path(place).is_dir()
    hub = {"revision": options.revision, "token": options.token, "trust_remote_code": options.trust_remote_code}
    try:
        if not (local and (Path(place) / "modules.json").is_file()):
            made = AutoConfig.from_pretrained(place, **hub).architectures or ()
            if any(name.endswith("ForSequenceClassification") for name in made):
                raise ValueError(
                    f"model {options.model!r} is a cross-encoder, which gives no embeddings: name a bi-encoder, or "
                    "distil into a cross-encoder."
                )
        return SentenceTransformer(
            place,
            device=options.device,
            local_files_only=local,
            model_kwargs={**options.model_kwargs, "use_safetensors": True, "dtype": "float32"},
            **hub,
        )
    except OSError as error:
        if place == options.model and "safetensors" not in str(error):
            raise not_found(options.model, error) from error
        raise ModelNotFoundError(f"model {options.model!r} cannot be trained from: {error}") from error


def rank_by_similarity(model: Any, held_out: HeldOut) -> Run:
    """Rank each query's candidates by the similarity of embeddings, as an embedding retriever would."""
    texts = dict.fromkeys(text for some in held_out.documents.values() for text in some.values())
    places = {text: place for place, text in enumerate(texts)}
    queries, vectors = (
        model.encode(list(some), convert_to_tensor=True, show_progress_bar=False)
        for some in (held_out.queries.values(), texts)
    )
    found = {}
    for place, query_id in enumerate(held_out.queries):
        candidates = held_out.documents[query_id]
        own = vectors[[places[text] for text in candidates.values()]]
        scores = model.similarity(queries[place : place + 1], own)[0].float().cpu().numpy()
        order = np.argsort(-scores, kind="stable")
        names = list(candidates)
        found[query_id] = ranked_scores([names[one] for one in order], scores[order].tolist())
    return found
