#!/usr/bin/env python3
"""A Llama in PyTorch, timed: what `cargo xtask bench` and `cargo xtask gpu` hold the trainer against.

Per step: fresh tokens, forward, cross-entropy, backward, clipping by the global norm, AdamW. Weights in f32; compute in f32 on the CPU, or with
--bf16 by autocast. --flavor 1b has the shape of Llama 3.2 1B and recomputes the activations of its blocks, as the trainer does there.
Prints one line of JSON with the median step, or with --kernels the median of each operation. Needs only torch.
"""

import argparse
import json
import resource
import statistics
import time

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--steps", type=int, default=20)
parser.add_argument("--warmup", type=int, default=3)
parser.add_argument("--sequence", type=int, default=256)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--threads", type=int, default=0)
parser.add_argument("--kv-heads", type=int, default=8)
parser.add_argument("--vocabulary", type=int, default=2048)
parser.add_argument("--kernels", action="store_true")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--device", default="cpu")
parser.add_argument("--bf16", action="store_true")
parser.add_argument("--flavor", choices=["debug", "1b"], default="debug")
options = parser.parse_args()
if options.threads:
    torch.set_num_threads(options.threads)
torch.manual_seed(42)

BILLION = options.flavor == "1b"
DIM, LAYERS, HEADS, FFN = (2048, 16, 32, 8192) if BILLION else (256, 6, 8, 768)
KV_HEADS, VOCAB = (8, 128256) if BILLION else (options.kv_heads, options.vocabulary)
HEAD_DIM = DIM // HEADS


def linear(inputs, outputs):
    return nn.Linear(inputs, outputs, bias=False)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention_norm = nn.RMSNorm(DIM, eps=1e-5)
        self.ffn_norm = nn.RMSNorm(DIM, eps=1e-5)
        self.wq, self.wo = linear(DIM, DIM), linear(DIM, DIM)
        self.wk, self.wv = linear(DIM, KV_HEADS * HEAD_DIM), linear(DIM, KV_HEADS * HEAD_DIM)
        self.w1, self.w2, self.w3 = linear(DIM, FFN), linear(FFN, DIM), linear(DIM, FFN)

    def forward(self, x, cos, sin):
        h = self.attention_norm(x)
        q, k, v = (self.heads(w(h)) for w in (self.wq, self.wk, self.wv))
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=HEADS != KV_HEADS)
        x = x + self.wo(out.transpose(1, 2).flatten(2))
        h = self.ffn_norm(x)
        return x + self.w2(F.silu(self.w1(h)) * self.w3(h))

    @staticmethod
    def heads(x):
        return x.unflatten(-1, (-1, HEAD_DIM)).transpose(1, 2)


def rotate(x, cos, sin):
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


class Llama(nn.Module):
    def __init__(self):
        super().__init__()
        self.tok_embeddings = nn.Embedding(VOCAB, DIM)
        self.layers = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(DIM, eps=1e-5)
        self.output = linear(DIM, VOCAB)
        if BILLION:
            self.output.weight = self.tok_embeddings.weight
        frequencies = 500000.0 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
        angles = torch.outer(torch.arange(options.sequence), frequencies)
        self.register_buffer("cos", angles.cos())
        self.register_buffer("sin", angles.sin())

    def forward(self, tokens):
        x = self.tok_embeddings(tokens)
        for layer in self.layers:
            x = checkpoint(layer, x, self.cos, self.sin, use_reentrant=False) if BILLION else layer(x, self.cos, self.sin)
        return self.output(self.norm(x))


ON_GPU = options.device != "cpu"
DTYPE = torch.bfloat16 if options.bf16 else torch.float32


def tensor(*shape):
    return torch.randn(shape, device=options.device).to(DTYPE).requires_grad_()


def wait():
    if ON_GPU:
        torch.cuda.synchronize()


def head(x, weight, labels):
    return F.cross_entropy(x @ weight, labels, reduction="sum")


