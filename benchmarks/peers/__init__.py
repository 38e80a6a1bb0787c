"""The same graphs through fold and through other tools, side by side: `python -m benchmarks.peers`."""
