"""Directories: shards, dtypes, aliases, single blocks, devices, and every trap on the way."""

import json
import os
import pickle
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import flax.nnx as nnx
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from damaged import changed, copied, leaves, same
from parity import FIXTURES
from safetensors.numpy import load_file

import gelu_jax as gj
from gelu_jax import families
from gelu_jax.families import files
from gelu_jax.families.tree import in_dtype
from gelu_jax.nn.stack import one_layer


@jax.jit
def applied(block, x):
    return block(x)


@pytest.fixture(scope="module")
def llama():
    return families.load(FIXTURES / "llama")


# --- what is written and read ---


def test_shards(llama, tmp_path):
    families.save(llama, tmp_path / "sharded", max_shard_bytes=9000)
    names = sorted(file.name for file in (tmp_path / "sharded").glob("*.safetensors"))
    assert len(names) > 2
    assert names[0] == f"model-00001-of-{len(names):05}.safetensors"
    index = json.loads((tmp_path / "sharded" / "model.safetensors.index.json").read_text())
    source = load_file(FIXTURES / "llama" / "model.safetensors")
    assert index["weight_map"].keys() == source.keys()
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in source.values())
    same(families.load(tmp_path / "sharded"), llama)


def test_a_chosen_dtype_is_that_of_parameters_and_computation(tmp_path):
    model = families.load(FIXTURES / "llama", dtype=jnp.bfloat16)
    assert {leaf.dtype.name for leaf in leaves(model).values()} == {"bfloat16"}
    assert model.config.dtype == model.config.block.attention.param_dtype == jnp.bfloat16
    assert jax.eval_shape(model.hidden, jnp.zeros((1, 2), int)).dtype == jnp.bfloat16
    families.save(model, tmp_path / "half")
    assert json.loads((tmp_path / "half" / "config.json").read_text())["dtype"] == "bfloat16"
    same(families.load(tmp_path / "half"), model)


def test_mixed_dtypes_come_back_byte_equal(tmp_path):
    path = changed(
        copied("llama", tmp_path / "mixed"),
        tensors=lambda ts: {
            n: t if "norm" in n else t.astype(ml_dtypes.bfloat16) for n, t in ts.items()
        },
    )
    model = families.load(path)
    assert model.config.dtype == "bfloat16"
    families.save(model, tmp_path / "saved")
    ours, expected = (load_file(p / "model.safetensors") for p in (tmp_path / "saved", path))
    assert {n: (t.dtype, t.tobytes()) for n, t in ours.items()} == {
        n: (t.dtype, t.tobytes()) for n, t in expected.items()
    }


def test_computation_is_in_the_dtype_of_most_weights(tmp_path):
    def mixed(tensors):
        wide = "model.embed_tokens.weight"  # larger than any other tensor, not than all of them
        return {n: t if n == wide else t.astype(ml_dtypes.bfloat16) for n, t in tensors.items()}

    model = families.load(changed(copied("llama", tmp_path / "mixed"), tensors=mixed))
    assert model.embedding.dtype == jnp.float32
    assert model.config.dtype == "bfloat16"
    families.save(model, tmp_path / "saved", config={})
    assert json.loads((tmp_path / "saved" / "config.json").read_text())["dtype"] == "bfloat16"


def test_float64_wants_x64(tmp_path):
    path = changed(
        copied("llama", tmp_path / "wide"),
        tensors=lambda ts: {n: t.astype(np.float64) for n, t in ts.items()},
    )
    with pytest.raises(gj.ConfigError, match=r"dtype = 'float64'.*jax_enable_x64"):
        families.load(path)
    same(families.load(path, dtype=jnp.float32), families.load(FIXTURES / "llama"))


def test_a_model_from_scratch_is_saved_with_its_config(tmp_path):
    values = json.loads((FIXTURES / "gemma" / "config.json").read_text())
    config = families.config(values)
    empty = nnx.eval_shape(lambda: gj.Transformer(config, rngs=nnx.Rngs(0)))
    model = jax.tree.map(lambda leaf: jnp.full(leaf.shape, 0.5, leaf.dtype), empty)
    with pytest.raises(gj.ConfigError, match="config = None"):
        families.save(model, tmp_path / "saved")
    with pytest.raises(gj.ConfigError, match="describes another model"):
        families.save(model, tmp_path / "saved", config=values | {"rms_norm_eps": 1e-3})
    assert list(tmp_path.iterdir()) == []
    families.save(model, tmp_path / "saved", config=values)
    same(families.load(tmp_path / "saved"), model)


