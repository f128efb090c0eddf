"""Benchmarks that anyone can repeat: `python -m benchmarks cpu`. Same weights, same inputs, results compared before anything is timed."""
