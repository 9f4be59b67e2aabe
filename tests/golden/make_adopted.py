"""Computes what transformers' activations and feed-forward blocks give, in some seconds.

    python tests/golden/make_adopted.py        (with torch 2.13 and transformers 5.23)

`adopted.json` holds the values of every name of ACT2FN at some points, in float64, and of the
feed-forward blocks of BitNet b1.58 2B4T and Gemma 3n the weights, an input and the output.
"""

import json
from pathlib import Path

import torch
import transformers
from transformers.activations import ACT2CLS, ACT2FN
from transformers.models.bitnet.configuration_bitnet import BitNetConfig
from transformers.models.bitnet.modeling_bitnet import BitNetMLP
from transformers.models.gemma3n.configuration_gemma3n import Gemma3nTextConfig
from transformers.models.gemma3n.modeling_gemma3n import Gemma3nTextMLP

D, F = 8, 40
POINTS = torch.linspace(-12, 12, 49, dtype=torch.float64)


def act2fn(name: str) -> list[float]:
    """A function's values at the points."""
    with torch.no_grad():
        return ACT2FN[name].double()(POINTS).tolist()


def block(module: torch.nn.Module) -> dict[str, object]:
    """A block with random weights: the weights, an input and the output."""
    generator = torch.Generator().manual_seed(0)
    module = module.double()
    x = torch.randn(5, D, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=torch.float64))
        y = module(x)
    return {"x": x.tolist(), "y": y.tolist()} | {
        name: p.tolist() for name, p in module.named_parameters()
    }


def main() -> None:
    bitnet = BitNetConfig(hidden_size=D, intermediate_size=F, rms_norm_eps=1e-5)
    layers = {"num_hidden_layers": 1, "activation_sparsity_pattern": [0.9], "layer_types": None}
    gemma = Gemma3nTextConfig(
        hidden_size=D, intermediate_size=[F], num_kv_shared_layers=0, **layers
    )
    found = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "points": POINTS.tolist(),
        "act2fn": {name: act2fn(name) for name in ACT2CLS},
        "bitnet": block(BitNetMLP(bitnet)) | {"activation": bitnet.hidden_act},
        "gemma3n": block(Gemma3nTextMLP(gemma)) | {"activation": gemma.hidden_activation},
    }
    path = Path(__file__).parent / "adopted.json"
    path.write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
