"""Training that begins from a loaded model, and arms that swap its feed-forward variant."""

import jax
import numpy as np
import pytest
from flax import nnx

import gelu_jax as gj
from gelu_jax import families
from gelu_jax.compare.config import CompareConfig
from gelu_jax.compare.experiment import prepare
from gelu_jax.errors import ConfigError
from gelu_jax.training.config import from_dict
from gelu_jax.training.model import with_weights
from gelu_jax.training.trainer import Keys, TrainConfig, init

LLAMA = {
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "llama"
    model = gj.Transformer(families.config(LLAMA), rngs=nnx.Rngs(7))
    families.save(model, path, config=LLAMA)
    return path


def config(path, **model):
    return from_dict(
        {
            "data": {"kind": "stdlib", "context": 8, "validation_windows": 4},
            "model": {"kind": "pretrained", "path": str(path)} | model,
            "steps": 2,
            "eval_every": 2,
            "batch_size": 2,
        },
        TrainConfig,
    )


def leaves(model):
    return {jax.tree_util.keystr(p): x for p, x in jax.tree_util.tree_leaves_with_path(model)}


def start(config):
    """The leaves of the model that a run starts from."""
    return leaves(with_weights(init(config, Keys.of(0)).model, config.model))


def test_arms_begin_from_the_loaded_weights_wherever_shapes_agree(path):
    arms = {"as it is": {}, "relu": {"model.variant": "relu"}}
    trainers = prepare(CompareConfig(run=config(path), arms=arms))
    loaded = leaves(families.load(path))
    same, swapped = (start(trainers[name].config) for name in arms)
    assert same.keys() == loaded.keys()
    for name, value in loaded.items():
        np.testing.assert_array_equal(same[name], value)
    for name, value in swapped.items():
        if "feed_forward" in name and "norm" not in name:
            assert value.shape != loaded[name].shape  # matched: relu is wider, and starts anew
        else:
            np.testing.assert_array_equal(value, loaded[name])


def test_a_variant_of_the_same_width_keeps_what_it_can(path):
    trainer = prepare(CompareConfig(run=config(path, variant="relu", d_ff=32), arms={"relu": {}}))
    loaded, kept = leaves(families.load(path)), start(trainer["relu"].config)
    assert loaded.keys() - kept.keys() == {".layers.feed_forward.w_in_1.value"}
    for name, value in kept.items():
        np.testing.assert_array_equal(value, loaded[name])


def test_training_goes_on_from_there(path):
    (trainer,) = prepare(CompareConfig(run=config(path), arms={"llama": {}})).values()
    points = [point for _, point in trainer.fit(0, 1e-2)]
    assert [point.step for point in points] == [0, 2]
    assert points[1].validation_loss < points[0].validation_loss


def test_a_wrong_path_is_one_clear_line(path):
    with pytest.raises(ConfigError, match=r"no such directory; did you mean llama\?"):
        prepare(CompareConfig(run=config(path.with_name("lama")), arms={"a": {}}))
