"""Comparisons: arms × seeds × learning rates, their statistics and their report."""
