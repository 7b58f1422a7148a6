"""The joiner by its short path. It has a file of its own because Haystack loads a YAML's type from its module."""

from haystack_integrations.components.joiners.ce_ranker.hybrid_score_joiner import HybridScoreJoiner

__all__ = ["HybridScoreJoiner"]
