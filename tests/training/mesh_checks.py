"""What the compiled programs of 8 virtual devices show; test_mesh.py runs it in its own process.

    export PYTHONPATH=. XLA_FLAGS=--xla_force_host_platform_device_count=8
    python tests/training/mesh_checks.py CHECK

prints what a check finds, as JSON.
"""

import json
import math
import re
import sys
import tempfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import gelu_jax as gj
from gelu_jax import linen
from gelu_jax.nn.axes import axis_names, with_sharding_constraint
from gelu_jax.training import checkpoint
from gelu_jax.training.chips import CHIPS
from gelu_jax.training.config import from_dict
from gelu_jax.training.data import TokenData, load_data, stream
from gelu_jax.training.data.dataset import DatasetInfo
from gelu_jax.training.data.stream import Tokens
from gelu_jax.training.memory_plan import gradient, plan_memory, total_memory
from gelu_jax.training.mesh import MeshConfig, make_mesh, shardings, use_mesh, with_shardings
from gelu_jax.training.trainer import Keys, TrainConfig, Trainer

LM = {
    "data": {"kind": "stdlib", "context": 16, "validation_windows": 21},
    "model": {
        "kind": "transformer",
        "vocab_size": 256,
        "max_positions": 16,
        "num_layers": 2,
        "d_model": 64,
        "block": {
            "norm": {"kind": "layer", "use_bias": True},
            "attention": {"num_heads": 8, "num_kv_heads": 4, "use_bias": True, "rotary": {}},
            "feed_forward": {"variant": "swiglu", "d_ff": 128, "dropout_rate": 0.1},
            "dropout_rate": 0.1,
        },
    },
    "optimizer": {"warmup_steps": 5, "weight_decay": 0.1},
    "steps": 50,
    "batch_size": 16,
    "eval_every": 10,
}
DIGITS = {
    "data": {"kind": "digits"},
    "model": {"kind": "mlp", "d_in": 64, "num_classes": 10, "num_layers": 2, "d_ff": 16},
    "steps": 4,
    "batch_size": 32,
    "eval_every": 2,
}
LARGER = {
    "data": {"kind": "stdlib", "context": 128, "validation_windows": 16},
    "model": {
        "kind": "transformer",
        "vocab_size": 1024,
        "num_layers": 4,
        "scan_layers": True,  # unrolled, XLA on a CPU (jax 0.10) keeps what it should recompute
        "d_model": 128,
        "block": {
            "norm": {"kind": "rms"},
            "attention": {"num_heads": 8, "rotary": {}},
            "feed_forward": {"variant": "swiglu", "d_ff": 512},
        },
    },
    "steps": 4,
    "batch_size": 16,
    "eval_every": 4,
}
SPLITS = {
    "data": MeshConfig(),
    "fsdp": MeshConfig(1, 8),
    "tensor": MeshConfig(1, tensor=8),
    "mixed": MeshConfig(2, 2, tensor=2),
    "two": MeshConfig(1, 2, tensor=4),
}
B, T, D, F, LAYERS = 8, 24, 64, 128, 3  # no two of them equal, nor any product of two


def trainer(mesh, plain=LM):
    config = replace(from_dict(plain, TrainConfig), mesh=mesh)
    return Trainer(config, load_data(config.data, config.batch_size))


def curve(mesh, plain=LM):
    points = [point for _, point in trainer(mesh, plain).fit(0, 3e-3)]
    return [(p.train_loss, p.validation_loss, p.validation_accuracy) for p in points[1:]]


def smoke():
    """A few steps of a small network on a mesh of all three axes, and alone."""
    return {"alone": curve(None, DIGITS), "mixed": curve(SPLITS["mixed"], DIGITS)}


def curves():
    return {"alone": curve(None)} | {name: curve(mesh) for name, mesh in SPLITS.items()}


