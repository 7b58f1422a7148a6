"""Moves pipelines that exist to the components of this package, and says what changes and what stays as it is."""

from haystack_ce_ranker.adopting.pipelines import Adopted, adopt

__all__ = ["Adopted", "adopt"]
