"""The checks of config fields: what they say, and that they answer at once."""

import dataclasses
import importlib
import inspect
import pkgutil

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_models import random_model

import gelu_jax as gj
from gelu_jax import nn
from gelu_jax.nn import checks
from gelu_jax.nn.linear import LinearConfig


def messages(problems):
    return [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (checks.positive(window=0), "window = 0: must be above 0"),
        (checks.positive(epsilon=float("nan")), "epsilon = nan: must be above 0"),
        (checks.small(epsilon=10**40), "epsilon = 10000000000000000"),
        (checks.small(epsilon=1.0), "epsilon = 1.0: must be below 1"),
        (checks.small(epsilon=0.0), "epsilon = 0.0: must be above 0"),
        (checks.not_negative(weight_decay=-0.1), "weight_decay = -0.1: must not be below 0"),
        (checks.below_one(b2=1.0), "b2 = 1.0: must lie in [0, 1)"),
        (checks.below_one(dropout_rate=-0.5), "dropout_rate = -0.5: must lie in [0, 1)"),
        (
            checks.one_of(("once", "hf"), rounding="HF"),
            "rounding = 'HF': unknown; did you mean hf?",
        ),
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


CONFIGS = [
    gj.FeedForwardConfig(8, d_ff=16),
    gj.AttentionConfig(8, num_heads=2),
    gj.NormConfig(8),
    gj.MLPConfig(8, num_classes=2),
    LinearConfig(8, 4),
]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: type(c).__name__)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_configs_are_equal_however_their_dtypes_were_spelt(config, dtype):
    spellings = [dtype, getattr(jnp, dtype), jnp.dtype(dtype), jnp.zeros((), dtype).dtype]
    names = [f.name for f in dataclasses.fields(config) if f.name in ("dtype", "param_dtype")]
    made = [dataclasses.replace(config, **dict.fromkeys(names, s)) for s in spellings]
    assert len({hash(c) for c in made}) == 1
    assert all(c == made[0] for c in made)


def test_modules_of_equal_configs_are_one_to_jit_and_to_tree_map():
    def make(dtype, stored):
        config = gj.FeedForwardConfig(
            4, d_ff=8, dtype=dtype, param_dtype=dtype, residual_dtype=stored
        )
        return random_model(gj.FeedForward, config)

    one, other = make("float32", "bfloat16"), make(jnp.float32, jnp.bfloat16)
    call = jax.jit(chex.assert_max_traces(lambda m, x: m(x), n=1))
    np.testing.assert_array_equal(call(one, jnp.ones((2, 4))), call(other, jnp.ones((2, 4))))
    added = jax.tree.map(jnp.add, one, other)
    np.testing.assert_array_equal(added.w_out[...], 2 * one.w_out[...])


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("config", "fields", "lines"),
    [
        (gj.FeedForwardConfig, {"d_ff": 21.3}, ["d_ff = 21.3: must be an integer"]),
        (gj.FeedForwardConfig, {"d_ff": None}, ["d_ff = None: must be an integer"]),
        (gj.FeedForwardConfig, {"d_ff": True}, ["d_ff = True: must be an integer"]),
        (gj.FeedForwardConfig, {"d_ff": 8, "d_out": "8"}, ["d_out = '8': must be an integer"]),
        (
            gj.FeedForwardConfig,
            {"d_ff": "8", "dropout_rate": "0.1", "use_bias": "no"},
            [
                "d_ff = '8': must be an integer",
                "use_bias = 'no': must be True or False",
                "dropout_rate = '0.1': must be a number",
            ],
        ),
        (gj.FeedForwardConfig, {"d_ff": 8, "dtype": None}, ["dtype = None: not a floating dtype"]),
        (gj.AttentionConfig, {"num_heads": "2"}, ["num_heads = '2': must be an integer"]),
        (gj.AttentionConfig, {"num_heads": 2, "scale": "1"}, ["scale = '1': must be a number"]),
        (gj.NormConfig, {"epsilon": None}, ["epsilon = None: must be a number"]),
        (gj.MLPConfig, {"num_classes": 2.5}, ["num_classes = 2.5: must be an integer"]),
    ],
)
def test_a_value_of_another_type_is_named(config, fields, lines):
    with pytest.raises(gj.ConfigError) as error:
        config(8, **fields)
    found = str(error.value).splitlines()
    assert all(line.startswith(start) for line, start in zip(found, lines, strict=True)), found


@pytest.mark.usefixtures("unchecked")
def test_the_integers_and_floats_of_numpy_are_numbers():
    config = gj.FeedForwardConfig(np.int64(8), d_ff=np.int32(16), dropout_rate=np.float32(0.5))
    assert config.num_parameters == 256


def config_classes():
    for module in pkgutil.iter_modules(nn.__path__, "gelu_jax.nn."):
        for value in vars(importlib.import_module(module.name)).values():
            if (
                isinstance(value, type)
                and dataclasses.is_dataclass(value)
                and value.__name__.endswith("Config")
            ):
                yield value


def test_every_config_checks_the_types_of_its_fields():
    for config in set(config_classes()):
        assert "field_types" in inspect.unwrap(config.__post_init__).__code__.co_names, config
