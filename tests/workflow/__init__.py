"""Tests of what joins passes and checks."""
