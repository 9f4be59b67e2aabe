"""The activation built on Gompertz's function G(x) = exp(−e⁻ˣ).

Left of −3, G falls as fast as e^(−e⁻ˣ): the relative error of e⁻ˣ is multiplied by e⁻ˣ, up to 104
where float32's results end (float64: 745). So e⁻ˣ is a double word even in float32.
"""

from dataclasses import replace

import jax.numpy as jnp

from gelu_jax.activations.double_word import (
    DoubleWord,
    Number,
    all_bits_count,
    as_array,
    clamp,
    double_word,
    in_form_of,
    with_sign_of_zero,
)
from gelu_jax.activations.elementwise import Scaled, elementwise
from gelu_jax.activations.exponential import exp, precise_exp

# G is carried 2¹⁰⁰ times too large, so that it stays in range until its products are zero
_SHIFT = 100


def _saturation_bounds(x: Number) -> tuple[float, float]:
    """Where x·G(x) has become 0 and x, in float32 and in float64."""
    return (-4.75, 30.0) if as_array(x).dtype == jnp.float32 else (-6.625, 45.0)


def _gompertz(x: Number) -> tuple[DoubleWord, DoubleWord, DoubleWord]:
    """x within bounds, e⁻ˣ, and exp(−e⁻ˣ) times 2¹⁰⁰."""
    near = double_word(clamp(x, *_saturation_bounds(x)))
    e = replace(precise_exp(-near, 0), guard_bits_only=near.guard_bits_only)
    return near, e, (precise_exp if all_bits_count(near) else exp)(-e, _SHIFT)


def _golu_derivative(x: Number) -> Scaled:
    """G(x)·(1 + x·e⁻ˣ)."""
    near, e, g = _gompertz(x)
    return Scaled(g * (near * e + 1), 2.0**-_SHIFT)


@elementwise(_golu_derivative)
def golu(x: Number) -> Scaled:
    """The Gompertz linear unit: x times the probability of a standard Gumbel number below x.

    golu(x) = x·G(x) with G(x) = exp(−e⁻ˣ), and derivative G(x)·(1 + x·e⁻ˣ).

    Accuracy: within 0.05 of −0.5671, where the derivative is zero, its error is at most 2⁻²⁴
    (float64: 2⁻⁵³) times 0.1715, the size of the two terms that cancel there.

    Source: Das et al. 2025, "Gompertz linear units", arXiv 2502.03654.

    Examples:
      >>> golu(jnp.float16(1.0))
      Array(0.6924, dtype=float16)
    """
    near = clamp(x, _saturation_bounds(x)[0], jnp.inf)
    value = near * in_form_of(_gompertz(x)[2], x)
    return Scaled(with_sign_of_zero(value, x), 2.0**-_SHIFT).linear_above(
        x, _saturation_bounds(x)[1]
    )
