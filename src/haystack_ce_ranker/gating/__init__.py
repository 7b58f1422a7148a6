"""Whether re-ranking can be spared for a query: the decision, and fitting it to judged queries."""
