"""What a device sends to the devices that hold experts; on a mesh: tests/training/test_mesh.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gelu_jax as gj
from gelu_jax.nn.exchange import buffer_size, buffers, mesh_axes

pytestmark = pytest.mark.usefixtures("quick_to_compile")
T, K, P = 6, 3, 4
run = jax.jit(buffers, static_argnums=(1, 2))


@given(
    devices=st.lists(st.lists(st.integers(0, P), min_size=K, max_size=K), min_size=T, max_size=T),
    size=st.sampled_from([2, T]),
)
def test_every_choice_finds_its_token_on_its_device(devices, size):
    """Once for each device of a token, in the order of tokens; beyond the size it is dropped."""
    packed = run(jnp.array(devices), P, size)
    wanted = [[t for t in range(T) if device in devices[t]] for device in range(P)]
    for tokens, found in zip(wanted, np.asarray(packed.tokens).tolist(), strict=True):
        assert found == (tokens + [T] * size)[:size]
    for t, of_token in enumerate(devices):
        rows = [
            device * size + wanted[device].index(t)
            for device in dict.fromkeys(of_token)
            if device < P and wanted[device].index(t) < size
        ]
        assert [row for row in packed.rows[:, t].tolist() if row < P * size] == rows


def test_what_comes_back_is_summed_for_each_token():
    packed = buffers(jnp.array([[0, 2], [2, 2], [1, 3]]), P, 3)
    tokens = jnp.array([[1.0], [10.0], [100.0]])
    np.testing.assert_array_equal(packed.sums(packed.packed(tokens)), [[2], [10], [200]])


def test_the_size_of_a_buffer():
    assert buffer_size(7, 2, 8, None) == 7
    assert buffer_size(7, 2, 8, 1.0) == 2
    assert buffer_size(7, 2, 2, 1.0) == 7
    expert = gj.FeedForwardConfig(4, 8)
    with pytest.raises(gj.ConfigError, match=r"^buffer_factor = 0\.5: must be at least 1"):
        gj.MoEConfig(expert, 4, 2, buffer_factor=0.5)


def test_without_a_mesh_or_rules_nothing_is_exchanged():
    assert mesh_axes(jnp.ones((8, 4)), 8) is None


def test_costs_of_experts():
    """Those of the chosen experts, of the shared block and of the router; buffers on devices."""
    expert = gj.FeedForwardConfig(16, 24, "swiglu")
    config = gj.MoEConfig(expert, 8, 2, shared=gj.FeedForwardConfig(16, 8, "swiglu"))
    one, alone = gj.cost(expert), gj.cost(config)
    shared = gj.cost(config.shared)
    assert alone.flops_forward == 2 * one.flops_forward + shared.flops_forward + 2 * 16 * 8
    assert alone.bytes_kept == 2 * one.bytes_kept + shared.bytes_kept
    assert (alone.parameters, alone.bytes_sent) == (config.num_parameters, 0)
    assert alone.active_parameters == config.num_active_parameters
    split = gj.cost(config, expert_devices=4)
    assert split.bytes_sent == 3 * (4 * 16 * 4 + 3 * 2 * 4)
    received = 4 * (16 * 4 + 2 * 8)
    assert split.bytes_kept == 4 * 2 * one.bytes_kept + received + shared.bytes_kept
