"""The version of the package, and of the numbers it gives."""

__version__ = "0.1.0"

NUMERICS_VERSION = "2"
"""Part of the identity of every run: runs of another numerics version are not continued.

Change it, to any other string, in the commit that changes what training computes, be it by a bit;
`tests/runs/test_numerics_version.py` notices larger changes by itself.
"""
