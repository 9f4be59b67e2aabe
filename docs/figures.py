"""Every figure on the site: tables and values made from benchmarks/results, none of them typed.

`hooks.py` hands these functions to the pages, where `{{ wrong_counts() }}` stands for a table.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any

from gelu_jax.compare.analysis import Analysis, analyze
from gelu_jax.compare.climb import read_ladder
from gelu_jax.compare.ladder_analysis import LadderAnalysis, analyze_ladder
from gelu_jax.compare.records import Run, read_results
from gelu_jax.report.ladder_tables import laws_table, rungs_table, speed_up_table
from gelu_jax.report.ladder_verdict import ladder_verdict
from gelu_jax.report.tables import contrasts_table, rates_table, results_table
from gelu_jax.report.verdict import Verdict, verdict
from gelu_jax.report.wording import duration, listed

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


@cache
def result(name: str) -> Any:
    """The content of benchmarks/results/<name>.json."""
    return json.loads((RESULTS / f"{name}.json").read_text())


@cache
def analysis(name: str) -> Analysis:
    """The analysis of the comparison in benchmarks/results/<name>."""
    return analyze(read_results(RESULTS / name))


@cache
def ladder_analysis(name: str) -> LadderAnalysis:
    """The analysis of the ladder in benchmarks/results/<name>."""
    return analyze_ladder(read_ladder(RESULTS / name)[1])


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1) -> str:
    """A Markdown table whose first columns are words, and the others numbers, which line up."""
    rule = ["---"] * words + ["---:"] * (len(header) - words)
    lines = (header, rule, *rows)
    return "\n".join(f"| {' | '.join(line)} |".replace("\n", "<br>") for line in lines)


def measured_on(name: str) -> str:
    """Where and when a file of results was measured."""
    found = result(name)
    facts = found.get("environment") or found.get("facts") or found
    torch = f", torch {facts['torch'].partition('+')[0]}" if "torch" in facts else ""
    date = f", {facts['date'][:10]}" if "date" in facts else ""
    commit = facts["commit"].removesuffix("-dirty")[:12]
    return f"{facts['device']}, jax {facts['jax']}{torch}, commit {commit}{date}"


# Comparisons


def comparison(name: str) -> str:
    """The picture, the table and the verdict of a comparison, and where it was run."""
    return "\n\n".join([picture(name), arms(name), verdict_box(name), provenance(name)])


def picture(name: str) -> str:
    """The curves of a comparison, and in full size on a click; `hooks.py` puts the file there."""
    path = f"results/{name}/curves.png"
    return f"[![The curves of {name}]({path}){{ .curves }}]({path})"


def arms(name: str) -> str:
    """The table of a comparison, an arm in each row."""
    return results_table(analysis(name)).markdown()


def verdict_box(name: str) -> str:
    """The verdict as `gelu-jax compare` prints it: the headline, then a line for each sentence."""
    return _box(verdict(analysis(name)))


def _box(found: Verdict) -> str:
    lines = filter(None, (*found.sentences, found.order, *found.notes))
    items = (line.replace("<", "&lt;").replace("_", "\\_") for line in lines)
    return "\n".join([f'!!! abstract "{found.headline}"', *(f"    - {item}" for item in items)])


def provenance(name: str) -> str:
    """How many runs a comparison has, how long they took, and where."""
    found = analysis(name)
    compiling = sum(arm.compile_seconds for arm in found.arms)
    return _provenance(found.comparison.runs, compiling, found.comparison.environment)


def _provenance(runs: Sequence[Run], compiling: float, where: Mapping[str, str]) -> str:
    seconds = sum(run.seconds[-1] for run in runs if run.seconds) + compiling
    return (
        f"{len(runs)} runs, {duration(seconds)} of training and compiling; {where['device']}, "
        f"jax {where['jax']}, commit {where['commit'].removesuffix('-dirty')}."
    )


def ladder(name: str) -> str:
    """The picture, the tables and the verdict of a ladder, and where it was run."""
    found = ladder_analysis(name)
    runs = [run for rung in found.rungs for run in rung.comparison.runs]
    compiling = sum(arm.compile_seconds for rung in found.rungs for arm in rung.arms)
    where = found.rungs[0].comparison.environment
    speed_ups, *tables = (
        _unbroken(each.markdown())
        for each in (speed_up_table(found), laws_table(found), rungs_table(found))
    )
    said = (
        "The intervals of mean and slope in FLOPs hold for all of them together, as the verdict "
        "does; every other interval holds by itself."
    )
    return "\n\n".join([
        picture(name), _box(ladder_verdict(found)), speed_ups, said, *tables,
        _provenance(runs, compiling, where),
    ])  # fmt: skip


def _unbroken(text: str) -> str:
    """A table whose "1.16 ×" and "1.10 to 1.23" do not break on a phone, which scrolls it."""
    return re.sub(r"(?<=[\dk])[ ](?=×|to )|(?<=to|at) (?=[+−\d])", "\u00a0", text)


def rates(name: str) -> str:
    """The mean final loss of each arm at each learning rate that was tried."""
    return rates_table(analysis(name)).markdown()


def contrasts(name: str) -> str:
    """What the design of a comparison can detect, and each speed-up in FLOPs and in seconds."""
    return contrasts_table(analysis(name)).markdown()


def detectable(name: str) -> str:
    """The least and the greatest minimum detectable difference of a comparison's contrasts."""
    found = analysis(name)
    limits = sorted(contrast.detectable for contrast in found.contrasts)
    low, high = (f"{limit:.{found.decimals - 1}f}" for limit in (limits[0], limits[-1]))
    return f"{low} to {high} {found.comparison.unit}"


