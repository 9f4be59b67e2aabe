"""Activations in use: who uses each, its definition, and what other libraries call it.

Data alone, in one place: `activation` finds every name in it, `gelu-jax activations` prints it, and
the docs show it. tests/activations/test_catalogue.py compares the names with what transformers,
torch, keras, mlx and flax compute under them.
"""

from dataclasses import dataclass

CORRECT = "correctly rounded in 16 bits, 2 ulp in float32"
EXACT = "exact"
WIDE = "computed in float32, rounded once"


@dataclass(frozen=True)
class Entry:
    """One activation.

    Attributes:
      name: canonical name.
      definition: f(x).
      used_by: models and papers; empty where it stands for itself.
      torch: its names in `torch.nn.functional`.
      hf: its names in ``ACT2FN`` of transformers, and so in config.json.
      flax: its names in `flax.nnx` and `jax.nn`.
      keras: its names in `keras.activations`.
      mlx: its names in `mlx.nn`.
      other: its names elsewhere, in papers and code bases.
      promise: how exact value and derivative are.
      cost: time over that of `jax.nn` in float32 on a CPU, forward and gradient, as
        benchmarks/results/activations.json has it; None where `jax.nn` has no such function.
    """

    name: str
    definition: str
    used_by: str = ""
    torch: tuple[str, ...] = ()
    hf: tuple[str, ...] = ()
    flax: tuple[str, ...] = ()
    keras: tuple[str, ...] = ()
    mlx: tuple[str, ...] = ()
    other: tuple[str, ...] = ()
    promise: str = CORRECT
    cost: tuple[float, float] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Every name that `activation` knows it by, that of another library with its module."""
        modules = {
            "torch.nn.functional": self.torch,
            "flax.nnx": self.flax,
            "jax.nn": self.flax,
            "keras.activations": self.keras,
            "mlx.nn": self.mlx,
        }
        qualified = (f"{module}.{name}" for module, names in modules.items() for name in names)
        return tuple(dict.fromkeys([self.name, *self.hf, *self.other, *qualified]))


CATALOGUE = (
    Entry(
        "identity", "x", "bilinear GLU", hf=("linear",), flax=("identity",), keras=("linear",),
        other=("none",), promise=EXACT, cost=(1.08, 0.75),
    ),
    Entry(
        "relu", "max(x, 0)", "Transformer 2017, T5, OPT", torch=("relu",), hf=("relu",),
        flax=("relu",), keras=("relu",), mlx=("relu",), promise=EXACT, cost=(1.01, 1.02),
    ),
    Entry(
        "relu_squared", "max(x, 0)²", "Primer, Persimmon, Nemotron, nanochat, BitNet b1.58 2B4T",
        hf=("relu2",), mlx=("relu2",), other=("squared_relu", "relu_sq"), cost=(0.99, 1.0),
    ),
    Entry(
        "leaky_relu_squared", "x² where x > 0, elsewhere x²/4", "parameter-golf's record of 2026",
        cost=(0.97, 0.96),
    ),
    Entry(
        "fatrelu", "x where x ≥ T, elsewhere 0", "MiniCPM-S (ProSparse)", promise=EXACT,
    ),
    Entry(
        "relu6", "min(max(x, 0), 6)", "MobileNet V1 and V2", torch=("relu6",), hf=("relu6",),
        flax=("relu6",), keras=("relu6",), mlx=("relu6",), promise=EXACT, cost=(1.02, 1.1),
    ),
    Entry(
        "leaky_relu", "x where x > 0, elsewhere x/100", "EfficientLoFTR", torch=("leaky_relu",),
        hf=("leaky_relu",), flax=("leaky_relu",), mlx=("leaky_relu",), cost=(1.0, 1.01),
    ),
    Entry(
        "prelu", "x where x > 0, elsewhere a·x, a learned", "He et al. 2015", hf=("prelu",),
        promise=WIDE,
    ),
    Entry(
        "elu", "x where x > 0, elsewhere eˣ − 1", "Clevert et al. 2015", torch=("elu",),
        flax=("elu",), keras=("elu",), mlx=("elu",), cost=(0.5, 0.48),
    ),
    Entry(
        "celu", "max(x, 0) + min(eˣ − 1, 0)", "Barron 2017", torch=("celu",), flax=("celu",),
        keras=("celu",), mlx=("celu",), cost=(0.49, 0.43),
    ),
    Entry(
        "selu", "1.0507·(x where x > 0, elsewhere 1.6733·(eˣ − 1))", "Klambauer et al. 2017",
        torch=("selu",), flax=("selu",), keras=("selu",), mlx=("selu",), cost=(1.18, 0.72),
    ),
    Entry(
        "xielu", "αp·x² + x/2 where x > 0, elsewhere αn·(eˣ − 1 − x) + x/2, both α learned",
        "Apertus", hf=("xielu",), promise=WIDE,
    ),
    Entry(
        "hard_sigmoid", "min(max(x + 3, 0), 6)/6", "MobileNet V3", torch=("hardsigmoid",),
        flax=("hard_sigmoid",), keras=("hard_sigmoid",), other=("hardsigmoid",), cost=(1.14, 1.02),
    ),
    Entry(
        "hard_silu", "x·min(max(x + 3, 0), 6)/6", "MobileNet V3, PP-LCNet", torch=("hardswish",),
        hf=("hardswish",), flax=("hard_silu", "hard_swish"), keras=("hard_silu", "hard_swish"),
        mlx=("hardswish",), other=("hard_swish", "hardsilu"), cost=(1.86, 0.99),
    ),
    Entry(
        "gelu", "x·Φ(x)", "BERT, RoBERTa, ViT, Whisper", torch=("gelu",),
        hf=("gelu", "gelu_python"), keras=("gelu",), mlx=("gelu",),
        other=("gelu_exact", "gelu_erf"), cost=(1.61, 1.43),
    ),
    Entry(
        "gelu_tanh", "½·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))",
        "GPT-2, T5 v1.1, Gemma, SigLIP",
        hf=("gelu_new", "gelu_fast", "gelu_pytorch_tanh", "gelu_python_tanh", "gelu_accurate"),
        flax=("gelu",), mlx=("gelu_approx",), other=("gelu_approx",), cost=(2.93, 4.73),
    ),
    Entry(
        "gelu_sigmoid", "x·σ(1.702·x)", "CLIP, Qwen2-VL; clamped: gpt-oss, MiniMax-M3",
        hf=("quick_gelu",), mlx=("gelu_fast_approx",), cost=(1.81, 4.44),
    ),
    Entry("gelu_10", "min(x·Φ(x), 10)", "quantised models", hf=("gelu_10",)),
    Entry(
        "laplace", "Φ((x − 0.707107)/0.282095)", "Mega", hf=("laplace",),
    ),
    Entry(
        "sigmoid", "1/(1 + e⁻ˣ)", "GLU (Dauphin et al. 2016)", torch=("sigmoid",), hf=("sigmoid",),
        flax=("sigmoid",), keras=("sigmoid",), mlx=("sigmoid",), cost=(2.35, 3.74),
    ),
    Entry(
        "tanh", "(eˣ − e⁻ˣ)/(eˣ + e⁻ˣ)", "LSTM, BERT's pooler", torch=("tanh",), hf=("tanh",),
        flax=("tanh",), keras=("tanh",), mlx=("tanh",), cost=(1.72, 4.79),
    ),
    Entry(
        "silu", "x·σ(x)", "LLaMA, Mistral, Qwen, OLMo, DeepSeek; EfficientNet", torch=("silu",),
        hf=("silu", "swish"), flax=("silu", "swish"), keras=("silu", "swish"), mlx=("silu",),
        cost=(1.27, 1.65),
    ),
    Entry(
        "softplus", "log(1 + eˣ)", "Mamba's step size", torch=("softplus",), flax=("softplus",),
        keras=("softplus",), mlx=("softplus",), cost=(1.41, 0.35),
    ),
    Entry(
        "sqrt_softplus", "√log(1 + eˣ)", "the router of DeepSeek-V4", hf=("sqrtsoftplus",),
    ),
    Entry(
        "mish", "x·tanh(log(1 + eˣ))", "YOLOv4", torch=("mish",), hf=("mish",), keras=("mish",),
        mlx=("mish",), cost=(1.32, 1.52),
    ),
    Entry(
        "golu", "x·exp(−e⁻ˣ)", "Das et al. 2025",
        cost=(2.04, 2.37),
    ),
    Entry(
        "powlu", "x^(3/(√x + 1))·σ(x) where x > 0, elsewhere x·σ(x)", "Jiang et al. 2026",
        cost=(1.05, 0.65),
    ),
    Entry(
        "situ", "4·tanh(x/4)·σ(x)", "the gate of Kimi K3",
        cost=(7.24, 6.37),
    ),
    Entry(
        "softcap_25", "25·tanh(x/25)", "the up projection of Kimi K3",
        cost=(9.65, 7.25),
    ),
)  # fmt: skip
"""Every activation of this package, those with parameters included."""
