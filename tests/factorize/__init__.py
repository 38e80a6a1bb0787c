"""Tests of the room `factorize`."""
