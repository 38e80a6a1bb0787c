"""Labelled data: sources, augmentation, and the order of samples."""
