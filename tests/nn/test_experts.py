"""Mixtures of experts against the plain sum over all experts, and the routers against numpy."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from random_models import random_arrays, random_model

import gelu_jax as gj
from gelu_jax.nn.branches import XIELU
from gelu_jax.nn.cost import measured_bytes_kept
from gelu_jax.nn.experts import Slots, assign, block_size, mixture_of_experts
from gelu_jax.nn.grouped import (
    _matmul_by_ragged_dot,
    _outer_by_ragged_dot,
    grouped_matmul,
    grouped_outer,
)

D, F, E, K = 6, 10, 5, 2
EXPERT = gj.FeedForwardConfig(D, F, "swiglu")
ROUTERS = {
    "softmax": gj.SoftmaxRouterConfig(),
    "as they are": gj.SoftmaxRouterConfig(renormalize=False),
    "top_k_softmax": gj.TopKSoftmaxRouterConfig(),
    "sigmoid": gj.SigmoidRouterConfig(scale=2.5),
    "switch": gj.SwitchRouterConfig(capacity_factor=1.0),
}


def weights(variant="swiglu", e=E, d=D, f=F, *, bias=True, dtype=jnp.float32):
    n = len(gj.branches(variant))
    shapes = [(e, d, f)] * n + [(e, f)] * n + [(e, f, d), (e, d)]
    drawn = [(a / 2).astype(dtype) for a in random_arrays(*shapes, seed=1)]
    w = {"w_in": drawn[:n], "w_out": drawn[2 * n]}
    return w | ({"b_in": drawn[n : 2 * n], "b_out": drawn[-1]} if bias else {})


def routing(t, e=E, k=K, *, seed=2):
    """Random experts and gates, (t, k); those of one token differ."""
    rng = np.random.default_rng(seed)
    experts = rng.permuted(np.tile(np.arange(e), (t, 1)), axis=1)[:, :k]
    return jnp.asarray(experts, jnp.int32), jnp.asarray(rng.random((t, k)), jnp.float32)


def sum_over_all(x, experts, gates, w, variant):
    """Every expert on every token, weighted by what its gates sum to."""
    e = w["w_out"].shape[0]
    per_expert = (jax.nn.one_hot(experts, e, dtype=gates.dtype) * gates[..., None]).sum(-2)
    each = [
        gj.feed_forward(x, **jax.tree.map(lambda leaf, i=i: leaf[i], w), variant=variant)
        for i in range(e)
    ]
    return sum(per_expert[..., i, None] * y for i, y in enumerate(each))


def same(got, want, tolerance):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        scale = max(np.abs(np.asarray(b, np.float64)).max(initial=0), 1)
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * scale)


ROUTINGS = {
    "random": routing(37),
    "all to one": (jnp.full((37, 2), 3).at[:, 1].set(1), jnp.ones((37, 2))),
    "one expert has none": (routing(37, E - 1)[0], routing(37)[1]),
    "the same expert twice": (jnp.full((37, 2), 4), routing(37)[1]),
}
CASES = {
    "two of five": list(ROUTINGS.values()),
    "every expert": [routing(7, k=E)],
    "one expert": [(jnp.zeros((3, 1), int), jnp.ones((3, 1)))],
}
TOLERANCE = {"float64": 1e-12, "float32": 1e-6}


@pytest.mark.parametrize(
    ("case", "dtype"), [(case, "float64") for case in CASES] + [("two of five", "float32")]
)
def test_is_the_sum_over_all_experts_and_so_is_its_gradient(case, dtype):
    with jax.enable_x64(dtype == "float64"):
        t = len(CASES[case][0][0])
        w = weights(e=1 if case == "one expert" else E, dtype=dtype)
        x, up = (a.astype(dtype) for a in random_arrays((t, D), (t, D)))

        @jax.jit
        def both(experts, gates, x, w):
            def loss(apply):
                def of(x, gates, w):
                    y = apply(x, experts, gates, w)
                    return jnp.vdot(up, y), y

                return jax.grad(of, (0, 1, 2), has_aux=True)(x, gates, w)

            def mixture(x, experts, gates, w):
                return mixture_of_experts(x, experts, gates, **w, variant="swiglu")

            plain = loss(lambda *args: sum_over_all(*args, "swiglu"))
            # block by block, where there is no gradient
            return (loss(mixture), mixture(x, experts, gates, w)), (plain, plain[1])

        for experts, gates in CASES[case]:
            got, want = both(experts, gates.astype(dtype), x, w)
            for ours, plain in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
                distance = jnp.linalg.norm((ours - plain).ravel())
                assert distance <= TOLERANCE[dtype] * jnp.linalg.norm(plain.ravel())


VARIANTS = ["relu", "swiglu_gpt_oss", ("relu", "tanh", "gelu"), "xielu"]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_every_variant(variant):
    x, (experts, gates) = random_arrays((9, D))[0], routing(9)
    w = weights(variant)
    phis = variant
    if variant == "xielu":
        modules = [XIELU() for _ in range(E)]
        for i, module in enumerate(modules):
            module.raw_alpha_p[...] = jnp.asarray(0.3 * i)
        phis = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *modules),)

    @jax.jit
    def both(x):
        def mixture(x):
            return mixture_of_experts(x, experts, gates, **w, variant=phis)

        ours = mixture(x), jax.vjp(mixture, x)[0]  # block by block, and all at once
        if variant != "xielu":
            return ours, (sum_over_all(x, experts, gates, w, variant),) * 2
        of = [
            gj.feed_forward(x, **jax.tree.map(lambda a, i=i: a[i], w), variant=(module,))
            for i, module in enumerate(modules)
        ]
        share = (jax.nn.one_hot(experts, E) * gates[..., None]).sum(-2)
        return ours, (jnp.einsum("te,etd->td", share, jnp.stack(of)),) * 2

    same(*both(x), 3e-6)


@pytest.mark.parametrize("choice", ["all", "input", "bfloat16", "float8_e4m3fn"])
def test_what_is_kept_changes_no_value(choice):
    (x,), (experts, gates), w = random_arrays((40, D)), routing(40), weights()
    options = {"residuals": choice} if choice in ("all", "input") else {"residual_dtype": choice}
    options |= {"dropout_rate": 0.3, "dropout_key": jax.random.key(0)}
    tolerance = {"bfloat16": 2e-2, "float8_e4m3fn": 0.2}.get(choice, 2e-6)

    @jax.jit
    def both(x, gates, w):
        def values(**options):
            def loss(x, gates, w):
                y = mixture_of_experts(x, experts, gates, **w, variant="swiglu", **options)
                return jnp.sum(jnp.sin(y)), y

            (_, y), g = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(x, gates, w)
            return y, g

        plain = {k: v for k, v in options.items() if k.startswith("dropout")}
        return values(**options), values(**plain)

    (y, got), (plain, want) = both(x, gates, w)
    same(y, plain, 1e-6)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert jnp.linalg.norm(a - b) <= tolerance * jnp.linalg.norm(b)


@pytest.mark.parametrize("residuals", ["preactivation", "input"])
def test_second_derivatives_in_both_modes(residuals):
    """By tokens, gates and weights; reverse over reverse, and forward over reverse."""
    (x,), (experts, gates), w = random_arrays((4, 3)), routing(4, 3), weights("swiglu", 3, 3, 4)

    @jax.jit
    def every(args):
        def loss(apply):
            return lambda args: jnp.sum(jnp.sin(apply(*args)))

        def ours(x, g, w):
            options = {"variant": "swiglu", "residuals": residuals}
            return mixture_of_experts(x, experts, g, **w, **options)

        def plain(x, g, w):
            return sum_over_all(x, experts, g, w, "swiglu")

        tangent = jax.tree.map(jnp.cos, args)

        def products(f):
            def directional(a):
                return sum(map(jnp.vdot, *map(jax.tree.leaves, (jax.grad(f)(a), tangent))))

            return (
                jax.jvp(f, (args,), (tangent,))[1],
                jax.jvp(jax.grad(f), (args,), (tangent,))[1],
                jax.grad(directional)(args),
            )

        return products(loss(ours)), products(loss(plain))

    same(*every((x, gates, w)), 3e-6)


def test_ragged_dot_which_other_platforms_take_gives_the_same():
    x, y, w = random_arrays((7, 4, 3), (7, 4, 2), (4, 3, 2))
    ends = jnp.array([2, 2, 5, 6])
    options = {"precision": None}
    same(_matmul_by_ragged_dot(x, w, ends, **options), grouped_matmul(x, w, ends), 1e-6)
    same(_outer_by_ragged_dot(x, y, ends, **options), grouped_outer(x, y, ends), 1e-6)
    for platform in ("cuda", "tpu"):
        exported = jax.export.export(jax.jit(grouped_matmul), platforms=[platform])
        assert "while" not in exported(x, w, ends).mlir_module()


def test_vmap_over_tokens_weights_and_routing():
    x, w = random_arrays((3, 9, D))[0], weights()
    many = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, -leaf]), w)
    routings = [routing(9, seed=seed) for seed in range(3)]
    experts, gates = (jnp.stack(parts) for parts in zip(*routings, strict=True))

    def grad(x, experts, gates, w):
        def loss(x, w):
            return jnp.sum(jnp.sin(mixture_of_experts(x, experts, gates, **w, variant="swiglu")))

        return jax.grad(loss, (0, 1))(x, w)

    def value_and_grad(x, experts, gates, w):
        value = mixture_of_experts(x, experts, gates, **w, variant="swiglu")
        return value, grad(x, experts, gates, w)

    for w_axis, given in ((None, w), (0, many)):
        got = jax.jit(jax.vmap(value_and_grad, (0, 0, 0, w_axis)))(x, experts, gates, given)
        for i in range(3):
            own = given if w_axis is None else jax.tree.map(lambda leaf, i=i: leaf[i], given)
            want = jax.jit(value_and_grad)(x[i], experts[i], gates[i], own)
            same(jax.tree.map(lambda leaf, i=i: leaf[i], got), want, 2e-6)


@pytest.mark.parametrize("capacity", [None, 3])
@pytest.mark.parametrize(("t", "e", "k"), [(1, 4, 4), (9, 3, 1), (70, 4, 2)])
def test_every_choice_has_one_row_of_a_block_of_its_expert(t, e, k, capacity):
    """For random routings, lopsided ones, and any padding."""
    given = [routing(t, e, k, seed=seed)[0] for seed in range(6)]
    experts = jnp.stack([*given, *(i % 2 for i in given)]) % e
    masks = np.random.default_rng(t).random((12, t)) < np.resize([0.0, 0.5, 1.0], 12)[:, None]
    rows = jax.vmap(lambda i, m: assign(i, m, num_experts=e, capacity=capacity))
    every = jax.device_get(jax.jit(rows)(experts, jnp.asarray(masks)))
    for i in range(12):
        slots = jax.tree.map(lambda leaf, i=i: leaf[i], every)
        check_rows(slots, np.asarray(experts[i]), masks[i], e, capacity)


def check_rows(slots: Slots, experts, mask, e, capacity):
    t, k = experts.shape
    (n, size), taken = slots.choices.shape, np.zeros(e, int)
    rows = slots.choices.ravel()
    for j, token in itertools.product(range(k), range(t)):  # first choices first, then in order
        row, expert = slots.slot[j, token], experts[token, j]
        if not mask[token] or (capacity is not None and taken[expert] >= capacity):
            assert row == n * size
            continue
        taken[expert] += 1
        assert rows[row] == j * t + token
        assert slots.experts[row // size] == expert
    assert (rows < k * t).sum() == taken.sum()  # and every other row is nobody's
    assert slots.ends[-1] == (-(-taken // size)).sum() <= n


@pytest.mark.parametrize("e", [8, 64])
def test_flops_of_any_routing(e):
    """Rows that are computed, at most: an eighth more than there are choices, for 8 experts or 64.

    On a CPU a product's loops run through the used blocks alone (`grouped_matmul`), so that their
    number times the block is what is computed; the program's shapes hold the most of any routing.
    """
    choices = 256 * e
    slots = jax.eval_shape(lambda i: assign(i, num_experts=e), jnp.zeros((choices // 2, 2), int))
    assert slots.choices.size <= 1.13 * choices
    assert [block_size(n * e, e) for n in (1, 64, 256, 512, 4096)] == [8, 32, 32, 64, 128]


@pytest.mark.parametrize("router", ROUTERS)
def test_routers_are_their_equations(router):
    """In numpy and float64, with the choice by a full sort."""
    config, (logits,) = ROUTERS[router], random_arrays((50, E))
    bias = jnp.array([0.3, 0, 0, -0.3, 0])
    given = {"choice_bias": bias, "scale": 2.5}
    route = {
        "softmax": lambda logits: gj.softmax_routing(logits, K, renormalize=True),
        "as they are": lambda logits: gj.softmax_routing(logits, K, renormalize=False),
        "switch": lambda logits: gj.softmax_routing(logits, K, renormalize=config.renormalize),
        "top_k_softmax": lambda logits: gj.top_k_softmax_routing(logits, K),
        "sigmoid": lambda logits: gj.sigmoid_routing(logits, K, **given),
    }[router]
    found = route(logits)
    wide = np.asarray(logits, np.float64)
    p = np.exp(wide) / np.exp(wide).sum(-1, keepdims=True)
    s = 1 / (1 + np.exp(-wide))
    choice = s + np.asarray(bias) if router == "sigmoid" else wide
    experts = np.argsort(-choice, -1, kind="stable")[:, :K]
    of = np.take_along_axis(s if router == "sigmoid" else p, experts, -1)
    total = of.sum(-1, keepdims=True)
    gates = {"sigmoid": 2.5 * of / total, "softmax": of / total, "top_k_softmax": of / total}
    np.testing.assert_array_equal(found.experts, experts)
    np.testing.assert_allclose(found.gates, gates.get(router, of), rtol=2e-6)
    np.testing.assert_allclose(found.probabilities.sum(-1), 1, rtol=1e-6)


def test_only_experts_of_the_best_groups_are_chosen():
    """The greatest logit of all is in a group whose two best are not among the best together."""
    logits = jnp.array([2.0, -9, 1, 1, 1, 0.5, 0, 0])
    options = {"choice_bias": jnp.zeros(8), "num_groups": 4}
    found = gj.sigmoid_routing(logits, 3, **options, top_groups=2)
    assert found.experts.tolist() == [2, 3, 4]
    assert gj.sigmoid_routing(logits, 3, **options, top_groups=4).experts[0] == 0


def test_of_equal_logits_the_first_experts_are_chosen():
    for found in (
        gj.softmax_routing(jnp.zeros((3, E)), K, renormalize=True),
        gj.top_k_softmax_routing(jnp.zeros((3, E)), K),
        gj.sigmoid_routing(jnp.zeros((3, E)), K, choice_bias=jnp.zeros(E)),
    ):
        assert (found.experts == jnp.arange(K)).all()
        np.testing.assert_allclose(found.gates, found.gates[0, 0])


@pytest.mark.parametrize("value", [jnp.nan, jnp.inf, -jnp.inf])
@pytest.mark.parametrize("router", ROUTERS)
def test_a_logit_that_is_not_finite_shows(router, value):
    """Also where the token is dropped, and in no other token."""
    config = gj.MoEConfig(EXPERT, E, K, ROUTERS[router], auxiliary_loss=0.01)
    moe = random_model(gj.MoE, config)
    moe.router.w[...] = moe.router.w[...].at[0].set(jnp.zeros(E).at[1].set(value))
    x = random_arrays((12, D))[0].at[:-1, 0].set(0)  # 0·∞ is NaN as well
    y, statistics = jax.jit(gj.MoE.with_routing)(moe, x)
    assert jnp.isnan(y).all()
    assert jnp.isnan(statistics.loss)


@pytest.mark.parametrize("capacity", [None, 2])
def test_a_gate_that_is_not_finite_shows_in_its_token_alone(capacity):
    """Also where the expert takes no more tokens."""
    (x,), w = random_arrays((6, D)), weights()
    gates = jnp.ones((6, 1)).at[4].set(jnp.nan)
    y = mixture_of_experts(x, jnp.zeros((6, 1), int), gates, **w, capacity=capacity)
    assert jnp.isnan(y).any(-1).tolist() == [False] * 4 + [True, False]
    assert jnp.isnan(y[4]).all()


def test_padding_counts_nowhere():
    """Neither in the output of others, nor in any statistic, nor in an expert's capacity."""
    config = gj.MoEConfig(EXPERT, E, K, ROUTERS["switch"], auxiliary_loss=0.1, z_loss=0.2)
    moe = random_model(gj.MoE, config)
    (x,) = random_arrays((2, 7, D))
    mask = jnp.arange(7) < jnp.array([[4], [6]])
    odd = jnp.where(mask[..., None], x, 1e3)

    @jax.jit
    def run(x, mask=mask):
        return moe.with_routing(x, mask=mask)

    (y, statistics), (other, others) = run(x), run(odd)
    np.testing.assert_array_equal(y[mask], other[mask])
    np.testing.assert_array_equal(other[~mask], 0)
    same(statistics, others, 0)
    wide = replace(config, router=gj.SoftmaxRouterConfig(renormalize=False))
    alone = random_model(gj.MoE, wide)
    _, real = jax.jit(gj.MoE.with_routing)(alone, x[mask])
    same(statistics, real, 1e-6)
    _, none = run(x, jnp.zeros_like(mask))
    assert all((leaf == 0).all() for leaf in none)


