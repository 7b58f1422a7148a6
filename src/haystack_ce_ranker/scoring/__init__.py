"""Queries with documents to one score per document."""
