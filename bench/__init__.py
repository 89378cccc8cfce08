"""Experiments: the figures of the source papers and our own, each beside its baselines in the same run."""
