"""How far each model family is from transformers, on the fixtures of tests/golden/families.

    python benchmarks/parity.py

Writes benchmarks/results/parity.json: for every fixture what is compared, and the largest absolute
difference, float32. Tokens of greedy decoding must be equal.
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

import parity  # noqa: E402

from gelu_jax.runs.environment import environment  # noqa: E402


def measure(case: str) -> dict[str, object]:
    """One fixture: its outputs by name, and how far ours are from theirs."""
    path = parity.FIXTURES / case
    found = list(parity.compared(path))
    floats = {name: float(abs(a - b).max()) for name, a, b in found if a.dtype.kind == "f"}
    tokens = [name for name, a, b in found if a.dtype.kind != "f" and (a == b).all()]
    assert len(floats) + len(tokens) == len(found), f"{case}: greedy decoding differs"
    return {
        "case": case,
        "model_type": json.loads((path / "config.json").read_text())["model_type"],
        "variant": parity.variants(parity.loaded(path).config),
        "compared": [name.replace("_", " ") for name in (*floats, *tokens)],
        "difference": max(floats.values()),
        "transformers": json.loads((path / "config.json").read_text())["transformers_version"],
    }


def main() -> None:
    rows = [measure(case) for case in parity.CASES]
    result = {"environment": environment(), "rows": rows}
    (HERE / "results" / "parity.json").write_text(json.dumps(result, indent=1) + "\n")
    for row in rows:
        print(f"{row['case']:<24}{row['difference']:.1e}  {', '.join(row['compared'])}")


if __name__ == "__main__":
    main()