def test_losses_are_their_equations():
    (logits,) = random_arrays((30, E))
    found = gj.softmax_routing(logits, K, renormalize=True)
    p = np.exp(np.asarray(logits, np.float64))
    z = np.log(p.sum(-1)) ** 2
    p /= p.sum(-1, keepdims=True)
    f = np.bincount(np.asarray(found.experts).ravel(), minlength=E) / 60
    np.testing.assert_allclose(gj.auxiliary_loss(found), E * f @ p.mean(0), rtol=1e-6)
    np.testing.assert_allclose(gj.z_loss(found), z.mean(), rtol=1e-6)
    np.testing.assert_allclose(gj.expert_load(found), f, rtol=1e-6)


def test_the_choice_bias_evens_the_load_and_no_gradient_reaches_it():
    config = gj.MoEConfig(EXPERT, E, K, gj.SigmoidRouterConfig(), bias_update_rate=0.05)
    moe = random_model(gj.MoE, config)
    x = random_arrays((400, D))[0] + 1
    moe.router.choice_bias[...] = jnp.zeros(E)
    grad = jax.jit(jax.grad(lambda moe: jnp.sum(moe(x) ** 2)))(moe)
    assert (grad.router.choice_bias[...] == 0).all()
    assert (grad.router.w[...] != 0).any()
    assert "choice_bias" not in nnx.to_pure_dict(nnx.state(moe, nnx.Param))["router"]

    @jax.jit
    def step(moe, _):
        _, statistics = moe.with_routing(x)
        bias = moe.router.choice_bias
        bias[...] = gj.updated_choice_bias(bias[...], statistics.load, 0.02)
        return moe, statistics.load

    _, loads = jax.lax.scan(step, moe, None, length=60)
    assert loads[0].max() > 1.5 / E
    assert loads[-1].max() < 1.15 / E


