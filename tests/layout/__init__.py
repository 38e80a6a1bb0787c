"""Tests of the choice of axis orders."""
