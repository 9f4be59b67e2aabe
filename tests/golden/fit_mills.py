"""Prints the coefficients of `_MILLS_32` and `_MILLS_64` in gelu_jax/activations/gaussian.py.

    python tests/golden/fit_mills.py

Both are polynomials in q = (a − 4)/(a + 4) for R(q) = (a + 4)·M(a), M Mills' ratio Φ(−a)/φ(a): the
first by Remez' exchange for 0 ≤ a ≤ 15, the second by interpolation at Chebyshev's points for
0 ≤ a ≤ 40. It prints the greatest error of each as a power of two.
"""

from mpmath import mp, mpf

mp.prec = 260
C = mpf(4)


def ratio(q: mpf) -> mpf:
    """(a + 4)·Φ(−a)/φ(a) at a = 4(1 + q)/(1 − q)."""
    a = C * (1 + q) / (1 - q)
    return (a + C) * mp.erfc(a / mp.sqrt(2)) * mp.sqrt(mp.pi / 2) * mp.exp(a * a / 2)


def q_of(a: int) -> mpf:
    return (a - C) / (a + C)


def solve(points: list[mpf], degree: int, alternating: bool) -> list[mpf]:
    """The polynomial through the points, or the one that misses them alternately by one size."""
    n = len(points)
    rows, right = mp.matrix(n, n), mp.matrix(n, 1)
    for i, q in enumerate(points):
        for j in range(degree + 1):
            rows[i, j] = q**j
        if alternating:
            rows[i, degree + 1] = (-1) ** i
        right[i] = ratio(q)
    return list(mp.lu_solve(rows, right))[: degree + 1]


def misses(coefficients: list[mpf], low: mpf, high: mpf, count: int) -> list[tuple[mpf, mpf]]:
    points = [low + (high - low) * i / count for i in range(count + 1)]
    return [(q, mp.polyval(coefficients[::-1], q) - ratio(q)) for q in points]


def extrema(missed: list[tuple[mpf, mpf]], count: int) -> list[mpf]:
    """The greatest miss of every stretch of one sign."""
    best: list[tuple[mpf, mpf]] = []
    for q, miss in missed:
        if best and best[-1][1] * miss > 0:
            best[-1] = max(best[-1], (q, miss), key=lambda point: abs(point[1]))
        else:
            best.append((q, miss))
    while len(best) > count:
        best.pop(0 if abs(best[0][1]) < abs(best[-1][1]) else -1)
    return [q for q, _ in best]


def remez(low: mpf, high: mpf, degree: int) -> list[mpf]:
    n = degree + 2
    points = [(low + high) / 2 + (high - low) / 2 * mp.cos(mp.pi * i / (n - 1)) for i in range(n)]
    coefficients = solve(points, degree, alternating=True)
    for _ in range(8):
        points = extrema(misses(coefficients, low, high, 2000), n)
        coefficients = solve(points, degree, alternating=True)
    return coefficients


def chebyshev(low: mpf, high: mpf, degree: int) -> list[mpf]:
    n = degree + 1
    nodes = [mp.cos(mp.pi * (2 * i + 1) / (2 * n)) for i in range(n)]
    points = [(low + high) / 2 + (high - low) / 2 * t for t in nodes]
    return solve(points, degree, alternating=False)


def main() -> None:
    for name, fit, a, degree in (("32", remez, 15, 11), ("64", chebyshev, 40, 24)):
        coefficients = fit(mpf(-1), q_of(a), degree)
        worst = max(abs(miss) for _, miss in misses(coefficients, mpf(-1), q_of(a), 1000))
        print(f"_MILLS_{name}: 2^{mp.nstr(mp.log(worst, 2), 4)}")
        print(*(repr(float(c)) for c in coefficients[::-1]), sep=",\n")


if __name__ == "__main__":
    main()