def test_a_capacity_drops_what_is_beyond_it():
    """Twelve tokens that all want one expert, which takes five: ⌈1.25·12/3⌉."""
    config = gj.MoEConfig(EXPERT, 3, 1, gj.SwitchRouterConfig())
    moe = random_model(gj.MoE, config)
    moe.router.w[...] = jnp.zeros((D, 3)).at[0, 1].set(5.0)
    x = jnp.abs(random_arrays((12, D))[0]) + 0.1
    y = jax.jit(gj.MoE.__call__)(moe, x)
    assert (jnp.abs(y).max(-1) > 0).tolist() == [True] * 5 + [False] * 7


def test_shared_experts_and_their_gate():
    shared = gj.FeedForwardConfig(D, 2 * F, "swiglu")
    config = gj.MoEConfig(EXPERT, E, K, shared=shared, shared_gate=True)
    moe = random_model(gj.MoE, config)
    (x,) = random_arrays((2, 5, D))
    alone = random_model(gj.MoE, gj.MoEConfig(EXPERT, E, K))
    alone.experts, alone.router = moe.experts, moe.router

    @jax.jit
    def every(moe, alone, x):
        gate = jax.nn.sigmoid(x @ moe.shared_gate[...])
        gated = moe(x), alone(x) + gate * moe.shared(x)
        moe.shared_gate = None
        return gated, (moe(x), alone(x) + moe.shared(x))

    for got, want in every(moe, alone, x):
        same(got, want, 1e-6)


