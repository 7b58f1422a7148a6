"""Systems to run, and what was seen while they ran."""
