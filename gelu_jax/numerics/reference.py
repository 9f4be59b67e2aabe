"""The reference: value and derivative of every activation in float64, by NumPy and SciPy alone.

It shares no equation with `gelu_jax.activations`, and has the textbook's form wherever float64 has
bits to spare. Rounded to float16 and bfloat16 it is right at all 65,536 inputs:
tests/numerics/test_reference.py compares it with goldens of 160 bits.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

Float64 = NDArray[np.float64]
Function = Callable[[Float64], Float64]


class Reference(NamedTuple):
    """An activation and its derivative as functions of finite float64 arrays.

    Attributes:
      value: x ↦ f(x).
      derivative: x ↦ f′(x).
    """

    value: Function
    derivative: Function


def _step(x: Float64) -> Float64:
    return np.where(x > 0, 1.0, 0.0)


def _pdf(x: Float64) -> Float64:
    return np.exp(-0.5 * np.square(np.clip(x, -40, 40))) / np.sqrt(2 * np.pi)


def _gelu_derivative(x: Float64) -> Float64:
    return special.ndtr(x) + np.clip(x, -40, 40) * _pdf(x)


def _nudge_above_half(x: Float64, value: Float64) -> Float64:
    """The value x/2 + c·x², c > 0, moved off x/2, which is all that float64 keeps at a tiny x.

    Rounded to 16 bits, x/2 may lie exactly halfway between two numbers, where c·x² decides.
    """
    tiny = (np.abs(x) < 2.0**-60) & (x != 0)
    return np.where(tiny, np.nextafter(x / 2, np.inf), value)


def _gelu(x: Float64) -> Float64:
    return _nudge_above_half(x, x * special.ndtr(x))


def _hard_silu(x: Float64) -> Float64:
    return _nudge_above_half(x, x * np.clip(x + 3, 0, 6) / 6)


def _gate(argument: Function) -> Function:
    """x·σ(v(x))."""
    return lambda x: _nudge_above_half(x, x * special.expit(argument(x)))


def _gate_derivative(argument: Function, slope: Function) -> Function:
    """σ(v)·(1 + x·v′·σ(−v))."""

    def derivative(x: Float64) -> Float64:
        x = np.clip(x, -800, 800)
        v = argument(x)
        return special.expit(v) * (1 + x * slope(x) * special.expit(-v))

    return derivative


_silu = _gate(lambda x: x)


def _tanh_argument(x: Float64) -> Float64:
    x = np.clip(x, -800, 800)
    return np.sqrt(8 / np.pi) * (x + 0.044715 * x * x * x)


def _tanh_slope(x: Float64) -> Float64:
    return np.sqrt(8 / np.pi) * (1 + 3 * 0.044715 * x**2)


def _softplus(x: Float64) -> Float64:
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def _tanh_softplus(x: Float64) -> Float64:
    e = np.exp(np.minimum(x, 40))
    return e * (e + 2) / (e * (e + 2) + 2)


def _mish_derivative(x: Float64) -> Float64:
    x = np.clip(x, -800, 40)
    e = np.exp(x)
    d = e * (e + 2) + 2
    return e * ((e + 2) * d + 4 * x * (e + 1)) / d**2


def _golu_derivative(x: Float64) -> Float64:
    x = np.maximum(x, -700)
    return np.exp(-np.exp(-x)) * (1 + x * np.exp(-x))


def _sech_squared(x: Float64) -> Float64:
    return 4 * special.expit(2 * x) * special.expit(-2 * x)


def _elu(x: Float64) -> Float64:
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


def _elu_derivative(x: Float64) -> Float64:
    return np.exp(np.minimum(x, 0))


def _power(x: Float64) -> Float64:
    return np.where(x > 0, np.maximum(x, 1e-300) ** (3 / (np.sqrt(np.maximum(x, 0)) + 1)), x)


def _powlu_derivative(x: Float64) -> Float64:
    root = np.sqrt(np.clip(x, 1e-300, 1e300))
    log_slope = 3 / (root + 1) / root**2 * (1 - root * np.log(root) / (root + 1))
    right = _power(x) * special.expit(x) * (log_slope + special.expit(-x))
    return np.where(x > 0, right, _gate_derivative(lambda x: x, np.ones_like)(x))


def _situ(x: Float64) -> Float64:
    return _nudge_above_half(x, 4 * np.tanh(x / 4) * special.expit(x))


def _situ_derivative(x: Float64) -> Float64:
    return special.expit(x) * (_sech_squared(x / 4) + 4 * np.tanh(x / 4) * special.expit(-x))


_SELU_ALPHA = 1.6732632423543772848170429916717
_SELU_SCALE = 1.0507009873554804934193349852946
_LAPLACE_MEAN, _LAPLACE_DEVIATION = 0.707107, 0.282095


def _laplace_argument(x: Float64) -> Float64:
    return (x - _LAPLACE_MEAN) / _LAPLACE_DEVIATION


REFERENCES: Mapping[str, Reference] = {
    "identity": Reference(lambda x: x, np.ones_like),
    "relu": Reference(lambda x: np.maximum(x, 0), _step),
    "relu_squared": Reference(lambda x: np.maximum(x, 0) ** 2, lambda x: 2 * np.maximum(x, 0)),
    "relu6": Reference(lambda x: np.clip(x, 0, 6), lambda x: _step(x) * _step(6 - x)),
    "leaky_relu": Reference(
        lambda x: np.where(x > 0, x, x / 100), lambda x: np.where(x > 0, 1, 0.01)
    ),
    "leaky_relu_squared": Reference(
        lambda x: np.where(x > 0, x, x / 2) ** 2, lambda x: np.where(x > 0, 2 * x, x / 2)
    ),
    "elu": Reference(_elu, _elu_derivative),
    "celu": Reference(_elu, _elu_derivative),
    "selu": Reference(
        lambda x: _SELU_SCALE * np.where(x > 0, x, _SELU_ALPHA * np.expm1(np.minimum(x, 0))),
        lambda x: _SELU_SCALE * np.where(x > 0, 1, _SELU_ALPHA * np.exp(np.minimum(x, 0))),
    ),
    "hard_sigmoid": Reference(
        lambda x: np.clip(x + 3, 0, 6) / 6, lambda x: _step(x + 3) * _step(3 - x) / 6
    ),
    "hard_silu": Reference(
        _hard_silu,
        lambda x: np.where(x >= 3, 1, _step(x + 3) * (2 * x + 3) / 6),
    ),
    "gelu": Reference(_gelu, _gelu_derivative),
    "gelu_10": Reference(
        lambda x: np.minimum(_gelu(x), 10),
        lambda x: _gelu_derivative(x) * _step(10 - x),
    ),
    "laplace": Reference(
        lambda x: special.ndtr(_laplace_argument(x)),
        lambda x: _pdf(_laplace_argument(x)) / _LAPLACE_DEVIATION,
    ),
    "sigmoid": Reference(special.expit, lambda x: special.expit(x) * special.expit(-x)),
    "tanh": Reference(np.tanh, _sech_squared),
    "silu": Reference(_silu, _gate_derivative(lambda x: x, np.ones_like)),
    "gelu_sigmoid": Reference(
        _gate(lambda x: 1.702 * x),
        _gate_derivative(lambda x: 1.702 * x, lambda x: np.full_like(x, 1.702)),
    ),
    "gelu_tanh": Reference(_gate(_tanh_argument), _gate_derivative(_tanh_argument, _tanh_slope)),
    "softplus": Reference(_softplus, special.expit),
    "sqrt_softplus": Reference(
        lambda x: np.sqrt(_softplus(x)),
        lambda x: special.expit(x) / (2 * np.sqrt(_softplus(np.maximum(x, -700)))),
    ),
    "mish": Reference(lambda x: x * _tanh_softplus(x), _mish_derivative),
    "golu": Reference(lambda x: x * np.exp(-np.exp(-np.maximum(x, -700))), _golu_derivative),
    "powlu": Reference(
        lambda x: np.where(x > 0, _power(x) * special.expit(x), _silu(x)), _powlu_derivative
    ),
    "situ": Reference(_situ, _situ_derivative),
    "softcap_25": Reference(lambda x: 25 * np.tanh(x / 25), lambda x: _sech_squared(x / 25)),
}
"""Canonical name of an activation → its reference."""
