"""The config reader: YAML to dataclasses and back, and one clear line for everything wrong."""

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from gelu_jax.errors import ConfigError, Problem, check, nearest
from gelu_jax.training.config import from_dict, read_config, to_dict, write_config
from gelu_jax.training.document import load

# --- Dataclasses shaped like those of the lower floors ----------------------------------------

VARIANTS = ("gelu", "relu", "swiglu")


@dataclass(frozen=True)
class Norm:
    d_model: int
    kind: Literal["layer", "rms"] = "rms"
    epsilon: float = 1e-6
    dtype: str = "float32"


@dataclass(frozen=True)
class Attention:
    d_model: int
    num_heads: int
    rotary: Norm | None = None
    dtype: jax.typing.DTypeLike = "float32"

    def __post_init__(self) -> None:
        if self.d_model % self.num_heads:
            reason = f"must divide d_model = {self.d_model}"
            raise ConfigError([Problem("num_heads", self.num_heads, reason)])


@dataclass(frozen=True)
class FeedForward:
    d_model: int
    d_ff: int
    variant: str | tuple[str | Callable[..., Any], ...] = "gelu"
    use_bias: bool = False
    dtype: Any = "float32"

    def __post_init__(self) -> None:
        problems: list[Problem] = []
        if isinstance(self.variant, str) and self.variant not in VARIANTS:
            reason = f"unknown variant; {nearest(self.variant, VARIANTS)}"
            problems.append(Problem("variant", self.variant, reason))
        if self.d_ff < 1:
            problems.append(Problem("d_ff", self.d_ff, "must be at least 1"))
        if self.dtype not in ("float32", "bfloat16"):
            problems.append(Problem("dtype", self.dtype, "unknown dtype"))
        check(problems)


@dataclass(frozen=True)
class Block:
    norm: Norm
    attention: Attention
    feed_forward: FeedForward


@dataclass(frozen=True)
class Transformer:
    d_model: int
    block: Block
    final_norm: Norm | None = None
    num_layers: int = 2
    kind: Literal["transformer"] = "transformer"


@dataclass(frozen=True)
class MLP:
    widths: tuple[int, ...]
    feed_forward: FeedForward = FeedForward(8, 32, "swiglu")
    kind: Literal["mlp"] = "mlp"


@dataclass(frozen=True)
class Optimizer:
    name: Literal["adam", "adamw", "sgd"] = "adamw"
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float | None = None


@dataclass(frozen=True)
class Arm:
    variant: str
    scales: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    model: Annotated[Transformer | MLP, Field(discriminator="kind")]
    steps: int
    name: str = "run"
    optimizer: Optimizer = Optimizer(name="sgd", learning_rate=0.1)
    seeds: tuple[int, ...] = (0, 1, 2)
    arms: tuple[Arm, ...] = ()
    named: dict[str, Arm] = field(default_factory=dict)
    quick: bool = False
    output: Path | None = None


GOOD = """\
# a comment
steps: 100
model:
  kind: transformer
  d_model: 64
  dtype: bfloat16
  num_layers: 2
  block:
    attention: {num_heads: 4}
    feed_forward:
      d_ff: 256
      variant: swiglu
optimizer:
  learning_rate: 1e-3
"""


def read(tmp_path: Path, text: str | bytes, *overrides: str) -> Run:
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config(path, Run, overrides)


def refusal(function: Callable[[], Any]) -> ConfigError | None:
    """What a config is refused with, if it is."""
    try:
        function()
    except ConfigError as error:
        return error
    return None


