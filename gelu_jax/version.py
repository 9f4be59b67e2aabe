"""The version of the package, and of the numbers it gives."""

__version__ = "0.1.0"

NUMERICS_VERSION = "ce216d89edfff73abfc62b55a76901d68acf38bfa8a28823b170bb467cefe12c"
"""Part of the identity of every run: runs of another numerics version are not continued.

Change it, to any other string, in the commit that changes what training computes, be it by a bit;
`tests/runs/test_numerics_version.py` notices larger changes by itself. The first value is what
runs were addressed by before there was a version: the hash of the source at commit 4cfbdb2.
"""
