"""The table of engines: shards in, their scores out as they are done, in any order."""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass

from haystack_ce_ranker.bulk import on_ray
from haystack_ce_ranker.bulk.replica import Model, Replica
from haystack_ce_ranker.bulk.shards import Shard, ShardScores
from haystack_ce_ranker.checks import text, whole_number


@dataclass(frozen=True)
class Workers:
    """
    Who scores.

    :ivar replicas: How many models are loaded; None for as many as there are CPUs, or GPUs.
    :ivar address: Of a Ray cluster that runs; None starts one on this machine.
    :raises ValueError: If a value is not what its field takes.
    """

    replicas: int | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        """Check both."""
        whole_number("replicas", self.replicas, optional=True)
        text("address", self.address, empty=False, optional=True)


Scored = Generator[tuple[int, ShardScores], None, None]
"""The number of a shard with its scores. Closing it ends the work."""


def score_locally(model: Model, shards: Sequence[Shard], workers: Workers) -> Scored:
    """
    Score shards with one replica in this process, one after the other.

    :raises ValueError: If more replicas are wanted, or a cluster.
    """
    if workers.replicas not in (None, 1) or workers.address is not None:
        given = f"replicas={workers.replicas}" if workers.address is None else f"address={workers.address!r}"
        raise ValueError(f"the engine 'local' is one replica in this process, but got {given}: use the engine 'ray'.")
    replica = Replica(model)
    for shard in shards:
        yield shard.number, replica.score(shard)


def score_on_ray(model: Model, shards: Sequence[Shard], workers: Workers) -> Scored:
    """Score shards with replicas that Ray keeps at work; see `on_ray.score`."""
    return on_ray.score(model, shards, replicas=workers.replicas, address=workers.address)


ENGINES: dict[str, Callable[[Model, Sequence[Shard], Workers], Scored]] = {
    "local": score_locally,
    "ray": score_on_ray,
}
"""The engines, by name."""
