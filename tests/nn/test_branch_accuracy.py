"""How exact branches are, in the programs that users get."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtri
from test_branches import kimi

import gelu_jax as gj
from gelu_jax.nn.branches import GaussianTopK
from gelu_jax.nn.feed_forward import branch_product

pytestmark = pytest.mark.optimized


@pytest.mark.parametrize(("dtype", "ulp"), [("float32", 5), ("float16", 0.51), ("bfloat16", 0.51)])
def test_the_product_of_situ_glu_is_as_exact_as_stated(dtype, ulp):
    random = np.random.default_rng(0)
    gate, up = (jnp.asarray(random.normal(0, 6, 1 << 16), dtype) for _ in range(2))
    w_in = [jnp.asarray(w, dtype) for w in ([[1], [0]], [[0], [1]])]
    h = jax.jit(lambda x: branch_product(x, w_in, variant="situ_glu"))(jnp.stack([gate, up], -1))
    want = kimi(*(np.asarray(p).astype(np.float64) for p in (gate, up)))
    exponent = np.maximum(np.frexp(want)[1] - 1, jnp.finfo(dtype).minexp)
    unit = np.ldexp(1.0, exponent - jnp.finfo(dtype).nmant)
    assert (np.abs(np.asarray(h)[:, 0].astype(np.float64) - want) / unit).max() <= ulp


def top_k64(x, sparsity):
    cutoff = x.mean(-1, keepdims=True) + ndtri(sparsity) * x.std(-1, keepdims=True)
    return np.maximum(x - cutoff, 0), 2.0**-22 * (1 + ndtri(sparsity)) * np.sqrt((x**2).mean(-1))


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.95])
def test_top_k_keeps_what_exceeds_its_cutoff(sparsity):
    x = np.random.default_rng(0).normal(3, 2, (8, 1 << 14)).astype(np.float32)
    kept = np.asarray(jax.jit(GaussianTopK(sparsity, gj.identity))(x))
    want, bound = top_k64(x.astype(np.float64), sparsity)
    assert (np.abs(kept - want).max(-1) <= bound).all()
    np.testing.assert_allclose((kept == 0).mean(-1), sparsity, atol=0.01)
    np.testing.assert_array_equal(GaussianTopK(sparsity)(x), gj.gelu_tanh(kept))
