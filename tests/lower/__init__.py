"""Tests of writing nodes."""
