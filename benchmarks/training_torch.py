"""nanoGPT's model and loop as a plain torch program, run by `training.py` in a second process.

    python benchmarks/training_torch.py SHAPE TOKENS

SHAPE is a JSON object (layers, heads, d_model, d_ff, context, vocab, batch, learning_rate), TOKENS
a file of bytes to train on. Each line "eager N" or "compiled N" on standard input trains N steps
and answers with the seconds they took; the first of either kind only warms up. As in nanoGPT's
train.py: no biases, no dropout, tied embeddings, learned positions, windows stacked from a memory
map on the host, AdamW, clipping at 1, a cosine rate set at every step.
"""

import json
import math
import sys
import time

import numpy as np
import torch
from torch import nn
from torch.nn import functional


class Attention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = c["heads"]
        self.qkv = nn.Linear(c["d_model"], 3 * c["d_model"], bias=False)
        self.out = nn.Linear(c["d_model"], c["d_model"], bias=False)

    def forward(self, x):
        b, t, d = x.shape
        q, k, v = (
            part.view(b, t, self.heads, d // self.heads).transpose(1, 2)
            for part in self.qkv(x).split(d, dim=2)
        )
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).contiguous().view(b, t, d))


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        d, f = c["d_model"], c["d_ff"]
        self.norm1, self.norm2 = nn.LayerNorm(d, bias=False), nn.LayerNorm(d, bias=False)
        self.attention = Attention(c)
        self.w_in, self.w_out = nn.Linear(d, f, bias=False), nn.Linear(f, d, bias=False)

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.w_out(functional.gelu(self.w_in(self.norm2(x))))


class GPT(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.tokens = nn.Embedding(c["vocab"], c["d_model"])
        self.positions = nn.Embedding(c["context"], c["d_model"])
        self.blocks = nn.ModuleList(Block(c) for _ in range(c["layers"]))
        self.norm = nn.LayerNorm(c["d_model"], bias=False)
        self.head = nn.Linear(c["d_model"], c["vocab"], bias=False)
        self.head.weight = self.tokens.weight
        for name, parameter in self.named_parameters():
            scale = (2 * c["layers"]) ** -0.5 if name.endswith("out.weight") else 1.0
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02 * scale)

    def forward(self, tokens, targets):
        x = self.tokens(tokens) + self.positions(torch.arange(tokens.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits = self.head(self.norm(x))
        return functional.cross_entropy(logits.view(-1, logits.shape[-1]), targets.view(-1))


class Loop:
    def __init__(self, c, data, compiled):
        self.c, self.data, self.step = c, data, 0
        model = GPT(c)
        self.parameters = list(model.parameters())
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=c["learning_rate"])
        self.model = torch.compile(model) if compiled else model

    def batch(self):
        c = self.c
        starts = torch.randint(len(self.data) - c["context"], (c["batch"],))
        windows = [self.data[i : i + c["context"] + 1].astype(np.int64) for i in starts]
        stacked = torch.stack([torch.from_numpy(window) for window in windows])
        return stacked[:, :-1].contiguous(), stacked[:, 1:].contiguous()

    def train(self, steps):
        for _ in range(steps):
            rate = self.c["learning_rate"] * 0.5 * (1 + math.cos(math.pi * self.step / 10_000))
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            loss = self.model(*self.batch())
            loss.backward()
            nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.step += 1
        return loss.item()


def main():
    shape, data = json.loads(sys.argv[1]), np.memmap(sys.argv[2], np.uint8, "r")
    torch.manual_seed(0)
    loops = {}
    for line in sys.stdin:
        kind, steps = line.split()
        if kind not in loops:
            loops[kind] = Loop(shape, data, kind == "compiled")
        start = time.perf_counter()
        loss = loops[kind].train(int(steps))
        seconds = time.perf_counter() - start
        parameters = sum(p.numel() for p in loops[kind].parameters)
        answer = {"seconds": seconds, "loss": loss, "parameters": parameters}
        print(json.dumps({**answer, "torch": torch.__version__}), flush=True)


if __name__ == "__main__":
    main()
