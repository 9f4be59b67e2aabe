"""Products of rows with the kernel of their group: of tokens with that of their expert.

Rows come in blocks of B, and every block belongs to one group, in the order of the groups:

    y[n] = x[n] W[g(n)],        x (N, B, d), W (G, d, f), y (N, B, f)

On a CPU a loop over the groups holds one kernel and runs through the blocks of its own, so that no
block that is not used costs anything; elsewhere it is `jax.lax.ragged_dot`. The gradient of W is
a loop of the same kind, and sums one kernel's gradient in place. Both are linear in each argument,
and each is the other's derivative: so that derivatives of every order exist, in both modes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float, Int

from gelu_jax.nn.parameters import wide_dtype


def grouped_matmul(
    x: Float[Array, "n b d"],
    w: Float[Array, "g d f"],
    ends: Int[Array, " g"],
    *,
    precision: Any = None,
) -> Float[Array, "n b f"]:
    """x[n] W[g(n)], for the group g(n) that block n of rows belongs to.

    Args:
      x: blocks of rows, those of one group side by side, (n, b, d).
      w: one kernel for each group, (g, d, f).
      ends: how many blocks the groups up to each have together, (g,), at most n.
      precision: of the products, as in `jax.lax.dot_general`.
    Returns:
      An array (n, b, f) of the dtype of x; 0 in blocks from ``ends[-1]`` on.

    >>> x, w = jnp.ones((3, 2, 4)), jnp.array([1.0, 10.0])[:, None, None] * jnp.ones((2, 4, 1))
    >>> grouped_matmul(x, w, jnp.array([1, 2]))[:, 0, 0]
    Array([ 4., 40.,  0.], dtype=float32)
    """
    return _matmul_p.bind(*_varying_alike(x, w, ends), precision=precision)


def grouped_outer(
    x: Float[Array, "n b d"],
    y: Float[Array, "n b f"],
    ends: Int[Array, " g"],
    *,
    precision: Any = None,
) -> Float[Array, "g d f"]:
    """Σ x[n]ᵀ y[n] over the blocks n of each group, the gradient of `grouped_matmul` by w.

    Sums in float32 (float64 stays) and rounds once.

    Args:
      x: blocks of rows, (n, b, d).
      y: blocks of rows, (n, b, f).
      ends: as in `grouped_matmul`.
      precision: as in `grouped_matmul`.
    Returns:
      An array (g, d, f) of the dtype of x; 0 for a group without blocks.
    """
    return _outer_p.bind(*_varying_alike(x, y, ends), precision=precision)


def map_blocks(f: Callable[[Any, Any], Array], xs: Any, ws: Any, ends: Array) -> Array:
    """y[n] = f(x[n], w[g(n)]), for the group g(n) that block n belongs to, in a loop.

    What f computes on the way is as large as one block; one group's w is held at a time. Under
    `jax.vmap` one element of the batch comes after another.

    Args:
      f: a function of a block and of the parameters of its group.
      xs: blocks, a tree of arrays (n, …).
      ws: parameters of the groups, a tree of arrays (g, …).
      ends: how many blocks the groups up to each have together, (g,), at most n.
    Returns:
      An array (n, …); 0 in blocks from ``ends[-1]`` on.

    >>> x, w = jnp.ones((3, 2)), jnp.array([1.0, 10.0])
    >>> map_blocks(lambda x, w: w * x, x, w, jnp.array([1, 2]))[:, 0]
    Array([ 1., 10.,  0.], dtype=float32)
    """
    leaves, tree = jax.tree.flatten((xs, ws, ends))

    @jax.custom_batching.sequential_vmap
    def loop(*leaves: Array) -> Array:
        return _loop(f, *jax.tree.unflatten(tree, _varying_alike(*leaves)))

    return loop(*leaves)


def _loop(f: Callable[[Any, Any], Array], xs: Any, ws: Any, ends: Array) -> Array:
    def group(y: Array, inputs: tuple[Any, Array, Array]) -> tuple[Array, None]:
        w, first, end = inputs

        def block(n: Any, y: Array) -> Array:
            return jax.lax.dynamic_update_index_in_dim(y, f(_block(xs, n), w), n, 0)

        return jax.lax.fori_loop(first, end, block, y), None

    first = jax.tree.leaves(xs)[0]
    one = jax.eval_shape(lambda: f(*jax.tree.map(lambda leaf: leaf[0], (xs, ws))))
    y = _zeros((first.shape[0], *one.shape), one.dtype, first)
    return jax.lax.scan(group, y, (ws, *_spans(ends)))[0]


def _matmul_by_loop(x: Array, w: Array, ends: Array, *, precision: Any) -> Array:
    return _loop(partial(jnp.matmul, precision=precision), x, w, ends)


def _outer_by_loop(x: Array, y: Array, ends: Array, *, precision: Any) -> Array:
    wide = wide_dtype(x.dtype)
    start = _zeros((x.shape[-1], y.shape[-1]), wide, x)

    def group(_: None, span: tuple[Array, Array]) -> tuple[None, Array]:
        def block(n: Any, total: Array) -> Array:
            product = partial(jnp.matmul, precision=precision, preferred_element_type=wide)
            return total + product(_block(x, n).T, _block(y, n))

        return None, jax.lax.fori_loop(*span, block, start).astype(x.dtype)

    return jax.lax.scan(group, None, _spans(ends))[1]


def _spans(ends: Array) -> tuple[Array, Array]:
    """The first block of each group, and its end."""
    return jnp.concatenate([jnp.zeros_like(ends[:1]), ends[:-1]]), ends


def _block(xs: Any, n: Any) -> Any:
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, n, 0, keepdims=False), xs)


def _zeros(shape: Sequence[int], dtype: Any, like: Array) -> Array:
    """Zeros for a loop, of the type that `jax.shard_map` expects where it checks types."""
    return _vary(jnp.zeros(shape, dtype), _varies_along(like))


def _varying_alike(*arrays: Array) -> list[Array]:
    """All arrays, of the same type to `jax.shard_map`: what one device gives, each receives."""
    axes = frozenset[str]().union(*map(_varies_along, arrays))
    return [_vary(array, axes) for array in arrays]


def _varies_along(x: Array) -> frozenset[str]:
    kind: Any = jax.typeof(x)  # whose attribute is another in each version of jax
    return kind.manual_axis_type.varying if hasattr(kind, "manual_axis_type") else kind.vma


def _vary(x: Array, axes: frozenset[str]) -> Array:
    missing = tuple(sorted(axes - _varies_along(x)))
    return jax.lax.pcast(x, missing, to="varying") if missing else x


def _matmul_by_ragged_dot(x: Array, w: Array, ends: Array, *, precision: Any) -> Array:
    sizes = x.shape[1] * jnp.diff(ends, prepend=0)
    y = jax.lax.ragged_dot(x.reshape(-1, x.shape[-1]), w, sizes, precision=precision)
    return y.reshape(*x.shape[:2], -1)


def _outer_by_ragged_dot(x: Array, y: Array, ends: Array, *, precision: Any) -> Array:
    sizes = x.shape[1] * jnp.diff(ends, prepend=0)
    ragged_rows = jax.lax.RaggedDotDimensionNumbers(
        dot_dimension_numbers=(((0,), (0,)), ((), ())),
        lhs_ragged_dimensions=[0],
        rhs_group_dimensions=[],
    )
    product = jax.lax.ragged_dot_general(
        x.reshape(-1, x.shape[-1]),
        y.reshape(-1, y.shape[-1]),
        sizes,
        ragged_rows,
        precision=precision,
        preferred_element_type=wide_dtype(x.dtype),
    )
    return product.astype(x.dtype)


def _primitive(name: str, by_loop: Any, by_ragged_dot: Any) -> Primitive:
    primitive = Primitive(name)

    @partial(jax.jit, static_argnames="precision")
    def compiled(*args: Array, precision: Any) -> Array:
        return primitive.bind(*args, precision=precision)

    def alone(*args: Array, precision: Any) -> Array:
        with jax.disable_jit(False):  # a primitive is compiled, whatever is around it
            return compiled(*args, precision=precision)

    def batched(args: Any, axes: Any, *, precision: Any) -> tuple[Array, int]:
        """One element of the batch after another: each may have a routing of its own."""
        pairs = list(zip(args, axes, strict=True))
        mapped = [jnp.moveaxis(x, axis, 0) for x, axis in pairs if axis is not None]

        def one(mapped: Any) -> Array:
            given = iter(mapped)
            every = [x if axis is None else next(given) for x, axis in pairs]
            return primitive.bind(*every, precision=precision)

        return jax.lax.map(one, mapped), 0

    def type_of_result(*types: Any, precision: Any) -> Any:
        return jax.make_jaxpr(partial(by_ragged_dot, precision=precision))(*types).out_avals[0]

    primitive.def_impl(alone)
    primitive.def_abstract_eval(type_of_result)
    batching.primitive_batchers[primitive] = batched
    for platform, function in {"cpu": by_loop, None: by_ragged_dot}.items():
        rule = mlir.lower_fun(function, multiple_results=False)
        mlir.register_lowering(primitive, rule, platform=platform)
    return primitive


def _differentiate(primitive: Primitive, by_first: Any, by_second: Any) -> None:
    """Both arguments of a product have a linear derivative; the ends of the groups have none."""

    def jvp(primals: Any, tangents: Any, *, precision: Any) -> tuple[Array, Any]:
        x, y, ends = primals
        apply = partial(primitive.bind, precision=precision)
        parts = [apply(t, y, ends) for t in tangents[:1] if not isinstance(t, ad.Zero)]
        parts += [apply(x, t, ends) for t in tangents[1:2] if not isinstance(t, ad.Zero)]
        value = apply(x, y, ends)
        return value, sum(parts[1:], parts[0])

    def transpose(cotangent: Any, x: Any, y: Any, ends: Any, *, precision: Any) -> list[Any]:
        if isinstance(cotangent, ad.Zero):
            return [None, None, None]
        if ad.is_undefined_primal(x):
            return [by_first(cotangent, y, ends, precision=precision), None, None]
        return [None, by_second(cotangent, x, ends, precision=precision), None]

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = transpose


def _transposed(w: Array) -> Array:
    return jnp.swapaxes(w, -1, -2)


_matmul_p = _primitive("grouped_matmul", _matmul_by_loop, _matmul_by_ragged_dot)
_outer_p = _primitive("grouped_outer", _outer_by_loop, _outer_by_ragged_dot)

_differentiate(
    _matmul_p,
    lambda dy, w, ends, **options: grouped_matmul(dy, _transposed(w), ends, **options),
    lambda dy, x, ends, **options: grouped_outer(x, dy, ends, **options),
)
_differentiate(
    _outer_p,
    lambda dw, y, ends, **options: grouped_matmul(y, _transposed(dw), ends, **options),
    lambda dw, x, ends, **options: grouped_matmul(x, dw, ends, **options),
)
