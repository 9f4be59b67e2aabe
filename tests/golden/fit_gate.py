"""Fits the polynomials of gelu_jax/activations/gate32.py, and prints their coefficients.

    python tests/golden/fit_gate.py

Each has the least relative error (Remez' exchange) of what is named last, and is printed with the
highest power first:

    _EXP        (e⁻ʳ − 1 + r)/r²     in powers of r, |r| ≤ ½·ln 2 and a little more    e⁻ʳ
    _DEFLATED   2·R(a) − 1           in powers of 2a − 2, 0 ≤ a ≤ 2.3                  R

where R(a) = (a − 1 − e⁻ᵃ)/((a − z)·(1 + e⁻ᵃ)²) and z is the zero of a − 1 − e⁻ᵃ.
"""

import numpy as np
from fit_gaussian import fit
from mpmath import mp, mpf

ZERO = mp.findroot(lambda a: a - 1 - mp.exp(-a), 1.28)
NEAR = mpf("2.3")


def deflated(b: mpf) -> mpf:
    a = b / 2 + 1
    gap = a - ZERO
    numerator = a - 1 - mp.exp(-a)
    quotient = numerator / gap if abs(gap) > mpf(10) ** -30 else 1 + mp.exp(-ZERO)
    return 2 * quotient / (1 + mp.exp(-a)) ** 2


def exp_beyond_r(r: mpf) -> mpf:
    return (mp.expm1(-r) + r) / r**2 if abs(r) > mpf(10) ** -30 else mpf(1) / 2


def exp_over_square(r: mpf) -> mpf:
    return mp.exp(-r) / (r**2 + mpf(10) ** -6)


def main() -> None:
    half = mp.log(2) / 2 * mpf("1.002")
    exp, exp_error = fit(exp_beyond_r, -half, half, 4, mpf(0), exchange=True, size=exp_over_square)
    r, r_error = fit(deflated, mpf(-2), 2 * NEAR - 2, 11, mpf(0), exchange=True)
    r[0] -= 1
    # what rounding the coefficients to float32 adds at a = 0, where the least error is left over
    r[2] -= sum((mpf(float(np.float32(float(c)))) - c) * (-2) ** i for i, c in enumerate(r)) / 4
    z = mpf(float(np.float32(float(ZERO))))
    print("z =", mp.nstr(ZERO, 40), "as a float32 =", mp.nstr(z, 40))
    print("2·R(z)·(z − its float32) =", mp.nstr(deflated(2 * ZERO - 2) * (ZERO - z), 10))
    for name, coefficients, worst in (("_EXP", exp, exp_error), ("_DEFLATED", r, r_error)):
        print(f"{name}: 2^{mp.nstr(mp.log(worst, 2), 4)}")
        print(*(repr(float(c)) for c in coefficients[::-1]), sep=",\n")


if __name__ == "__main__":
    main()
