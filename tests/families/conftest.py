"""Compiled quickly: XLA's own optimizations are not what the tests of the families test."""

import jax
import pytest


@pytest.fixture(autouse=True)
def quickly_compiled(request):
    """Most optimizations are off, but in what is marked slow or live."""
    thorough = any(request.node.get_closest_marker(name) for name in ("slow", "live"))
    jax.config.update("jax_disable_most_optimizations", not thorough)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
