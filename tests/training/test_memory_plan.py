"""A plan against what XLA says of the compiled program, and against arithmetic by hand."""

import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import pytest
from test_mesh import found
from test_trainer import DIGITS

from gelu_jax.errors import ConfigError
from gelu_jax.training.chips import CHIPS
from gelu_jax.training.config import from_dict
from gelu_jax.training.flops import products
from gelu_jax.training.memory_plan import MemoryPlan, chip, describe, plan_memory, total_memory
from gelu_jax.training.trainer import TrainConfig

pytestmark = pytest.mark.optimized

H100 = CHIPS["h100"]


DENSE = {"variant": "swiglu", "d_ff": 64}
EXPERTS = {"num_experts": 8, "experts_per_token": 2, "feed_forward": DENSE}


def config(
    mesh: Mapping[str, int] | None = None,
    feed_forward: Mapping[str, Any] = DENSE,
    **model: Any,
) -> TrainConfig:
    block = {
        "norm": {"kind": "rms"},
        "attention": {"num_heads": 8},
        "feed_forward": feed_forward,
    }
    plain = {
        "data": {"kind": "stdlib", "context": 16},
        "model": {"kind": "transformer", "vocab_size": 256, "num_layers": 2, "d_model": 32,
                  "block": block, **model},
        "steps": 1, "batch_size": 16, "eval_every": 1, "mesh": mesh,
    }  # fmt: skip
    return from_dict(plain, TrainConfig)


@functools.cache
def plan(devices: int, **mesh: int) -> MemoryPlan:
    return plan_memory(config(mesh or None), H100, devices)


def test_a_small_model_by_hand():
    """2·tokens·weights FLOPs forward, twice that backward; and attention's two products."""
    p = plan(1)
    layer = 4 * 32 * 32 + 3 * 32 * 64
    assert p.parameters == 256 * 32 + 2 * (layer + 2 * 32) + 32
    assert (p.weights, p.gradients) == (4 * p.parameters, 4 * p.parameters)
    assert p.optimizer == 2 * p.weights + 3 * 4  # two counts of steps, and the run's own
    assert p.sent == {"fsdp": 0, "data": 0, "expert": 0, "tensor": 0}
    tokens = 16 * 16
    scores = 2 * (2 * 16 * 16 * 16 * 32)  # layers × (b·t·t·d), for QKᵀ and for its product with V
    forward = 2 * tokens * (2 * layer + 256 * 32) + 2 * scores
    step = 3 * forward + 2 * scores  # both are computed once more, in the backward pass
    assert p.choices["preactivation"].flops == p.choices["all"].flops == step
    again = 2 * tokens * 2 * 2 * 32 * 64  # two layers' two branches
    assert p.choices["input"].flops == step + again
    kept = {name: choice.kept for name, choice in p.choices.items()}
    f = 2 * tokens * 64 * 4  # one F of both layers
    assert kept["preactivation"] - kept["input"] == 2 * f
    assert kept["all"] - kept["input"] == pytest.approx(5 * f, rel=1e-3)
    seconds = p.choices["all"].seconds
    assert seconds["computing"] == pytest.approx(step / 989e12)
    assert set(seconds) == {"computing", "memory"}


def test_what_is_sent_by_hand():
    matrices = 2 * (4 * 32 * 32 + 3 * 32 * 64), 256 * 32
    layers, table = (4 * n for n in matrices)
    assert plan(8, data=8).sent["data"] == 2 * 7 / 8 * (layers + 2 * table)
    assert plan(8, data=1, fsdp=8).sent["fsdp"] == 7 / 8 * (2 * layers + table + layers + 2 * table)
    stream = 16 * 16 * 32 * 4
    sums = 2 * (2 + 3 + 2) + 2
    assert plan(8, tensor=8).sent["tensor"] == 2 * 7 / 8 * stream * sums


