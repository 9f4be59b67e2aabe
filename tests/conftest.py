"""Every jaxtyping signature of the package is executed by beartype while the tests run."""

from jaxtyping import install_import_hook

# Not gelu_jax.training.data: its datasets are pytrees, which jax also fills with what is no array.
HOOKED = ["activations", "nn", "families", "training.run", "training.health", "training.model"]
HOOKED += ["training.optimizer"]

install_import_hook([f"gelu_jax.{name}" for name in HOOKED], "typechecker.check")
