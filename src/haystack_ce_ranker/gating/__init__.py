"""Whether a query can do without re-ranking: the decision, and fitting it to judged queries."""