def test_saving_leaves_a_taken_path_alone(llama, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(gj.ConfigError, match="exists"):
        families.save(llama, tmp_path)
    with pytest.raises(gj.ConfigError, match="exists"):
        families.save(llama, tmp_path / "file")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("file", "mine")]


def test_a_failed_save_leaves_nothing(llama, tmp_path, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full)
    with pytest.raises(OSError, match="No space"):
        families.save(llama, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_shardings():
    """On four devices every parameter comes to lie as the function says, with the same values."""
    code = f"""
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from gelu_jax import families
mesh = jax.make_mesh((4,), ("x",))
def place(path, shape):
    axis = next((i for i, n in enumerate(shape) if i and n % 4 == 0), None)
    spec = P() if axis is None else P(*[None] * axis, "x")
    return NamedSharding(mesh, spec)
for name in ("llama", "gpt2"):
    plain, placed = families.load({str(FIXTURES)!r} + "/" + name), families.load(
        {str(FIXTURES)!r} + "/" + name, sharding=place)
    split = 0
    for (path, one), (_, other) in zip(*map(jax.tree_util.tree_leaves_with_path, (plain, placed))):
        assert other.sharding == place("", other.shape), path
        split += other.addressable_shards[0].data.size < other.size
        np.testing.assert_array_equal(one, other)
    assert split > 8, split
    replicated = NamedSharding(mesh, P())
    same = families.load({str(FIXTURES)!r} + "/" + name, sharding=replicated)
    assert all(leaf.sharding == replicated for leaf in jax.tree.leaves(same))
"""
    environment = {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_a_repository_id_is_looked_up_in_the_cache_and_nowhere_else(tmp_path, monkeypatch, llama):
    snapshot = tmp_path / "hub" / "models--someone--tiny" / "snapshots" / ("0" * 40)
    snapshot.parent.mkdir(parents=True)
    copied("llama", snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("went to the network"))
    same(families.load("someone/tiny"), llama)
    with pytest.raises(gj.ConfigError, match="local cache"):
        families.load("someone/other")


# --- aliases and buffers ---


@pytest.mark.parametrize(
    ("name", "alias"),
    [
        ("gpt2", lambda n: n.removeprefix("transformer.")),
        ("bert", lambda n: n.replace("LayerNorm.weight", "LayerNorm.gamma")),
        (
            "bert",
            lambda n: (
                n.removeprefix("bert.")
                .replace("LayerNorm.weight", "LayerNorm.gamma")
                .replace("LayerNorm.bias", "LayerNorm.beta")
            ),
        ),
        ("vit", lambda n: n.removeprefix("vit.")),
        ("llava", lambda n: n.replace("vision_tower.", "vision_tower.vision_model.")),
        ("efficientnet", lambda n: n.removeprefix("efficientnet.")),
    ],
)
def test_aliases_are_read_and_kept(name, alias, tmp_path):
    path = changed(
        copied(name, tmp_path / "other"),
        tensors=lambda ts: {alias(n): t for n, t in ts.items()},
    )
    model = families.load(path)
    same(model, families.load(FIXTURES / name))
    families.save(model, tmp_path / "saved")
    saved, source = (load_file(p / "model.safetensors") for p in (tmp_path / "saved", path))
    assert saved.keys() == {n for n in source if not n.endswith("num_batches_tracked")}


@pytest.mark.parametrize(
    ("name", "buffers"),
    [
        ("gpt2", {"transformer.h.0.attn.bias": np.ones((1, 1, 32, 32), np.uint8)}),
        ("llama", {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(2, np.float32)}),
        ("bert", {"bert.embeddings.position_ids": np.arange(32)[None]}),
        ("clip", {"text_model.embeddings.position_ids": np.arange(32)[None]}),
    ],
)
def test_buffers_of_old_files_are_passed_over(name, buffers, tmp_path):
    path = changed(copied(name, tmp_path / "old"), tensors=lambda ts: ts | buffers)
    same(families.load(path), families.load(FIXTURES / name))


@pytest.mark.parametrize(
    ("name", "copy", "original"),
    [
        ("gpt2", "lm_head.weight", "transformer.wte.weight"),
        ("llama3_tied", "lm_head.weight", "model.embed_tokens.weight"),
        ("gemma", "lm_head.weight", "model.embed_tokens.weight"),
        ("bert", "cls.predictions.decoder.bias", "cls.predictions.bias"),
        ("t5", "encoder.embed_tokens.weight", "shared.weight"),
    ],
)
def test_tied_tensors_are_stored_once(name, copy, original, tmp_path):
    path = changed(
        copied(name, tmp_path / "twice"),
        tensors=lambda ts: ts | {copy: ts[original].copy()},
    )
    model = families.load(path)
    same(model, families.load(FIXTURES / name))
    families.save(model, tmp_path / "saved")
    assert copy not in load_file(tmp_path / "saved" / "model.safetensors")
    changed(path, tensors=lambda ts: ts | {copy: ts[original] + 1})
    with pytest.raises(families.WeightsError, match=f"{copy}.*must equal {original}"):
        families.load(path)


# --- one block ---


@pytest.mark.parametrize(
    ("name", "part", "layer"),
    [
        ("gpt2", None, 2),
        ("llama", None, 1),
        ("bert", None, 0),
        ("gemma", None, 2),
        ("vit", None, 1),
        ("clip", "text", 2),
        ("clip", "vision", 0),
        ("t5_v1_1", "encoder", 1),
        ("t5_v1_1", "decoder", 2),
        ("llava", "language", 1),
        ("llava", "vision", 0),
    ],
)
def test_one_feed_forward_block(name, part, layer, monkeypatch):
    """The block equals the one inside the loaded model, and only its tensors are read."""
    read = []

    def watched(info, tensor):
        read.append(tensor)
        return files.read_tensor(info, tensor)

    model = families.load(FIXTURES / name)
    with monkeypatch.context() as patched:
        patched.setattr("gelu_jax.families.loading.read_tensor", watched)
        patched.setattr("gelu_jax.families.load_plan.read_tensor", watched)
        block = families.load_feed_forward(FIXTURES / name, layer, part=part)
    owner = model
    for step in (part or {"bert": "transformer", "vit": "vision"}.get(name, "")).split("."):
        owner = getattr(owner, step) if step else owner
    inside = jax.tree.map(lambda leaf: leaf[layer], owner.layers.feed_forward)
    same(block, inside)
    assert len(read) == len(leaves(block))
    kind = r"mlp|dense|DenseReluDense|fc\d"
    assert all(str(layer) in tensor for tensor in read)
    assert all(re.search(kind, tensor) for tensor in read), read
    x = jnp.ones((2, block.config.d_model))
    np.testing.assert_allclose(applied(block, x), applied(inside, x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "layer", "part", "message"),
    [
        ("llama", 3, None, r"layer = 3: must lie in 0\.\.2"),
        ("llama", -1, None, r"layer = -1: must lie in 0\.\.2"),
        ("clip", 0, None, r"part = None: which stack.*text, vision"),
        ("t5", 0, "encodr", r"part = 'encodr'.*did you mean encoder"),
        ("efficientnet", 0, None, "part = None.*has 0"),
    ],
)
def test_a_block_that_is_not_there(name, layer, part, message):
    with pytest.raises(gj.ConfigError, match=message):
        families.load_feed_forward(FIXTURES / name, layer, part=part)


# --- traps ---

# The section said twice: then the second one holds, and transformers' defaults for what it lacks.
CLIP_TEXT = json.loads((FIXTURES / "clip" / "config.json").read_text())["text_config"]
CLIP_TEXT |= {"hidden_act": "gelu"}


@pytest.mark.parametrize(
    ("name", "fields", "variant"),
    [
        ("gemma", {"hidden_act": "gelu", "hidden_activation": None}, "gelu_tanh"),
        ("gemma", {"hidden_act": "relu"}, "relu"),
        ("gemma", {"hidden_act": None}, "gelu_tanh"),
        ("gemma", {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}, "gelu_tanh"),
        ("t5_v1_1", {"feed_forward_proj": "gated-gelu"}, "gelu_tanh"),
        ("t5_v1_1", {"dense_act_fn": "silu"}, "silu"),
        ("t5_v1_1", {"feed_forward_proj": "gated-silu", "dense_act_fn": None}, "silu"),
        ("clip", {"text_config_dict": CLIP_TEXT}, "gelu"),
        ("clip", {}, "gelu_sigmoid"),
        ("clip_open", {}, "gelu"),
    ],
)
def test_activations_that_mean_another(name, fields, variant, tmp_path):
    path = changed(copied(name, tmp_path / "trap"), config=fields)
    part = {"t5_v1_1": "encoder"}.get(name, "text" if "clip" in name else None)
    block = families.load_feed_forward(path, 0, part=part)
    assert gj.branches(block.config.variant)[0] is gj.activation(variant)


def test_fields_that_are_absent_and_fields_that_are_null():
    """A window is 4096 tokens where the file does not say, and none where it says null."""
    values = json.loads((FIXTURES / "mistral" / "config.json").read_text())
    windows = {4: values, None: values | {"sliding_window": None}}
    windows[4096] = {k: v for k, v in values.items() if k != "sliding_window"}
    for window, fields in windows.items():
        assert families.config(fields).block.attention.window == window


def test_a_config_alone_is_enough_where_no_part_depends_on_the_tensors():
    for name in ("efficientnet", "vit", "bert"):
        values = json.loads((FIXTURES / name / "config.json").read_text())
        made, loaded = families.config(values), families.load(FIXTURES / name).config
        heads = {"num_classes": None, "pooler": False, "masked_head": None}
        heads |= {"next_sentence_head": False}
        changes = {k: v for k, v in heads.items() if hasattr(loaded, k)}
        assert made == in_dtype(replace(loaded, **changes), jnp.float32)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("llama", {"model_type": "llamma"}, "model_type = 'llamma'.*bert, clip.*vit"),
        ("llama", {"model_type": None}, "model_type: missing"),
        ("llama", {"hidden_act": "gelo"}, "hidden_act = 'gelo'.*did you mean gelu"),
        ("llama", {"hidden_size": None}, "hidden_size: missing; must be a whole number"),
        ("llama", {"hidden_size": "16"}, "hidden_size = '16': must be a whole number"),
        ("llama", {"hidden_size": True}, "hidden_size = True: must be a whole number"),
        ("llama", {"hidden_size": 0}, "hidden_size = 0: must lie in"),
        ("llama", {"hidden_size": 10**30}, "must lie in"),
        ("llama", {"num_key_value_heads": 3}, "num_kv_heads = 3: must divide num_heads = 4"),
        ("llama", {"rms_norm_eps": float("nan")}, "rms_norm_eps = nan"),
        (
            "llama",
            {"rope_parameters": {"rope_type": "su"}},
            r"rope_parameters\.rope_type = 'su': not supported; choose from default, dynamic, lin",
        ),
        (
            "phi3_longrope",
            {"rope_parameters": {"type": "su", "short_factor": [1, 2, 3]}},
            r"rope_parameters\.long_factor: missing; must be a list of numbers",
        ),
        (
            "phi3_longrope",
            {"rope_parameters": {"type": "su", "short_factor": [1, 2, 3, 4], "long_factor": [1]}},
            r"long_factors = \(1\.0,\): must have 4 numbers, one for each pair",
        ),
        ("phi3", {"rope_parameters": {"rope_type": "linear", "factor": 2.0}}, "none but longrope"),
        (
            "llama",
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            r"rope_scaling = .*'linear'.*: not supported; only .*\"default\"",
        ),
        ("gpt2", {"n_head": 5}, "n_head = 5: must divide the model's width 16"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx"),
        ("bert", {"is_decoder": True}, "is_decoder = True: not supported; only false is"),
        ("t5", {"feed_forward_proj": "gated-"}, "feed_forward_proj = 'gated-'"),
        ("t5", {"feed_forward_proj": "gelled-gelu"}, "feed_forward_proj = 'gelled-gelu'"),
        ("gemma", {"hidden_activation": "relu"}, "hidden_activation = 'relu': not supported"),
        ("llama", {"attention_chunk_size": 8}, "attention_chunk_size = 8: not supported"),
        ("clip", {"vision_config": None}, "vision_config: missing"),
        ("llava", {"vision_feature_layer": [-2, -5]}, r"vision_feature_layer = \[-2, -5\]"),
        ("llava", {"vision_feature_layer": 9}, "vision_feature_layer = 9"),
        (
            "llava_next",
            {"vision_feature_select_strategy": "full"},
            "vision_feature_select_strategy = 'full': not supported; only \"default\" is",
        ),
        (
            "llava_next",
            {"image_grid_pinpoints": [[12, 20]]},
            r"image_grid_pinpoints = \[\[12, 20\]\]: must be a list of pairs",
        ),
        ("vit", {"patch_size": 5}, "patch_size = 5: must divide image_size = 12"),
    ],
)
def test_wrong_configs(name, fields, message, tmp_path):
    path = changed(copied(name, tmp_path / "wrong"), config=fields)
    with pytest.raises(gj.ConfigError, match=message) as caught:
        families.load(path)
    assert "\n" not in str(caught.value)


def test_all_that_is_wrong_with_the_tensors_is_in_one_error(tmp_path):
    def damage(tensors):
        del tensors["model.norm.weight"]
        del tensors["model.layers.1.mlp.up_proj.weight"]
        tensors["model.layers.0.mlp.up_proj.weight"] = np.zeros((40, 15), np.float32)
        tensors["model.layers.2.mlp.up_proj.weight"] = np.zeros((40, 16), np.int32)
        tensors["model.layers.3.mlp.up_proj.weight"] = np.zeros((40, 16), np.float32)
        return tensors

    path = changed(copied("llama", tmp_path / "wrong"), tensors=damage)
    with pytest.raises(families.WeightsError) as caught:
        families.load(path)
    assert str(caught.value).split("\n") == [
        "model.layers.0.mlp.up_proj.weight = (40, 15): wrong shape; expected (40, 16)",
        "model.layers.1.mlp.up_proj.weight: missing; expected shape (40, 16) (and 1 more)",
        "model.layers.2.mlp.up_proj.weight = 'I32': wrong dtype; expected F64, F32, F16, BF16",
        "model.layers.3.mlp.up_proj.weight = (40, 16): unexpected: the model does not use it",
    ]


def test_a_wrong_number_of_layers(tmp_path):
    for layers in (2, 4, 2**31 - 1):
        path = changed(
            copied("llama", tmp_path / str(layers)), config={"num_hidden_layers": layers}
        )
        with pytest.raises(families.WeightsError, match=r"layers\.\d"):
            families.load(path)


def test_a_pickle_is_never_opened(tmp_path):
    path = copied("llama", tmp_path / "pickled")
    (path / "model.safetensors").unlink()

    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    for name in ("pytorch_model.bin", "model.pkl", "model.safetensors"):
        (path / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(families.WeightsError, match=r"^model\.safetensors = "):
            families.load(path)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "weight_map = None"),
        ({"weight_map": {"a": "../llama/model.safetensors"}}, r"weight_map\.a"),
        ({"weight_map": {"a": 3}}, r"weight_map\.a = 3"),
        ({"weight_map": {"a": "absent.safetensors"}}, "absent.*no such file"),
        ({"weight_map": {"a": "one.safetensors"}}, "a = 'one.safetensors'"),
    ],
)
def test_wrong_indices(index, message, tmp_path):
    path = copied("llama", tmp_path / "wrong")
    (path / "model.safetensors").rename(path / "one.safetensors")
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(families.WeightsError, match=message):
        families.load(path)


