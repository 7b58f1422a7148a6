"""BM25 in process: analysis, index, scoring, files."""