def test_bfloat16_is_near_float32():
    config = gj.MoEConfig(replace(EXPERT, use_bias=True), E, K)
    moe = random_model(gj.MoE, config)
    expert = replace(config.feed_forward, dtype="bfloat16")
    low = random_model(gj.MoE, replace(config, feed_forward=expert))
    (x,) = random_arrays((64, D))
    y, want = jax.jit(lambda low, moe: (low(x), moe(x)))(low, moe)
    assert y.dtype == jnp.bfloat16
    assert jnp.abs(y - want).max() < 0.03 * jnp.abs(want).max()


BAD = {
    "experts_per_token = 9: must not be above num_experts = 5": {"experts_per_token": 9},
    "num_experts = 0: must be above 0": {"num_experts": 0},
    "num_groups = 3: must divide num_experts = 5; nearest: 1": {
        "router": gj.SigmoidRouterConfig(num_groups=3)
    },
    "experts_per_token = 2: the 1 groups open to a token have 1 experts": {
        "router": gj.SigmoidRouterConfig(num_groups=5)
    },
    'router = "best": not a config of a router; one of softmax, top_k_softmax, sigmoid, switch': {
        "router": "best"
    },
    "shared_gate = True: needs a shared block": {"shared_gate": True},
    "shared.d_model = 3: must equal feed_forward.d_model = 6": {
        "shared": gj.FeedForwardConfig(3, 4, d_out=6)
    },
    "feed_forward.chunk_size = 4: must be None for experts": {
        "feed_forward": replace(EXPERT, chunk_size=4)
    },
    "auxiliary_loss = -1: must not be below 0": {"auxiliary_loss": -1},
    'bias_update_rate = 0.1: only a router of kind "sigmoid" has a choice bias': {
        "bias_update_rate": 0.1
    },
}


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("message", BAD)
def test_bad_input_is_one_line_with_field_and_value(message):
    with pytest.raises(gj.ConfigError) as error:
        gj.MoEConfig(**{"feed_forward": EXPERT, "num_experts": E, "experts_per_token": K}
                     | BAD[message])  # fmt: skip
    assert str(error.value).replace("'", '"') == message


