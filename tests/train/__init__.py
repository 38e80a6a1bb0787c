"""Tests of training; without torch they are skipped."""
