"""Writing: new terms become nodes, with weights that are rounded once."""
