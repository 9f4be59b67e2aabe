"""What a feed-forward block costs, or a mixture, and the widths at which two cost the same."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from gelu_jax.nn.experts import MoEConfig
from gelu_jax.nn.feed_forward import FeedForwardConfig
from gelu_jax.nn.variants import Variant, branches


def matched_width(d_ff: int, variant: Variant, *, multiple_of: int = 1) -> int:
    """The width at which a variant has as many weights as an ungated block of width d_ff.

    n branches and the output make (n + 1)·d·f weights, so f = 2·d_ff/(n + 1), rounded to the
    nearest multiple (Shazeer 2020, section 2). A token meets every weight in one multiply-add,
    so the same width matches the FLOPs, forward and backward.

    Args:
      d_ff: hidden width of the ungated block.
      variant: the branch activations of the other block.
      multiple_of: what the width must be a multiple of.
    Returns:
      The other block's hidden width.

    >>> matched_width(2048, "swiglu", multiple_of=8), matched_width(2048, "relu")
    (1368, 2048)
    """
    exact = 2 * d_ff / (len(branches(variant)) + 1)
    return max(1, round(exact / multiple_of)) * multiple_of


def llama_width(d_model: int, *, multiplier: float = 1.0, multiple_of: int = 256) -> int:
    """The hidden width by LLaMA's rule: ⅔·4·d_model, times a multiplier, up to the next multiple.

    LLaMA 7B, 13B and 65B have the defaults (Touvron et al. 2023, section 2.2); LLaMA 2 70B has
    multiplier 1.3 and multiples of 4096. Both products are rounded down, as in LLaMA's code.

    Args:
      d_model: width of the residual stream.
      multiplier: multiplies ⅔·4·d_model.
      multiple_of: what the width must be a multiple of.
    Returns:
      d_ff.

    >>> llama_width(4096), llama_width(8192, multiplier=1.3, multiple_of=4096)
    (11008, 28672)
    """
    exact = int(multiplier * int(2 * 4 * d_model / 3))
    return -(-exact // multiple_of) * multiple_of


class Cost(NamedTuple):
    """What a feed-forward block or a mixture costs; a multiply-add counts as two FLOPs.

    Attributes:
      parameters: entries of all parameters.
      flops_forward: FLOPs of the forward pass's matmuls, per token.
      flops_backward: FLOPs of the backward pass's matmuls, per token.
      bytes_kept: bytes held from the forward to the backward pass beside the input and the
        weights, per token; None where autodiff and the compiler decide.
      active_parameters: entries of the parameters that one token meets.
      bytes_sent: bytes that a device sends to others, per token of its own, forward and backward.
    """

    parameters: int
    flops_forward: int
    flops_backward: int
    bytes_kept: int | None
    active_parameters: int
    bytes_sent: int = 0


def cost(config: FeedForwardConfig | MoEConfig, *, expert_devices: int = 1) -> Cost:
    """What a block costs, computed from its config.

    The backward pass has two matmuls for each of the forward pass, and ``residuals="input"``
    repeats those of the branches. Of a mixture the experts that a token passes count, the shared
    block, and the router's matmul; not the rows that a routing leaves empty.

    Args:
      config: of the block, or of the mixture.
      expert_devices: devices p that a mixture's experts are split over. With p > 1 a device keeps
        what its buffers have room for (`MoEConfig.buffer_factor`), used or not.
    Returns:
      The block's cost.

    >>> block = cost(FeedForwardConfig(512, 1368, "swiglu", dtype="bfloat16"))
    >>> block.parameters, block.flops_forward, block.flops_backward, block.bytes_kept
    (2101248, 4202496, 8404992, 5472)
    """
    if isinstance(config, MoEConfig):
        return _cost_of_experts(config, expert_devices)
    branch_flops = config.num_branches * 2 * config.d_model * config.d_ff
    forward = branch_flops + 2 * config.d_ff * config.output_width
    repeated = branch_flops if config.residuals == "input" else 0
    n = config.num_parameters
    return Cost(n, forward, 2 * forward + repeated, _bytes_kept(config), n)


def _cost_of_experts(config: MoEConfig, devices: int) -> Cost:
    k, expert = config.experts_per_token, cost(config.feed_forward)
    shared = None if config.shared is None else cost(config.shared)
    router = 2 * config.d_model * (config.num_experts + config.shared_gate)
    forward, backward = k * expert.flops_forward + router, k * expert.flops_backward + 2 * router
    tokens, choices = room(config, devices)
    row = config.d_model * jnp.dtype(config.feed_forward.dtype).itemsize
    kept = None if expert.bytes_kept is None else round(choices * expert.bytes_kept)
    if kept is not None:
        kept += round(tokens * (row + 8 * k))  # a received token, its k choices and gates
    if shared is not None:
        forward, backward = forward + shared.flops_forward, backward + shared.flops_backward
        kept = None if kept is None or shared.bytes_kept is None else kept + shared.bytes_kept
    # out and back, forward and backward; the choices once, the gates and their cotangents
    sent = round(tokens * (devices - 1) / devices * (4 * row + 12 * k))
    counts = config.num_parameters, config.num_active_parameters
    return Cost(counts[0], forward, backward, kept, counts[1], sent)


def room(config: MoEConfig, expert_devices: int) -> tuple[float, float]:
    """What a device has room for where experts are split over devices.

    Args:
      config: of the mixture.
      expert_devices: how many.
    Returns:
      Tokens in its buffers, and choices that its experts may have of these, both per token of its
      own; 0 and k on one device.

    >>> expert = FeedForwardConfig(d_model=64, d_ff=96)
    >>> room(MoEConfig(expert, 16, 2), 8), room(MoEConfig(expert, 16, 2, buffer_factor=2.0), 8)
    ((8.0, 16.0), (4.0, 8.0))
    """
    k, p = config.experts_per_token, expert_devices
    if p == 1:
        return 0.0, float(k)
    factor = config.buffer_factor
    tokens = float(p) if factor is None else min(float(p), factor * k)
    return tokens, tokens * min(k, config.num_experts // p)


def _bytes_kept(config: FeedForwardConfig) -> int | None:
    if config.residuals == "input":
        return 0
    if config.residuals == "all":
        return None
    if config.residual_dtype is None:
        return config.num_branches * config.d_ff * jnp.dtype(config.dtype).itemsize
    stored = config.d_ff * jnp.dtype(config.residual_dtype).itemsize
    return config.num_branches * (stored + 4)  # 4: a token's greatest value


def measured_bytes_kept(
    layer: Callable[[Array, Any, Any], Array],
    x: PyTree[Any],
    weights: PyTree[Any],
    key: Any = None,
    *,
    scan: bool = True,
    depths: tuple[int, int] = (2, 6),
) -> float:
    """Bytes that each layer of a stack keeps for the backward pass, as compiled; nothing is run.

    The figure is the growth of the compiled gradient's temporary memory from the one depth to
    the other, per layer, less the layer's input, which any stack keeps.

    Args:
      layer: a function of x, weights and key that returns an array of the shape and dtype of x.
      x: the input, or its `jax.ShapeDtypeStruct`.
      weights: one layer's weights, any tree of arrays or `jax.ShapeDtypeStruct`.
      key: one layer's PRNG key, its `jax.ShapeDtypeStruct`, or None.
      scan: whether the layers are scanned, or else unrolled.
      depths: the two depths, the smaller first.
    Returns:
      Bytes per layer.
    """
    low, high = depths
    grown = _temporary(layer, x, weights, key, scan, high)
    grown -= _temporary(layer, x, weights, key, scan, low)
    return grown / (high - low) - x.size * x.dtype.itemsize


def _temporary(layer: Any, x: Any, weights: Any, key: Any, scan: bool, depth: int) -> int:
    def loss(x: Array, stacked: Any, keys: Any) -> Array:
        def step(x: Array, layer_inputs: tuple[Any, Any]) -> tuple[Array, None]:
            return layer(x, *layer_inputs), None

        x, _ = jax.lax.scan(step, x, (stacked, keys), unroll=1 if scan else depth)
        return jnp.square(x.astype(jnp.float32)).sum()

    stacked, keys = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((depth, *leaf.shape), leaf.dtype), (weights, key)
    )
    lowered = jax.jit(jax.grad(loss, argnums=1)).lower(x, stacked, keys)
    analysis = lowered.compile().memory_analysis()
    assert analysis is not None, "this backend does not report the memory that a program needs"
    return analysis.temp_size_in_bytes
