import pytest

from gelu_jax.compare.matching import flops_per_step, parameters
from gelu_jax.training.config import from_dict
from gelu_jax.training.data import load_data
from gelu_jax.training.trainer import TrainConfig


def config(**feed_forward):
    block = {"attention": {"num_heads": 4}, "feed_forward": {"d_ff": 24} | feed_forward}
    model = {
        "kind": "transformer",
        "vocab_size": 256,
        "num_layers": 3,
        "d_model": 16,
        "block": block,
    }
    data = {"kind": "stdlib", "context": 8}
    return from_dict(
        {
            "data": data,
            "model": model | {"block": block},
            "steps": 1,
            "batch_size": 2,
            "eval_every": 1,
        },
        TrainConfig,
    )


@pytest.mark.parametrize(("variant", "n"), [("relu", 1), ("gelu", 1), ("swiglu", 2)])
@pytest.mark.parametrize("residuals", ["preactivation", "input"])
def test_flops_are_those_of_the_matrix_products(variant, n, residuals):
    c = config(variant=variant, residuals=residuals)
    data = load_data(c.data, c.batch_size)
    d, f, layers, t, tokens = 16, 24, 3, 8, 2 * 8
    weights = layers * (4 * d * d + (n + 1) * d * f) + 256 * d
    scores_and_values = layers * 2 * (2 * tokens * t * d)
    repeated = layers * 2 * tokens * n * d * f * (residuals == "input")
    again = scores_and_values  # both products, once more in the backward pass
    expected = 3 * (2 * tokens * weights + scores_and_values) + again + repeated
    assert flops_per_step(c, data) == expected


def test_parameters():
    assert parameters(config(variant="swiglu")) == 256 * 16 + 3 * (4 * 256 + 3 * 16 * 24 + 32) + 16
