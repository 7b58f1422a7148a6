"""Texts to tokens to packed pairs, in the model's own format."""
