"""Branches beyond the plain activations, against their papers' equations in float64."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

import gelu_jax as gj
from gelu_jax.nn.branches import (
    XIELU,
    Capped,
    Clamped,
    Clip,
    FATReLU,
    GaussianTopK,
    PolyNorm,
    PReLU,
    SiTU,
    Swish,
    clamped_swiglu,
    gpt_oss_swiglu,
    situ_glu,
    step_swiglu,
)
from gelu_jax.nn.feed_forward import branch_product

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "adopted.json").read_text())
numbers = st.floats(-40, 40, width=32)


def gpt_oss(gate, up, limit=7.0):
    g, u = np.minimum(gate, limit), np.clip(up, -limit, limit)
    return (u + 1) * g * expit(1.702 * g)


def deepseek(gate, up, limit=10.0):
    g = np.minimum(gate, limit)
    return g * expit(g) * np.clip(up, -limit, limit)


def step(gate, up, limit=7.0):
    return np.minimum(gate * expit(gate), limit) * np.clip(up, -limit, limit)


def kimi(gate, up):
    return 4 * np.tanh(gate / 4) * expit(gate) * 25 * np.tanh(up / 25)


@pytest.mark.parametrize(
    ("pair", "reference"),
    [
        (situ_glu(), kimi),
        (gpt_oss_swiglu(), gpt_oss),
        (clamped_swiglu(), deepseek),
        (step_swiglu(7.0), step),
    ],
    ids=["kimi-k3", "gpt-oss", "deepseek-v4", "step-3.7"],
)
@given(gate=numbers, up=numbers)
def test_clamped_pairs_are_their_equations(pair, reference, gate, up):
    phi, psi = pair
    want = reference(np.float64(gate), np.float64(up))
    # the least normal float32: below it the CPU flushes to zero
    np.testing.assert_allclose(float(phi(gate) * psi(up)), want, rtol=5e-6, atol=1e-36)


def test_the_clamps_differ_where_they_should():
    gate, up = 30.0, 30.0
    values = {
        name: float(np.prod([phi(x) for phi, x in zip(pair, (gate, up), strict=True)]))
        for name, pair in {
            "gpt-oss": gpt_oss_swiglu(),
            "deepseek": clamped_swiglu(),
            "step": step_swiglu(7.0),
        }.items()
    }
    np.testing.assert_allclose(values["gpt-oss"], 56.0, rtol=1e-4)  # 7·(7 + 1)
    np.testing.assert_allclose(values["deepseek"], 100.0, rtol=1e-4)
    np.testing.assert_allclose(values["step"], 49.0, rtol=1e-4)


@pytest.mark.parametrize("phi", [Clamped(gj.silu, 3.0), Capped(gj.relu, 3.0), Clip(3.0)])
def test_slopes_at_and_beyond_the_limit(phi):
    slope = jax.vmap(jax.grad(phi))
    inside, at, beyond = slope(jnp.array([2.999, 3.0, 3.001]))
    np.testing.assert_allclose(at, inside, rtol=1e-2)  # as torch's clamp: 1 at the limit
    assert beyond == 0
    assert jnp.isnan(phi(jnp.nan))


def test_clamped_variants_bound_the_hidden_layer():
    x = 1e4 * jax.random.normal(jax.random.key(0), (64, 8))
    for variant, bound in {"swiglu_gpt_oss": 7 * 8, "swiglu_clamped": 100}.items():
        w_in = [jax.random.normal(jax.random.key(i), (8, 32)) for i in (1, 2)]
        h = branch_product(x, w_in, variant=variant)
        assert jnp.abs(h).max() <= bound


def test_units_that_are_all_equal_have_a_gradient():
    """A padded token: nothing to choose from, and no NaN."""
    for branch in (GaussianTopK(), PolyNorm()):
        slope = jax.grad(lambda x, branch=branch: branch(x).sum())(jnp.zeros(8))
        assert jnp.isfinite(slope).all()


def poly64(x, *parameters):
    """Each term of PolyNorm alone: parameters are in the order of their names, b first."""
    b, w = parameters[0], np.ravel(parameters[1])
    powers = [x**3, x**2, x]
    scales = [np.sqrt((u**2).mean(-1, keepdims=True) + 1e-6) for u in powers]
    return [*(c * u / s for c, u, s in zip(w, powers, scales, strict=True)), b + 0 * x]


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3, 1e30])
def test_polynorm_is_as_exact_as_stated(scale):
    x = (scale * np.random.default_rng(0).uniform(-1, 1, (8, 1 << 12))).astype(np.float32)
    terms = poly64(x.astype(np.float64), np.float64(0), np.float32([1 / 3] * 3).astype(np.float64))
    error = np.abs(jax.jit(PolyNorm())(x) - sum(terms))
    assert (error <= 2.0**-21 * sum(map(np.abs, terms))).all()


def published(block, variant, **choice):
    """One of transformers' blocks, in float64, by ours."""
    with jax.enable_x64(True):
        golden = {k: np.asarray(v) for k, v in GOLDEN[block].items() if k != "activation"}
        gate, up, down = (golden[f"{name}_proj.weight"].T for name in ("gate", "up", "down"))
        config = gj.FeedForwardConfig(
            *gate.shape, variant, dtype="float64", param_dtype="float64", **choice
        )
        ffn = gj.FeedForward(config, rngs=nnx.Rngs(0))
        ffn.w_in_0[...], ffn.w_in_1[...], ffn.w_out[...] = map(jnp.asarray, (gate, up, down))
        if config.hidden_norm:
            ffn.hidden_norm.scale[...] = jnp.asarray(golden["ffn_sub_norm.weight"])
        np.testing.assert_allclose(ffn(jnp.asarray(golden["x"])), golden["y"], rtol=2e-5, atol=1e-5)


