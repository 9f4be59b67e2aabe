"""Equation → config → module, one file for each part of a transformer."""
