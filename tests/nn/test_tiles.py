"""Images in tiles: the grids, the patches that show the image, and what a model refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_models import random_model

import gelu_jax as gj
from gelu_jax.nn.tiles import TiledImages, grid_of_tiles, num_packed, packed_tiles, shown
from gelu_jax.nn.vision import VisionConfig
from gelu_jax.nn.vision_language import VisionLanguage, VisionLanguageConfig

PUBLISHED = [(336, 672), (672, 336), (672, 672), (1008, 336), (336, 1008)]
# size, grid and number of vectors as transformers 5.23 has them at the published settings
EXPECTED = [
    ((480, 640), (2, 2), 2340),
    ((640, 480), (2, 2), 2352),
    ((336, 336), (1, 2), 1176),
    ((1, 1), (1, 2), 1176),
    ((100, 1000), (1, 3), 1160),
    ((1000, 100), (3, 1), 1224),
    ((337, 336), (2, 1), 1176),
    ((1080, 1920), (2, 2), 1948),
    ((333, 777), (1, 3), 1944),
    ((672, 672), (2, 2), 2928),
    ((50, 60), (1, 2), 1272),
]


@pytest.mark.parametrize(("size", "grid", "number"), EXPECTED)
def test_grids_are_those_of_transformers(size, grid, number):
    assert grid_of_tiles(size, PUBLISHED, 336) == grid
    assert num_packed(576, size, grid) == number


def test_patches_are_in_reading_order_and_keep_their_dtype():
    """Each patch holds its place in the image; the bands at the sides are left out."""
    rows, columns, side, size = 2, 3, 2, (30, 90)
    y, x = np.mgrid[: rows * side, : columns * side]
    places = jnp.array(np.stack([y, x], -1), jnp.bfloat16)
    grid = places.reshape(rows, side, columns, side, 2).swapaxes(1, 2).reshape(6, 4, 2)
    whole = jnp.full((1, 4, 2), 9, jnp.bfloat16)
    with jax.numpy_dtype_promotion("strict"):
        found = packed_tiles(jnp.concatenate([whole, grid]), jnp.full(2, -1.0), size, (2, 3))
    assert found.dtype == jnp.bfloat16
    assert found.shape == (num_packed(4, size, (2, 3)), 2)
    lines = np.asarray(found, np.float32)[4:].reshape(-1, 7, 2)
    assert shown(size, (4, 6)) == (slice(1, 3), slice(0, 6))
    np.testing.assert_array_equal(lines[:, :-1], np.asarray(places, np.float32)[1:3])
    assert (lines[:, -1] == -1).all()


def config(**fields):
    heads = {"num_heads": 2, "rotary": gj.RotaryConfig()}

    def block(**attention):
        return gj.BlockConfig(
            gj.NormConfig(8), gj.AttentionConfig(8, **attention), gj.FeedForwardConfig(8, d_ff=16)
        )

    vision = VisionConfig(4, 2, 1, block(num_heads=2, causal=False))
    language = gj.TransformerConfig(11, 1, block(**heads))
    return VisionLanguageConfig(vision, language, image_token=3, vision_layers=1, **fields)


def test_a_model_takes_the_images_it_is_made_for():
    tiled = random_model(VisionLanguage, config(resolutions=((4, 8), (8, 4))))
    images = TiledImages(jnp.ones((1, 3, 4, 4, 3)), ((10, 20),))
    tokens = jnp.full((1, 10), 3)
    assert tiled.num_image_tokens(images) == [4 + 2 * 5]
    with pytest.raises(ValueError, match="tokens: 10 image tokens, but 1 images need 14"):
        tiled.embed(tokens, images)
    with pytest.raises(ValueError, match="images: must be TiledImages in this model"):
        tiled.embed(tokens, jnp.ones((1, 4, 4, 3)))
    plain = random_model(VisionLanguage, config())
    with pytest.raises(ValueError, match="images: must not be TiledImages in this model"):
        plain.embed(tokens, images)
    none = TiledImages(jnp.ones((0, 3, 4, 4, 3)), ())
    text = jnp.array([[1, 2]])
    np.testing.assert_array_equal(tiled.embed(text, none), tiled.embed(text))


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"resolutions": ((4, 6),)}, "resolutions[0] = (4, 6): must be multiples of the tiles'"),
        ({"resolutions": ((4, 8),), "class_token": True}, "class_token = True: has no place"),
    ],
)
def test_wrong_configs_are_named(fields, line):
    with pytest.raises(gj.ConfigError) as error:
        config(**fields)
    assert str(error.value).startswith(line)