def test_a_share_of_everything():
    whole, part = plan(1), plan(8, fsdp=2, tensor=4)
    assert part.mesh == {"data": 1, "fsdp": 2, "expert": 1, "tensor": 4}
    assert part.parameters == whole.parameters
    assert part.tokens == whole.tokens
    vectors = 4 * 5 * 32
    assert part.weights - vectors == (whole.weights - vectors) / 8
    for name in whole.choices:
        assert part.choices[name].flops == whole.choices[name].flops / 8
        assert total_memory(part, name) < total_memory(whole, name) / 2


@functools.cache
def plan_of_experts(**mesh: int) -> MemoryPlan:
    return plan_memory(config(mesh or None, EXPERTS), H100, math.prod(mesh.values()))


def test_experts_by_hand():
    """Weights of all experts, FLOPs of two of them and at most an eighth more."""
    p, dense = plan_of_experts(), plan(1)
    expert, router = 3 * 32 * 64, 32 * 8
    assert p.parameters == dense.parameters + 2 * (7 * expert + router)
    assert p.active_parameters == dense.parameters + 2 * (expert + router)
    assert dense.active_parameters == dense.parameters
    more = p.choices["preactivation"].flops - dense.choices["preactivation"].flops
    tokens = 16 * 16
    router, expert = (3 * 2 * tokens * 2 * n for n in (router, expert))
    assert expert <= more - router <= expert + 2 * expert / 8 + 8 * 31 * 3 * 2 * 3 * 2 * 32 * 64
    f = 2 * tokens * 2 * 64 * 4  # one F of each choice, in both layers
    kept = p.choices["preactivation"].kept - p.choices["input"].kept
    assert 2 * f <= kept <= 3.8 * f  # blocks of 32 rows, where an expert has 64
    assert "(41,632 active)" in describe(p, H100, "h100")


