"""Test collections: read, converted."""
