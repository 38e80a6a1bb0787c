"""Tests of the fold engine."""
