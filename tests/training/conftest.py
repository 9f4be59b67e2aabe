"""What the tests of training share."""

from collections.abc import Iterator

import jax
import pytest


@pytest.fixture(scope="module")
def quick_to_compile() -> Iterator[None]:
    """XLA without most of its optimizations, in less than half of the time to compile.

    For tests that would say the same of any compiler; those of equal bits take what users have.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
