"""Tests of frames: subgraphs that pad with constants."""
