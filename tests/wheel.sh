#!/usr/bin/env bash
# The wheel as a newcomer installs it: nothing comes with it but flax and jaxtyping, and with the
# lab the command works from an empty folder. Usage: tests/wheel.sh PYTHON
set -euo pipefail
cd "$(dirname "$0")/.."
python=$1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" -m venv "$work/venv"
pip=("$work/venv/bin/python" -m pip --disable-pip-version-check)
"${pip[@]}" wheel --quiet --no-deps --wheel-dir "$work" .
"${pip[@]}" install --quiet flax jaxtyping
"${pip[@]}" list --format freeze >"$work/without"
"${pip[@]}" install --quiet "$work"/*.whl
"${pip[@]}" list --format freeze | grep -v '^gelu-jax==' | diff "$work/without" -
cd "$work"
venv/bin/python - <<'EOF'
import gelu_jax as gj, jax.numpy as jnp
from flax import nnx

block = gj.FeedForward(gj.FeedForwardConfig(8, 24, "swiglu"), rngs=nnx.Rngs(0))
assert block(jnp.ones((2, 8))).shape == (2, 8)
EOF
if venv/bin/gelu-jax train byte_lm 2>said; then exit 1; fi
grep -q "^gelu-jax needs .*: pip install 'gelu-jax\[lab\]'$" said
"${pip[@]}" install --quiet "$(echo "$work"/*.whl)[lab]"
mkdir empty && cd empty
../venv/bin/gelu-jax --version
../venv/bin/gelu-jax configs
../venv/bin/gelu-jax train digits_mlp steps=2 eval_every=1 2>/dev/null
test -s runs/digits_mlp/report.html
echo "the wheel is as it should be"