def tokens():
    """Ten steps on tokens that are read from the host, in chunks of two steps."""
    row = np.random.default_rng(0).integers(0, 256, 5000).astype(np.uint16)
    held_out = jnp.asarray(row[: 21 * 17].reshape(21, 17))
    tokens = Tokens([row[400:]], np.zeros(1, int), 256, "x")
    data = TokenData(held_out, None, tokens, 16, DatasetInfo("", "", 0, 0))
    stream._CHUNK_BYTES = 2 * 16 * 17 * 2
    found = {}
    for name in (None, "data", "mixed", "two"):
        mesh = None if name is None else SPLITS[name]
        t = Trainer(replace(from_dict(LM, TrainConfig), steps=10, mesh=mesh), data)
        assert t.chunk_steps == 2
        points = [point for _, point in t.fit(0, 3e-3)][1:]
        found[name or "alone"] = [(p.train_loss, p.validation_loss) for p in points]
    return found


def bytes_held():
    """Of the state on one device, beside the whole state and what of it is whole everywhere."""
    found = {}
    for name, config in SPLITS.items():
        t = trainer(config)
        state = t.programs.init(Keys.of(0))
        leaves = jax.tree.leaves(state)
        whole = sum(x.nbytes for x in leaves)
        replicated = sum(x.nbytes for x in leaves if x.is_fully_replicated)
        device = jax.devices()[3]
        held = sum(
            s.data.nbytes for x in leaves for s in x.addressable_shards if s.device == device
        )
        ways = dict(t.mesh.shape)["fsdp"] * dict(t.mesh.shape)["tensor"]
        compiled = t.programs.chunk.memory_analysis()
        found[name] = {
            "whole": whole, "replicated": replicated, "held": held, "ways": ways,
            "output": compiled.output_size_in_bytes,
        }  # fmt: skip
    return found


def batches():
    """Whether the batches on a mesh are bit for bit those of one device."""
    t = trainer(SPLITS["mixed"])
    data, keys = t.data, Keys.of(3)
    alone = load_data(t.config.data, t.config.batch_size)

    def batch(data, step):
        return jax.tree.map(lambda x: with_sharding_constraint(x, "b"), data.batch(keys.data, step))

    with use_mesh(t.mesh):
        spread_out = jax.jit(batch)
        drawn = [spread_out(data, step) for step in range(3)]
    return {
        "equal": all(
            np.array_equal(a, b)
            for step, pair in enumerate(drawn)
            for a, b in zip(pair, jax.jit(batch)(alone, step), strict=True)
        ),
        "rows on a device": drawn[0][0].addressable_shards[0].data.shape[0],
    }


def collectives(text):
    """(operation, its result) of everything that is sent, with how often it stands there."""
    sent = (
        r"= (.*?) (all-gather|all-reduce|reduce-scatter|all-to-all|collective-permute)(?:-start)?\("
    )
    found = Counter()
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if match := re.search(sent, line):
            found[f"{match[2]} {re.sub(r'{[^}]*}', '', match[1])}"] += 1
    return found


def stack(mesh, gradient, *, variant="swiglu", d=D, f=F, t=T, layers=LAYERS, module=None, **choice):
    """The compiled program of residual feed-forward layers, as in a transformer's stack."""
    config = gj.FeedForwardConfig(d, f, variant, **choice)
    made = jax.vmap(lambda key: gj.FeedForward(config, rngs=nnx.Rngs(key)))
    weights = with_shardings(
        jax.eval_shape(made, jax.random.split(jax.random.key(0), layers)), mesh
    )
    x = jax.ShapeDtypeStruct((B, t, d), jnp.float32)

    def loss(x, weights):
        def layer(x, ffn):
            x = with_sharding_constraint(x, "b t d")
            return x + ffn(x), None

        return jnp.square(jax.lax.scan(layer, with_sharding_constraint(x, "b"), weights)[0]).sum()

    f, out = (jax.grad(loss, 1), shardings(weights)) if gradient else (loss, None)
    with use_mesh(mesh):
        return jax.jit(f, out_shardings=out).lower(x, weights).compile()


def tensor_parallel():
    mesh = make_mesh(SPLITS["tensor"])
    return {
        f"{variant} {residuals} {'gradient' if gradient else 'forward'}": collectives(
            stack(mesh, gradient, variant=variant, residuals=residuals).as_text()
        )
        for variant in ("gelu", "swiglu")
        for residuals in ("preactivation", "input", "all")
        for gradient in (False, True)
    }


