"""The feed-forward block against its peers: time, and the bytes kept for the backward pass.

    python benchmarks/ffn.py --torch ~/torch/bin/python --out benchmarks/results/ffn_cpu
    python benchmarks/ffn.py --shapes accelerator_4096 --only bfloat16 --out …/ffn_h100_4096

``--torch`` is a Python that has torch, ``--shapes`` a name of `SHAPES`; tokamax is measured where
this Python has it.

Every implementation computes the same: y = FFN(x), or y with the gradients of x and of all weights
for a given cotangent of y, where x has the axes (b, t, d), as in every transformer. All JAX ones
run in this process, torch in a second one that sleeps while this one works. A round runs each
once, in turn; the table gives the median time and the median of the rounds' ratios, so that a
machine that slows down slows all of them. CPU time of all threads is given beside the wall clock,
because other processes on the machine disturb it less. "kept" is the growth of the compiled
program's temporary memory from a scan of 2 layers to one of 6 (torch: the tensors that autograd
saves), in tensors of d_ff compute-dtype entries per token; x and the weights are not counted.

The floor is the same matmuls alone, of tokens flattened to (b·t, d). On an accelerator one pass
over the d_ff-wide tensors, at the bandwidth at which a copy was measured, is added to it, and a run
is ten calls in a row, so that the host's part does not count.
"""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from statistics import median, quantiles
from typing import Any, NamedTuple

# Otherwise this process reserves most of an accelerator's memory, and torch finds none.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

import jax
import jax.numpy as jnp
import tyro
from flax import nnx

import gelu_jax as gj
from gelu_jax.nn.cost import measured_bytes_kept


class Shape(NamedTuple):
    """Rows, tokens in each, d_model, the d_ff of an ungated block, and of a gated one (None:
    matched)."""

    batch: int
    length: int
    d_model: int
    d_ff: int
    gated_d_ff: int | None = None

    @property
    def tokens(self) -> int:
        """Tokens of all rows."""
        return self.batch * self.length


class Case(NamedTuple):
    """One row group of the table."""

    shape: Shape
    variant: str
    dtype: str
    backward: bool

    @property
    def d_ff(self) -> int:
        """The variant's own width."""
        if self.shape.gated_d_ff and len(gj.branches(self.variant)) > 1:
            return self.shape.gated_d_ff
        return gj.matched_width(self.shape.d_ff, self.variant, multiple_of=64)


SHAPES = {
    "smoke": [Shape(2, 32, 64, 256)],
    "cpu": [Shape(32, 64, 64, 256, 168), Shape(8, 64, 512, 2048), Shape(8, 64, 1024, 4096)],
    "cpu_long": [Shape(8, 512, 512, 2048)],
    "accelerator_1024": [Shape(8, 2048, 1024, 4096, 2816)],
    "accelerator_2048": [Shape(8, 2048, 2048, 5632, 5632)],
    "accelerator_4096": [
        Shape(8, 2048, 4096, 11008, 11008),
        Shape(8, 2048, 4096, 14336, 14336),
    ],
    "accelerator_8192": [Shape(8, 2048, 8192, 28672, 28672)],
}
BACKENDS = ("xla", "triton", "mosaic", "cutedsl")  # of tokamax
FLOOR = "floor"
DTYPES = ("float32", "bfloat16")
VARIANTS = ("gelu", "swiglu")

Weights = dict[str, Any]
Block = Callable[[jax.Array, Weights], jax.Array]


def ours(case: Case, **choice: Any) -> Block:
    return lambda x, w: gj.feed_forward(x, w["w_in"], w["w_out"], variant=case.variant, **choice)


def plain(case: Case) -> Block:
    """What a user writes with `jax.nn`."""

    def swiglu(x: jax.Array, w: Weights) -> jax.Array:
        return (jax.nn.silu(x @ w["w_in"][0]) * (x @ w["w_in"][1])) @ w["w_out"]

    def gelu(x: jax.Array, w: Weights) -> jax.Array:
        return jax.nn.gelu(x @ w["w_in"][0], approximate=False) @ w["w_out"]

    return {"swiglu": swiglu, "gelu": gelu}[case.variant]


