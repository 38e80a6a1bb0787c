"""The same graphs through fold and other tools, side by side: `python -m benchmarks.peers`."""
