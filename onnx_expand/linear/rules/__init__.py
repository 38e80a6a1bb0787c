"""Rules: each returns the terms that may replace a term at a lower cost."""