def flax_linear(case: Case) -> Block:
    """The same with `flax.nnx.Linear`."""

    def linear(kernel: jax.Array) -> nnx.Linear:
        layer = nnx.eval_shape(
            lambda: nnx.Linear(*kernel.shape, use_bias=False, dtype=kernel.dtype, rngs=nnx.Rngs(0))
        )
        layer.kernel = nnx.Param(kernel)
        return layer

    def block(x: jax.Array, w: Weights) -> jax.Array:
        hidden = [linear(k)(x) for k in w["w_in"]]
        if case.variant == "gelu":
            return linear(w["w_out"])(nnx.gelu(*hidden, approximate=False))
        return linear(w["w_out"])(nnx.silu(hidden[0]) * hidden[1])

    return block


@cache
def tokamax_glu(case: Case) -> dict[str, Block]:
    """tokamax's `gated_linear_unit` by each of its backends that takes the case, where tokamax is
    installed and the block is gated."""
    try:
        import tokamax
    except ImportError:
        return {}

    def block(backend: str, x: jax.Array, w: Weights) -> jax.Array:
        gated = tokamax.gated_linear_unit(
            x, tuple(w["w_in"]), activation=jax.nn.silu, implementation=backend
        )
        return gated @ w["w_out"]

    if case.variant != "swiglu":
        return {}
    backends = BACKENDS[:1] if jax.default_backend() == "cpu" else BACKENDS
    named = {f"tokamax {version('tokamax')} {name}": partial(block, name) for name in backends}
    return {name: block for name, block in named.items() if _compiles(case, block)}


def _compiles(case: Case, block: Block) -> bool:
    x, w, dy = jax.eval_shape(partial(arrays, case))
    try:
        if case.backward:
            jax.jit(with_gradients(block)).lower(x, w, dy).compile()
        else:
            jax.jit(block).lower(x, w).compile()
    except Exception as error:  # each backend has its own ways to refuse
        print(f"{block}: {error}".partition("\n")[0], file=sys.stderr)
        return False
    return True


def floor(case: Case) -> Callable[..., Any]:
    """The same matmuls alone, forward or forward and backward, with nothing between them."""

    def forward(x: jax.Array, w: Weights) -> Any:
        # every product is returned, so that none can be left out
        x = x.reshape(-1, x.shape[-1])
        ps = [x @ k for k in w["w_in"]]
        return ps[0] @ w["w_out"], ps[1:]

    def both(x: jax.Array, w: Weights, dy: jax.Array) -> Any:
        x, dy = (a.reshape(-1, a.shape[-1]) for a in (x, dy))
        ps = [x @ k for k in w["w_in"]]
        # a cotangent for each branch, of distinct values, so that no two products are one
        dps = [dy @ w["w_out"].T, *ps[1:]]
        dx = sum(dp @ k.T for k, dp in zip(w["w_in"], dps, strict=True))
        return ps[0] @ w["w_out"], dx, ps[0].T @ dy, [x.T @ dp for dp in dps]

    return both if case.backward else forward


class Seconds(NamedTuple):
    """How long one run took, by the wall and on all CPU threads together."""

    wall: float
    cpu: float


Runner = Callable[[], Seconds]


