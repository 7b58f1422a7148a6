"""What this machine is, and what work costs on it. The evaluation, benchmarks and training use it."""
