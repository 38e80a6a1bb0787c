"""Tests of frames: padding with constants."""
