"""
The trainer of sentence-transformers, fitted to this package: its batches, its evaluation, and what it saves.

What learns is the library's. Here are batches of like lengths in an order that a run can take up again, an evaluation
that reads as rankers do, and checkpoints without a model card, which the library would look up at the hub.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers.base.evaluation import BaseEvaluator
from sentence_transformers.base.sampler import DefaultBatchSampler
from sentence_transformers.base.trainer import BaseTrainer
from sentence_transformers.cross_encoder import CrossEncoderTrainer
from sentence_transformers.sentence_transformer.trainer import SentenceTransformerTrainer
from transformers import TrainerCallback
from transformers.trainer_pt_utils import get_length_grouped_indices

from haystack_ce_ranker.evaluation.judging.measures import mean, ndcg_at_10
from haystack_ce_ranker.training.held_out import HeldOut, Run
from haystack_ce_ranker.training.losses import Row, characters_of

METRIC = "dev_ndcg@10"
LOGGED = f"eval_{METRIC}"
"""The name of the metric in the trainer's log."""


class LikeLengths(DefaultBatchSampler):  # type: ignore[misc]
    """
    Batches of rows of like lengths, in random order.

    Batches of mixed lengths would be padded to their longest pair. The order of an epoch depends on the seed and the
    number of the epoch alone, so that a run which goes on in a later epoch takes the same batches.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        super().__init__(lengths, batch_size=batch_size, drop_last=False, seed=seed)
        self._lengths = list(lengths)

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the places of each batch's rows."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        places = get_length_grouped_indices(self._lengths, self.batch_size, generator=random)
        batches = [places[start : start + self.batch_size] for start in range(0, len(places), self.batch_size)]
        for nth in torch.randperm(len(batches), generator=random).tolist():
            yield batches[nth]

    def __len__(self) -> int:
        """Return how many batches an epoch has."""
        return math.ceil(len(self._lengths) / int(self.batch_size))


class DevEvaluator(BaseEvaluator):  # type: ignore[misc]
    """
    Says how the model that is being trained ranks held-out queries.

    :param model: The torch module that is being trained.
    :param ranking: Ranks the queries with it.
    """

    def __init__(self, model: Any, ranking: Callable[[], Run], dev: HeldOut) -> None:
        super().__init__()
        self.primary_metric, self.greater_is_better = METRIC, True
        self._model, self._ranking, self._dev = model, ranking, dev

    def ndcg(self) -> float:
        """Return the mean nDCG@10 of the model as it is now."""
        was_training = self._model.training
        self._model.eval()
        try:
            return mean(ndcg_at_10(self._ranking(), self._dev.grades))
        finally:
            self._model.train(was_training)

    def __call__(self, *_: Any, **__: Any) -> dict[str, float]:
        """Return the metric by its name."""
        return {METRIC: self.ndcg()}


class LastEvaluation(TrainerCallback):  # type: ignore[misc]
    """Has the model evaluated after the last step, too, wherever the steps between evaluations end."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:  # noqa: ARG002
        """Ask for it."""
        if state.global_step >= state.max_steps:
            control.should_evaluate = True


class OverRows(BaseTrainer):  # type: ignore[misc]
    """
    What both of the library's trainers get: rows of plain texts as the data set, and its batches.

    :param rows: What to learn from.
    """

    def __init__(self, model: Any, args: Any, rows: Sequence[Row], **given: Any) -> None:
        self._lengths = [characters_of(row) for row in rows]
        dataset = Dataset.from_dict({key: [row[key] for row in rows] for key in rows[0]})
        super().__init__(model, args, train_dataset=dataset, **given)

    def get_batch_sampler(self, *_: Any, batch_size: int, **__: Any) -> LikeLengths:
        """Return the batches of the training rows."""
        return LikeLengths(self._lengths, batch_size=batch_size, seed=self.args.seed)

    def largest_batch(self) -> dict[str, Any]:
        """Return the batch of the longest rows, as the loss takes it."""
        longest = sorted(range(len(self._lengths)), key=lambda place: -self._lengths[place])
        return dict(self.data_collator([self.train_dataset[place] for place in longest[: self.args.train_batch_size]]))

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add none: the library's card asks the hub about the base."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        """Save the model as safetensors, and neither a card nor the pickled arguments."""
        self.model.save_pretrained(output_dir or self.args.output_dir, create_model_card=False)


class RankingTrainer(OverRows, CrossEncoderTrainer):  # type: ignore[misc]
    """The trainer of a cross-encoder, over rows of `losses.rows_for`."""


class TeachingTrainer(OverRows, SentenceTransformerTrainer):  # type: ignore[misc]
    """The trainer of a bi-encoder, over rows of `taught.taught_rows`."""
