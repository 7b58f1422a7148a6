"""Rankers of ce-ranker-haystack."""

from haystack_integrations.components.rankers.ce_ranker.cross_encoder_ranker import CrossEncoderRanker

__all__ = ["CrossEncoderRanker"]
