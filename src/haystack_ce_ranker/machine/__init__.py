"""What work costs on this machine, and what the machine is; for the evaluation, benchmarks and training alike."""
