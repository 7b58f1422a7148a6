"""Scoring a whole run: in this process, or by replicas of a model that Ray keeps at work."""
