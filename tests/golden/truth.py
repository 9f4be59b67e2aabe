"""Every activation and its derivative with 160 bits, straight from its definition."""

from collections.abc import Callable
from functools import partial

from mpmath import mp, mpf

Real = Callable[[mpf], mpf]

mp.prec = 160
ZERO, ONE = mpf(0), mpf(1)
LEAST = mpf(-2000)  # where exp(−e⁻ˣ) is 0 to more digits than mpmath can count
SELU_ALPHA = mpf("1.6732632423543772848170429916717")
SELU_SCALE = mpf("1.0507009873554804934193349852946")
MEAN, DEVIATION = mpf("0.707107"), mpf("0.282095")


def pdf(x: mpf) -> mpf:
    return mp.exp(-x * x / 2) / mp.sqrt(2 * mp.pi)


def cdf(x: mpf) -> mpf:
    if abs(x) > 2000:  # mpmath fails there, and the result is 0 or 1 to a million digits
        return step(x)
    return mp.erfc(-x / mp.sqrt(2)) / 2


def sigmoid(x: mpf) -> mpf:
    return 1 / (1 + mp.exp(-x))


def softplus(x: mpf) -> mpf:
    return mp.log1p(mp.exp(x)) if x < 0 else x + mp.log1p(mp.exp(-x))


def gate(v: Real) -> Real:
    return lambda x: x * sigmoid(v(x))


def gate_derivative(v: Real, slope: Real) -> Real:
    return lambda x: sigmoid(v(x)) * (1 + x * slope(x) * sigmoid(-v(x)))


def tanh_argument(x: mpf) -> mpf:
    return mp.sqrt(8 / mp.pi) * (x + mpf("0.044715") * x**3)


def tanh_slope(x: mpf) -> mpf:
    return mp.sqrt(8 / mp.pi) * (1 + 3 * mpf("0.044715") * x**2)


def tanh_softplus(x: mpf) -> mpf:
    n = mp.exp(2 * x) + 2 * mp.exp(x)
    return n / (n + 2)


def mish_derivative(x: mpf) -> mpf:
    e = mp.exp(x)
    d = e * e + 2 * e + 2
    return tanh_softplus(x) + x * 4 * e * (e + 1) / d**2


def gompertz(x: mpf) -> mpf:
    return mp.exp(-mp.exp(-x))


def powlu(x: mpf) -> mpf:
    return (x ** (3 / (mp.sqrt(x) + 1)) if x > 0 else x) * sigmoid(x)


def powlu_derivative(x: mpf) -> mpf:
    if x <= 0:
        return sigmoid(x) * (1 + x * sigmoid(-x))
    root = mp.sqrt(x)
    slope = 3 / (x * (root + 1)) * (1 - root * mp.log(x) / (2 * (root + 1)))
    return powlu(x) * (slope + sigmoid(-x))


def situ_derivative(x: mpf) -> mpf:
    y = x / 4
    slope = 4 * sigmoid(2 * y) * sigmoid(-2 * y)
    return sigmoid(x) * (slope + 4 * mp.tanh(y) * sigmoid(-x))


def elu(x: mpf) -> mpf:
    return x if x > 0 else mp.expm1(x)


def elu_derivative(x: mpf) -> mpf:
    return ONE if x > 0 else mp.exp(x)


def step(x: mpf) -> mpf:
    return ONE if x > 0 else ZERO


def standardized(x: mpf) -> mpf:
    return (x - MEAN) / DEVIATION


def identity(x: mpf) -> mpf:
    return x


def scaled(c: mpf, x: mpf) -> mpf:
    return c * x


TRUTH: dict[str, tuple[Real, Real]] = {
    "identity": (identity, lambda x: ONE),
    "relu": (lambda x: max(x, ZERO), step),
    "relu_squared": (lambda x: max(x, ZERO) ** 2, lambda x: 2 * max(x, ZERO)),
    "relu6": (lambda x: min(max(x, ZERO), mpf(6)), lambda x: step(x) * step(6 - x)),
    "leaky_relu": (
        lambda x: x if x > 0 else x / 100,
        lambda x: ONE if x > 0 else mpf("0.01"),
    ),
    "leaky_relu_squared": (
        lambda x: (x if x > 0 else x / 2) ** 2,
        lambda x: 2 * x if x > 0 else x / 2,
    ),
    "elu": (elu, elu_derivative),
    "celu": (elu, elu_derivative),
    "selu": (
        lambda x: SELU_SCALE * (x if x > 0 else SELU_ALPHA * mp.expm1(x)),
        lambda x: SELU_SCALE * (1 if x > 0 else SELU_ALPHA * mp.exp(x)),
    ),
    "hard_sigmoid": (
        lambda x: min(max(x + 3, ZERO), mpf(6)) / 6,
        lambda x: step(x + 3) * step(3 - x) / 6,
    ),
    "hard_silu": (
        lambda x: x * min(max(x + 3, ZERO), mpf(6)) / 6,
        lambda x: ONE if x >= 3 else step(x + 3) * (2 * x + 3) / 6,
    ),
    "gelu": (lambda x: x * cdf(x), lambda x: cdf(x) + x * pdf(x)),
    "gelu_10": (
        lambda x: min(x * cdf(x), mpf(10)),
        lambda x: (cdf(x) + x * pdf(x)) * step(10 - x),
    ),
    "laplace": (lambda x: cdf(standardized(x)), lambda x: pdf(standardized(x)) / DEVIATION),
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * sigmoid(-x)),
    "tanh": (mp.tanh, lambda x: 4 * sigmoid(2 * x) * sigmoid(-2 * x)),
    "silu": (gate(identity), gate_derivative(identity, lambda x: ONE)),
    "gelu_sigmoid": (
        gate(partial(scaled, mpf("1.702"))),
        gate_derivative(partial(scaled, mpf("1.702")), lambda x: mpf("1.702")),
    ),
    "gelu_tanh": (gate(tanh_argument), gate_derivative(tanh_argument, tanh_slope)),
    "softplus": (softplus, sigmoid),
    "sqrt_softplus": (
        lambda x: mp.sqrt(softplus(x)),
        lambda x: sigmoid(x) / (2 * mp.sqrt(softplus(x))),
    ),
    "mish": (lambda x: x * tanh_softplus(x), mish_derivative),
    "golu": (
        lambda x: x * gompertz(max(x, LEAST)),
        lambda x: gompertz(max(x, LEAST)) * (1 + x * mp.exp(-max(x, LEAST))),
    ),
    "powlu": (powlu, powlu_derivative),
    "situ": (lambda x: 4 * mp.tanh(x / 4) * sigmoid(x), situ_derivative),
    "softcap_25": (
        lambda x: 25 * mp.tanh(x / 25),
        lambda x: 4 * sigmoid(2 * x / 25) * sigmoid(-2 * x / 25),
    ),
}
