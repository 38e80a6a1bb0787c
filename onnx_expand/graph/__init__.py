"""What is known of a graph before it runs, and how it is changed without losing anything."""