def timed(f: Callable[..., Any], *args: Any) -> Seconds:
    """One call; on an accelerator the mean of ten, queued one behind the other."""
    calls = 1 if jax.default_backend() == "cpu" else 10
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(calls):
        result = f(*args)
    jax.block_until_ready(result)
    return Seconds((time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls)


def pass_seconds(case: Case) -> float:
    """The time to read the branches and write the product and, backward, to read the branches and
    the product's cotangent and write the branches' cotangents and the product again."""
    n = len(gj.branches(case.variant))
    tensors = n + 1 + (2 * n + 2 if case.backward else 0)
    size = case.shape.tokens * case.d_ff * jnp.dtype(case.dtype).itemsize
    return tensors * size / copy_bandwidth()


@cache
def copy_bandwidth() -> float:
    """Bytes a second, read and written, of an elementwise pass over 512 MiB."""
    x = jnp.ones(1 << 28, jnp.bfloat16)
    copy = jax.jit(lambda x: -x)
    return 2 * x.nbytes / min(timed(copy, x).wall for _ in range(5))


def with_gradients(block: Block) -> Callable[..., Any]:
    def both(x: jax.Array, w: Weights, dy: jax.Array) -> Any:
        y, pull = jax.vjp(block, x, w)
        return y, pull(dy)

    return both


def arrays(case: Case) -> tuple[jax.Array, Weights, jax.Array]:
    d, f, n = case.shape.d_model, case.d_ff, len(gj.branches(case.variant))
    keys = iter(jax.random.split(jax.random.key(0), n + 3))

    def draw(*shape: int, std: float) -> jax.Array:
        return (std * jax.random.normal(next(keys), shape)).astype(case.dtype)

    w_in = [draw(d, f, std=d**-0.5) for _ in range(n)]
    w = {"w_in": w_in, "w_out": draw(f, d, std=f**-0.5)}
    tokens = case.shape.batch, case.shape.length, d
    return draw(*tokens, std=1.0), w, draw(*tokens, std=1.0)


def blocks(case: Case) -> dict[str, Block]:
    found = {
        "ours": ours(case),
        "ours, residuals=input": ours(case, residuals="input"),
        "ours, residuals=all": ours(case, residuals="all"),
        "ours, float8 residuals": ours(case, residual_dtype="float8_e4m3fn"),
        "ours, input, chunks of 1024": ours(case, residuals="input", chunk_size=1024)
        if case.shape.tokens > 1024
        else None,
        "jax.nn": plain(case),
        "flax nnx.Linear": flax_linear(case),
        **tokamax_glu(case),
    }
    # without a backward pass the residual choices are one program
    return {
        name: block for name, block in found.items()
        if block is not None and (case.backward or not name.startswith("ours,"))
    }  # fmt: skip


def kept(case: Case, block: Block) -> float:
    """In tensors of d_ff entries a token; of the width's own blocks, over the tokens of 4096."""
    like = partial(jax.tree.map, lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype))
    _, w, _ = jax.eval_shape(lambda: arrays(case))
    x = jax.ShapeDtypeStruct((8, 512, case.shape.d_model), case.dtype)
    size = measured_bytes_kept(lambda x, w, _: x + block(x, w), x, like(w))
    return size / (4096 * case.d_ff * jnp.dtype(case.dtype).itemsize)


def jax_runners(case: Case) -> dict[str, Runner]:
    x, w, dy = arrays(case)
    args = (x, w, dy) if case.backward else (x, w)

    def runner(f: Callable[..., Any]) -> Runner:
        return partial(timed, jax.jit(f).lower(*args).compile(), *args)

    wrap = with_gradients if case.backward else lambda block: block
    named = {name: runner(wrap(block)) for name, block in blocks(case).items()}
    matmuls = runner(floor(case))
    if jax.default_backend() == "cpu":
        return named | {FLOOR: matmuls}
    between = pass_seconds(case)

    def floored() -> Seconds:
        alone = matmuls()
        return Seconds(alone.wall + between, alone.cpu)

    return named | {FLOOR: floored}


class Torch:
    """The second process: asked for one run at a time, it answers with the seconds it took."""

    def __init__(self, python: str):
        worker = Path(__file__).with_name("ffn_torch.py")
        # a passive wait, so that torch's threads do not spin while JAX is measured
        self.process = subprocess.Popen(
            [python, worker],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": ""},
        )

    def ask(self, **question: Any) -> Any:
        assert self.process.stdin
        assert self.process.stdout
        print(json.dumps(question), file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline())

    def runners(self, case: Case) -> dict[str, Runner]:
        settings = [*case.shape[:3], case.d_ff, case.variant, case.dtype, case.backward]
        names = self.ask(prepare=settings)

        def run(name: str) -> Seconds:
            return Seconds(*self.ask(run=name))

        return {f"torch {name}": partial(run, name) for name in names}

    def kept(self, case: Case) -> float:
        size = self.ask(kept=True) / jnp.dtype(case.dtype).itemsize
        return size / (case.shape.tokens * case.d_ff)

    def close(self) -> None:
        self.process.stdin.close() if self.process.stdin else None
        self.process.wait()