def test_the_block_of_bitnet():
    assert GOLDEN["bitnet"]["activation"] == "relu2"
    published("bitnet", "reglu_squared", hidden_norm="rms", hidden_norm_epsilon=1e-5)


def test_the_block_of_gemma_3n():
    assert GOLDEN["gemma3n"]["activation"] == "gelu_pytorch_tanh"
    published("gemma3n", (GaussianTopK(0.9), "identity"))


def test_fatrelu_as_a_gate():
    h = branch_product(
        jnp.ones((1, 1)), [jnp.full((1, 1), 0.2)] * 2, variant=(FATReLU(0.3), "relu")
    )
    assert h == 0
    assert FATReLU(0.2)(np.float32(0.2)) == np.float32(0.2)


def xielu64(x, alpha_p, alpha_n, beta):
    negative = alpha_n * (np.expm1(np.minimum(x, -1e-6)) - x) + beta * x
    return np.where(x > 0, alpha_p * x**2 + beta * x, negative)


LEARNED = {
    PReLU: lambda x, slope: np.where(x > 0, x, slope * x),
    Swish: lambda x, beta: x * expit(beta * x),
    SiTU: lambda x, beta: beta * np.tanh(x / beta) * expit(x),
    PolyNorm: lambda x, *parameters: sum(poly64(x, *parameters)),
    XIELU: lambda x, n, p: xielu64(x, np.log1p(np.exp(p)), 0.5 + np.log1p(np.exp(n)), 0.5),
}


@pytest.mark.parametrize("branch", LEARNED)
def test_learned_branches_are_their_equations(branch):
    x = np.linspace(-9, 9, 1001)
    module = branch()
    state = nnx.to_flat_state(nnx.state(module))
    for shift in (0.0, 0.4):
        for _, param in state:
            param[...] = param[...] + shift
        nnx.update(module, nnx.from_flat_state(state))
        parameters = [np.float64(param[...]) for _, param in state]
        want = LEARNED[branch](x, *parameters)
        got = module(jnp.asarray(x, jnp.float32))
        np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("branch", LEARNED)
def test_learned_branches_learn(branch):
    config = gj.FeedForwardConfig(8, 16, (branch, "identity"), use_bias=True)
    ffn = gj.FeedForward(config, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (32, 8))
    grads = jax.grad(lambda ffn: jnp.square(ffn(x)).mean())(ffn)
    learned = jax.tree.leaves(grads.learned)
    assert sum(leaf.size for leaf in learned) == branch.num_parameters
    assert all((leaf != 0).all() for leaf in learned)

    def loss(leaves):
        moved = jax.tree.unflatten(jax.tree.structure(ffn.learned), leaves)
        block = nnx.clone(ffn)
        for number, branch in enumerate(moved):
            setattr(block, f"learned_{number}", branch)
        return float(jnp.square(block(x)).mean())

    leaves, h = jax.tree.leaves(ffn.learned), 1e-2
    for i, slope in enumerate(learned):
        up, down = list(leaves), list(leaves)
        up[i], down[i] = leaves[i] + h, leaves[i] - h
        slope = slope.sum()  # of a vector, along (1, 1, …)
        np.testing.assert_allclose(slope, (loss(up) - loss(down)) / (2 * h), rtol=2e-2)


def test_learned_branches_start_where_their_papers_do():
    module = XIELU()
    np.testing.assert_allclose(nnx.softplus(module.raw_alpha_p[...]), 0.8, rtol=1e-6)
    np.testing.assert_allclose(0.5 + nnx.softplus(module.raw_alpha_n[...]), 0.8, rtol=1e-6)
    x = jnp.linspace(-5, 5, 101)
    np.testing.assert_allclose(Swish()(x), gj.silu(x), rtol=1e-6)
    np.testing.assert_allclose(SiTU()(x), gj.situ(x), rtol=1e-6)


@pytest.mark.parametrize("variant", ["prelu", "swish_beta", "situ_beta", "xielu", "polynorm"])
def test_every_layer_of_an_mlp_learns_its_own(variant):
    config = gj.MLPConfig(d_in=4, num_classes=3, num_layers=3, d_ff=8, variant=variant)
    mlp = gj.MLP(config, rngs=nnx.Rngs(0))
    assert mlp(jnp.ones((2, 4))).shape == (2, 3)
    assert sum(layer.learned is not None for layer in mlp.layers) == 3
