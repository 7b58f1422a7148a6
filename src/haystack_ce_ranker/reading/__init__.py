"""What to show the model: budgets, queries, documents and their passages."""
