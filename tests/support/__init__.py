"""Builders, generators and judges shared by the tests, and tools of the Makefile."""
