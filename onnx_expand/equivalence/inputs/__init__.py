"""Inputs on which two models are compared: their sizes, values and constraints."""