def step_ratios(name: str) -> str:
    """The time of a step of each arm but the first over that of the first."""
    first, *others = (arm.seconds_per_step for arm in analysis(name).arms)
    return listed([f"{seconds / first:.1f}" for seconds in others])


def health(name: str, what: str, form: str = ".0%", arms: Sequence[str] = ()) -> str:
    """One statistic of the last evaluation, its mean over the reported seeds: arms × layers."""
    found = analysis(name).comparison
    rows = []
    for arm in arms or [arm.name for arm in found.arms]:
        layers = zip(*(run.health[what][-1] for run in found.runs_of(arm)), strict=True)
        rows.append([arm, *(f"{sum(v) / len(v):{form}}" for v in layers)])
    return table(["arm", *(f"layer {i}" for i in range(1, len(rows[0])))], rows)


# Activations


def wrong_counts(*functions: str) -> str:
    """Values / derivatives that are not the true result correctly rounded, of 65,536 inputs."""
    cells = {
        (r["function"], r["dtype"], r["source"]): (
            f"{r['wrong_values']:,}\u00a0/\u00a0{r['wrong_derivatives']:,}"
        )
        for r in result("numerics_16bit")["rows"]
    }
    columns = [(d, s) for d in ("float16", "bfloat16") for s in ("gelu_jax", "jax.nn", "torch")]
    rows = [
        [f"`{function}`", *(cells.get((function, *column), "–") for column in columns)]
        for function in functions or dict.fromkeys(key[0] for key in cells)
        if functions or any((function, *c) in cells for c in columns if c[1] != "gelu_jax")
    ]
    return table(["function", *(f"{d}\n{s}" for d, s in columns)], rows)


def nans(function: str, dtype: str, source: str) -> str:
    """NaN among the values and derivatives at the 16-bit inputs that are not NaN."""
    (row,) = (
        r
        for r in result("numerics_16bit")["rows"]
        if (r["function"], r["dtype"], r["source"]) == (function, dtype, source)
    )
    return f"{row['nans']:,}"


@cache
def _float32() -> list[dict[str, Any]]:
    lines = (RESULTS / "exhaustive_float32.jsonl").read_text().splitlines()
    return sorted(map(json.loads, lines), key=lambda row: row["function"])


def float32_errors() -> str:
    """The largest error of every function over all 2³² float32 inputs, in ulp."""
    return table(
        ["function", "value, ulp", "derivative, ulp"],
        [
            [f"`{r['function']}`", *(f"{r[k]['worst']:.2f}" for k in _ERRORS)]
            for r in _float32()
        ],
    )  # fmt: skip


_ERRORS = ("value ulp", "derivative ulp")


def float32_worst() -> str:
    """The largest of those errors."""
    return f"{max(row[key]['worst'] for row in _float32() for key in _ERRORS):.2f}"


