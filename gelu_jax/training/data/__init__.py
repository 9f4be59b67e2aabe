"""Data sources: bytes, images and arrays lie on the device; tokens and batches are read on the way.

`load_data` makes a dataset from the config of a source. What every dataset offers is listed at
the top of `dataset.py`.
"""

from typing import Annotated, TypeAlias

from pydantic import Field

from gelu_jax.errors import check
from gelu_jax.nn import checks
from gelu_jax.training.data.dataset import Batch, DatasetInfo, Packed, Weighted
from gelu_jax.training.data.images import (
    Digits,
    ImageData,
    Mnist,
    load_digits,
    load_mnist,
    shuffled,
)
from gelu_jax.training.data.language import ByteData, Files, StdlibCorpus, load_files, load_stdlib
from gelu_jax.training.data.python import (
    ArrayData,
    IterableData,
    PythonData,
    StackedBatches,
    load_python,
)
from gelu_jax.training.data.stream import TokenBatches, TokenData
from gelu_jax.training.data.tokens import HuggingFace, TokenFiles, load_hugging_face, load_tokens

__all__ = [
    "Batch",
    "Batches",
    "ByteData",
    "DataConfig",
    "Dataset",
    "DatasetInfo",
    "Digits",
    "Files",
    "HuggingFace",
    "ImageData",
    "Mnist",
    "Packed",
    "PythonData",
    "StdlibCorpus",
    "TokenBatches",
    "TokenData",
    "TokenFiles",
    "Weighted",
    "load_data",
    "shuffled",
]

DataConfig: TypeAlias = Annotated[
    StdlibCorpus | Files | TokenFiles | HuggingFace | Digits | Mnist | PythonData,
    Field(discriminator="kind"),
]
Dataset: TypeAlias = ByteData | ImageData | TokenData | ArrayData | IterableData
Batches: TypeAlias = ByteData | ImageData | TokenBatches | ArrayData | StackedBatches


def load_data(config: DataConfig, batch_size: int) -> Dataset:
    """Opens a data source.

    Args:
      config: the source.
      batch_size: examples in a step: windows of text, or images.

    Returns:
      The dataset.

    Raises:
      ConfigError: it cannot be read; the fields are `data. ...` or `batch_size`.

    >>> import jax
    >>> data = load_data(Digits(), batch_size=128)
    >>> inputs, targets = data.batch(jax.random.key(0), step=0)
    >>> inputs.shape, targets.shape, data.info.train_size
    ((128, 8, 8, 1), (128,), 1442)
    """
    check(checks.positive(batch_size=batch_size))
    match config:
        case StdlibCorpus():
            return load_stdlib(config, batch_size)
        case Files():
            return load_files(config, batch_size)
        case TokenFiles():
            return load_tokens(config, batch_size)
        case HuggingFace():
            return load_hugging_face(config, batch_size)
        case Digits():
            return load_digits(config, batch_size)
        case Mnist():
            return load_mnist(config, batch_size)
        case PythonData():
            return load_python(config, batch_size)
