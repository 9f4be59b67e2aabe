"""Computes what other libraries' activations and feed-forward blocks give, in some seconds.

    python tests/golden/make_adopted.py        (with torch 2.13 and transformers 5.23)
    KERAS_BACKEND=jax python tests/golden/make_adopted.py        (with keras and mlx)

`adopted.json` holds the values of the activations at some points, by the names of ACT2FN, torch,
keras and mlx; and of the feed-forward blocks of BitNet b1.58 2B4T and Gemma 3n the weights, an
input and the output. Each run renews what the libraries that are installed have.
"""

import inspect
import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent
D, F = 8, 40
POINTS = np.linspace(-12, 12, 49)
TORCH = (
    "relu relu6 leaky_relu elu celu selu hardsigmoid hardswish gelu sigmoid tanh silu softplus mish"
)


def of_torch() -> dict[str, Any]:
    """The activations of torch and transformers, and two feed-forward blocks."""
    import torch
    from transformers.activations import ACT2CLS, ACT2FN
    from transformers.models.bitnet.configuration_bitnet import BitNetConfig
    from transformers.models.bitnet.modeling_bitnet import BitNetMLP
    from transformers.models.gemma3n.configuration_gemma3n import Gemma3nTextConfig
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextMLP

    def block(module: Any) -> dict[str, Any]:
        generator, module = torch.Generator().manual_seed(0), module.double()
        x = torch.randn(5, D, generator=generator, dtype=torch.float64)
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
        weights = {name: p.tolist() for name, p in module.named_parameters()}
        return {"x": x.tolist(), "y": module(x).tolist()} | weights

    x = torch.tensor(POINTS)
    bitnet = BitNetConfig(hidden_size=D, intermediate_size=F, rms_norm_eps=1e-5)
    gemma = Gemma3nTextConfig(
        hidden_size=D, intermediate_size=[F], num_hidden_layers=1, num_kv_shared_layers=0,
        activation_sparsity_pattern=[0.9], layer_types=None,
    )  # fmt: skip
    with torch.no_grad():
        return {
            "hf": {name: ACT2FN[name].double()(x).tolist() for name in ACT2CLS},
            "torch": {n: getattr(torch.nn.functional, n)(x).tolist() for n in TORCH.split()},
            "bitnet": block(BitNetMLP(bitnet)) | {"activation": bitnet.hidden_act},
            "gemma3n": block(Gemma3nTextMLP(gemma)) | {"activation": gemma.hidden_activation},
        }


def elementwise(module: Any, array: Any) -> dict[str, Any]:
    """The functions of a module that take one array and return one of its shape, in float32."""
    found = {}
    for name, f in inspect.getmembers(module, callable):
        try:
            y = np.asarray(f(array(POINTS.astype(np.float32))), np.float64)
        except Exception:  # a class, or a function of something else
            continue
        if y.shape == POINTS.shape:
            found[name] = y.tolist()
    return found


def of_keras_and_mlx() -> dict[str, Any]:
    """Their activations."""
    import keras
    import mlx.core as mx
    from mlx.nn.layers import activations

    return {
        "keras": elementwise(keras.activations, np.asarray),
        "mlx": elementwise(activations, mx.array),
    }


def main() -> None:
    path = HERE / "adopted.json"
    found = json.loads(path.read_text()) if path.exists() else {"versions": {}}
    found["points"] = POINTS.tolist()
    if find_spec("torch"):
        found |= of_torch()
    if find_spec("mlx"):
        found |= of_keras_and_mlx()
    packages = [p for p in ("torch", "transformers", "keras", "mlx") if find_spec(p)]
    found["versions"] |= {package: version(package) for package in packages}
    path.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
