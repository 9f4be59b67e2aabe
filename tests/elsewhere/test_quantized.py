"""Quantization and adapters by other people's libraries, around and inside of our blocks.

qwix and AQT replace `jax.lax.dot_general`, and know a kernel by its identity: what they need is
tested here without them, and with them where they are installed (`make test-live`).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx, struct

import gelu_jax as gj

pytestmark = [  # of signatures, because what stands for a kernel is no Param; and of qwix's own
    pytest.mark.usefixtures("unchecked"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]

X = jax.random.normal(jax.random.key(3), (4, 8))
FFN = {name: gj.FeedForwardConfig(8, 64, name, use_bias=True) for name in ("gelu", "swiglu")}
RESIDUALS = ("preactivation", "input", "all")


def relative(found: Any, expected: Any) -> float:
    found, expected = (jnp.asarray(y, jnp.float32) for y in (found, expected))
    return float(jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected))


def loss(model, x):
    return jnp.square(model(x).astype(jnp.float32) - 1).sum()


@pytest.mark.parametrize("residuals", RESIDUALS)
def test_products_call_dot_general_with_the_kernels_themselves(monkeypatch, residuals):
    """By this qwix finds the name of a kernel, and makes its parameters: no tracer among them."""
    config = gj.FeedForwardConfig(8, 64, "swiglu", residuals=residuals)
    model, called = gj.FeedForward(config, rngs=nnx.Rngs(0)), []
    plain = jax.lax.dot_general

    def seen(x, w, *args, **options):
        called.append(w)
        return plain(x, w, *args, **options)

    expected = model(X)
    monkeypatch.setattr(jax.lax, "dot_general", seen)
    np.testing.assert_allclose(model(X), expected, atol=1e-6)
    kernels = [model.w_in_0, model.w_in_1, model.w_out]
    assert len(called) == 3
    assert all(w is kernel.get_value() for w, kernel in zip(called, kernels, strict=True))


@struct.dataclass
class Int8:
    """A stand-in for the quantized kernels that qwix puts into the place of parameters."""

    value: jax.Array
    scale: jax.Array

    shape = property(lambda self: self.value.shape)
    ndim = property(lambda self: self.value.ndim)
    dtype = property(lambda self: self.scale.dtype)

    def __getitem__(self, key):
        return jax.tree.map(lambda leaf: leaf[key], self)


nnx.register_data_type(Int8)


def quantized(w):
    scale = jnp.abs(w).max(0, keepdims=True) / 127
    return Int8(jnp.round(w / scale).astype(jnp.int8), scale)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_stands_in_the_place_of_a_kernel_reaches_the_product(dtype):
    def dot_general(x, w, dimensions, **options):
        assert isinstance(w, Int8)
        return jax.lax.dot_general(x, w.value.astype(x.dtype), dimensions, **options) * w.scale[0]

    config = gj.FeedForwardConfig(8, 64, "swiglu", dtype=dtype, dot_general=dot_general)
    model = gj.FeedForward(config, rngs=nnx.Rngs(0))
    plain = gj.FeedForward(gj.FeedForwardConfig(8, 64, "swiglu", dtype=dtype), rngs=nnx.Rngs(0))
    for name in ("w_in_0", "w_in_1", "w_out"):
        setattr(model, name, quantized(getattr(plain, name)[...]))
    assert 1e-3 < relative(model(X), plain(X)) < 0.03
    assert 1e-3 < relative(jax.jit(lambda m, x: m(x))(model, X), plain(X)) < 0.03


@pytest.mark.parametrize("variant", FFN)
def test_lora_of_flax_around_a_block(variant):
    """The block's output and x A B: at first the block's own, and A and B alone are trained."""
    block = gj.FeedForward(FFN[variant], rngs=nnx.Rngs(0))
    lora = nnx.LoRA(8, 2, 8, base_module=block, rngs=nnx.Rngs(1))
    np.testing.assert_array_equal(lora(X), block(X))
    lora.lora_b[...] = jax.random.normal(jax.random.key(1), (2, 8))
    expected = block(X) + X @ lora.lora_a[...] @ lora.lora_b[...]
    np.testing.assert_allclose(lora(X), expected, atol=1e-5)
    found = nnx.grad(loss, argnums=nnx.DiffState(0, nnx.LoRAParam))(lora, X)
    assert {path[-1] for path, _ in nnx.to_flat_state(found)} == {"lora_a", "lora_b"}
    upstream = 2 * (expected - 1)
    np.testing.assert_allclose(
        found["lora_b"][...], (X @ lora.lora_a[...]).T @ upstream, rtol=1e-4, atol=1e-4
    )


@pytest.mark.live
@pytest.mark.parametrize("act", [None, "int8"])
@pytest.mark.parametrize("variant", FFN)
def test_qwix_quantizes_after_training(variant, act):
    import qwix

    model = gj.FeedForward(FFN[variant], rngs=nnx.Rngs(0))
    rule = qwix.QuantizationRule(module_path=".*", weight_qtype="int8", act_qtype=act)
    found = qwix.quantize_model(model, qwix.PtqProvider([rule]), X)
    kernels = {n: v for n, v in vars(found).items() if n.startswith("w_")}
    assert {type(kernel).__name__ for kernel in kernels.values()} == {"WithAux"}
    assert {kernel.array.qvalue.dtype.name for kernel in kernels.values()} == {"int8"}
    for y in (found(X), jax.jit(lambda m, x: m(x))(found, X)):
        assert 1e-4 < relative(y, model(X)) < 0.03


@pytest.mark.live
@pytest.mark.parametrize("residuals", RESIDUALS)
@pytest.mark.parametrize("variant", FFN)
def test_qwix_trains_quantized(variant, residuals):
    import qwix

    config = gj.FeedForwardConfig(8, 64, variant, residuals=residuals)
    model = gj.FeedForward(config, rngs=nnx.Rngs(0))
    rule = qwix.QuantizationRule(module_path=".*", weight_qtype="int8", act_qtype="int8")
    found = qwix.quantize_model(model, qwix.QtProvider([rule]), X)
    assert 1e-4 < relative(found(X), model(X)) < 0.03
    gradient, exact = (nnx.jit(nnx.grad(loss))(m, X) for m in (found, model))
    for name in ("w_in_0", "w_out"):
        assert 1e-4 < relative(gradient[name][...], exact[name][...]) < 0.05


@pytest.mark.live
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("variant", FFN)
def test_qwix_adapts_every_kernel(variant, dtype):
    """Beside the matrices that it says: w + α/r·A·B in the place of each kernel."""
    import qwix

    config = gj.FeedForwardConfig(8, 64, variant, dtype=dtype, param_dtype=dtype)
    model = gj.FeedForward(config, rngs=nnx.Rngs(0))
    provider = qwix.LoraProvider(module_path=".*", rank=4, alpha=2.0)
    adapted = qwix.apply_lora_to_model(model, provider, X, rngs=nnx.Rngs(1))
    np.testing.assert_array_equal(adapted(X), model(X))
    kernels = [name for name in vars(model) if name.startswith("w_")]
    for i, name in enumerate(kernels):
        b = getattr(adapted, f"{name}_lora_b")
        b[...] = jax.random.normal(jax.random.key(i), b.shape, b.dtype) / 4
        low_rank = getattr(adapted, f"{name}_lora_a")[...] @ b[...]
        getattr(model, name)[...] += (low_rank * 2 / 4).astype(dtype)
    assert relative(adapted(X), model(X)) < (1e-5 if dtype == "float32" else 0.03)
    lora = nnx.DiffState(0, nnx.LoRAParam)
    found = nnx.to_flat_state(nnx.jit(nnx.grad(loss, argnums=lora))(adapted, X))
    assert len(found) == 2 * len(kernels)
    assert all(jnp.abs(gradient[...]).max() > 1e-3 for _, gradient in found)


@pytest.mark.live
@pytest.mark.parametrize("variant", FFN)
def test_qwix_in_linen(variant):
    """Trained and stored in 8 bits, and adapted: parameters under the names of the kernels."""
    import qwix

    model = gj.linen.FeedForward(FFN[variant])
    variables = model.init(jax.random.key(0), X)
    kernels = [name for name in variables["params"] if name.startswith("w_")]
    rule = qwix.QuantizationRule(module_path=".*", weight_qtype="int8", act_qtype="int8")
    trained = qwix.quantize_model(model, qwix.QtProvider([rule]))
    stored = qwix.quantize_model(model, qwix.PtqProvider([rule]))
    like = stored.init(jax.random.key(0), X)["params"]
    assert {type(like[name]).__name__ for name in kernels} == {"WithAux"}
    params = {"params": qwix.quantize_params(variables["params"], like)}
    for y in (trained.apply(variables, X), stored.apply(params, X)):
        assert 1e-4 < relative(y, model.apply(variables, X)) < 0.03
    adapter = qwix.LoraProvider(module_path=".*", rank=4, alpha=2.0)
    adapted = qwix.apply_lora_to_model(model, adapter).init(jax.random.key(0), X)["params"]
    assert {n for n in adapted if "lora" in n} == {f"{n}_lora_{ab}" for n in kernels for ab in "ab"}


@pytest.mark.live
@pytest.mark.parametrize("provider", ["PtqProvider", "LoraProvider"])
def test_qwix_finds_the_kernels_of_attention(provider):
    import qwix

    model = gj.Attention(gj.AttentionConfig(8, 2), rngs=nnx.Rngs(0))
    if provider == "PtqProvider":
        rule = qwix.QuantizationRule(module_path=".*", weight_qtype="int8", act_qtype=None)
        found = qwix.quantize_model(model, qwix.PtqProvider([rule]), X[None])
        assert all(type(getattr(found, n)).__name__ == "WithAux" for n in ("w_query", "w_out"))
        assert 1e-4 < relative(found(X[None]), model(X[None])) < 0.03
    else:
        rule = qwix.LoraProvider(module_path=".*", rank=2, alpha=2.0)
        found = qwix.apply_lora_to_model(model, rule, X[None], rngs=nnx.Rngs(1))
        assert sum("lora_b" in name for name in vars(found)) == 4


@pytest.mark.live
@pytest.mark.parametrize("variant", FFN)
def test_aqt_takes_the_place_of_dot_general(variant):
    from aqt.jax.v2 import config as aqt

    dot_general = aqt.fully_quantized(fwd_bits=8, bwd_bits=8, use_stochastic_rounding=False)
    config = gj.FeedForwardConfig(8, 64, variant, dot_general=dot_general)
    model = gj.FeedForward(config, rngs=nnx.Rngs(0))
    plain = gj.FeedForward(gj.FeedForwardConfig(8, 64, variant), rngs=nnx.Rngs(0))
    assert 1e-4 < relative(jax.jit(lambda m, x: m(x))(model, X), plain(X)) < 0.03
    gradient, exact = (jax.jit(jax.grad(loss))(m, X) for m in (model, plain))
    for name in ("w_in_0", "w_out"):
        found, expected = getattr(gradient, name)[...], getattr(exact, name)[...]
        assert 1e-4 < relative(found, expected) < 0.05