def activation_times(*functions: str) -> str:
    """Time over that of jax.nn, forward and gradient, by dtype."""
    ratios = {
        (r["function"], r["dtype"], r["what"]): r["ratio"] for r in result("activations")["rows"]
    }
    dtypes = ("float32", "bfloat16", "float16")
    rows = [
        [f"`{f}`", *(f"{ratios[f, d, w]:.2f}" for d in dtypes for w in ("forward", "gradient"))]
        for f in functions or dict.fromkeys(key[0] for key in ratios)
    ]
    return table(
        ["function", *(f"{d}\n{w}" for d in dtypes for w in ("forward", "gradient"))], rows
    )


def vector_instructions() -> str:
    """Vector instructions for each vector of float32 results: ours, and those of jax.nn."""
    found = {(r["function"], r["what"]): r for r in result("instructions")["rows"]}
    return table(
        ["function", "forward", "`jax.nn`", "gradient", "`jax.nn`"],
        [
            [f"`{f}`", *(f"{found[f, w][whose]:.0f}" for w in ("forward", "gradient")
             for whose in ("ours", "jax.nn"))]
            for f in dict.fromkeys(key[0] for key in found)
        ],
    )  # fmt: skip


def activation_target() -> str:
    """The share of those ratios that are within the target."""
    rows = result("activations")["rows"]
    return f"{sum(r['ratio'] <= r['limit'] for r in rows)} of {len(rows)}"


# The feed-forward block


def residuals() -> str:
    """Tensors of d_ff entries a token that a block keeps for its backward pass, scanned layers."""
    rows = result("ffn_residuals")["rows"]
    names = {
        "ours": '`residuals="preactivation"`, the default',
        "ours, float8 residuals": '`residual_dtype="float8_e4m3fn"`',
        "ours, residuals=input": '`residuals="input"`',
        "ours, residuals=all": '`residuals="all"`',
        "jax.nn": "`jax.nn` code, as a user writes it",
        "flax nnx.Linear": "flax `nnx.Linear`",
    }
    columns = [f"{v} {d} scan" for v in ("swiglu", "gelu") for d in ("float32", "bfloat16")]

    def cells(row: dict[str, float]) -> list[str]:
        return [f"{row[c]:.2f}" if c in row else "–" for c in columns]

    return table(
        ["block", *(c.removesuffix(" scan").replace(" ", "\n") for c in columns)],
        [[names.get(name, name), *cells(row)] for name, row in (*rows.items(), _torch_eager())],
    )


def _torch_eager() -> tuple[str, dict[str, float]]:
    found = result("ffn_cpu")
    kept = {
        f"{r['variant']} {r['dtype']} scan": r["kept"]
        for r in found["rows"]
        if r["name"] == "torch eager" and "kept" in r
    }
    return f"torch {found['facts']['torch'].partition('+')[0]}, eager", kept


def block_times(name: str = "ffn_cpu") -> str:
    """CPU time of the block, forward and backward, over that of others: the range of all shapes."""
    rows = [r for r in result(name)["rows"] if r["backward"] and not r["name"].startswith("ours")]
    dtypes = list(dict.fromkeys(r["dtype"] for r in rows))
    names = {"floor": "the matmuls alone", "jax.nn": "`jax.nn` code"}

    def span(other: str, dtype: str) -> str:
        found = [
            r["cpu"]["ours_to_this"] for r in rows if (r["name"], r["dtype"]) == (other, dtype)
        ]
        return f"{min(found):.2f} to {max(found):.2f}"

    return table(
        ["compared with", *dtypes],
        [[names.get(o, o), *(span(o, d) for d in dtypes)] for o in dict.fromkeys(
            r["name"] for r in rows
        )],
    )  # fmt: skip


def choice_times() -> str:
    """Time of each residual choice over the default's, forward and backward, 4,096 tokens."""
    rows = [r for r in result("ffn_cpu_long")["rows"] if r["backward"]]
    ours = list(dict.fromkeys(r["name"] for r in rows if r["name"].startswith("ours")))
    variants = list(dict.fromkeys(r["variant"] for r in rows))
    time = {(r["name"], r["variant"]): 1 / r["cpu"]["ours_to_this"] for r in rows}
    return table(
        ["choice", *variants], [[o, *(f"{time[o, v]:.2f}" for v in variants)] for o in ours]
    )


