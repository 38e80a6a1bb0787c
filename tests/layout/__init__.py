"""Tests of the order of axes."""