def test_bad_routers():
    with pytest.raises(gj.ConfigError, match=r"^capacity_factor = 0\.5: must be at least 1"):
        gj.SwitchRouterConfig(capacity_factor=0.5)
    with pytest.raises(gj.ConfigError, match=r"^top_groups = 3: must not be above num_groups = 2$"):
        gj.SigmoidRouterConfig(num_groups=2, top_groups=3)


def test_counts_are_those_of_the_module():
    shared = gj.FeedForwardConfig(D, 2 * F, "swiglu", use_bias=True)
    for router in ROUTERS.values():
        config = gj.MoEConfig(
            gj.FeedForwardConfig(D, F, "xielu", use_bias=True), E, K, router,
            shared=shared, shared_gate=True,
        )  # fmt: skip
        sizes = [leaf.size for leaf in jax.tree.leaves(random_model(gj.MoE, config))]
        assert sum(sizes) == config.num_parameters
        unused = (E - K) * config.feed_forward.num_parameters
        assert config.num_active_parameters == config.num_parameters - unused


def test_a_decoder_of_experts_scanned_unrolled_and_token_by_token():
    block = gj.BlockConfig(
        gj.NormConfig(D, kind="rms"),
        gj.AttentionConfig(D, num_heads=2, rotary=gj.RotaryConfig()),
        gj.MoEConfig(EXPERT, E, K, auxiliary_loss=0.1),
    )
    config = gj.TransformerConfig(11, 3, block, scan_layers=True)
    model = random_model(gj.Transformer, config)
    unrolled = random_model(gj.Transformer, replace(config, scan_layers=False))
    tokens = jnp.arange(10).reshape(2, 5)

    @jax.jit
    def every_way(model, unrolled):
        cache, logits = model.empty_cache(2, 5), []
        for i in range(5):
            one, cache = model.decode(tokens[:, i : i + 1], cache)
            logits.append(one)
        routed = model.with_routing(tokens), unrolled.with_routing(tokens)
        return routed, model(tokens), jnp.concatenate(logits, 1)

    ((logits, statistics), other), plain, decoded = every_way(model, unrolled)
    same(other, (logits, statistics), 1e-5)
    same((plain, decoded), (logits, logits), 1e-5)
    assert statistics.load.shape == (3, E)