def attention_times() -> str:
    """Attention on a CPU beside jax.nn: times, and what each of them needs for a token."""
    found = result("attention_cpu")

    def row(shape: list[Any], pass_: str, times: dict[str, dict[str, float]]) -> list[str]:
        *sizes, window = shape
        named = f"({', '.join(map(str, sizes))})" + (f", window {window}" if window else "")
        ours, theirs = times["ours"]["milliseconds"], times["jax.nn"]["milliseconds"]
        return [named, pass_, f"{ours:,.1f} ms", f"{theirs:,.1f} ms",
                f"{times['jax.nn']['ours_to_this']:.2f}"]  # fmt: skip

    return table(
        ["(b, t, heads, head width)", "pass", "ours", "`jax.nn`", "ours over it"],
        [row(r["shape"], p, r[p]) for r in found["times"] for p in ("forward", "gradient")],
        words=2,
    )


def attention_memory() -> str:
    """Temporary bytes of attention's gradient for each token, by length."""
    found = result("attention_cpu")["memory"]
    lengths = list(found["ours"])
    cells = [[f"{v[t]:,.0f}" if t in v else "–" for t in lengths] for v in found.values()]
    return table(
        ["temporary bytes a token", *(f"{int(t):,} tokens" for t in lengths)],
        [[name.replace("jax.nn", "`jax.nn`"), *c] for name, c in zip(found, cells, strict=True)],
    )


def sparse_decoding() -> str:
    """One token through a block most of whose hidden units are zero, by share of zeros."""
    rows = result("sparse_decode")["rows"]
    names = {"block": "one branch", "gated block": "two branches"}
    shares = list(dict.fromkeys(r["zeros"] for r in rows))
    found = {(r["part"], r["dtype"], r["zeros"]): r for r in rows if r["program"] == "active_units"}
    return table(
        ["block", "dtype", *(f"{share:.0%} zeros" for share in shares)],
        [
            [names[part], dtype, *(f"{found[part, dtype, s]['speed_up']:.2f} ×" for s in shares)]
            for part, dtype in dict.fromkeys(key[:2] for key in found)
        ],
        words=2,
    )


def serving() -> str:
    """Embeddings and decoding beside the libraries that they come from."""
    names = {
        "embeddings": "256 texts, a BERT of MiniLM's shape; sentence-transformers",
        "decoding": "64 tokens after 32, a LLaMA of 12 layers, 768 wide; transformers",
    }
    rows = [
        [
            names[task],
            *(f"{found['per_second'][side]:,.0f} {found['unit']}" for side in ("ours", "theirs")),
            f"{found['ratio']:.2f} ×",
            f"{found['first_call_seconds']['ours']:.1f} s",
        ]
        for task, found in result("serving")["rows"].items()
    ]
    header = ["", "here, per second", "there, per second", "as fast", "first call here"]
    return table(header, rows)


def mixture_times() -> str:
    """A mixture beside a dense block of the same active FLOPs, and other ways to compute it."""
    found = result("moe")
    ways = list(found["forward"])

    def cell(times: dict[str, float], way: str) -> str:
        return f"{times[way]:,.0f} ms, {times[way] / times['dense']:.2f} ×"

    return table(
        ["", "forward", "with the gradient", "kept"],
        [
            [way, cell(found["forward"], way), cell(found["gradient"], way),
             f"{found['kept'][way]:.1f} F" if way in found["kept"] else "–"]
            for way in ways
        ],
    )  # fmt: skip


def step_memory() -> str:
    """Memory of a whole training step by residual choice."""
    rows = result("accelerator_memory_cpu")["bytes"]
    return table(
        ["block", "memory of a step, GB"],
        [[name, f"{(r['held'] + r['temporary']) / 1e9:.0f}"] for name, r in rows.items()],
    )


# Training, data, loading, scaling


