"""What could not be measured, and how much of the judgments that takes away: said above every verdict."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

MOST = 0.5  # share of the judgments that may be left out before a verdict must say so first


@dataclass(frozen=True)
class LeftOut:
    """
    Something that was left out.

    :ivar text: What, how many of how many, and what follows from it.
    :ivar share: The share of the judgments or of the judged queries that it takes away; 0 where it takes none.
    """

    text: str
    share: Annotated[float, Field(ge=0, le=1)] = 0.0

    @property
    def is_most(self) -> bool:
        """Whether less than half of the judgments are left."""
        return self.share > MOST


def part(count: int, of: int, text: str) -> tuple[LeftOut, ...]:
    """
    Return what is left out of the judgments; nothing where the count is 0.

    :param text: What follows `3 of 4`.
    """
    return (LeftOut(f"{count} of {of} {text}", count / of),) if count else ()


def sorted_by_weight(left_out: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """Return each once, what takes most first."""
    return tuple(sorted(dict.fromkeys(left_out), key=lambda one: -one.share))


def lines(left_out: Iterable[LeftOut], what: str) -> list[str]:
    """Return a line for each; `what` is said to rest on too little where it does."""
    start = f"This {what} rests on less than half of the judgments"
    return [f"{start if one.is_most else 'Left out'}: {one.text}" for one in sorted_by_weight(left_out)]
