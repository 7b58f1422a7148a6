"""Files to collections, judgments and runs, and between their forms. Imports nothing of the evaluation."""
