"""The router of ce-ranker-haystack."""

from haystack_integrations.components.routers.ce_ranker.rerank_gate import RerankGate

__all__ = ["RerankGate"]
