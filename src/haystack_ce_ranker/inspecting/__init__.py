"""Says what a pipeline does today without telling: what its ranker never reads, and what is lost before it."""
