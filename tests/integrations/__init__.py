"""The passes inside other tools, each of which really runs."""
