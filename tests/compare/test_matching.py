from dataclasses import replace

import pytest

from gelu_jax.compare.matching import (
    active_parameters,
    flops_per_step,
    matched,
    parameters,
    sets_width,
    width,
)
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


def mixture(**router):
    expert = {"variant": "swiglu", "d_ff": 24}
    experts = {"num_experts": 4, "experts_per_token": 2, "feed_forward": expert, "router": router}
    c = config(variant="swiglu")
    block = {"attention": {"num_heads": 4}, "feed_forward": experts}
    model = {"kind": "transformer", "vocab_size": 256, "num_layers": 3, "d_model": 16}
    plain = {"data": {"kind": "stdlib", "context": 512}, "model": model | {"block": block}}
    return from_dict(plain | {"steps": 1, "batch_size": 8, "eval_every": 1}, TrainConfig), c


def test_a_mixture_of_experts_is_matched():
    """By all parameters, and by the products of the experts that are chosen."""
    experts, dense = mixture(kind="softmax")
    assert parameters(experts) - parameters(dense) == 3 * (3 * 3 * 16 * 24 + 4 * 16)
    narrow = matched(experts, parameters, parameters(dense), 1)
    assert width(narrow) == 6  # 192·6 + 64 is nearest to 1,152
    assert narrow.model.block.feed_forward.num_experts == 4
    data = load_data(experts.data, experts.batch_size)
    dense = replace(dense, data=experts.data, batch_size=experts.batch_size)
    router = 3 * 3 * 2 * 8 * 512 * 16 * 4
    of_dense = 3 * 3 * 3 * 2 * 8 * 512 * 16 * 24
    found = flops_per_step(experts, data) - flops_per_step(dense, data) - router
    assert of_dense <= found <= 1.25 * of_dense  # a second block of the same width; 2.125 choices


def test_active_parameters_are_those_that_a_token_meets():
    """`MoEConfig.num_active_parameters` in each layer, and all parameters of the rest."""
    experts, dense = mixture(kind="sigmoid")
    block = experts.model.block.feed_forward
    rest = parameters(dense) - 3 * 3 * 16 * 24
    assert active_parameters(dense) == parameters(dense)
    assert active_parameters(experts) == rest + 3 * block.num_active_parameters
    assert parameters(experts) == rest + 3 * block.num_parameters
    narrow = matched(experts, active_parameters, parameters(dense), 1)
    assert width(narrow) == 11  # 2·48·11 + 68 is nearest to 1,152


def test_the_width_of_a_shared_block_is_not_the_width_that_is_matched():
    experts, _ = mixture(kind="softmax")
    path = "model.block.feed_forward"
    assert sets_width(experts, [f"{path}.feed_forward.d_ff"])
    assert not sets_width(experts, [f"{path}.shared.d_ff", f"{path}.num_experts"])
