"""Evaluation: collections, runs and measures, systems and what they cost, the verdict, the report. Submodules only."""
