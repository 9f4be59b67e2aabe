"""Where the time of a compiled step goes: a profile, each instruction under the code it came from.

XLA names the instruction of every span in the profile, and the stack of every instruction in the
text of the program. A span counts for the innermost function of ours in its stack, by the rules of
`PARTS`; a matrix product outside attention's core counts as one wherever it stands.
"""

import re
import tempfile
from collections import Counter
from pathlib import Path

import jax

PARTS = (  # the first whose pattern is in a frame "file:function"
    ("attention core", r"nn/blockwise\.py|nn/attention\.py:(attention|attend\b.*<locals>)"),
    ("activations", r"gelu_jax/activations/|nn/feed_forward\.py:_product|nn/branches\.py"),
    ("norms", r"nn/norm\.py"),
    ("rotary positions", r"nn/position\.py"),
    ("loss", r"training/loss\.py|optax/losses"),
    ("optimizer", r"training/optimizer\.py|optax/"),
    ("data", r"training/data/"),
)


def shares(program, *arguments):
    """Runs a compiled program once under the profiler.

    Args:
      program: as `jax.stages.Compiled`.
      arguments: its arguments.

    Returns:
      The share of the time of all instructions, by part; and the milliseconds of all of them.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            jax.block_until_ready(program(*arguments))
        (path,) = Path(folder).rglob("*.xplane.pb")
        spans = Counter(_spans(path))
    of = _parts(program.as_text())
    total = sum(spans.values())
    found = Counter()
    for name, duration in spans.items():
        found[of.get(name, "other")] += duration / total
    return dict(found.most_common()), total / 1e6


def _spans(path):
    found = Counter()
    for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
        for line in plane.lines:
            for event in line.events:
                name = dict(event.stats).get("hlo_op")
                if name and not re.match(r"(while|call|conditional)(\.|$)", name):
                    found[name] += event.duration_ns
    return found


def _parts(text):
    """The part of every instruction."""
    tables = {name: _table(text, name) for name in ("FileNames", "FunctionNames")}
    locations, frames = _table(text, "FileLocations"), _table(text, "StackFrames")

    def stack(number):
        while number in frames:
            location, parent = re.findall(r"=(\d+)", frames[number])
            file, function = re.findall(r"=(\d+)", locations[location])[:2]
            yield f"{tables['FileNames'][file]}:{tables['FunctionNames'][function]}"
            if parent == number:
                return
            number = parent

    found = {}
    for line in text.splitlines():
        if head := re.match(r"\s*(?:ROOT )?%([\w.-]+) = ", line):
            frame = re.search(r"stack_frame_id=(\d+)", line)
            is_product = re.search(r'op_name="[^"]*dot_general', line) or " dot(" in line
            found[head[1]] = _part(list(stack(frame[1])) if frame else [], bool(is_product))
    return found


def _part(stack, is_product):
    for frame in stack:
        for name, pattern in PARTS:
            if re.search(pattern, frame) and not (is_product and name != "attention core"):
                return name
    return "matrix products" if is_product else "other"


def _table(text, name):
    """Number → what stands beside it, of one of the tables before the program."""
    body = re.search(rf"^{name}\n(.*?)\n\n", text, re.DOTALL | re.MULTILINE)
    rows = (line.partition(" ") for line in (body[1] if body else "").splitlines())
    return {number: value.strip('"') for number, _, value in rows}
