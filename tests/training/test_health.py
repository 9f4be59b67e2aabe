"""Health: each number against NumPy, known cases, and a run that knows nothing of it."""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gelu_jax as gj
from gelu_jax.nn.mlp import MLP, MLPConfig
from gelu_jax.nn.stack import LayerKind, one_layer
from gelu_jax.nn.transformer import Transformer, TransformerConfig
from gelu_jax.training.health import health, rounded
from gelu_jax.training.trainer import loss

TOKENS = jax.random.randint(jax.random.key(1), (3, 5), 0, 11)
IMAGES = jax.random.normal(jax.random.key(2), (6, 2, 2, 1))
LABELS = jnp.arange(6) % 3
UNGATED = {
    "share of dead units", "sparsity", "largest |h|", "pre-activation scale", "gradient norm",
}  # fmt: skip


def transformer(variant: Any, style: Any = "pre_norm", **changes: Any) -> Transformer:
    block = gj.BlockConfig(
        gj.NormConfig(8),
        gj.AttentionConfig(8, num_heads=2),
        gj.FeedForwardConfig(8, 16, variant, use_bias=True),
        style,
    )
    return Transformer(TransformerConfig(11, 2, block, **changes), rngs=nnx.Rngs(0))


def mlp(variant: Any, **changes: Any) -> MLP:
    return MLP(MLPConfig(4, 3, 3, 16, variant, **changes), rngs=nnx.Rngs(0))


def measured(model: Any) -> dict[str, np.ndarray]:
    inputs, targets = (IMAGES, LABELS) if isinstance(model, MLP) else (TOKENS, TOKENS)
    found = jax.jit(health)(model, inputs, targets)
    return {name: np.asarray(values) for name, values in found.items()}


def inputs_of_layers(model: Any) -> list[tuple[Any, jax.Array]]:
    """The feed-forward layers and what each sees, by running the model a layer at a time."""
    found = []
    if isinstance(model, MLP):
        x = model.flatten(IMAGES)
        for layer in model.layers:
            found.append((layer, x))
            x = layer(x)
        return found
    x = model.block_input(model.embed(TOKENS))
    for number in range(model.config.num_layers):
        block = layer_of(model, number)
        h = block.attention_norm(x)
        if block.config.style == "pre_norm":
            h = block.feed_forward_norm(x + block.attention(h))
        found.append((block.feed_forward, h))
        x = block(x)
    return found


def routed_by_hand(layer: gj.MoE, x: np.ndarray) -> dict[str, float]:
    """Of a softmax router whose gates have sum 1."""
    c = layer.config
    logits = x.reshape(-1, c.d_model) @ np.asarray(layer.router.w, np.float64)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    chosen = np.argsort(-p, 1)[:, : c.experts_per_token]
    gates = np.take_along_axis(p, chosen, 1)
    load = np.bincount(chosen.ravel(), minlength=c.num_experts) / chosen.size
    return {
        **{f"load of expert {i + 1}": share for i, share in enumerate(load)},
        "largest load": load.max(),
        "share of dead experts": (load == 0).mean(),
        "router entropy": -(p * np.log(p)).sum(1).mean(),
        "largest gate": (gates.max(1) / gates.sum(1)).mean(),
    }


def by_hand(layer: Any, x: np.ndarray) -> dict[str, float]:
    if isinstance(layer, gj.MoE):
        return routed_by_hand(layer, x)
    kernels = [np.asarray(w, np.float64) for w in layer.w_in]
    biases = [np.asarray(b, np.float64) for b in layer.b_in]
    ps = [x @ w + b for w, b in zip(kernels, biases, strict=True)]
    phis = gj.VARIANTS[layer.config.variant]
    products = [np.asarray(phi(p), np.float64) for phi, p in zip(phis, ps, strict=True)]
    h = np.abs(np.prod(products, axis=0)).reshape(-1, layer.config.d_ff)
    quiet = h <= 0.01 * np.sqrt(np.mean(h**2))
    found = {
        "share of dead units": quiet.all(axis=0).mean(),
        "sparsity": quiet.mean(),
        "largest |h|": h.max(),
        "pre-activation scale": np.sqrt(np.mean(ps[0] ** 2)),
    }
    if len(kernels) > 1:
        gate, up = kernels
        cosines = [
            g @ u / np.linalg.norm(g) / np.linalg.norm(u) for g, u in zip(gate.T, up.T, strict=True)
        ]
        found["gate–up alignment"] = np.mean(np.abs(cosines))
    return found