def training() -> str:
    """A training step of two sizes: ours, torch, flax's layers and the matrix products alone."""
    sizes = result("training")["sizes"]
    torch = next(iter(sizes.values()))["torch"].partition("+")[0]
    names = {
        "ours": "ours",
        "flax nnx": "the same from flax.nnx's layers",
        "torch eager": f"nanoGPT's model in torch {torch}, eager",
        "torch compiled": f"nanoGPT's model in torch {torch}, compiled",
        "floor": "the matrix products alone",
    }

    def cell(size: dict[str, Any], name: str) -> str:
        times = f"{size['milliseconds_per_step'][name]:,.1f} ms"
        return times if name == "ours" else f"{times}, {size['times_faster'][name]:.2f} × ours"

    rows = [[names[name], *(cell(s, name) for s in sizes.values())] for name in names]
    return table(["a step", *sizes], rows)


def step_parts() -> str:
    """Where the time of a training step goes, by a profile."""
    sizes = result("training")["sizes"].values()
    parts = dict.fromkeys(part for size in sizes for part in size["profile"])
    rows = [[part, *(f"{size['profile'].get(part, 0):.0%}" for size in sizes)] for part in parts]
    return table(["share of a step", *result("training")["sizes"]], rows)


def loop() -> str:
    """What a run costs beside its steps."""
    found = result("training")
    depths = ", ".join(f"{n} layers {s:.1f} s" for n, s in found["compile_seconds"].items())
    return table(
        ["what", "measured"],
        [
            ["share of `byte_lm`'s loop that the host takes", f"{found['host_share']:.1%}"],
            ["compiling a run", depths],
            ["share of a step that reading tokens from disk takes", _percent(result("data"))],
        ],
    )


def _percent(data: dict[str, Any]) -> str:
    return f"{data['host_share_streamed']:.1%}"


def sweep() -> str:
    """Many runs: a process each, in one process, and by workers."""
    found = result("sweep")["sweep"]
    alone = found["alone_seconds_in_all"]
    rows = [[f"{found['runs']} runs, a process each", f"{alone:.0f} s", "1.00"]]
    for how, seconds in found["sweep_seconds"].items():
        rows.append([f"one sweep, {how}", f"{seconds:.0f} s", f"{seconds / alone:.2f}"])
    return table(["how", "time", "relative"], rows)


def checkpointing() -> str:
    """What a checkpoint costs the loop, written while it waits and in the background."""
    hows = ("waiting", "in the background")
    rows = []
    for row in result("checkpointing")["rows"]:
        costs = [median(r[how][0] - r["never"][0] for r in row["rounds"]) for how in hows]
        size = f"{row['megabytes']:.0f} MB"
        rows.append([row["size"], size, *(f"{1000 * cost:.0f} ms" for cost in costs)])
    return table(["model", "state", "the loop waits", "in the background"], rows)


def loading() -> str:
    """Loading weights: peak memory over the size of the weights, and seconds."""
    return table(
        ["stored → loaded", "weights, GB", "peak ÷ weights", "seconds"],
        [
            [name, f"{c['bytes'] / 1e9:.2f}", f"{c['ratio']:.2f}", f"{c['seconds']:.1f}"]
            for name, c in result("loading")["cases"].items()
        ],
    )


def scaling() -> str:
    """What one of 1 to 8 devices computes, holds and sends in a step, by axis of the mesh."""
    rows = []
    for axis, by_devices in result("scaling")["rows"].items():
        alone = by_devices["1"]["flops"]
        for devices, r in by_devices.items():
            planned = r["planned"] / (2 * r["state"] + r["temporary"])  # it is there twice
            sizes = [f"{r[key] / 1e6:.1f}" for key in ("state", "temporary", "sent")]
            rows.append([axis, devices, f"{r['flops'] / alone:.3f}", *sizes, f"{planned:.2f}"])
    header = [
        "axis", "devices", "FLOPs of one\n÷ alone", "state, MB", "temporary, MB", "sent, MB",
        "memory planned\n÷ compiled",
    ]  # fmt: skip
    return table(header, rows)


def parity() -> str:
    """The largest difference to transformers, by fixture."""
    return table(
        ["model_type", "fixture", "feed-forward", "compared", "largest difference"],
        [
            [
                f"`{r['model_type']}`",
                f"`{r['case']}`",
                r["variant"],
                ", ".join(r["compared"]),
                _short(r),
            ]
            for r in result("parity")["rows"]
        ],
        words=4,
    )


def _short(row: dict[str, Any]) -> str:
    return f"{row['difference']:.1e}".replace("e-0", "e-")
