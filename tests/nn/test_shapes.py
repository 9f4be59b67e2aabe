"""Inputs of every shape that the signatures allow: no rows, no tokens, one token, symbols."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import export
from random_models import random_arrays, random_model

import gelu_jax as gj
from gelu_jax.nn.decoding import generate
from gelu_jax.nn.vision import VisionConfig, VisionTransformer
from gelu_jax.nn.vision_language import VisionLanguage, VisionLanguageConfig

GATED = {"variant": "swiglu", "use_bias": True}


def block(**attention):
    heads = {"num_heads": 4, "num_kv_heads": 2} | attention
    feed_forward = gj.FeedForwardConfig(8, d_ff=16, **GATED)
    return gj.BlockConfig(gj.NormConfig(8), gj.AttentionConfig(8, **heads), feed_forward)


LANGUAGE = gj.TransformerConfig(11, 2, block(rotary=gj.RotaryConfig()), max_positions=9)
VISION = VisionConfig(4, 2, 1, block(causal=False))

LAYERS = {
    "plain": (gj.FeedForward, gj.FeedForwardConfig(8, d_ff=16, **GATED)),
    "chunks": (gj.FeedForward, gj.FeedForwardConfig(8, d_ff=16, chunk_size=2, d_out=6, **GATED)),
    "input": (gj.FeedForward, gj.FeedForwardConfig(8, 16, chunk_size=2, residuals="input")),
    "fp8": (gj.FeedForward, gj.FeedForwardConfig(8, 16, residual_dtype="float8_e4m3fn")),
    "experts": (gj.MoE, gj.MoEConfig(gj.FeedForwardConfig(8, d_ff=16, **GATED), 3, 2)),
    "norm": (gj.Norm, gj.NormConfig(8)),
}
MODELS = LAYERS | {
    "attention": (gj.Attention, block().attention),
    "window": (gj.Attention, block(window=2).attention),
    "block": (gj.Block, block()),
    "transformer": (gj.Transformer, LANGUAGE),
    "mlp": (gj.MLP, gj.MLPConfig(8, num_classes=3, num_layers=2, d_ff=16)),
    "vision": (VisionTransformer, VISION),
}
EMPTY = {
    "transformer": [(0, 3), (2, 0)],
    "mlp": [(0, 8), (0, 2, 4)],
    "vision": [(0, 4, 4, 3)],
    **{name: [(0, 8), (0, 3, 8), (2, 0, 8), (2, 0, 3, 8)] for name in LAYERS},
}


@pytest.mark.parametrize("name", MODELS)
def test_an_empty_input_gives_an_empty_output_and_zero_gradients(name):
    model = random_model(*MODELS[name])
    shapes = EMPTY.get(name, [(0, 3, 8), (2, 0, 8)])
    dtype = jnp.int32 if name == "transformer" else jnp.float32

    @jax.jit
    def every(model):
        def loss(model, x):
            y = model(x)
            return y.sum(), y

        run = jax.grad(loss, has_aux=True)
        return [run(model, jnp.zeros(shape, dtype)) for shape in shapes]

    for shape, (gradients, y) in zip(shapes, every(model), strict=True):
        assert y.size == 0
        assert y.shape[0] == shape[0]
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(gradients))


@pytest.mark.parametrize("name", LAYERS)
def test_one_token_needs_no_batch(name):
    model = random_model(*MODELS[name])
    x, weight = random_arrays((5, 8), (5, model(jnp.zeros(8)).shape[0]))

    @jax.jit
    def both(model, x):
        def loss(model, apply):
            return jnp.vdot(weight, apply(model))

        one = jax.value_and_grad(loss)(model, lambda m: jnp.stack([m(row) for row in x]))
        return one, jax.value_and_grad(loss)(model, lambda m: m(x))

    one, together = both(model, x)
    for left, right in zip(jax.tree.leaves(one), jax.tree.leaves(together), strict=True):
        np.testing.assert_allclose(left, right, rtol=2e-5, atol=2e-5)


def test_one_token_has_dropout_in_chunks_too():
    x, w, key = jnp.ones(4), jnp.ones((4, 64)), jax.random.key(0)
    extra = {"variant": "relu", "dropout_rate": 0.5, "dropout_key": key}
    y = gj.feed_forward(x, [w], jnp.eye(64), chunk_size=2, **extra)
    np.testing.assert_array_equal(y, gj.feed_forward(x, [w], jnp.eye(64), **extra))
    assert 16 < (y == 0).sum() < 48


# unchecked, for a symbolic size is no int


def run_exported(function, symbols, specs, *args):
    """What a function gives that was exported with symbolic sizes, and that it gives itself."""
    sizes = dict(zip(symbols.split(","), export.symbolic_shape(symbols), strict=True))
    shapes = [
        jax.ShapeDtypeStruct([sizes.get(axis, axis) for axis in spec], jnp.asarray(arg).dtype)
        for spec, arg in zip(specs, args, strict=True)
    ]
    exported = export.export(jax.jit(function))(*shapes)
    return exported.call(*args), jax.jit(function)(*args)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize("name", ["chunks", "input", "block", "experts"])
def test_symbolic_sizes_in_value_and_gradient(name):
    model = random_model(*MODELS[name])

    def function(x):
        return model(x), jax.grad(lambda x: jnp.square(model(x)).sum())(x)

    found, expected = run_exported(function, "b,t", [("b", "t", 8)], *random_arrays((2, 5, 8)))
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_symbolic_sizes_of_chunks_with_dropout():
    model = random_model(gj.FeedForward, gj.FeedForwardConfig(8, 16, "relu", dropout_rate=0.5,
                                                              chunk_size=2))  # fmt: skip
    key = jax.random.key_data(jax.random.key(3))

    def function(x, key):
        return model(x, dropout_key=jax.random.wrap_key_data(key))

    found, expected = run_exported(
        function, "t", [(2, "t", 8), (2,)], *random_arrays((2, 5, 8)), key
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_symbolic_sizes_of_a_language_model_and_its_cache():
    model = random_model(gj.Transformer, LANGUAGE)
    tokens = jnp.arange(8, dtype=jnp.int32).reshape(2, 4)
    mask = jnp.array([[False, True, True, True], [True] * 4])

    def function(tokens, mask):
        cache = model.empty_cache(*tokens.shape)
        return model(tokens, mask=mask), model.decode(tokens, cache, mask=mask)[0]

    found, expected = run_exported(function, "b,t", [("b", "t")] * 2, tokens, mask)
    for left, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-5)


@pytest.mark.usefixtures("unchecked")
def test_symbolic_sizes_of_the_classifier():
    model = random_model(*MODELS["mlp"])
    found, expected = run_exported(model, "b", [("b", 2, 4)], *random_arrays((3, 2, 4)))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def test_the_classifier_refuses_examples_of_another_size():
    model = nnx.eval_shape(lambda: gj.MLP(MODELS["mlp"][1], rngs=nnx.Rngs(0)))
    with pytest.raises(TypeError, match=r"\(2, 3, 4\)"):
        jax.eval_shape(lambda m, x: m(x), model, jnp.ones((2, 3, 4)))


def test_generation_for_no_rows_and_for_no_prompt():
    model = random_model(gj.Transformer, LANGUAGE)
    generated = jax.eval_shape(lambda m, t: generate(m, t, 3), model, jnp.ones((0, 4), jnp.int32))
    assert generated.shape == (0, 3)
    with pytest.raises(gj.ConfigError, match=r"tokens = \(2, 0\): a prompt needs a token"):
        generate(model, jnp.ones((2, 0), jnp.int32), 3)


def test_text_beside_no_images():
    config = VisionLanguageConfig(VISION, LANGUAGE, image_token=3, vision_layers=1)
    model = random_model(VisionLanguage, config)
    embed = jax.jit(lambda images: model.embed(jnp.array([[1, 2]]), images))
    np.testing.assert_array_equal(embed(jnp.ones((0, 4, 4, 3))), embed(None))


def test_more_tokens_than_learned_positions_are_refused():
    model = random_model(gj.Transformer, LANGUAGE)  # 9 positions
    tokens = jnp.ones((1, 10), jnp.int32)
    with pytest.raises(ValueError, match="length = 10: this model has 9 positions"):
        model(tokens)
    with pytest.raises(ValueError, match="length = 12: this model has 9 positions"):
        model.empty_cache(1, 12)
    padded = jnp.arange(10)[None] >= 4  # six tokens and their padding fit
    call = jax.jit(lambda m, t, mask: m(t, mask=mask))
    cut = call(model, tokens[:, 4:], jnp.ones((1, 6), bool))
    np.testing.assert_allclose(call(model, tokens, padded)[:, 4:], cut, atol=1e-5)
