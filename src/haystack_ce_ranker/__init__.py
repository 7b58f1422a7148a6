"""
Re-ranking for Haystack pipelines: the engine behind its components, which this package also offers by name.

Nothing heavy is imported here: the components are looked up on first use (PEP 562). So importing an engine module
never imports Haystack, and importing the package never imports torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from haystack_ce_ranker.scoring.visits import OverloadError
    from haystack_integrations.components.joiners.ce_ranker import HybridScoreJoiner
    from haystack_integrations.components.rankers.ce_ranker import CrossEncoderRanker
    from haystack_integrations.components.retrievers.ce_ranker import BM25Retriever
    from haystack_integrations.components.routers.ce_ranker import RerankGate

__all__ = ["BM25Retriever", "CrossEncoderRanker", "HybridScoreJoiner", "OverloadError", "RerankGate"]

_PLACES = {
    "BM25Retriever": "haystack_integrations.components.retrievers.ce_ranker",
    "CrossEncoderRanker": "haystack_integrations.components.rankers.ce_ranker",
    "HybridScoreJoiner": "haystack_integrations.components.joiners.ce_ranker",
    "OverloadError": "haystack_ce_ranker.scoring.visits",
    "RerankGate": "haystack_integrations.components.routers.ce_ranker",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
