#!/usr/bin/env python3
"""The PyTorch side of the comparison: peers.py --case NAME times one case and prints one JSON line, as weft_bench does.

Own code on plain PyTorch. The attention modules are compared with the original `attentions` package where it can be imported (put its
source folder on PYTHONPATH); where it cannot, with DenseSelfAttention below, which computes the same in the same dense way.
"""
import argparse
import json
import math
import time

import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def forward(self, x):
        B, N, C = x.shape
        q, k, v = (t.view(B, N, self.heads, -1).transpose(1, 2) for t in self.qkv(self.norm1(x)).split(C, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(B, N, C))
        return x + self.down(F.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Learned positions, pre-norm blocks, final norm, untied output layer without bias."""

    def __init__(self, vocab_size, dim, depth, heads, context):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocab_size, dim), nn.Embedding(context, dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(dim), nn.Linear(dim, vocab_size, bias=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                nn.init.normal_(p, std=0.02 / math.sqrt(2 * depth) if name.endswith(("out.weight", "down.weight")) else 0.02)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions(torch.arange(ids.shape[1]))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class DenseSelfAttention(nn.Module):
    """What the original multi-head and local modules compute: every score, an N x N mask, softmax, and the weights returned."""

    def __init__(self, dim, heads, window=None):
        super().__init__()
        self.heads, self.window = heads, window
        self.w_q, self.w_k, self.w_v, self.w_o = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def forward(self, x):
        B, N, C = x.shape
        q, k, v = (w(x).view(B, N, self.heads, -1).transpose(1, 2) for w in (self.w_q, self.w_k, self.w_v))
        scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        if self.window is not None:
            i = torch.arange(N)
            scores = scores.masked_fill((i[:, None] - i[None, :]).abs() > self.window // 2, -math.inf)
        weights = scores.softmax(-1)
        return self.w_o((weights @ v).transpose(1, 2).reshape(B, N, C)), weights


def sgemm(batch, n, m, k):
    a, b = torch.randn(batch, n, k), torch.randn(batch, k, m)
    return lambda: torch.matmul(a, b)


def sdpa(n, causal, with_backward):
    q, k, v = (torch.randn(1, 8, n, 64, requires_grad=with_backward) for _ in range(3))
    dy = torch.randn(1, 8, n, 64)

    def run():
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        if with_backward:
            torch.autograd.grad(y, (q, k, v), dy)

    return run


def original_module(name, n):
    """Module forward and backward on [1, n, 512]; True if it is the original."""
    options = {"MultiHeadSelfAttention": {}, "LocalSelfAttention": {"window_size": 64}}[name]
    try:
        import attentions
    except ImportError:
        attentions = None
    if attentions:
        module = getattr(attentions, name)(512, num_heads=8, dropout=0.0, **options)
    else:
        module = DenseSelfAttention(512, 8, options.get("window_size"))
    x, dy = torch.randn(1, n, 512, requires_grad=True), torch.randn(1, n, 512)

    def run():
        module.zero_grad(set_to_none=True)
        x.grad = None
        module(x)[0].backward(dy)

    return run, attentions is not None


def training(vocab_size, dim, depth, heads, batch, n):
    model = GPT(vocab_size, dim, depth, heads, n)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    ids = torch.randint(vocab_size, (batch, n + 1))

    def run():
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return run


def generation(tokens):
    """256 tokens after a prompt of 256, the whole window recomputed for each, as the originals do."""
    model = GPT(256, 512, 6, 8, 1024).eval()

    @torch.no_grad()
    def run():
        ids = torch.randint(256, (1, 256))
        for _ in range(tokens):
            probs = F.softmax(model(ids)[:, -1], dim=-1)
            ids = torch.cat([ids, torch.multinomial(probs, 1)], dim=1)

    return run


def cases():
    """Name -> (set-up, results per run)."""
    table = {
        "sgemm_2048": (lambda: sgemm(1, 2048, 2048, 2048), 1),
        "sgemm_768x512x512": (lambda: sgemm(1, 768, 512, 512), 1),
        "sgemm_batched_64": (lambda: sgemm(512, 64, 64, 64), 1),
        "train_tiny_c128_l4_n64_b12": (lambda: training(65, 128, 4, 4, 12, 64), 1),
        "train_baby_c384_l6_n256_b8": (lambda: training(65, 384, 6, 6, 8, 256), 1),
        "train_enwik8_c512_l6_n1024_b1": (lambda: training(256, 512, 6, 8, 1, 1024), 1),
        "train_gpt2_124m_n64_b4": (lambda: training(50257, 768, 12, 12, 4, 64), 1),
        "generate_enwik8": (lambda: generation(256), 256),
    }
    for n in (512, 2048, 8192):
        for causal in (False, True):
            for with_backward in (False, True):
                name = f"sdpa_{'fb' if with_backward else 'f'}_n{n}_{'causal' if causal else 'full'}"
                table[name] = (lambda n=n, causal=causal, fb=with_backward: sdpa(n, causal, fb), 1)
    for name in ("MultiHeadSelfAttention", "LocalSelfAttention"):
        for n in (1024, 4096):
            table[f"attentions_{name}_n{n}"] = (lambda name=name, n=n: original_module(name, n)[0], 1)
    return table


def measure(set_up, results_per_run):
    """The same procedure as weft_bench: a warm-up, then the median of repeated runs."""
    run = set_up()

    def time_ms():
        start = time.perf_counter()
        run()
        return (time.perf_counter() - start) * 1e3

    warm, longest = 0.0, 0.0
    while warm < 200:
        longest = time_ms()
        warm += longest
    times = []
    fewest = 1 if longest > 10000 else 3
    while len(times) < fewest or (sum(times) < 2000 and len(times) < 200):
        times.append(time_ms())
    times.sort()
    median = (times[(len(times) - 1) // 2] + times[len(times) // 2]) / 2
    return {"ms": median / results_per_run, "best_ms": times[0] / results_per_run, "runs": len(times)}


def peak_rss_mb():
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024


def about():
    """What the reader of a table must know of this side."""
    try:
        import attentions  # noqa: F401
        original = True
    except ImportError:
        original = False
    return {"torch": torch.__version__, "capability": torch.backends.cpu.get_cpu_capability(), "mkl": torch.backends.mkl.is_available(),
            "original_attentions": original}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--case")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.case is None:
        print(json.dumps({**about(), "cases": sorted(cases())}))
        return
    result = measure(*cases()[arguments.case])
    print(json.dumps({"case": arguments.case, **result, "peak_rss_mb": peak_rss_mb()}))


if __name__ == "__main__":
    main()
