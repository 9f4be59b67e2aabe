"""Small models in the style of public code bases, with our blocks in the place of theirs.

Each entry of `MODELS` is a pair of functions, whatever the library that the model is written in:
``init(key)`` gives a tree of parameters with string keys, ``apply(params, x, key)`` the output,
with dropout where there is a key. The lines that call our blocks are those of the original.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx

import gelu_jax as gj

D, F, LAYERS, RATE = 16, 32, 2, 0.5
RULES = (("d", "fsdp"), ("f", "tensor"), ("h", "tensor"), ("g", "tensor"))


def ffn(variant: Any, **more: Any) -> gj.FeedForwardConfig:
    return gj.FeedForwardConfig(D, F, variant, dropout_rate=RATE, **more)


# flax's example gemma: NNX, the streams of `rngs` go down through every call


class GemmaBlock(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.pre_ffw_norm = nnx.RMSNorm(D, rngs=rngs)
        self.mlp = gj.FeedForward(ffn("geglu_tanh"), rngs=rngs)
        self.dropout = nnx.Dropout(RATE)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        ffw_inputs = self.pre_ffw_norm(x)
        ffw_outputs = self.mlp(ffw_inputs, rngs=rngs)
        return self.dropout(x + ffw_outputs, rngs=rngs)


class Gemma(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.layers = nnx.Dict({f"layer_{i}": GemmaBlock(rngs=rngs) for i in range(LAYERS)})

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        for layer in self.layers.values():
            x = layer(x, rngs=rngs)
        return x


# bonsai's vit: NNX, a key in the place of `rngs`; its attention is ours as well


class ViTEncoder(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        attention = gj.AttentionConfig(D, num_heads=4, causal=False, use_bias=True)
        self.attention = gj.Attention(attention, rngs=rngs)
        self.mlp = gj.FeedForward(ffn("gelu", use_bias=True), rngs=rngs)
        self.layernorm_before = nnx.LayerNorm(D, rngs=rngs)
        self.layernorm_after = nnx.LayerNorm(D, rngs=rngs)

    def __call__(self, hidden_states, *, rngs):
        hidden_states = hidden_states + self.attention(self.layernorm_before(hidden_states))
        return hidden_states + self.mlp(self.layernorm_after(hidden_states), rngs=rngs)


# bonsai's qwen3: NNX, `mlp(x)` alone; train() and eval() say the rest, and layers are scanned


class Qwen3Layer(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        self.post_attention_layernorm = nnx.RMSNorm(D, rngs=rngs)
        self.mlp = gj.FeedForward(gj.FeedForwardConfig(D, F, "swiglu"), rngs=rngs)

    def __call__(self, x):
        return x + self.mlp(self.post_attention_layernorm(x))


class ScannedQwen3(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        @nnx.split_rngs(splits=LAYERS)
        @nnx.vmap(in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: None})
        def layers(rngs):
            return Qwen3Layer(rngs=rngs)

        self.layers = layers(rngs)
        self.dropout = nnx.Dropout(RATE)

    def __call__(self, x, rngs=None):
        @nnx.scan(in_axes=(0, nnx.Carry), out_axes=nnx.Carry, transform_metadata={
            nnx.PARTITION_NAME: None})  # fmt: skip
        @nnx.remat
        def forward(layer, x):
            return layer(x)

        return self.dropout(forward(self.layers, x), rngs=rngs)


# flax's example lm1b: NNX, `rngs` by name; its attention is ours as well


class Lm1bBlock(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        attention = gj.AttentionConfig(D, num_heads=4, dropout_rate=RATE)
        self.ln1 = nnx.LayerNorm(D, rngs=rngs)
        self.attention = gj.Attention(attention, rngs=rngs)
        self.ln2 = nnx.LayerNorm(D, rngs=rngs)
        self.mlp = gj.FeedForward(ffn("relu", use_bias=True), rngs=rngs)
        self.dropout = nnx.Dropout(RATE)

    def __call__(self, inputs, *, rngs: nnx.Rngs | None = None):
        x = self.attention(self.ln1(inputs), rngs=rngs)
        x = self.dropout(x, rngs=rngs) + inputs
        return x + self.mlp(self.ln2(x), rngs=rngs)


class Lm1b(nnx.Module):
    def __init__(self, *, rngs: nnx.Rngs):
        for lyr in range(LAYERS):
            setattr(self, f"encoderdecoderblock_{lyr}", Lm1bBlock(rngs=rngs))
        self.encoderdecoder_norm = nnx.LayerNorm(D, rngs=rngs)

    def __call__(self, x, rngs: nnx.Rngs | None = None):
        for lyr in range(LAYERS):
            x = getattr(self, f"encoderdecoderblock_{lyr}")(x, rngs=rngs)
        return self.encoderdecoder_norm(x)


# vision_transformer: Linen, `deterministic` by name


class ViTBlock(nn.Module):
    @nn.compact
    def __call__(self, inputs, *, deterministic):
        y = nn.LayerNorm()(inputs)
        y = gj.linen.FeedForward(ffn("gelu", use_bias=True))(y, deterministic=deterministic)
        return inputs + nn.Dropout(rate=RATE)(y, deterministic=deterministic)


class ViT(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        for lyr in range(LAYERS):
            x = ViTBlock(name=f"encoderblock_{lyr}")(x, deterministic=not train)
        return nn.LayerNorm(name="encoder_norm")(x)


# big_vision: Linen, `deterministic` by position, `nn.remat` and `nn.scan` over the blocks


class BigVisionBlock(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        y = nn.LayerNorm()(x)
        y = gj.linen.FeedForward(ffn("gelu_tanh", use_bias=True))(y, deterministic)
        return x + nn.Dropout(rate=RATE)(y, deterministic), None


class BigVision(nn.Module):
    @nn.compact
    def __call__(self, x, *, train=False):
        block = nn.remat(BigVisionBlock, prevent_cse=False, static_argnums=(2,))
        x, _ = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=nn.broadcast,
            length=LAYERS,
            metadata_params={nn.PARTITION_NAME: None},
        )(name="encoderblock")(x, not train)
        return x


# MaxText: Linen, logical axis names on parameters (flax constrains activations on Auto axes alone)


class MaxTextLayer(nn.Module):
    @nn.compact
    def __call__(self, inputs, deterministic: bool):
        lnx = gj.linen.Norm(gj.NormConfig(D, kind="rms"), name="pre_mlp_norm")(inputs)
        mlp_lnx = gj.linen.FeedForward(ffn("swiglu"), name="mlp")(lnx, deterministic=deterministic)
        return inputs + mlp_lnx


class MaxText(nn.Module):
    @nn.compact
    def __call__(self, x, *, train):
        for i in range(LAYERS):
            x = MaxTextLayer(name=f"layers_{i}")(x, deterministic=not train)
        return x


# equinox: a module is a tree of arrays with methods; one token at a time, under `vmap`


class EquinoxMLP(eqx.Module):
    norm: eqx.nn.LayerNorm
    gate: eqx.nn.Linear
    up: eqx.nn.Linear
    down: eqx.nn.Linear

    def __init__(self, key):
        keys = jax.random.split(key, 3)
        self.norm = eqx.nn.LayerNorm(D)
        self.gate = eqx.nn.Linear(D, F, use_bias=False, key=keys[0])
        self.up = eqx.nn.Linear(D, F, use_bias=False, key=keys[1])
        self.down = eqx.nn.Linear(F, D, key=keys[2])

    def __call__(self, x, *, key=None):
        w_in, w_out = (self.gate.weight.T, self.up.weight.T), self.down.weight.T
        rate = {"dropout_rate": RATE, "dropout_key": key}
        h = self.norm(x)
        return x + gj.feed_forward(h, w_in, w_out, variant="swiglu", b_out=self.down.bias, **rate)


def equinox_init(key: Any) -> dict[str, Any]:
    arrays = eqx.filter(EquinoxMLP(key), eqx.is_array)
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree.leaves_with_path(arrays)}


def equinox_apply(params: Any, x: Any, key: Any = None) -> Any:
    like, static = eqx.partition(EquinoxMLP(jax.random.key(0)), eqx.is_array)
    leaves = [params[jax.tree_util.keystr(path)] for path, _ in jax.tree.leaves_with_path(like)]
    model = eqx.combine(jax.tree.unflatten(jax.tree.structure(like), leaves), static)
    return jax.vmap(jax.vmap(lambda x: model(x, key=key)))(x)


# haiku: a pure function of a dict of parameters


def haiku_init(key: Any) -> dict[str, Any]:
    w_in, w_out = jax.random.split(key)
    linear = {"w": jax.random.normal(w_in, (D, F)) / 4, "b": jnp.zeros(F)}
    linear_1 = {"w": jax.random.normal(w_out, (F, D)) / 4, "b": jnp.zeros(D)}
    return {"mlp/linear": linear, "mlp/linear_1": linear_1}


def haiku_apply(params: Any, x: Any, key: Any = None) -> Any:
    first, last = params["mlp/linear"], params["mlp/linear_1"]
    biases = {"b_in": [first["b"]], "b_out": last["b"]}
    rate = {"dropout_rate": RATE, "dropout_key": key}
    return x + gj.feed_forward(x, [first["w"]], last["w"], variant="relu", **biases, **rate)


class Model(NamedTuple):
    """A model as two pure functions."""

    init: Callable[[Any], Any]
    apply: Callable[..., Any]


def of_nnx(make: Any, call: Any) -> Model:
    """`call(module, x, key)` calls the module as its authors do."""

    def init(key: Any) -> Any:
        return nnx.to_pure_dict(nnx.state(make(rngs=nnx.Rngs(key))))

    def apply(params: Any, x: Any, key: Any = None) -> Any:
        module = nnx.eval_shape(lambda: make(rngs=nnx.Rngs(0)))
        graph, state = nnx.split(module)
        nnx.replace_by_pure_dict(state, params)
        module = nnx.merge(graph, state)
        module.eval() if key is None else module.train()
        return call(module, x, key)

    return Model(init, apply)


def of_linen(module: nn.Module) -> Model:
    def init(key: Any) -> Any:
        variables: Any = module.init(key, jnp.ones((1, 2, D)), train=False)
        return nn.unbox(variables["params"])

    def apply(params: Any, x: Any, key: Any = None) -> Any:
        rngs = None if key is None else {"dropout": key}
        return module.apply({"params": params}, x, train=key is not None, rngs=rngs)

    return Model(init, apply)


def with_streams(module: Any, x: Any, key: Any) -> Any:
    return module(x, rngs=None if key is None else nnx.Rngs(dropout=key))


def with_key(module: Any, x: Any, key: Any) -> Any:
    return module(x, rngs=key)


MODELS = {
    "flax gemma": of_nnx(Gemma, with_streams),
    "flax lm1b": of_nnx(Lm1b, with_streams),
    "bonsai vit": of_nnx(ViTEncoder, with_key),
    "bonsai qwen3": of_nnx(ScannedQwen3, with_streams),
    "vision_transformer": of_linen(ViT()),
    "big_vision": of_linen(BigVision()),
    "maxtext": of_linen(MaxText()),
    "equinox": Model(equinox_init, equinox_apply),
    "haiku": Model(haiku_init, haiku_apply),
}
