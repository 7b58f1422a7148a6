"""The workflows behind the commands that train: what is done, in which order."""