def lines(tmp_path: Path, text: str | bytes, *overrides: str) -> list[str]:
    """The lines of the error, with the folder left out."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text, *overrides)
    return str(caught.value).replace(f"{tmp_path}/", "").split("\n")


# --- What is read ---------------------------------------------------------------------------


def test_parts_inherit_what_the_model_sets(tmp_path: Path) -> None:
    d, dtype = 64, "bfloat16"
    block = Block(
        Norm(d, dtype=dtype),
        Attention(d, 4, dtype=dtype),
        FeedForward(d, 256, "swiglu", dtype=dtype),
    )
    optimizer = Optimizer("sgd", 1e-3)
    assert read(tmp_path, GOOD) == Run(Transformer(d, block), 100, optimizer=optimizer)


def test_the_nearest_setting_wins(tmp_path: Path) -> None:
    run = read(
        tmp_path,
        GOOD,
        "model.block.dtype=float32",
        "model.block.norm.dtype=float16",
        "model.block.norm.kind=layer",
        "model.final_norm={}",
    )
    assert isinstance(run.model, Transformer)
    assert run.model.block.norm == Norm(64, "layer", dtype="float16")
    assert run.model.block.feed_forward.dtype == run.model.block.attention.dtype == "float32"
    assert run.model.final_norm == Norm(64, dtype="bfloat16")


def test_only_the_model_passes_keys_on(tmp_path: Path) -> None:
    assert lines(tmp_path, GOOD + "learning_rate: 3\n") == [
        "x.yaml:15: learning_rate: unknown key; did you mean optimizer.learning_rate?"
    ]


def test_a_section_keeps_the_defaults_of_its_holder(tmp_path: Path) -> None:
    run = read(tmp_path, "steps: 1\nmodel: {kind: mlp, widths: [8], use_bias: true}\noptimizer:")
    assert run.optimizer == Optimizer("sgd", 0.1)
    assert run.model == MLP((8,), FeedForward(8, 32, "swiglu", use_bias=True))


def test_optional_sections_stay_out_unless_written(tmp_path: Path) -> None:
    model = read(tmp_path, GOOD).model
    assert isinstance(model, Transformer)
    assert model.final_norm is None
    assert model.block.attention.rotary is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("1E3", 1e3),
        ("1.", 1.0),
        (".5", 0.5),
        ("3", 3.0),
        ("010", 10.0),
        ("0x10", 16.0),
        ("0o10", 8.0),
        (".inf", math.inf),
        ("-.INF", -math.inf),
        ("~", None),
        ("", None),
        ("null", None),
    ],
)
def test_numbers_of_yaml_1_2(tmp_path: Path, text: str, value: float | None) -> None:
    clip = read(tmp_path, GOOD + f"  clip: {text}\n").optimizer.clip
    assert clip == value
    assert type(clip) is type(value)


@pytest.mark.parametrize(
    "text",
    ["on", "off", "yes", "No", "y", "1_000", "12:30:45", "2026-01-01", ".nan", "0b1", "<<", "="],
)
def test_these_stay_strings(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, GOOD + f"name: {text}\n").name == text
    assert read(tmp_path, GOOD, f"name={text}").name == text


@pytest.mark.parametrize("text", ["true", "True", "TRUE"])
def test_booleans(tmp_path: Path, text: str) -> None:
    assert read(tmp_path, GOOD + f"quick: {text}\n").quick is True


def test_collections_of_sections(tmp_path: Path) -> None:
    text = "arms: [{variant: relu}, {variant: gelu, scales: {a: 1}}]\nnamed: {x: {variant: relu}}\n"
    run = read(tmp_path, GOOD + text)
    assert run.arms == (Arm("relu"), Arm("gelu", {"a": 1.0}))
    assert run.named == {"x": Arm("relu")}


def test_a_variant_may_be_a_list_of_functions(tmp_path: Path) -> None:
    run = read(tmp_path, GOOD, "model.block.feed_forward.variant=[my_module:phi, identity]")
    assert isinstance(run.model, Transformer)
    assert run.model.block.feed_forward.variant == ("my_module:phi", "identity")


def test_overrides_make_the_sections_they_need(tmp_path: Path) -> None:
    run = read(tmp_path, "steps: 1", "model.kind=mlp", "model.widths=[1, 2]", "steps=200")
    assert run == Run(MLP((1, 2)), 200)
    assert read(tmp_path, GOOD, "optimizer={clip: 1}").optimizer == Optimizer("sgd", 0.1, clip=1.0)


def test_a_byte_order_mark_and_windows_line_ends(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbf" + GOOD.replace("\n", "\r\n").encode()
    assert read(tmp_path, text) == read(tmp_path, GOOD)


# --- What is wrong ----------------------------------------------------------------------------

TAGS = "tags are not read; write the value out"
BAD = [
    # scalars
    ("steps: 100", "steps: '3'", "x.yaml:2: steps = '3': should be a valid integer"),
    ("steps: 100", "steps: 3.5", "x.yaml:2: steps = 3.5: should be a valid integer"),
    ("steps: 100", "steps: 3.0", "x.yaml:2: steps = 3.0: should be a valid integer"),
    ("steps: 100", "steps: true", "x.yaml:2: steps = True: should be a valid integer"),
    ("steps: 100", "steps:", "x.yaml:2: steps = None: should be a valid integer"),
    ("steps: 100", "name: a", "x.yaml: steps: required"),
    (
        "rate: 1e-3",
        "rate: fast",
        "x.yaml:14: optimizer.learning_rate = 'fast': should be a valid number",
    ),
    (
        "learning_rate: 1e-3",
        "name: adma",
        "x.yaml:14: optimizer.name = 'adma': unknown name; did you mean adam, adamw?",
    ),
    (
        "learning_rate: 1e-3",
        "betas: [0.9]",
        "x.yaml:14: optimizer.betas = [0.9]: has too few items",
    ),
    ("steps: 100", "steps: 1\nquick: on", "x.yaml:3: quick = 'on': should be a valid boolean"),
    ("steps: 100", "steps: 1\nseeds: 3", "x.yaml:3: seeds = 3: should be a list"),
    ("steps: 100", "steps: 1\nname: 3", "x.yaml:3: name = 3: should be a valid string"),
    (
        "variant: swiglu",
        "variant: 3",
        "x.yaml:12: model.block.feed_forward.variant = 3: should be a valid string or a list",
    ),
    (
        "variant: swiglu",
        "variant: [gelu, 3]",
        "x.yaml:12: model.block.feed_forward.variant[1] = 3: should be a valid string",
    ),
    ("dtype: bfloat16", "num_layers: 3\n  dtype: 3", None),
    # what the dataclasses themselves refuse
    (
        "swiglu",
        "swigle",
        "x.yaml:12: model.block.feed_forward.variant = 'swigle': "
        "unknown variant; did you mean swiglu?",
    ),
    (
        "num_heads: 4",
        "num_heads: 5",
        "x.yaml:9: model.block.attention.num_heads = 5: must divide d_model = 64",
    ),
    ("dtype: bfloat16", "dtype: bfloat17", "x.yaml:6: model.dtype = 'bfloat17': unknown dtype"),
    # keys and sections
    ("steps:", "stesp:", None),
    ("d_ff: 256", "d_fff: 256", None),
    (
        "num_layers: 2",
        "num_layer: 2",
        "x.yaml:7: model.num_layer: unknown key; did you mean num_layers, num_heads?",
    ),
    ("{num_heads: 4}", "4", "x.yaml:9: model.block.attention = 4: should be a section of keys"),
    (
        "kind: transformer",
        "kind: transfromer",
        "x.yaml:4: model.kind = 'transfromer': unknown kind; choose from mlp, transformer",
    ),
    (
        "kind: transformer",
        "kind: [mlp]",
        "x.yaml:4: model.kind = ['mlp']: unknown kind; choose from mlp, transformer",
    ),
    (
        "kind: transformer",
        "variant: relu",
        "x.yaml:3: model.kind: required; choose from mlp, transformer",
    ),
    ("dtype: bfloat16", "d_model: 64", "x.yaml:6: model.d_model: written twice"),
    ("steps: 100", "steps: 1\narms: {}", "x.yaml:3: arms = {}: should be a list"),
    ("steps: 100", "steps: 1\nnamed: []", "x.yaml:3: named = []: should be a section of keys"),
    (
        "steps: 100",
        "steps: 1\narms:\n- variant: relu\n- {varient: gelu}",
        None,
    ),
    ("steps: 100", '"ste\\nps": 100', None),
    # YAML
    ("dtype: bfloat16", "dtype: *x", "x.yaml:6: found undefined alias 'x'"),
    ("dtype: bfloat16", "<<: 3", "x.yaml:6: <<: takes one section, such as *name"),
    ("dtype: bfloat16", "dtype: !!python/name:os.system", "x.yaml:6: " + TAGS),
    ("dtype: bfloat16", "dtype: !!str 3", "x.yaml:6: " + TAGS),
    ("dtype: bfloat16", "[a, b]: 3", "x.yaml:6: a key must be a plain name"),
    ("dtype: bfloat16", "dtype: [", "x.yaml:8: expected ',' or ']', but got ':'"),
    ("dtype: bfloat16", 'dtype: "\\ud800"', "x.yaml:6: half of a surrogate pair is not text"),
    ("dtype: bfloat16", '"\\udfff": 3', "x.yaml:6: half of a surrogate pair is not text"),
    ("dtype: bfloat16", "dtype: \x07", "x.yaml:6: the character U+0007 is not allowed"),
    ("dtype: bfloat16", "\tdtype: 3", None),
    ("dtype: bfloat16", "dtype: @x", None),
    ("steps: 100", "---\nsteps: 100\n---\n", None),
]


@pytest.mark.parametrize(("good", "bad", "line"), BAD)
def test_one_clear_line(tmp_path: Path, good: str, bad: str, line: str | None) -> None:
    assert good in GOOD
    found = lines(tmp_path, GOOD.replace(good, bad, 1))
    if line is None:
        assert found == SEVERAL[bad]
    else:
        assert found == [line]


SEVERAL = {
    "num_layers: 3\n  dtype: 3": [
        "x.yaml:8: model.num_layers: written twice",
        "x.yaml:7: model.dtype = 3: unknown dtype",
        "x.yaml:7: model.dtype = 3: should be a valid string",
    ],
    "stesp:": [
        "x.yaml: steps: required",
        "x.yaml:2: stesp: unknown key; did you mean steps, seeds?",
    ],
    "d_fff: 256": [
        "x.yaml:10: model.block.feed_forward.d_ff: required",
        "x.yaml:11: model.block.feed_forward.d_fff: unknown key; did you mean d_ff?",
    ],
    "steps: 1\narms:\n- variant: relu\n- {varient: gelu}": [
        "x.yaml:5: arms[1].variant: required",
        "x.yaml:5: arms[1].varient: unknown key; did you mean variant?",
    ],
    '"ste\\nps": 100': [
        "x.yaml: steps: required",
        "x.yaml:2: 'ste\\nps': unknown key; did you mean steps?",
    ],
    "\tdtype: 3": ["x.yaml:6: found character '\\t' that cannot start any token"],
    "dtype: @x": ["x.yaml:6: found character '@' that cannot start any token"],
    "---\nsteps: 100\n---\n": ["x.yaml:4: but found another document"],
}


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "x.yaml: empty; expected lines of `key: value`"),
        ("# nothing\n", "x.yaml: empty; expected lines of `key: value`"),
        ("- steps", "x.yaml: not a section; expected lines of `key: value`"),
        ("steps", "x.yaml: not a section; expected lines of `key: value`"),
        ("a: " + "[" * 5000, "x.yaml: nested too deeply"),
        (b"steps: \xff", "x.yaml: not UTF-8 text: byte 0xff at position 7"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, text: str | bytes, line: str) -> None:
    assert lines(tmp_path, text) == [line]


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none.yaml", "no such file"), (tmp_path, "is a")):
        with pytest.raises(ConfigError, match=f"^{path}: {reason}") as caught:
            read_config(path, Run)
        assert "\n" not in str(caught.value)


def test_all_problems_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = """\
seeds: [1, x]
model:
  kind: transformer
  block:
    feed_forward: {d_ff: 0, variant: swigle, d_model: 8}
    attention: {num_heads: 5, d_model: 8}
  d_modle: 64
