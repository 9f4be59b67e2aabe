#!/usr/bin/env bash
# All that is to be measured on a GPU, in at most 8 minutes of it, on a machine with jax for CUDA.
#
#   benchmarks/on_gpu.sh OUT             a folder for the results
#   SMOKE=1 benchmarks/on_gpu.sh OUT     tiny shapes: the rehearsal on a CPU
#
# Each part has a limit of its own, and one that fails does not stop the others: its log says why.
set -u
cd "$(dirname "$0")"
out=$(mkdir -p "$1" && cd "$1" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$PWD/..${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
export XLA_PYTHON_CLIENT_PREALLOCATE=false  # torch needs memory, too

part() {  # name, seconds, arguments
  name=$1 limit=$2
  shift 2
  timeout --kill-after=5 "$limit" "$python" "$@" >"$out/$name.log" 2>&1
  status=$?
  echo "$name: exit $status after ${SECONDS}s" | tee -a "$out/summary.txt"
}

"$python" -c 'import torch' 2>/dev/null && torch="--torch $python" || torch=

if [ -n "${SMOKE:-}" ]; then
  part numerics 300 -m gelu_jax numerics --function relu
  part ffn 300 ffn.py --shapes smoke --seconds 0.1 --only "float32', backward=True" --out "$out/ffn"
  part attention 300 attention.py --shapes smoke --out "$out/attention"
  for what in memory training; do part "accelerator_$what" 300 accelerator.py $what --smoke; done
else
  part attention 60 attention.py --shapes accelerator --dtype bfloat16 --out "$out/attention"
  part accelerator_training 120 accelerator.py training
  for d in 1024 4096; do
    part "ffn_$d" 80 ffn.py --shapes accelerator_$d --seconds 2 --only bfloat16 $torch \
      --out "$out/ffn_$d"
  done
  part numerics 60 -m gelu_jax numerics
  part accelerator_memory 60 accelerator.py memory
  part accelerator_sweep 60 accelerator.py sweep
  cp results/accelerator_*.json "$out"
fi
