"""A variant of the feed-forward block is the tuple of its branches, and nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from flax import nnx
from jax.tree_util import Partial
from jax.typing import DTypeLike

from gelu_jax import importing
from gelu_jax.activations import ACTIVATIONS, Elementwise, activation
from gelu_jax.errors import Problem, nearest
from gelu_jax.nn.branches import (
    XIELU,
    GaussianTopK,
    LearnedBranch,
    PolyNorm,
    PReLU,
    SiTU,
    Swish,
    clamped_swiglu,
    gpt_oss_swiglu,
    situ_glu,
)

Branch = Elementwise | type[LearnedBranch]
Variant = str | tuple[str | Branch, ...]

_identity = ACTIVATIONS["identity"]

VARIANTS: Mapping[str, tuple[Branch, ...]] = MappingProxyType(
    {name: (phi,) for name, phi in ACTIVATIONS.items()}
    | {
        "glu": (ACTIVATIONS["sigmoid"], _identity),
        "reglu": (ACTIVATIONS["relu"], _identity),
        "geglu": (ACTIVATIONS["gelu"], _identity),
        "geglu_tanh": (ACTIVATIONS["gelu_tanh"], _identity),
        "swiglu": (ACTIVATIONS["silu"], _identity),
        "bilinear": (_identity, _identity),
        "swiglu_gpt_oss": gpt_oss_swiglu(),
        "swiglu_clamped": clamped_swiglu(),
        "situ_glu": situ_glu(),
        "reglu_squared": (ACTIVATIONS["relu_squared"], _identity),
        "geglu_top_k": (GaussianTopK(), _identity),
        "polynomial_glu": (PolyNorm, _identity),
        "prelu": (PReLU,),
        "swish_beta": (Swish,),
        "situ_beta": (SiTU,),
        "polynorm": (PolyNorm,),
        "xielu": (XIELU,),
    }
)


def branches(variant: Variant) -> tuple[Branch, ...]:
    """The branches of a variant.

    Args:
      variant: a name of `VARIANTS`, any spelling that `activation` knows (one branch), or a tuple
        with one entry per branch: a name, with its parameters or without,
        ``"module:function"``, a function, or the class of a `LearnedBranch`.
    Returns:
      One function, or class of a `LearnedBranch`, per branch.
    Raises:
      ValueError: an unknown name.

    >>> len(branches("swiglu")), len(branches("gelu_new")), len(branches(("xielu", abs)))
    (2, 1, 2)
    """
    if isinstance(variant, str):
        return VARIANTS.get(variant) or (_branch(variant),)
    return tuple(map(_branch, variant))


def _branch(branch: str | Branch) -> Branch:
    if not isinstance(branch, str):
        return branch
    if ":" in branch:
        return importing.resolve(branch)
    if len(known := VARIANTS.get(branch, ())) == 1:
        return known[0]
    if "(" in branch:
        return activation(branch)
    try:
        return activation(branch)
    except ValueError:
        raise ValueError(f"unknown; {nearest(branch, VARIANTS)}") from None


def variant_problems(variant: Variant) -> Iterator[Problem]:
    """Checks the variant of a config.

    Args:
      variant: as in `branches`.
    Returns:
      The problems found.
    """
    try:
        branches(variant)
    except ValueError as error:
        yield Problem("variant", variant, str(error))


def num_learned(variant: Variant) -> int:
    """Counts the parameters that the branches themselves learn.

    Args:
      variant: as in `branches`.
    Returns:
      Their number.
    """
    return sum(phi.num_parameters for phi in branches(variant) if isinstance(phi, type))


def learned_branches(variant: Variant, param_dtype: DTypeLike) -> tuple[LearnedBranch, ...]:
    """Makes the modules of the branches that have parameters.

    Args:
      variant: as in `branches`.
      param_dtype: dtype that the parameters are stored in.
    Returns:
      One module for each such branch, in order.
    """
    return tuple(phi(param_dtype) for phi in branches(variant) if isinstance(phi, type))


def branch_functions(
    variant: Variant, learned: Sequence[LearnedBranch] | None = None
) -> tuple[Elementwise, ...]:
    """The variant's branches as functions that are also JAX trees of their parameters.

    Args:
      variant: as in `branches`.
      learned: the modules of the branches that have parameters, as `learned_branches` made them.
    Returns:
      One function per branch.
    Raises:
      ValueError: a branch has parameters, and its module is missing.
    """
    modules = iter(learned or ())
    found = [next(modules, None) if isinstance(phi, type) else phi for phi in branches(variant)]
    if None in found:
        raise ValueError(f"variant = {variant!r}: a branch has parameters; give its module instead")
    return tuple(phi if isinstance(phi, nnx.Module | Partial) else Partial(phi) for phi in found)
