"""
Computes the end of a model's last layer for the first token only: the head of a BERT-like model reads no other.

The last layer still attends over all tokens. The steps after its attention are then computed for the first token of
each pair only. The logits are the same, and a twelve-layer model does about a sixteenth less work.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

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
    """
    Hand `module` only the first token of each pair in what this thread runs, until the block ends.

    :param module: None changes nothing.
    """
    if module is None:
        yield
        return
    with _registering:
        if module not in _hooked:
            module.register_forward_pre_hook(_cut)
            _hooked.add(module)
    before, _here.module = getattr(_here, "module", None), module
    try:
        yield
    finally:
        _here.module = before


def _cut(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(tensor[:, :1] for tensor in inputs) if getattr(_here, "module", None) is module else inputs


_here = threading.local()  # two threads run a model at once: a hook that came and went would be the other one's, too
_hooked: "WeakSet[Any]" = WeakSet()
_registering = threading.Lock()
