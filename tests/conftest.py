"""Every jaxtyping signature of the package is executed by beartype while the tests run."""

from jaxtyping import install_import_hook

install_import_hook("gelu_jax", "beartype.beartype")
