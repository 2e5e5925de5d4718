"""What reports say together: intervals, verdicts, frontiers. Reads numbers, never a model; loads no torch."""
