"""Factorial arms: every combination of the levels of several factors, and what is asked of them.

    factors:
      variant: {relu: {…variant: relu}, gelu: {…variant: gelu}}
      depth: {shallow: {model.num_layers: 2}, deep: {model.num_layers: 4}}

gives the arms relu_shallow, relu_deep, gelu_shallow and gelu_deep. The first factor is what is
compared: at each combination of the other levels, its first level is what an arm is matched to and
compared with.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Any

Factors = Mapping[str, Mapping[str, Mapping[str, Any]]]


def factorial_arms(factors: Factors) -> dict[str, dict[str, Any]]:
    """The arms of a factorial design.

    Args:
      factors: factor → level → changes, as dotted path → value.

    Returns:
      Arm → changes, for every combination of levels; the first factor varies slowest.

    >>> factorial_arms({"a": {"x": {"p": 1}, "y": {"p": 2}}, "b": {"u": {}, "v": {"q": 3}}})
    {'x_u': {'p': 1}, 'x_v': {'p': 1, 'q': 3}, 'y_u': {'p': 2}, 'y_v': {'p': 2, 'q': 3}}
    """
    return {
        _name(levels): {
            path: value
            for factor, level in zip(factors.values(), levels, strict=True)
            for path, value in factor[level].items()
        }
        for levels in product(*factors.values())
    }


def references(factors: Factors) -> dict[str, str]:
    """The arm that each arm is matched to.

    Args:
      factors: as for `factorial_arms`.

    Returns:
      Arm → the arm with the first level of the first factor and the same other levels.

    >>> references({"a": {"x": {}, "y": {}}, "b": {"u": {}, "v": {}}})
    {'x_u': 'x_u', 'x_v': 'x_v', 'y_u': 'x_u', 'y_v': 'x_v'}
    """
    first = next(iter(next(iter(factors.values()), {})), "")
    return {_name(levels): _name((first, *levels[1:])) for levels in product(*factors.values())}


def factorial_contrasts(factors: Factors) -> dict[str, dict[str, float]]:
    """What is asked of a factorial design, for each level of the first factor but its first.

    Args:
      factors: as for `factorial_arms`.

    Returns:
      Contrast → arm → weight: the difference from the first level within every combination of the
      other levels, its mean over them (the main effect), and how it changes from the first level of
      each other factor to its other levels (the interaction).

    >>> found = factorial_contrasts({"a": {"x": {}, "y": {}}, "b": {"u": {}, "v": {}}})
    >>> list(found)
    ['y − x at u', 'y − x at v', 'y − x', '(y − x) × (v − u)']
    >>> found["(y − x) × (v − u)"]
    {'y_u': -1.0, 'x_u': 1.0, 'y_v': 1.0, 'x_v': -1.0}
    """
    return dict(_contrasts(factors))


def _contrasts(factors: Factors) -> Iterator[tuple[str, dict[str, float]]]:
    (first, *levels), *others = (list(factor) for factor in factors.values())
    combinations = list(product(*others))
    for level in levels:
        name = f"{level} − {first}"

        def weighted(weights: Sequence[float], level: str = level) -> dict[str, float]:
            return {
                _name((arm, *combination)): sign * weight
                for combination, weight in zip(combinations, weights, strict=True)
                if weight
                for arm, sign in ((level, 1.0), (first, -1.0))
            }

        for at, combination in enumerate(combinations):
            where = f" at {' and '.join(combination)}" if combination else ""
            yield name + where, weighted([float(at == each) for each in range(len(combinations))])
        if len(combinations) > 1:
            yield name, weighted([1 / len(combinations)] * len(combinations))
        for place, (base, *higher) in enumerate(others):
            for other in higher:
                share = len(others[place]) / len(combinations)
                signs = ((c[place] == other) - (c[place] == base) for c in combinations)
                yield f"({name}) × ({other} − {base})", weighted([share * sign for sign in signs])


def _name(levels: Sequence[str]) -> str:
    return "_".join(levels)
