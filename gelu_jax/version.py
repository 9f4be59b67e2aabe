"""The version of the package, and of the numbers it gives."""

__version__ = "0.1.0"

NUMERICS_VERSION = "3"
"""Part of the identity of every run: runs of another numerics version are not continued.

Change it, to any other string, in the commit that changes what training computes, be it by a bit;
`tests/runs/test_numerics_version.py` notices larger changes by itself. Before 3, the first step of
a warm-up had a rate of 0, and what activations learn decayed.
"""
