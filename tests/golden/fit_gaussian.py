"""Fits the polynomials of gelu_jax/activations/gaussian.py, and prints their coefficients.

    python tests/golden/fit_gaussian.py

M is Mills' ratio Φ(−a)/φ(a), z the zero of M(a) − a, and w = a/(a + 5/2). For float32 each is the
polynomial with the least relative error (Remez' exchange), for float64 the one that interpolates at
Chebyshev's points, in powers of w − 13/32 (`_CENTRAL`: of s), highest first:

    _CENTRAL_*   erf(√(s/2))/(2√s)             0 ≤ s ≤ 1
    _MILLS_*     a·M(a)/√(2π)                  5/8 ≤ a ≤ 15.5, in float64 40
    _DEFLATED_*  (a − M(a))/((a − z)·√(2π))    0 ≤ a ≤ 15.5, in float64 40

It prints the largest relative error of each as a power of two.
"""

from collections.abc import Callable

from mpmath import mp, mpf

mp.prec = 300
FIVE_HALVES, MIDDLE, LEAST_TAIL = mpf(5) / 2, mpf(13) / 32, mpf(5) / 8
Function = Callable[[mpf], mpf]


def mills(a: mpf) -> mpf:
    return mp.erfc(a / mp.sqrt(2)) * mp.sqrt(mp.pi / 2) * mp.exp(a * a / 2)


ZERO = mp.findroot(lambda a: mills(a) - a, 0.75)


def central(s: mpf) -> mpf:
    return mp.erf(mp.sqrt(s / 2)) / (2 * mp.sqrt(s)) if s > 0 else 1 / mp.sqrt(2 * mp.pi)


def _a(w: mpf) -> mpf:
    return FIVE_HALVES * w / (1 - w)


def _w(a: float) -> mpf:
    return mpf(a) / (a + FIVE_HALVES)


def scaled_mills(w: mpf) -> mpf:
    return _a(w) * mills(_a(w)) / mp.sqrt(2 * mp.pi)


def deflated(w: mpf) -> mpf:
    a = _a(w)
    if abs(a - ZERO) < mpf(10) ** -30:
        return mp.diff(lambda a: a - mills(a), ZERO) / mp.sqrt(2 * mp.pi)
    return (a - mills(a)) / ((a - ZERO) * mp.sqrt(2 * mp.pi))


def solve(
    f: Function, size: Function, points: list[mpf], degree: int, middle: mpf, exchange: bool
) -> list[mpf]:
    """The polynomial through the points; for an exchange, the one off by ±e·size at them in turn.

    e, an error relative to `size`, is one more unknown, and there is one more point.
    """
    n = len(points)
    rows, right = mp.matrix(n, n), mp.matrix(n, 1)
    for i, x in enumerate(points):
        right[i] = f(x)
        for j in range(degree + 1):
            rows[i, j] = (x - middle) ** j
        if exchange:
            rows[i, degree + 1] = (-1) ** i * size(x)
    return list(mp.lu_solve(rows, right))[: degree + 1]


def errors(
    f: Function, size: Function, coefficients: list[mpf], middle: mpf, points: list[mpf]
) -> list[tuple[mpf, mpf]]:
    """Each point with the error there, relative to `size`."""
    return [(x, (mp.polyval(coefficients[::-1], x - middle) - f(x)) / size(x)) for x in points]


def extrema(found: list[tuple[mpf, mpf]], count: int) -> list[mpf]:
    """Where the error is largest in each interval in which it has one sign."""
    best: list[tuple[mpf, mpf]] = []
    for x, error in found:
        if best and best[-1][1] * error > 0:
            best[-1] = max(best[-1], (x, error), key=lambda point: abs(point[1]))
        else:
            best.append((x, error))
    while len(best) > count:
        best.pop(0 if abs(best[0][1]) < abs(best[-1][1]) else -1)
    return [x for x, _ in best]


def fit(
    f: Function,
    low: mpf,
    high: mpf,
    degree: int,
    middle: mpf,
    exchange: bool,
    size: Function | None = None,
) -> tuple[list[mpf], mpf]:
    """The coefficients, lowest power first, and the largest error relative to `size`, or to f."""
    size = size or f
    grid = [low + (high - low) * i / 1000 for i in range(1001)]
    n = degree + (2 if exchange else 1)
    angles = [i * mp.pi / (n - 1) if exchange else (2 * i + 1) * mp.pi / (2 * n) for i in range(n)]
    points = [(low + high) / 2 + (high - low) / 2 * mp.cos(angle) for angle in angles]
    coefficients = solve(f, size, points, degree, middle, exchange)
    for _ in range(6 if exchange else 0):
        points = extrema(errors(f, size, coefficients, middle, grid), n)
        coefficients = solve(f, size, points, degree, middle, exchange)
    return coefficients, max(abs(error) for _, error in errors(f, size, coefficients, middle, grid))


def main() -> None:
    print("z =", mp.nstr(ZERO, 40))
    for suffix, bound, degrees, exchange in (("32", 15.5, (5, 11, 10), True),
                                             ("64", 40.0, (10, 25, 24), False)):  # fmt: skip
        ends = ((mpf(0), mpf(1)), (_w(LEAST_TAIL), _w(bound)), (mpf(0), _w(bound)))
        functions = {"_CENTRAL": central, "_MILLS": scaled_mills, "_DEFLATED": deflated}
        for (name, f), (low, high), degree in zip(functions.items(), ends, degrees, strict=True):
            middle = mpf(0) if name == "_CENTRAL" else MIDDLE
            coefficients, worst = fit(f, low, high, degree, middle, exchange)
            print(f"{name}_{suffix}: 2^{mp.nstr(mp.log(worst, 2), 4)}")
            print(*(repr(float(c)) for c in coefficients[::-1]), sep=",\n")


if __name__ == "__main__":
    main()