steps: soon
"""
    assert lines(tmp_path, text, "optimizer.clip=a", "nothing", "stepz=1", "seeds.x=1") == [
        "x.yaml:1: seeds[1] = 'x': should be a valid integer",
        "x.yaml:2: model.d_model: required",
        "x.yaml:4: model.block.norm.d_model: required",
        "x.yaml:5: model.block.feed_forward.d_ff = 0: must be at least 1",
        "x.yaml:5: model.block.feed_forward.variant = 'swigle': "
        "unknown variant; did you mean swiglu?",
        "x.yaml:6: model.block.attention.num_heads = 5: must divide d_model = 8",
        "x.yaml:7: model.d_modle: unknown key; did you mean d_model?",
        "x.yaml:8: steps = 'soon': should be a valid integer",
        "override optimizer.clip=a: optimizer.clip = 'a': should be a valid number",
        "override nothing: write it as section.key=value",
        "override stepz=1: stepz: unknown key; did you mean steps?",
        "override seeds.x=1: seeds is not a section",
    ]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("steps=abc", "steps = 'abc': should be a valid integer"),
        ("steps=", "steps = None: should be a valid integer"),
        ("=3", "write it as section.key=value"),
        ("model..x=3", "write it as section.key=value"),
        ("steps.x=3", "steps is not a section"),
        ("steps=[", "expected the node content, but found '<stream end>'"),
        ("steps=!!int 3", TAGS),
        ("model.dtyp=3", "model.dtyp: unknown key; did you mean dtype?"),
        ("model.dtype=float17", "model.dtype = 'float17': unknown dtype"),
        ("model.block.attention={}", "model.block.attention.num_heads: required"),
        ("model.block.attention={a: 1, num_heads: 4}", "model.block.attention.a: unknown key; "),
    ],
)
def test_overrides_are_named(tmp_path: Path, override: str, line: str) -> None:
    (found,) = lines(tmp_path, GOOD, override)
    assert found.startswith(f"override {override}: {line}")
    assert line.endswith("; ") or found.endswith(line)


def test_a_dataclass_may_raise_any_value_error() -> None:
    @dataclass(frozen=True)
    class Picky:
        size: int = 3

        def __post_init__(self) -> None:
            raise ValueError("never right")

    @dataclass(frozen=True)
    class Holder:
        picky: Picky

    with pytest.raises(ConfigError, match=r"^picky: never right$"):
        from_dict({"picky": {}}, Holder)


def test_long_values_are_cut(tmp_path: Path) -> None:
    (line,) = lines(tmp_path, GOOD + f"quick: {'x' * 500}")
    assert line == f"x.yaml:15: quick = '{'x' * 76}...: should be a valid boolean"


# --- Round trips ------------------------------------------------------------------------------

names = st.text(st.characters(codec="utf-8"), max_size=12) | st.sampled_from(
    ["on", "1e-3", "010", "0x1", "null", "~", "", "true", "1.", ".inf", ".nan", "<<", "=", "é\n x"]
)
numbers = st.floats(allow_nan=False)
norms = st.builds(
    Norm, st.integers(1, 9), st.sampled_from(["layer", "rms"]), numbers, st.text(max_size=3)
)
feed_forwards = st.builds(
    FeedForward,
    st.integers(),
    st.integers(1),
    st.sampled_from(VARIANTS) | st.lists(names).map(tuple),
    st.booleans(),
    st.sampled_from(["float32", "bfloat16"]),
)
attentions = st.builds(Attention, st.sampled_from([8, 16]), st.sampled_from([1, 2, 8]), norms)
models = st.builds(
    Transformer,
    st.integers(),
    st.builds(Block, norms, attentions, feed_forwards),
    st.none() | norms,
    st.integers(-(2**70), 2**70),
) | st.builds(MLP, st.lists(st.integers()).map(tuple), feed_forwards)
arms = st.builds(Arm, names, st.dictionaries(names, numbers, max_size=3))
runs = st.builds(
    Run,
    models,
    st.integers(),
    names,
    st.builds(Optimizer, betas=st.tuples(numbers, numbers), clip=st.none() | numbers),
    st.lists(st.integers(), max_size=3).map(tuple),
    st.lists(arms, max_size=2).map(tuple),
    st.dictionaries(names, arms, max_size=2),
    st.booleans(),
    st.none() | st.sampled_from([Path("a/b"), Path("on"), Path("3")]),
)
many = settings(max_examples=150)


@many
@given(runs)
def test_written_configs_read_back_equal(tmp_path: Path, run: Run) -> None:
    write_config(run, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml", Run) == run
    assert from_dict(to_dict(run), Run) == run


PIECES = [
    *"[]{}:,-#&*!|>'\"%@`?~\t\n \x00\x85\u2028",
    *("\n- ", ": ", "? ", "<<: ", "---\n", "...\n", "model:", "null", "!!binary x"),
    *('"\\ud800"', "\ud800", "1e400", "9" * 5000, "{" * 50),
]


@many
@given(st.data())
def test_damaged_files_never_raise_anything_else(tmp_path: Path, data: st.DataObject) -> None:
    text = GOOD
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 8))
        piece = data.draw(st.sampled_from(PIECES) | st.text(max_size=3))
        text = text[:start] + piece + text[end:]
    error = refusal(lambda: read(tmp_path, text.encode("utf-8", "surrogatepass")))
    if error:  # what is said can be printed, a line for each problem
        assert len(str(error).encode("utf-8").splitlines()) == len(error.problems)


@many
@given(st.text(max_size=30) | st.sampled_from(PIECES).map("name=".__add__))
def test_overrides_never_raise_anything_else(override: str) -> None:
    data = {"steps": 1, "model": {"kind": "mlp", "widths": [1]}}
    error = refusal(lambda: from_dict(data, Run, [override]))
    if error:
        assert len(str(error).encode("utf-8").splitlines()) == len(error.problems)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@many
@given(st.dictionaries(st.sampled_from([f.name for f in dataclasses.fields(Run)]), plain))
def test_any_plain_data_is_read_or_refused(data: dict[str, Any]) -> None:
    error = refusal(lambda: from_dict(data, Run))
    if error is None:
        run = from_dict(data, Run)
        assert from_dict(to_dict(run), Run) == run


def test_to_dict_names_dtypes_and_functions() -> None:
    @dataclass(frozen=True)
    class Objects:
        values: tuple[Any, ...]

    values = (jnp.bfloat16, np.dtype("float32"), np.float16, jax.nn.gelu, math.sin, np.int32(3))
    assert to_dict(Objects((*values, Path("a"), (1, (2,))))) == {
        "values": ["bfloat16", "float32", "float16", f"{jax.nn.gelu.__module__}:gelu", "math:sin",
                   3, "a", [1, [2]]]
    }  # fmt: skip


def test_written_files_are_plain_yaml(tmp_path: Path) -> None:
    """Whoever reads a finished run with another YAML reader gets the same data."""
    run = read(tmp_path, GOOD)
    write_config(run, tmp_path / "config.yaml")
    assert yaml.safe_load((tmp_path / "config.yaml").read_text()) == to_dict(run)


def test_nothing_half_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "config.yaml"
    write_config(read(tmp_path, GOOD), path)
    before = path.read_bytes()

    def full(self: Path, content: bytes) -> int:
        with self.open("wb") as file:
            file.write(content[:10])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        write_config(read(tmp_path, GOOD, "steps=3"), path)
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "x.yaml"]


def read_plain(path: Path) -> Any:
    document = load(path)
    document.check()
    return document.data


def test_anchors_stand_for_what_they_mark(tmp_path: Path):
    """As YAML 1.1 has them, which PyYAML's own loader reads."""
    path = tmp_path / "x.yaml"
    path.write_text("a: &a {x: 1, y: [1, 2]}\nb: *a\nc: {<<: *a, x: 3}\nd: [*a, 5]\n")
    assert read_plain(path) == yaml.safe_load(path.read_text())
    laughs = "a0: &a0 [1, 1]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 9)
    )
    path.write_text(laughs)
    with pytest.raises(ConfigError, match="holds too many values"):
        load(path)
    path.write_text("a: &a [*a]\n")
    with pytest.raises(ConfigError, match=r"nested too deeply|too many values"):
        load(path)


def test_a_config_extends_another_key_by_key(tmp_path: Path):
    (tmp_path / "base.yaml").write_text(
        "steps: 3\nmodel: {kind: mlp, d_ff: 8, use_bias: true}\ndata: {kind: files, path: x}\n"
    )
    path = tmp_path / "x.yaml"
    path.write_text("extends: base.yaml\nmodel: {d_ff: 4}\ndata: {kind: digits}\nseed: 1\n")
    assert read_plain(path) == {
        "steps": 3,
        "model": {"kind": "mlp", "d_ff": 4, "use_bias": True},
        "data": {"kind": "digits"},
        "seed": 1,
    }
    places = load(path).places
    assert places["model", "d_ff"] == f"{path}:2"
    assert places["steps",] == f"{tmp_path / 'base.yaml'}:1"
    for base, message in (
        ("x.yaml", "extends itself"),
        ("bas.yaml", "no such file; did you mean base.yaml"),
        ("[1]", "must be the path of a file"),
    ):
        path.write_text(f"steps: 1\nextends: {base}\n")
        with pytest.raises(ConfigError, match=rf"x\.yaml:2: extends = .*{message}"):
            load(path)