EXPERTS = gj.MoEConfig(gj.FeedForwardConfig(8, 4, "swiglu"), 4, 2)
MODELS = {
    "experts": lambda: transformer("relu", pattern=(LayerKind(feed_forward=EXPERTS),)),
    "mixed": lambda: transformer("reglu", pattern=(LayerKind(), LayerKind(feed_forward=EXPERTS))),
    "lm": lambda: transformer("swiglu", max_positions=5),
    "parallel": lambda: transformer("relu", "parallel", scan_layers=False),
    "mlp": lambda: mlp("reglu"),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_number_is_what_numpy_says(name: str):
    """Within 1e-5 of the float64 reference, and the gradient's norms of those of the loss.

    NaN stands for what a layer does not have: a dense one no router, a sparse one no hidden layer.
    """
    model: Any = MODELS[name]()
    found = measured(model)
    layers = jax.jit(inputs_of_layers)(model)
    expected = [by_hand(layer, np.asarray(x, np.float64)) for layer, x in layers]
    assert found.keys() == set().union(*expected) | {"gradient norm"}
    for key, number in itertools.product(set().union(*expected), range(len(layers))):
        value = expected[number].get(key, np.nan)
        assert found[key][number] == pytest.approx(value, rel=1e-5, nan_ok=True), (key, number)
    inputs, targets = (IMAGES, LABELS) if isinstance(model, MLP) else (TOKENS, TOKENS)
    gradient: Any = jax.jit(jax.grad(lambda model: loss(model, inputs, targets)[0]))(model)
    for number in range(len(layers)):
        leaves = jax.tree.leaves(layer_of(gradient, number))
        norm = np.sqrt(sum(np.sum(np.square(x, dtype=np.float64)) for x in leaves))
        assert found["gradient norm"][number] == pytest.approx(norm, rel=1e-5)
    assert {len(values) for values in found.values()} == {len(layers)}


def layer_of(model: Any, number: int) -> Any:
    layers = model.layers
    return layers[number] if isinstance(model, MLP) else one_layer(layers, number)


def test_dead_units_are_found():
    """Three of sixteen ReLU units with a bias that no input reaches; alive ones are sparse too."""
    model = mlp("relu")
    bias = jnp.zeros(16).at[jnp.array([0, 5, 9])].set(-1e3)
    model.layers[1].b_in[0][...] = bias
    alive, found = measured(mlp("relu")), measured(model)
    assert found["share of dead units"][1] >= 3 / 16
    assert found["share of dead units"][1] - alive["share of dead units"][1] <= 3 / 16
    assert found["sparsity"][1] > alive["sparsity"][1]
    assert found["share of dead units"][0] == alive["share of dead units"][0]


def test_alignment_is_one_where_gate_and_up_are_parallel():
    model = mlp("swiglu")
    model.layers[2].w_in[1][...] = -3.0 * model.layers[2].w_in[0][...]
    alignment = measured(model)["gate–up alignment"]
    assert alignment[2] == pytest.approx(1.0, abs=1e-6)
    assert alignment[1] < 0.5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_in_sixteen_bits_it_is_still_float32(dtype: str):
    found = jax.eval_shape(health, transformer("gelu", dtype=dtype), TOKENS, TOKENS)
    found |= jax.eval_shape(health, mlp("swiglu", dtype=dtype), IMAGES, LABELS)
    assert {values.dtype for values in found.values()} == {np.dtype("float32")}


def test_names_without_a_second_branch():
    assert jax.eval_shape(health, mlp("relu"), IMAGES, LABELS).keys() == UNGATED


def test_rounded_keeps_what_is_not_finite():
    found = rounded({"x": jnp.array([1.23456, jnp.inf, jnp.nan])})["x"]
    assert found[:2] == (1.235, float("inf"))
    assert found[2] != found[2]