def kernels():
    """Every operation as (name, function, inputs); backward gives gradients to the float inputs."""
    b, s, t = options.batch, options.sequence, options.batch * options.sequence
    hidden, wide, norm = lambda: tensor(t, DIM), lambda: tensor(t, FFN), tensor(DIM)
    heads, kv = lambda: tensor(b, s, HEADS, DIM // HEADS), lambda: tensor(b, s, KV_HEADS, DIM // HEADS)
    ids = torch.randint(0, VOCAB, (t,), device=options.device)
    angles = torch.outer(torch.arange(s), 500000.0 ** (-torch.arange(0, DIM // HEADS, 2) / (DIM // HEADS)))
    cos, sin = (x[:, None].to(options.device, DTYPE) for x in (angles.cos(), angles.sin()))
    rms = lambda x, w: F.rms_norm(x, (DIM,), w, 1e-5)
    attend = lambda q, k, v: F.scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (q, k, v)), is_causal=True, enable_gqa=HEADS != KV_HEADS).transpose(1, 2)
    products = lambda x, *weights: tuple(x @ w for w in weights)
    kv_width = KV_HEADS * DIM // HEADS
    yield "embedding", lambda w: F.embedding(ids, w), [tensor(VOCAB, DIM)]
    yield "rms_norm", rms, [hidden(), norm]
    yield "add_rms_norm", lambda x, d, w: (x + d, rms(x + d, w)), [hidden(), hidden(), norm]
    yield "project q, k, v", products, [hidden(), tensor(DIM, DIM), tensor(DIM, kv_width), tensor(DIM, kv_width)]
    yield "rope", lambda x: rotate(x, cos, sin), [heads()]
    yield "attention", attend, [heads(), kv(), kv()]
    yield "linear o", products, [hidden(), tensor(DIM, DIM)]
    yield "project gate, up", products, [hidden(), tensor(DIM, FFN), tensor(DIM, FFN)]
    yield "swiglu", lambda g, u: F.silu(g) * u, [wide(), wide()]
    yield "linear down", products, [wide(), tensor(FFN, DIM)]
    yield "linear_cross_entropy", lambda x, w: head(x, w, ids), [hidden(), tensor(DIM, VOCAB)]


def seconds(function):
    """The median of some runs."""
    found = []
    for _ in range(3 + 10):
        wait()
        begin = time.perf_counter()
        function()
        wait()
        found.append(time.perf_counter() - begin)
    return statistics.median(found[3:])


def measure(function, inputs):
    outputs = function(*inputs)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    gradients = [torch.ones_like(y) for y in outputs]
    backward = lambda: torch.autograd.grad(outputs, inputs, gradients, retain_graph=True)
    return seconds(lambda: function(*inputs)), seconds(backward)


def optimizer():
    """Norm and update of all parameters."""
    parameters = list(Llama().to(options.device).parameters())
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    adamw = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1, fused=True)
    yield "sum_of_squares", seconds(lambda: torch.nn.utils.get_total_norm([p.grad for p in parameters]))
    yield "adamw_step", seconds(adamw.step)


if options.kernels:
    if options.compile:
        compiled = lambda f: torch.compile(f, dynamic=False)
        timed = ((name, compiled(function), inputs) for name, function, inputs in kernels())
    else:
        timed = kernels()
    rows = [(name, *measure(function, inputs)) for name, function, inputs in timed]
    rows += [(name, forward, 0.0) for name, forward in optimizer()]
    print(json.dumps({"kernels": [
        {"name": name, "forward_seconds": forward, "backward_seconds": backward} for name, forward, backward in rows
    ]}))
    raise SystemExit

model = Llama().to(options.device)
run = torch.compile(model) if options.compile else model
adamw = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.1, fused=True)
seconds = []
for step in range(options.warmup + options.steps):
    begin = time.perf_counter()
    ids = torch.randint(0, VOCAB, (options.batch, options.sequence + 1), device=options.device)
    with torch.autocast(options.device, torch.bfloat16, enabled=options.bf16):
        logits = run(ids[:, :-1])
    loss = F.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    adamw.step()
    adamw.zero_grad(set_to_none=True)
    loss.item()
    if step >= options.warmup:
        seconds.append(time.perf_counter() - begin)
median = statistics.median(seconds)
print(json.dumps({
    "step_seconds": median,
    "tokens_per_second": options.batch * options.sequence / median,
    "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    **({"peak_gpu_bytes": torch.cuda.max_memory_reserved()} if ON_GPU else {}),
    "torch": torch.__version__,
    "threads": torch.get_num_threads(),
}))
