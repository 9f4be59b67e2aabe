"""The checks of config fields: what they say, and that they answer at once."""

import pytest

from gelu_jax.nn import checks


def messages(problems):
    return [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (checks.positive(window=0), "window = 0: must be above 0"),
        (checks.positive(epsilon=float("nan")), "epsilon = nan: must be above 0"),
        (checks.not_negative(weight_decay=-0.1), "weight_decay = -0.1: must not be below 0"),
        (checks.below_one(b2=1.0), "b2 = 1.0: must lie in [0, 1)"),
        (checks.below_one(dropout_rate=-0.5), "dropout_rate = -0.5: must lie in [0, 1)"),
        (checks.one_of(("once", "hf"), rounding="HF"), "rounding = 'HF': unknown; choose from"),
        (checks.floating(dtype="int8"), "dtype = 'int8': not a floating dtype; "),
        (
            checks.divides(16, "d_model", num_heads=5),
            "num_heads = 5: must divide d_model = 16; nearest: 4",
        ),
        (
            checks.equal(8, "norm.d_model", {"feed_forward.d_model": 9}),
            "feed_forward.d_model = 9: must equal norm.d_model = 8",
        ),
    ],
)
def test_a_wrong_field_is_one_line(found, message):
    (line,) = messages(found)
    assert line.startswith(message)


def test_nothing_wrong_says_nothing():
    assert not messages(checks.positive(d_ff=1, window=None, epsilon=1e-9))
    assert not messages(checks.not_negative(weight_decay=0))
    assert not messages(checks.below_one(dropout_rate=0.0, b1=0.999))
    assert not messages(checks.one_of(("once", "hf"), rounding="hf"))
    assert not messages(checks.floating(dtype="bfloat16", param_dtype=float))
    assert not messages(checks.divides(12, "steps", eval_every=4, checkpoint_every=None))


def test_the_nearest_divisor_is_the_nearest():
    for whole in range(1, 61):
        divisors = [n for n in range(1, whole + 1) if whole % n == 0]
        for value in set(range(1, 2 * whole + 3)) - set(divisors):
            (line,) = messages(checks.divides(whole, "steps", eval_every=value))
            best = min(divisors, key=lambda n: abs(n - value))
            assert line == f"eval_every = {value}: must divide steps = {whole}; nearest: {best}"


class Counted(int):
    """A whole that counts how often a number is tried on it."""

    tried = 0

    def __mod__(self, other):
        self.tried += 1
        return int(self) % other


@pytest.mark.parametrize("prime", [1_000_000_007, 2**62 - 57])
@pytest.mark.parametrize("value", [2, 10, 12_345, 500_000_000, 2**63])
def test_a_large_prime_is_answered_at_once(prime, value):
    whole = Counted(prime)
    (line,) = messages(checks.divides(whole, "steps", eval_every=value))
    assert whole.tried <= 1 + 2 * checks._TRIALS
    nearest = {2: "; nearest: 1", 10: "; nearest: 1", 12_345: "; nearest: 1"}
    nearest |= {2**63: f"; nearest: {prime}"}
    assert line == f"eval_every = {value}: must divide steps = {prime}{nearest.get(value, '')}"


def test_numbers_below_one_are_left_to_positive():
    assert not messages(checks.divides(-4, "steps", eval_every=3))
    assert not messages(checks.divides(4, "steps", eval_every=-3))
