"""Labelled data: where they come from, how they are augmented, in which order they come."""
