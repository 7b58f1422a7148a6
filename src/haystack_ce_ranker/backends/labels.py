"""
Which of a model's outputs is the score.

A re-ranker has one output. A classifier with several, such as one for entailment, gives the log-odds of one label
against all others: the difference of the two logits if there are two. Its sigmoid is the label's softmax probability.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def names_of(config: Any, count: int) -> list[str]:
    """Return the names of a model's `count` labels; a label that the configuration does not name has its number."""
    named: Mapping[Any, Any] = getattr(config, "id2label", None) or {}
    return [str(named.get(place, named.get(str(place), place))) for place in range(count)]


def choose(label: int | str | None, names: Sequence[str], model: str) -> int:
    """
    Return the number of the label whose score is wanted.

    :param label: Its number or its name; None if there is only one.
    :param names: The names of all labels, in the order of the outputs.
    :param model: The model's name, for the error.
    :raises ValueError: If there is no such label, or there are several and none is named. The error lists them.
    """
    if label is None and len(names) == 1:
        return 0
    listed = ", ".join(f"{place}: {name!r}" for place, name in enumerate(names))
    if label is None:
        raise ValueError(
            f"model {model!r} has {len(names)} output labels ({listed}), and a ranker needs one; set label to the one "
            "that stands for relevance, by number or name."
        )
    if isinstance(label, str) and label.casefold() in (folded := [name.casefold() for name in names]):
        return folded.index(label.casefold())
    if isinstance(label, int) and not isinstance(label, bool) and 0 <= label < len(names):
        return label
    raise ValueError(f"label must be one of those that model {model!r} has ({listed}), but got {label!r}.")


def one_logit_each(outputs: Any, pairs: int, label: int) -> NDArray[np.float32]:
    """
    Return a model's outputs as one logit for each pair, shape (pairs,).

    :param outputs: Shape (pairs, labels), or (pairs,) for a single label.
    :param label: The number of the wanted label.
    """
    values: NDArray[np.float32] = np.array(outputs, dtype=np.float32).reshape(pairs, -1)
    if values.shape[1] == 1:
        return values[:, 0]
    others = np.delete(values, label, axis=1)
    top = others.max(axis=1, keepdims=True)
    found: NDArray[np.float32] = values[:, label] - (top[:, 0] + np.log(np.exp(others - top).sum(axis=1)))
    return found