def fully_sharded():
    """What is sent, and whether a gradient of all layers is ever whole."""
    compiled = stack(make_mesh(SPLITS["fsdp"]), True)
    text = compiled.as_text()
    return {
        "sent": collectives(text),
        "whole stack": sum(f"f32[{LAYERS},{D},{F}]" in line for line in text.splitlines()),
        "shard of the stack": sum(
            f"f32[{LAYERS},{D // 8},{F}]" in line for line in text.splitlines()
        ),
    }


def kept():
    """Tensors of d_ff entries a token and layer, for the tokens and columns of one device."""
    found, t, d, f = {}, 1024, 32, 1024
    for name in ("data", "fsdp", "tensor", "mixed"):
        mesh = make_mesh(SPLITS[name])
        axes = dict(mesh.shape)
        rows = B // (axes["data"] * axes["fsdp"])
        for choice in ({}, {"residuals": "input"}, {"residual_dtype": "float8_e4m3fn"}):
            low, high = (
                stack(mesh, True, d=d, f=f, t=t, layers=n, **choice)
                .memory_analysis()
                .temp_size_in_bytes
                for n in (2, 4)
            )
            stream = rows * t * d * 4
            unit = rows * t * f // axes["tensor"] * 4
            found[f"{name} {choice}"] = ((high - low) / 2 - stream) / unit
    return found


