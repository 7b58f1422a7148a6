"""Cross-encoders and bi-encoders of one's own: the data to learn from, the learning, and what is kept of it."""