def test_what_experts_send_by_hand():
    """Buffers for all tokens of a device, out and back in both directions, and other gradients."""
    p, alone = plan_of_experts(data=1, expert=8), plan_of_experts()
    rows = 7 * (16 // 8) * 16
    exchanged = 2 * rows * (4 * 32 * 4 + 3 * 2 * 4)
    dense = 2 * (4 * 32 * 32 + 32 * 8) + 2 * 256 * 32  # the table's gradient counts twice
    assert p.sent == {
        "fsdp": 0, "data": 0, "tensor": 0,
        "expert": pytest.approx(2 * 7 / 8 * 4 * dense + exchanged),
    }  # fmt: skip
    experts = 4 * 2 * 8 * 3 * 32 * 64
    assert alone.weights - p.weights == experts * 7 / 8
    half = plan_memory(config({"data": 1, "expert": 8}, EXPERTS | {"buffer_factor": 2.0}), H100, 8)
    fewer = 2 * 4 * 2 * 16 * (32 * 4 + 8 * 2)  # tokens received in both layers
    assert p.choices["input"].kept - half.choices["input"].kept == fewer
    assert half.sent["expert"] == pytest.approx(p.sent["expert"] - exchanged / 2)


def test_a_stack_half_of_experts_needs_half_of_what_they_need_more():
    """Two periods of a dense and a sparse layer, between four dense and four sparse layers.

    The attention's weights are kept a second time: a period has two, which are cut out of it.
    """
    mesh = {"fsdp": 2, "tensor": 4}
    models = [(DENSE, {}), (EXPERTS, {}), (DENSE, {"pattern": [{}, {"feed_forward": EXPERTS}]})]
    dense, sparse, mixed = (
        plan_memory(
            config(mesh, f, num_layers=4, scan_layers=True, **more),
            H100,
            8,
        )
        for f, more in models
    )
    for name in ("parameters", "active_parameters", "weights", "gradients"):
        middle = (getattr(dense, name) + getattr(sparse, name)) / 2
        assert getattr(mixed, name) == middle, name
    assert mixed.sent == {axis: (dense.sent[axis] + sparse.sent[axis]) / 2 for axis in dense.sent}
    for name, choice in mixed.choices.items():
        pair = dense.choices[name], sparse.choices[name]
        assert choice.flops == sum(c.flops for c in pair) / 2
        again = 4 * 4 * 4 * 32 * 32 / 4
        kept = choice.kept - again  # and small vectors
        assert kept == pytest.approx(sum(c.kept for c in pair) / 2, rel=0.03)


def test_a_stack_half_of_experts_exchanges_half_as_much():
    mesh, pattern = {"data": 1, "expert": 8}, [{}, {"feed_forward": EXPERTS}]
    sparse, mixed = (
        plan_memory(config(mesh, f, num_layers=4, **more), H100, 8)
        for f, more in ((EXPERTS, {}), (DENSE, {"pattern": pattern}))
    )
    rows, block, router = 7 * (16 // 8) * 16, 3 * 32 * 64, 32 * 8
    reduced = 2 * 7 / 8 * 4 * 2 * (block - router)  # more gradients of two layers
    exchanged = 2 * rows * (4 * 32 * 4 + 3 * 2 * 4)  # less, in two layers
    assert mixed.sent["expert"] - sparse.sent["expert"] == pytest.approx(reduced - exchanged)
    buffers = [p.choices["all"].kept - p.choices["input"].kept for p in (mixed, sparse)]
    assert buffers[0] < buffers[1]


def test_an_axis_takes_the_network_where_it_leaves_the_node():
    p = plan(16, data=2, fsdp=8)
    seconds = p.choices["all"].seconds
    assert seconds["fsdp"] == p.sent["fsdp"] / H100.link
    assert seconds["data"] == p.sent["data"] / H100.network


def test_the_text_says_what_fits_and_what_bounds_it():
    text = describe(plan(8, tensor=8), H100, "h100")
    assert text.startswith("28,832 parameters on 8 × h100 (data 1, fsdp 1, tensor 8, expert 1)")
    assert "does not fit" not in text
    assert "bound by" in text
    assert max(map(len, text.splitlines())) <= 100
    tiny = H100._replace(memory=1e5)
    assert describe(plan(1), tiny, "tiny").count("does not fit") == 3


@pytest.mark.parametrize(
    ("mesh", "devices", "line"),
    [
        ({"tensor": 3}, 8, "does not fit on 8 devices"),
        ({"tensor": 3}, 3, "mesh.tensor = 3: must divide num_heads = 8"),
        ({"data": -1}, 6, "multiple of data × fsdp × expert = 6; nearest: 18"),
    ],
)
def test_what_does_not_fit_is_a_line(mesh: dict[str, int], devices: int, line: str):
    with pytest.raises(ConfigError) as caught:
        plan_memory(config(mesh), H100, devices)
    assert line in str(caught.value)


def test_only_known_chips_and_transformers():
    assert chip("h100") is H100
    with pytest.raises(ConfigError, match="chip = 'h10': unknown; did you mean h100"):
        chip("h10")
    with pytest.raises(ConfigError, match=r"model\.kind = 'mlp': only a transformer is planned"):
        plan_memory(from_dict(DIGITS, TrainConfig), H100, 1)


def test_products_inside_loops_and_calls():
    x = jax.ShapeDtypeStruct((4, 4), "float32")

    def f(x: Any) -> Any:
        body = jax.checkpoint(lambda x: x @ x)
        return jax.lax.scan(lambda x, _: (jax.jit(body)(x), None), x, length=5)[0]

    assert sum(p.flops for p in products(f, x)) == 5 * 2 * 4**3


@pytest.mark.slow
def test_within_an_eighth_of_what_xla_says():
    """Measured in float32, a language model of four layers: memory within 10.2 %, sent within 1 %.

    What a block of attention has in use is not in the plan: most where a device has few weights.

    A CPU has no reduce-scatter: its all-reduce sends twice as much, which the check takes off.
    """
    rows = found("planned")
    assert len(rows) == 7
    for case, figures in rows.items():
        for name, (planned, compiled) in figures.items():
            assert math.isclose(planned, compiled, rel_tol=0.125), (case, name, planned, compiled)
