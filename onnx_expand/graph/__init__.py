"""Static analysis of graphs, and editing that preserves their interface and metadata."""