def measure(case: Case, runners: dict[str, Runner], seconds: float) -> Iterator[dict[str, Any]]:
    for run in runners.values():
        run(), run()
    once = sum(run().wall for run in runners.values())
    rounds = max(7, min(101, int(seconds / once)))
    times: dict[str, list[Seconds]] = {name: [] for name in runners}
    order = list(runners)
    for _ in range(rounds):
        for name in order:
            times[name].append(runners[name]())
        order = order[1:] + order[:1]
    for name in times:
        row = {**case_facts(case), "name": name, "rounds": rounds}
        for clock in Seconds._fields:
            own, ours, floor = (
                [getattr(run, clock) for run in times[key]] for key in (name, "ours", FLOOR)
            )
            low, middle, high = quantiles([a / b for a, b in zip(ours, own, strict=True)], n=4)
            row[clock] = {
                "milliseconds": 1e3 * median(own),
                "ours_to_this": middle,
                "quartiles": [low, high],
                "this_to_floor": median(a / b for a, b in zip(own, floor, strict=True)),
            }
        yield row


def case_facts(case: Case) -> dict[str, Any]:
    names = {"variant": case.variant, "dtype": case.dtype, "backward": case.backward}
    return {**case.shape._asdict(), "width": case.d_ff, **names}


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def machine() -> dict[str, Any]:
    device = jax.devices()[0]
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return {
        "device": models[0] if device.platform == "cpu" else device.device_kind,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: version(name) for name in ("jax", "jaxlib", "flax", "tokamax")},
        "commit": commit.stdout.strip(),
        "date": time.strftime("%Y-%m-%d"),
    }


def markdown(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    lines = [
        ", ".join(f"{name} {value}" for name, value in facts.items()),
        "",
        "`ours ÷ this` under 1: ours is faster (median of the paired rounds, quartiles).",
    ]
    last = None
    for row in rows:
        keys = ("variant", "dtype", "backward", "batch", "length", "d_model", "width")
        case = [row[key] for key in keys]
        if case != last:
            last = case
            lines += heading(*case, row["rounds"])
        wall, cpu, held = row["wall"], row["cpu"], row.get("kept")
        low, high = wall["quartiles"]
        cells = [
            row["name"],
            f"{wall['milliseconds']:.2f}",
            f"{wall['ours_to_this']:.3f} ({low:.2f}–{high:.2f})",
            f"{wall['this_to_floor']:.2f}",
            f"{cpu['ours_to_this']:.3f}",
            f"{cpu['this_to_floor']:.2f}",
            "" if held is None else f"{held:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def heading(
    variant: str,
    dtype: str,
    backward: bool,
    batch: int,
    length: int,
    d_model: int,
    width: int,
    rounds: int,
) -> list[str]:
    passes = "forward and backward" if backward else "forward"
    return [
        "",
        f"**{variant}, {dtype}, {passes}**: x ({batch}, {length}, {d_model}), d_ff {width}, "
        f"{rounds} rounds",
        "",
        "| implementation | ms | ours ÷ this | this ÷ floor | ours ÷ this, CPU time "
        "| this ÷ floor, CPU time | kept (F) |",
        "|---|---|---|---|---|---|---|",
    ]


@dataclass(frozen=True)
class Args:
    """Which shapes, and where the result goes."""

    out: Path
    shapes: str = "cpu"
    torch: str | None = None
    seconds: float = 6.0
    """Time to spend on the rounds of one case."""
    only: str = ""
    """Only the cases whose text holds this, as in float32."""


def main(args: Args) -> None:
    cases = [
        Case(shape, variant, dtype, backward)
        for shape in SHAPES[args.shapes]
        for dtype in DTYPES
        for variant in VARIANTS
        for backward in (False, True)
    ]
    torch = Torch(args.torch) if args.torch else None
    facts = machine() | ({"torch": torch.ask(version=True)} if torch else {})
    rows: list[dict[str, Any]] = []
    for case in (case for case in cases if args.only in str(case)):
        runners = jax_runners(case) | (torch.runners(case) if torch else {})
        found = list(measure(case, runners, args.seconds))
        for row in found if case.backward else ():
            name = row["name"]
            if name in blocks(case):
                row["kept"] = kept(case, blocks(case)[name])
            elif name == "torch eager" and torch:
                row["kept"] = torch.kept(case)
        rows += found
        args.out.with_suffix(".json").write_text(
            json.dumps({"facts": facts, "rows": rows}, indent=1)
        )
        args.out.with_suffix(".md").write_text(markdown(facts, rows))
        print(markdown(facts, found), flush=True)
    if torch:
        torch.close()


if __name__ == "__main__":
    arguments = tyro.cli(Args)
    sys.argv[1:] = []  # tokamax takes what stands there for flags of its own
    sys.exit(main(arguments))