def chunked():
    """Temporary bytes beyond the stream's own, at 1,024 and 4,096 tokens, on a mesh."""
    mesh, found = make_mesh(SPLITS["mixed"]), {}
    for name, choice in {
        "chunked": {"chunk_size": 128, "residuals": "input"},
        "unchunked": {"residuals": "input"},
    }.items():
        temporary = {
            t: stack(mesh, True, d=32, f=1024, t=t, layers=2, **choice)
            .memory_analysis()
            .temp_size_in_bytes
            - 2 * (B // 4) * t * 32 * 4  # what the scan over layers keeps: each layer's input
            for t in (1024, 4096)
        }
        found[name] = temporary
    found["sent"] = collectives(stack(mesh, True, d=32, f=1024, t=1024, chunk_size=128).as_text())
    return found


def in_linen():
    """The places of a Linen module's parameters are those of the NNX module's."""
    mesh = make_mesh(SPLITS["mixed"])
    config = gj.FeedForwardConfig(D, F, "swiglu", use_bias=True)
    layer, x = linen.FeedForward(config), jnp.ones((B, D))
    variables = jax.eval_shape(layer.init, jax.random.key(0), x)
    placed = with_shardings(variables, mesh, axis_names(layer))
    values = jax.jit(layer.init, out_shardings=shardings(placed))(jax.random.key(0), x)
    alone = layer.init(jax.random.key(0), x)
    with use_mesh(mesh):
        y = jax.jit(layer.apply)(values, x)
    return {
        "places": {
            jax.tree_util.keystr(path): str(leaf.sharding.spec)
            for path, leaf in jax.tree_util.tree_leaves_with_path(placed)
        },
        "equal": bool(jnp.allclose(y, layer.apply(alone, x), atol=1e-6)),
    }


def checkpoints():
    """Whether a state written on 8 devices is, bit for bit, what 2 and then 1 read of it."""
    equal, places = [], []
    with tempfile.TemporaryDirectory() as folder:
        first, *others = (MeshConfig(2, 2, tensor=2), MeshConfig(1, 2), MeshConfig(1), None)
        t = trainer(first, DIGITS)
        for state, _ in t.fit(0, 3e-3):
            pass
        for n, mesh in enumerate(others):
            checkpoint.save(Path(folder, str(n)), 1, state)
            read = checkpoint.restore(Path(folder, str(n)), trainer(mesh, DIGITS).abstract_state)
            pairs = zip(jax.tree.leaves(read), jax.tree.leaves(state), strict=True)
            equal += [np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs]
            places.append(len(jax.tree.leaves(read)[0].sharding.device_set))
            state = read
    return {"equal": all(equal), "devices": places}


EXPERTS = {
    "num_experts": 8,
    "experts_per_token": 2,
    "router": {"kind": "sigmoid", "num_groups": 2, "top_groups": 1},
    "bias_update_rate": 0.01,
    "auxiliary_loss": 0.01,
    "z_loss": 0.001,
    "shared": {"variant": "swiglu", "d_ff": 16},
    "feed_forward": {"variant": "swiglu", "d_ff": 16},
}
LM_OF_EXPERTS = LM | {
    "steps": 6,
    "eval_every": 3,
    "batch_size": 8,
    "model": LM["model"]
    | {
        "d_model": 16,
        "block": {
            "norm": {"kind": "rms"},
            "attention": {"num_heads": 2, "rotary": {}},
            "feed_forward": EXPERTS,
        },
    },
}
EXPERT_SPLITS = {
    "8": MeshConfig(1, expert=8),
    "data": MeshConfig(8),
    "mixed": MeshConfig(1, 2, 2, expert=2),
}


def expert_curves():
    found = {name: curve(mesh, LM_OF_EXPERTS) for name, mesh in EXPERT_SPLITS.items()}
    return {"alone": curve(None, LM_OF_EXPERTS)} | found


def expert_checkpoints():
    """Whether a state written with experts on 2 devices is what 4, 8 and 1 read of it."""
    equal, held = [], []
    with tempfile.TemporaryDirectory() as folder:
        t = trainer(MeshConfig(1, expert=2), LM_OF_EXPERTS)
        for state, _ in t.fit(0, 3e-3):
            pass
        for n, mesh in enumerate((MeshConfig(1, expert=4), EXPERT_SPLITS["8"], None)):
            checkpoint.save(Path(folder, str(n)), 1, state)
            like = trainer(mesh, LM_OF_EXPERTS).abstract_state
            read = checkpoint.restore(Path(folder, str(n)), like)
            pairs = zip(jax.tree.leaves(read), jax.tree.leaves(state), strict=True)
            equal += [np.asarray(a).tobytes() == np.asarray(b).tobytes() for a, b in pairs]
            w = read.model.layers.feed_forward.experts.w_out[...]
            held.append(w.shape[1] // w.sharding.shard_shape(w.shape)[1])
            state = read
    return {"equal": all(equal), "ways": held}


def exchange():
    return exchanged("exact")


def exchanges():
    return exchanged("bounded", "capacity", "input")


def exchanged(*names):
    """A mixture of 8 experts on 8 devices and alone: how far apart, and what is sent."""
    mesh, found = make_mesh(EXPERT_SPLITS["8"]), {}
    expert = gj.FeedForwardConfig(16, 24, "swiglu", use_bias=True)
    x = jax.random.normal(jax.random.key(1), (8, 32, 16))
    mask = jax.random.bernoulli(jax.random.key(2), 0.8, x.shape[:2])
    configs = {
        "exact": gj.MoEConfig(expert, 8, 2, auxiliary_loss=0.1),
        "bounded": gj.MoEConfig(expert, 8, 2, buffer_factor=2.5),
        "capacity": gj.MoEConfig(expert, 8, 1, gj.SwitchRouterConfig(1.0)),
        "input": gj.MoEConfig(replace(expert, residuals="input"), 8, 2),
    }
    for name in names:
        moe = gj.MoE(configs[name], rngs=nnx.Rngs(0))

        def value(moe, x):
            y, routing = moe.with_routing(x, mask=mask)
            return jnp.sum(jnp.sin(y)) + routing.loss

        f = jax.jit(jax.value_and_grad(value, (0, 1)))
        alone = f(moe, x)
        with use_mesh(mesh):
            places = shardings(with_shardings(jax.eval_shape(lambda moe=moe: moe), mesh))
            place = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("expert"))
            given = jax.device_put(moe, places), jax.device_put(x, place)
            compiled = f.lower(*given).compile()
            split = compiled(*given)
            text = compiled.as_text()
            both = {"both": collectives(text)}
            if name == "exact":
                both["forward"] = collectives(jax.jit(value).lower(*given).compile().as_text())
        pairs = zip(jax.tree.leaves(split), jax.tree.leaves(alone), strict=True)
        apart = max(float(jnp.abs(np.asarray(a) - np.asarray(b)).max()) for a, b in pairs)
        found[name] = {"apart": apart, **both}
    return found


def sent(text):
    """Bytes that a device sends and receives in a compiled program, by ring algorithms.

    An all-reduce that stands for a reduce-scatter, as on a CPU, counts as what it is.
    """
    everybody = int(re.search(r"num_partitions=(\d+)", text)[1])
    bodies, name = {}, ""
    for line in re.sub(r"/\*.*?\*/", "", text).splitlines():
        if match := re.match(r"^(?:ENTRY )?%?([\w.\-]+) .*\{$", line):
            name = match[1]
        bodies.setdefault(name, []).append(line)

    def total(name):
        return sum(map(of_line, bodies[name]))

    def of_line(line):
        if match := re.search(r" while\(.*body=%?([\w.\-]+)", line):
            return total(match[1]) * int(re.search(r'known_trip_count":{"n":"(\d+)"', line)[1])
        if match := re.search(r"= (.*?) (all-gather|all-reduce)(?:-start)?\(", line):
            n = devices_of(line)
            return (1 + (match[2] == "all-reduce")) * (n - 1) / n * size(match[1])
        return 0

    def devices_of(line):
        if match := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
            return int(match[1])
        match = re.search(r"replica_groups={{([\d,]*)}", line)
        return match[1].count(",") + 1 if match else everybody

    def size(shapes):
        found = re.findall(r"[fs]32\[([\d,]*)\]", shapes)
        return 4 * sum(math.prod(int(n) for n in axes.split(",") if n) for axes in found)

    return total(re.search(r"^ENTRY %?([\w.\-]+)", text, re.M)[1])


def planned():
    """(by the plan, by XLA): bytes in memory and sent by one device, and FLOPs."""
    rows = {}
    for name in ("alone", "data", "fsdp", "tensor", "mixed"):
        t = trainer(SPLITS.get(name), LARGER)
        made, sizes = plan_memory(t.config, CHIPS["h100"], 1 if t.mesh is None else 8), {}
        compiled = t.programs.chunk.memory_analysis()
        data = sum(x.nbytes for x in jax.tree.leaves(t.data))
        program = compiled.argument_size_in_bytes - data + compiled.output_size_in_bytes
        sizes["memory"] = (
            total_memory(made, "preactivation"),
            program + compiled.temp_size_in_bytes,
        )
        if t.mesh is not None:
            # what a CPU sends more, having no reduce-scatter: once more the gradients along fsdp
            ways = t.mesh.shape["fsdp"]
            matrices = made.parameters * 4 // (ways * t.mesh.shape["tensor"])
            more = (ways - 1) * (matrices + 4 * 1024 * 128 // ways // t.mesh.shape["tensor"])
            steps = t.config.eval_every
            text = t.programs.chunk.as_text()
            sizes["sent"] = sum(made.sent.values()) + more, sent(text) / steps
        rows[name] = sizes
    return rows | {choice: {"flops": flops(choice)} for choice in ("preactivation", "input")}


def flops(choice):
    """Wide enough that XLA's count, in which elementwise work counts too, is one of matmuls."""
    feed_forward = {"variant": "swiglu", "d_ff": 1024, "residuals": choice}
    block = LARGER["model"]["block"] | {"feed_forward": feed_forward}
    model = {"d_model": 256, "num_layers": 2, "scan_layers": False, "block": block}
    config = from_dict(LARGER | {"model": LARGER["model"] | model}, TrainConfig)
    f, arguments = gradient(config, lambda f, model: jax.grad(f)(model))
    compiled = jax.jit(f).lower(*arguments).compile().cost_analysis()
    return plan_memory(config, CHIPS["h100"], 1).choices[choice].flops, compiled["flops"]


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]]()))
