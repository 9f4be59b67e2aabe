"""Images of any resolution, cut into tiles of one size (Liu et al. 2024, LLaVA-NeXT)."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Size = tuple[int, int]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TiledImages:
    """Images in tiles, as transformers' processor makes them.

    Attributes:
      tiles: (n, m, height, width, channels): of each image first all of it, scaled to one tile,
        then the tiles of its grid, row by row; what follows them is padding.
      sizes: height and width of each image before it was scaled. They are static: images of other
        sizes have other numbers of tokens, and so make another program.
    """

    tiles: Any
    sizes: tuple[Size, ...] = field(metadata={"static": True})


def best_resolution(size: Size, resolutions: Sequence[Size]) -> Size:
    """The resolution in which most of an image's pixels are kept, and of those the smallest.

    Args:
      size: height and width of the image.
      resolutions: heights and widths to choose from; of equals the first is taken.
    Returns:
      One of them.

    >>> best_resolution((480, 640), [(336, 672), (672, 336), (672, 672)])
    (672, 672)
    """

    def kept_and_wasted(resolution: Size) -> tuple[int, int]:
        scale = min(resolution[1] / size[1], resolution[0] / size[0])
        kept = min(int(size[1] * scale) * int(size[0] * scale), size[0] * size[1])
        return kept, kept - resolution[0] * resolution[1]

    return max(resolutions, key=kept_and_wasted)


def grid_of_tiles(size: Size, resolutions: Sequence[Size], tile: int) -> Size:
    """The rows and columns of tiles that an image is cut into.

    Args:
      size: height and width of the image.
      resolutions: as in `best_resolution`, each a multiple of a tile.
      tile: height and width of a tile.
    Returns:
      Rows and columns.
    """
    height, width = best_resolution(size, resolutions)
    return height // tile, width // tile


def shown(size: Size, grid: Size) -> tuple[slice, slice]:
    """The rows and columns of a grid that an image fills, scaled to fit and put in the middle.

    Args:
      size: height and width of the image.
      grid: rows and columns, such as those of patches.
    Returns:
      Its rows and columns; bands along two sides are left out, as even as whole rows allow.

    >>> shown((100, 300), (6, 6))
    (slice(2, 4, None), slice(0, 6, None))
    """
    (height, width), (rows, columns) = size, grid
    if width / height > columns / rows:
        band = (rows - _whole(height * (columns / width))) // 2
        return slice(band, rows - band), slice(0, columns)
    band = (columns - _whole(width * (rows / height))) // 2
    return slice(0, rows), slice(band, columns - band)


def _whole(length: float) -> int:
    return int(round(length, 7))  # what is whole but for rounding stays whole


def packed_tiles(
    patches: Float[Array, "m p d"], newline: Float[Array, " d"], size: Size, grid: Size
) -> Float[Array, "n d"]:
    """One image's patches in reading order, those that show it alone, a newline after each row.

    Args:
      patches: of the whole image in one tile, then of each tile of the grid: (m, p, d).
      newline: (d,).
      size: height and width of the image.
      grid: rows and columns of tiles, m − 1 together.
    Returns:
      The whole image's patches, then the rows: (n, d), n as `num_packed` says.

    >>> patches, newline = jnp.arange(12.0).reshape(3, 4, 1), jnp.array([-1.0])
    >>> packed_tiles(patches, newline, (10, 20), (1, 2))[4:, 0]
    Array([ 4.,  5.,  8.,  9., -1.,  6.,  7., 10., 11., -1.], dtype=float32)
    """
    (rows, columns), side, d = grid, _side(patches.shape[1]), patches.shape[-1]
    tiles = patches[1:].reshape(rows, columns, side, side, d)
    height, width = rows * side, columns * side
    seen = tiles.swapaxes(1, 2).reshape(height, width, d)[shown(size, (height, width))]
    ends = jnp.broadcast_to(newline.astype(seen.dtype), (len(seen), 1, d))
    lines = jnp.concatenate([seen, ends], axis=1).reshape(-1, d)
    return jnp.concatenate([patches[0], lines])


def num_packed(num_patches: int, size: Size, grid: Size) -> int:
    """How many vectors `packed_tiles` makes of an image.

    Args:
      num_patches: p of a tile, a square number.
      size: height and width of the image.
      grid: rows and columns of tiles.
    Returns:
      Their number n.

    >>> num_packed(576, (480, 640), (2, 2))
    2340
    """
    side = _side(num_patches)
    rows, columns = shown(size, (grid[0] * side, grid[1] * side))
    return num_patches + (rows.stop - rows.start) * (columns.stop - columns.start + 1)


def _side(num_patches: int) -> int:
    return round(num_patches**0.5)