FEED_FORWARDS = FIXTURES.with_name("feed_forwards")


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_feed_forward_parts_of_deepseek_are_those_of_transformers(layer):
    """Without its attention: the first layer is dense, the others route by groups."""
    path = FEED_FORWARDS / "deepseek_v3"
    golden = load_file(path / "golden.safetensors")
    block = families.load_feed_forward(path, layer)
    assert isinstance(block, gj.MoE if layer else gj.FeedForward)
    expected = golden[f"layer_{layer}"]
    np.testing.assert_allclose(block(jnp.asarray(golden["x"])), expected, rtol=0, atol=2e-5)
    with pytest.raises(gj.ConfigError, match="only its feed-forward parts are supported"):
        families.load(path)


@pytest.mark.parametrize(
    ("name", "layer"),
    [("mixtral", 1), ("gpt_oss", 2), ("qwen2_moe_mixed", 2), ("qwen2_moe_mixed", 3)],
)
def test_one_mixture_of_experts(name, layer, monkeypatch):
    """All experts of the layer equal those inside the loaded model; only its tensors are read."""
    read = []

    def watched(info, tensor):
        read.append(tensor)
        return files.read_tensor(info, tensor)

    model = families.load(FIXTURES / name)
    monkeypatch.setattr("gelu_jax.families.loading.read_tensor", watched)
    block = families.load_feed_forward(FIXTURES / name, layer)
    same(block, one_layer(model.layers, layer).feed_forward)
    assert all(f"layers.{layer}." in tensor for tensor in read)
    assert isinstance(block, gj.FeedForward if (name, layer) == ("qwen2_moe_mixed", 2) else gj.MoE)
