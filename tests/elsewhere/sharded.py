"""What sharded models compute on 8 virtual devices; test_sharded.py runs it in its own process.

    export PYTHONPATH=.:tests XLA_FLAGS=--xla_force_host_platform_device_count=8
    python tests/elsewhere/sharded.py CHECK

prints what a check finds, as JSON.
"""

import itertools
import json
import re
import sys
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
from elsewhere.models import MODELS, RULES, D, F, Gemma, MaxText, ScannedQwen3
from flax import linen as nn
from flax import nnx
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import gelu_jax as gj

X = jax.random.normal(jax.random.key(3), (8, 4, D))
ROWS, BOTH, TOKENS = P("fsdp"), P("fsdp", "tensor"), P(None, "fsdp")


def meshes():
    for kind in (AxisType.Auto, AxisType.Explicit):
        yield kind.name, jax.make_mesh((4, 2), ("fsdp", "tensor"), (kind, kind))


def collectives(compiled):
    sent = r" (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
    return Counter(re.findall(sent, compiled.as_text()))


def close(got, expected, atol=2e-5):
    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
    return all(np.allclose(a, b, atol=atol, rtol=1e-4) for a, b in pairs)


def guide():
    """Sharded init as flax's guides do it, in NNX and in Linen."""
    found = {}
    for kind, mesh in meshes():
        with jax.set_mesh(mesh), nnx.logical_axis_rules(RULES):
            found[f"{kind} Gemma"] = nnx_guide(mesh, Gemma)
            found[f"{kind} ScannedQwen3"] = nnx_guide(mesh, ScannedQwen3)
            found[f"{kind} MaxText"] = linen_guide(mesh)
    return found


def nnx_guide(mesh, model):
    def make():
        return model(rngs=nnx.Rngs(0))

    _, abstract = nnx.get_abstract_model(make, mesh)
    made = jax.tree.leaves(nnx.state(nnx.jit(make)()))
    places = [leaf.sharding.spec for leaf in made]
    expected = [leaf.sharding.spec for leaf in jax.tree.leaves(abstract)]
    sharded = sorted({str(place) for place in places if any(place)})
    return {"as the guide says": all(map(same, places, expected)), "sharded": sharded}


def same(spec, other):
    """Whether two specs say the same: P(None) is P()."""
    return all(a == b for a, b in itertools.zip_longest(spec, other))


def linen_guide(mesh):
    model, x = MaxText(), jnp.ones((8, 4, D))

    def init():
        return model.init(jax.random.key(0), x, train=False)

    specs = nn.get_partition_spec(jax.eval_shape(init))
    shardings = nn.logical_to_mesh_sharding(specs, mesh, RULES)
    made = jax.jit(init, out_shardings=shardings)()
    places = [leaf.sharding.spec for leaf in jax.tree.leaves(made)]
    expected = [leaf.spec for leaf in jax.tree.leaves(shardings)]
    return {
        "as the guide says": places == expected,
        "sharded": sorted({str(p) for p in places if any(p)}),
    }


def models():
    """The largest models' outputs and gradients on both kinds of mesh are those of one device."""
    found = {}
    for name in ("flax gemma", "bonsai vit", "vision_transformer", "haiku"):
        model = MODELS[name]

        def loss(params, x, model=model):
            return jnp.square(model.apply(params, x)).sum()

        both = jax.jit(jax.value_and_grad(loss))
        params = model.init(jax.random.key(0))
        expected = both(params, X)
        for kind, mesh in meshes():
            with jax.set_mesh(mesh):
                placed = jax.tree.map(lambda w, mesh=mesh: place(w, mesh), params)
                x = jax.device_put(X, NamedSharding(mesh, ROWS))
                found[f"{name} {kind}"] = close(both(placed, x), expected, 1e-3)
    return found


def place(w, mesh):
    """Matrices along both axes, from the longer one on."""
    if w.ndim == 2:
        spec = P("tensor", "fsdp") if w.shape == (F, D) else P("fsdp", "tensor")
    else:
        spec = P()
    return jax.device_put(w, NamedSharding(mesh, spec))