def test_kept_for_the_backward_pass():
    """Pre-activations of a token's experts, two of width F each, or nothing; no gathered rows."""
    t, d, f, e, k = 2048, 32, 512, 4, 2

    def kept(**choice):
        config = gj.MoEConfig(gj.FeedForwardConfig(d, f, "swiglu", **choice), e, k)
        moe = jax.eval_shape(lambda: gj.MoE(config, rngs=nnx.Rngs(0)))
        x = jax.ShapeDtypeStruct((t, d), jnp.float32)
        size = measured_bytes_kept(lambda x, moe, _: x + moe(x), x, moe, depths=(2, 4))
        return size / (t * k * f * 4)  # in tensors of f entries for each choice

    # an eighth more rows than choices at most, and the gradients of weights, 3·e·d/(t·k)
    assert kept(residuals="all") > 3
    assert kept() <= 2 * 1.125 + 0.25
    assert kept(residuals="input") <= 0.25


def test_without_a_gradient_no_hidden_layer_is_there_as_a_whole():
    """Rows, their results and the tokens' sums alone: less than half of one hidden layer."""
    t, d, f, e, k = 2048, 32, 512, 8, 2
    config = gj.MoEConfig(gj.FeedForwardConfig(d, f, "swiglu"), e, k)
    moe = jax.eval_shape(lambda: gj.MoE(config, rngs=nnx.Rngs(0)))
    x = jax.ShapeDtypeStruct((t, d), jnp.float32)
    compiled = jax.jit(lambda moe, x: moe(x)).lower(moe, x).compile()
    assert compiled.memory_analysis().temp_size_in_bytes <= 0.5 * (t * k * f * 4)


def test_without_jit_a_product_is_compiled_all_the_same():
    x, w = random_arrays((3, 8, D), (2, D, F))
    ends = jnp.array([1, 3])
    expected = grouped_matmul(x, w, ends)
    with jax.disable_jit():
        found = grouped_matmul(x, w, ends)
    np.testing.assert_array_equal(found, expected)
