"""
The trainer of sentence-transformers, fitted to this package: its batches, its evaluation, and what it saves.

What learns is the library's. Here are batches of like lengths in an order that a run can take up again, an evaluation
that reads as rankers do, and checkpoints without a model card, which the library would look up at the hub.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import convert_outputs_to_fp32
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
from haystack_ce_ranker.training.losses import Apart, Row, characters_of

METRIC = "dev_ndcg@10"
LOGGED = f"eval_{METRIC}"
"""The name of the metric in the trainer's log."""

_LOOKED_AT = 64  # full batches for a row to exchange: where all rows are alike, none has one


class LikeLengths(DefaultBatchSampler):  # type: ignore[misc]
    """
    Batches of rows of like lengths, in random order.

    Batches of mixed lengths would be padded to their longest pair. The order of an epoch depends on the seed and the
    number of the epoch alone, so that a run which goes on in a later epoch takes the same batches.

    :param apart: Of each row, which others must not stand in its batch. Where there is no other room, they do.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int, apart: Sequence[Apart] = ()) -> None:
        super().__init__(lengths, batch_size=batch_size, drop_last=False, seed=seed)
        self._lengths = list(lengths)
        self._apart = apart

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the places of each batch's rows."""
        random = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        places = get_length_grouped_indices(self._lengths, self.batch_size, generator=random)
        batches = self._kept_apart(places) if self._apart else self._in_order(places)
        for nth in torch.randperm(len(batches), generator=random).tolist():
            yield batches[nth]

    def _in_order(self, places: Sequence[int]) -> list[list[int]]:
        return [list(places[start : start + self.batch_size]) for start in range(0, len(places), self.batch_size)]

    def _kept_apart(self, places: Sequence[int]) -> list[list[int]]:
        """Put each row into the first batch with room in which it and the others may stand together."""
        batches: list[list[int]] = [[] for _ in range(len(self))]
        open_ones = dict(enumerate(batches))
        for place in places:
            chosen = next((nth for nth, batch in open_ones.items() if self._fits(place, batch)), None)
            if chosen is None:
                chosen = self._exchanged(place, batches, open_ones)
            else:
                batches[chosen].append(place)
            if len(batches[chosen]) == self.batch_size:
                del open_ones[chosen]
        return batches

    def _fits(self, place: int, batch: Sequence[int]) -> bool:
        ours = self._apart[place]
        others = (self._apart[other] for other in batch)
        return not any(ours.brought & one.spared or ours.spared & one.brought for one in others)

    def _exchanged(self, place: int, batches: Sequence[list[int]], open_ones: Mapping[int, list[int]]) -> int:
        """
        Put a row that fits into no batch with room in the place of another row, which does.

        :returns: The number of the batch that was filled up by it: if there is no such row, with what does not fit.
        """
        full = [batch for nth, batch in enumerate(batches) if nth not in open_ones]
        for batch in full[:_LOOKED_AT]:
            for nth, other in enumerate(batch):
                if self._fits(place, [*batch[:nth], *batch[nth + 1 :]]):
                    for room, filled in open_ones.items():
                        if self._fits(other, filled):
                            batch[nth] = place
                            filled.append(other)
                            return room
        room = next(iter(open_ones))
        open_ones[room].append(place)
        return room

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


def multiply_in_bfloat16(model: Any, device: str) -> None:
    """
    Have a model multiply in bfloat16 while it learns. Its outputs are float32, and so is all of an evaluation.

    The trainer's own `bf16` is not used: it evaluates in bfloat16, too, in which the model will not rank.
    """
    forward = model.forward
    learning = convert_outputs_to_fp32(torch.autocast(torch.device(device).type, torch.bfloat16)(forward))
    model.forward = lambda *given, **named: (learning if model.training else forward)(*given, **named)


class OverRows(BaseTrainer):  # type: ignore[misc]
    """
    What both of the library's trainers get: rows of plain texts as the data set, and its batches.

    :param rows: What to learn from.
    :param apart: Of each row, which others must not stand in its batch; empty if any may.
    """

    def __init__(
        self, model: Any, args: Any, rows: Sequence[Row], *, apart: Sequence[Apart] = (), **given: Any
    ) -> None:
        self._lengths = [characters_of(row) for row in rows]
        self._apart = apart
        dataset = Dataset.from_dict({key: [row[key] for row in rows] for key in rows[0]})
        super().__init__(model, args, train_dataset=dataset, **given)

    def get_batch_sampler(self, *_: Any, batch_size: int, **__: Any) -> LikeLengths:
        """Return the batches of the training rows."""
        return LikeLengths(self._lengths, batch_size=batch_size, seed=self.args.seed, apart=self._apart)

    def largest_pass(self) -> Callable[[], Any]:
        """Return what computes as much at once as any step does: the batch of the longest rows."""
        longest = sorted(range(len(self._lengths)), key=lambda place: -self._lengths[place])
        rows = [self.train_dataset[place] for place in longest[: self.args.train_batch_size]]
        if self._apart:
            return partial(self._largest_part, rows)
        batch = self._prepare_inputs(self.data_collator(rows))  # labels on the device of the model, as in a step
        return lambda: self.compute_loss(self.model, dict(batch))

    def _largest_part(self, rows: Sequence[Row]) -> Any:
        """Compute as many of the longest pairs as the loss keeps at once: a part of the batch, and not all of it."""
        texts = sorted((text for row in rows for key, text in row.items() if key != "query"), key=len, reverse=True)
        query = max((row["query"] for row in rows), key=len)
        pairs = [[query, text] for text in texts[: self.loss.mini_batch_size]]
        prompted = {"prompt": self.args.prompts} if self.args.prompts else {}
        with self.compute_loss_context_manager():
            return self.loss.predict_minibatch(pairs, with_grad=True, copy_random_state=False, **prompted)

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """Add none: the library's card asks the hub about the base."""

    def load(self, checkpoint: Path) -> None:
        """Give the model the weights of a checkpoint."""
        self._load_from_checkpoint(str(checkpoint))

    def write(self, folder: Path) -> None:
        """Write the model, over one that is there."""
        self._save(str(folder))

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:  # noqa: ARG002
        """Save the model as safetensors, and neither a card nor the pickled arguments."""
        self.model.save_pretrained(output_dir or self.args.output_dir, create_model_card=False)


class RankingTrainer(OverRows, CrossEncoderTrainer):  # type: ignore[misc]
    """The trainer of a cross-encoder, over rows of `losses.rows_for`."""


class TeachingTrainer(OverRows, SentenceTransformerTrainer):  # type: ignore[misc]
    """The trainer of a bi-encoder, over rows of `taught.taught_rows`."""
