"""Tests of what is known of graphs."""
