"""The workflows behind the commands: what is done, in which order."""
