"""W_out by the hidden units that are not zero: one token at a time, with ReLU and its kind."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gelu_jax.nn.axes import is_explicit

Product = Callable[[Array, Array], Array]


def matmul_of_active_units(
    h: Float[Array, "... f"], w_out: Float[Array, "f e"], active_units: int, product: Product
) -> Float[Array, "... e"]:
    """h W_out = Σ_j h_j W_out[j] over the units j with h_j ≠ 0, for one token on a CPU.

    A token's inference is bound by reading the weights; the rows of units that are zero are left
    out. The result differs from the dense product by the order of its sum alone, and its
    derivatives are those of the dense product. More tokens than one, other platforms and explicit
    meshes take the dense product.

    Args:
      h: hidden layer, (..., f).
      w_out: output kernel, (f, e).
      active_units: the most units whose rows are gathered; where more are not zero, the token
        takes the dense product.
      product: the dense product, of h or some of its units and as many rows of W_out.
    Returns:
      An array (..., e).

    >>> h = jnp.array([0.0, 2.0, 0.0, 0.0])
    >>> matmul_of_active_units(h, jnp.eye(4).at[0].set(jnp.nan), 2, jnp.matmul)
    Array([0., 2., 0., 0.], dtype=float32)
    """
    tokens = h.size // h.shape[-1] if h.size else 0
    if tokens != 1 or active_units >= h.shape[-1] or is_explicit(h, w_out):
        return product(h, w_out)

    def sparse(h: Array, w_out: Array) -> Array:
        units = h.reshape(-1)
        (index,) = jnp.nonzero(units, size=active_units, fill_value=units.size)
        units, rows = (a.at[index].get(mode="fill", fill_value=0) for a in (units, w_out))
        return product(units.reshape(*h.shape[:-1], -1), rows)

    def on_cpu(h: Array, w_out: Array) -> Array:
        few = jnp.count_nonzero(h) <= active_units
        return jax.lax.cond(few, sparse, product, h, w_out)

    @jax.custom_jvp  # the units left out have a derivative as well
    def apply(h: Array, w_out: Array) -> Array:
        return jax.lax.platform_dependent(h, w_out, cpu=on_cpu, default=product)

    @apply.defjvp
    def _(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:  # pyright: ignore[reportUnusedFunction]
        return apply(*primals), jax.jvp(product, primals, tangents)[1]

    return apply(h, w_out)
