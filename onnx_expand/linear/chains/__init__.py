"""Chains: terms applied one after the other, and how they are divided at least cost."""
