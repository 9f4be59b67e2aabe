"""Numbers and lists in words: the same in the verdict, the tables, the page and on the terminal."""

import math
from collections.abc import Sequence


def number(value: float, form: str) -> str:
    """A number with a typographic minus; "none" where it is not finite.

    Args:
      value: any number.
      form: a format specification, such as ".3f".

    Returns:
      The number in that form.

    >>> number(-0.0425, ".3f"), number(float("nan"), "g")
    ('−0.043', 'none')
    """
    return f"{value:{form}}".replace("-", "−") if math.isfinite(value) else "none"


def signed(value: float, decimals: int) -> str:
    """A number with its sign.

    Args:
      value: any number.
      decimals: how many decimals to print.

    Returns:
      The number with + or −; "none" where it is not finite.

    >>> signed(-0.0425, 3), signed(0.1, 2)
    ('−0.043', '+0.10')
    """
    return number(value, f"+.{decimals}f")


def times(factor: float) -> str:
    """A factor.

    Args:
      factor: any number.

    Returns:
      The factor in two decimals; "none" where it is not finite or not above zero.

    >>> times(1.219), times(0.0)
    ('1.22 ×', 'none')
    """
    return f"{factor:.2f} ×" if math.isfinite(factor) and factor > 0 else "none"


def counted(count: int, noun: str) -> str:
    """A number and its noun.

    Args:
      count: how many.
      noun: in the singular; its plural must end in -s.

    Returns:
      Both, in the singular or plural.

    >>> counted(1, "seed"), counted(8, "seed")
    ('1 seed', '8 seeds')
    """
    return f"{count} {noun}{'s' * (count != 1)}"


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them.

    Args:
      names: at least one.

    Returns:
      The names with commas, and "and" before the last.

    >>> listed(["gelu", "silu", "swiglu"])
    'gelu, silu and swiglu'
    """
    *before, last = names
    return f"{', '.join(before)} and {last}" if before else last


def ranged(numbers: Sequence[int]) -> str:
    """Whole numbers, as a range where they are consecutive.

    Args:
      numbers: in ascending order.

    Returns:
      The numbers with commas, or the first and the last with "to".

    >>> ranged([0, 1, 2]), ranged([3, 7])
    ('0 to 2', '3, 7')
    """
    if len(numbers) > 2 and numbers[-1] - numbers[0] == len(numbers) - 1:
        return f"{numbers[0]} to {numbers[-1]}"
    return ", ".join(map(str, numbers))


def duration(seconds: float) -> str:
    """Seconds in words.

    Args:
      seconds: zero or more.

    Returns:
      Whole seconds up to 90, whole minutes up to 90, then hours.

    >>> duration(40), duration(125), duration(9000)
    ('40 seconds', '2 minutes', '2.5 hours')
    """
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} hours"
    if seconds >= 90:
        return f"{seconds / 60:.0f} minutes"
    return counted(max(1, round(seconds)), "second")
