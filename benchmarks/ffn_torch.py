"""torch's side of `ffn.py`, run by it in a second process: a question a line, an answer a line."""

import json
import sys
import time
from importlib.util import find_spec

import torch
from torch.nn import functional


def block(variant):
    def gelu(x, w_in, w_out):
        return functional.linear(functional.gelu(functional.linear(x, w_in[0])), w_out)

    def swiglu(x, w_in, w_out):
        gate, up = (functional.linear(x, w) for w in w_in)
        return functional.linear(functional.silu(gate) * up, w_out)

    return {"gelu": gelu, "swiglu": swiglu}[variant]


def liger(x, w_in, w_out):
    """Liger's fused silu·up, where it is installed; it needs a GPU."""
    from liger_kernel.ops.swiglu import LigerSiLUMulFunction

    gate, up = (functional.linear(x, w) for w in w_in)
    return functional.linear(LigerSiLUMulFunction.apply(gate, up), w_out)


class Bench:
    def __init__(self, batch, length, d, f, variant, dtype, backward):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        make = lambda *shape: torch.randn(shape, device=device).to(getattr(torch, dtype))  # noqa: E731
        self.x, self.dy, self.backward = make(batch, length, d), make(batch, length, d), backward
        self.w_in = [make(f, d) / d**0.5 for _ in range(2 if variant == "swiglu" else 1)]
        self.w_out = make(d, f) / f**0.5
        for tensor in (self.x, *self.w_in, self.w_out):
            tensor.requires_grad_(backward)
        torch._dynamo.reset()
        self.blocks = {"eager": block(variant), "compiled": torch.compile(block(variant))}
        if variant == "swiglu" and device == "cuda" and find_spec("liger_kernel"):
            self.blocks["liger"] = liger

    def run(self, name):
        """One call; on a GPU the mean of ten, queued one behind the other."""
        calls = 10 if torch.cuda.is_available() else 1
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(calls):
            self.call(name)
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return (time.perf_counter() - wall) / calls, (time.process_time() - cpu) / calls

    def call(self, name):
        with torch.set_grad_enabled(self.backward):
            y = self.blocks[name](self.x, self.w_in, self.w_out)
            if self.backward:
                torch.autograd.grad(y, (self.x, *self.w_in, self.w_out), self.dy)

    def kept(self):
        leaves = {t.untyped_storage().data_ptr() for t in (self.x, *self.w_in, self.w_out)}
        saved = {}

        def pack(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in leaves:
                saved[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            y = self.blocks["eager"](self.x, self.w_in, self.w_out)
        del y
        return sum(saved.values())


def main():
    bench = None
    for line in sys.stdin:
        match json.loads(line):
            case {"version": _}:
                answer = torch.__version__
            case {"prepare": case}:
                bench = Bench(*case)
                answer = list(bench.blocks)
            case {"run": name}:
                answer = bench.run(name)
            case {"kept": _}:
                answer = bench.kept()
        print(json.dumps(answer), flush=True)


main()
