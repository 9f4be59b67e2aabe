"""Matrix products counted in a program as it is written, whatever a compiler makes of it."""

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax


class Product(NamedTuple):
    """One matrix product.

    Attributes:
      flops: 2·m·n·k.
      bytes: of what it reads and writes.
    """

    flops: int
    bytes: int


def products(f: Callable[..., Any], *arguments: Any) -> list[Product]:
    """Finds every matrix product of a function; nothing is run.

    Args:
      f: the function.
      *arguments: what it is called with; they may be abstract.

    Returns:
      The products, those in a loop as often as it runs.

    >>> x = jax.ShapeDtypeStruct((2, 3), "float32")
    >>> products(lambda x: x @ x.T, x)
    [Product(flops=24, bytes=64)]
    """
    return list(_inside(jax.make_jaxpr(f)(*arguments).jaxpr))


def _inside(jaxpr: Any) -> Iterator[Product]:
    for eqn in jaxpr.eqns:
        if eqn.primitive.name == "dot_general":
            yield _product(eqn)
        if eqn.primitive.name in ("grouped_matmul", "grouped_outer"):
            yield _grouped_product(eqn)
        for program in _programs(eqn):
            yield from list(_inside(program)) * eqn.params.get("length", 1)


def _product(eqn: Any) -> Product:
    (contracted, _), _ = eqn.params["dimension_numbers"]
    left, right = (v.aval for v in eqn.invars)
    out = eqn.outvars[0].aval
    flops = 2 * out.size * math.prod(left.shape[axis] for axis in contracted)
    return Product(flops, sum(a.size * a.dtype.itemsize for a in (left, right, out)))


def _grouped_product(eqn: Any) -> Product:
    """Of `gelu_jax.nn.grouped`: (n, b, d) with (g, d, f) or (n, b, f), all n·b rows."""
    left, right, _ = (v.aval for v in eqn.invars)
    out = eqn.outvars[0].aval
    flops = 2 * left.size * right.shape[-1]
    return Product(flops, sum(a.size * a.dtype.itemsize for a in (left, right, out)))


def _programs(eqn: Any) -> list[Any]:
    """The programs that an operation runs: the body of a scan, the function of a call."""
    values = jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "jaxpr"))
    programs = (getattr(value, "jaxpr", value) for value in values)
    return [program for program in programs if hasattr(program, "eqns")]
