"""Packed pairs to logits: the protocol that a runtime fulfils, one file per runtime, and where weights come from."""