def blocks():
    """Whether values and gradients are those of one device, and what is sent, for each block."""
    feed_forward = gj.FeedForwardConfig(D, F, "swiglu", use_bias=True)
    attention = gj.AttentionConfig(D, 4, num_kv_heads=2, rotary=gj.RotaryConfig(), use_bias=True)
    dropped = gj.AttentionConfig(D, 4, num_kv_heads=2, value_head_dim=6, dropout_rate=0.5)
    chunked = gj.FeedForwardConfig(D, F, "swiglu", chunk_size=2)
    cases = {
        "feed-forward": (gj.FeedForward, feed_forward, (ROWS, BOTH, TOKENS)),
        "chunked": (gj.FeedForward, chunked, (ROWS, TOKENS)),
        "attention": (gj.Attention, attention, (ROWS, TOKENS)),
        "dropped attention": (gj.Attention, dropped, (ROWS,)),
    }
    return {
        f"{name} {spec}": on_both_meshes(module, config, spec)
        for name, (module, config, specs) in cases.items()
        for spec in specs
    }


def on_both_meshes(module, config, spec):
    def make():
        return module(config, rngs=nnx.Rngs(0))

    def apply(module, x):
        return module(x, dropout_key=jax.random.key(1))

    def both(module, x):
        return jax.value_and_grad(lambda m, x: jnp.square(apply(m, x)).sum(), (0, 1))(module, x)

    expected, found = jax.jit(both)(make(), X), {}
    for kind, mesh in meshes():
        with jax.set_mesh(mesh), nnx.logical_axis_rules(RULES):
            made = nnx.jit(make)()
            x = jax.device_put(X, NamedSharding(mesh, spec))
            compiled = jax.jit(both).lower(made, x).compile()
            forward = jax.jit(lambda m, x: apply(m, x)).lower(made, x).compile()
            found[kind] = close(compiled(made, x), expected, 1e-3), collectives(forward)
    return found


def transformer():
    """A decoder with a rule for its batch and without one: values, gradients, what is sent."""
    norm = gj.NormConfig(D, kind="rms")
    attention = gj.AttentionConfig(D, 4, num_kv_heads=2, rotary=gj.RotaryConfig())
    block = gj.BlockConfig(norm, attention, gj.FeedForwardConfig(D, F, "swiglu"))
    config = gj.TransformerConfig(24, num_layers=1, block=block)
    tokens = jnp.arange(32).reshape(8, 4) % 24

    def make():
        return gj.Transformer(config, rngs=nnx.Rngs(0))

    def gradient(model, tokens):
        return jax.grad(lambda m: jnp.square(m(tokens)).sum())(model)

    apply = lambda model, tokens: model(tokens)  # noqa: E731
    expected = jax.jit(lambda m, t: (apply(m, t), gradient(m, t)))(make(), tokens)
    found = {}
    for batch in ((), (("b", "fsdp"),)):
        for kind, mesh in meshes():
            with jax.set_mesh(mesh), nnx.logical_axis_rules((*RULES, ("v", "tensor"), *batch)):
                made, rows = nnx.jit(make)(), jax.device_put(tokens, NamedSharding(mesh, ROWS))
                # a function of its own for each: jax does not know that the rules have changed
                both = [lambda m, t, f=f: f(m, t) for f in (apply, gradient)]
                programs = [jax.jit(f).lower(made, rows).compile() for f in both]
                values = tuple(program(made, rows) for program in programs)
                same = close(values, expected, 1e-3)
            sent = [dict(collectives(program)) for program in programs]
            found[f"{'with' if batch else 'without'} {kind}"] = same, sent
    return found


def decoding():
    """Cached decoding of a Transformer; and a result that is sharded as the caller says."""
    norm = gj.NormConfig(D, kind="rms")
    block = gj.BlockConfig(norm, gj.AttentionConfig(D, 4), gj.FeedForwardConfig(D, F, "geglu"))
    config = gj.TransformerConfig(24, num_layers=2, block=block, max_positions=8)
    tokens = jnp.arange(32).reshape(8, 4) % 24

    def make():
        return gj.Transformer(config, rngs=nnx.Rngs(0))

    def decode(model, tokens):
        logits, cache = model.decode(tokens[:, :3], model.empty_cache(8, 4))
        return logits, model.decode(tokens[:, 3:], cache)[0]

    expected, found = jax.jit(decode)(make(), tokens), {}
    for kind, mesh in meshes():
        with jax.set_mesh(mesh), nnx.logical_axis_rules((*RULES, ("v", "tensor"))):
            rows = jax.device_put(tokens, NamedSharding(mesh, ROWS))
            found[kind] = close(jax.jit(decode)(nnx.jit(make)(), rows), expected)
    with jax.set_mesh(mesh), nnx.logical_axis_rules(RULES):
        ffn = nnx.jit(lambda: gj.FeedForward(block.feed_forward, rngs=nnx.Rngs(0)))()
        y = ffn(
            jax.device_put(X, NamedSharding(mesh, ROWS)), out_sharding=P("fsdp", None, "tensor")
        )
    return found | {"out_sharding": str(y.sharding.spec)}


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
