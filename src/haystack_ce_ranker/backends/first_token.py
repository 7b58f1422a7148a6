"""
Computes the end of a model's last layer for the first token only: the head of a BERT-like model reads no other.

The last layer still attends over all tokens. The steps after its attention are then computed for the first token of
each pair only. The logits are the same, and a twelve-layer model does about a sixteenth less work.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# Model types whose classification head reads the first token; tests hold them equal to the whole computation.
ARCHITECTURES = frozenset({"bert", "electra", "roberta", "xlm-roberta", "camembert"})


def part_behind_the_last_attention(model: Any) -> Any | None:
    """Return the module that follows the last layer's attention, or None if the head may read other tokens, too."""
    own = type(model).__module__.startswith("transformers.") and type(model).__name__.endswith("SequenceClassification")
    if not own or model.config.model_type not in ARCHITECTURES:
        return None
    return model.base_model.encoder.layer[-1].attention.output


@contextmanager
def first_tokens_only(module: Any | None) -> Iterator[None]:
    """Hand `module` only the first token of each pair, until the block ends; None changes nothing."""
    if module is None:
        yield
        return
    hook = module.register_forward_pre_hook(lambda _module, inputs: tuple(tensor[:, :1] for tensor in inputs))
    try:
        yield
    finally:
        hook.remove()
