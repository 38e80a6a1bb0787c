"""Tests of lowering maps to nodes."""
