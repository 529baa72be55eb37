#!/usr/bin/env python3
"""The plain GPT in PyTorch, written from the table of names in train/models/transformer.h, and checks that both sides agree.

    gpt_torch.py PROGRAM            trains a GPT with PROGRAM (gpt_interop), loads its weights into PyTorch and compares logits, loss and all
                                    gradients; then the other way round. Passes with a sentence where torch is missing.
    gpt_torch.py --golden FILE      writes the golden case that gpt_interop checks on machines without torch

A case is a .safetensors file: weights by name, `in.tokens`, `in.targets`, `out.logits`, `out.loss`, and `grad.NAME` for every weight; the sizes
are in its metadata. Files are read and written here by hand: the format is a JSON header and raw numbers.
"""
import json
import math
import pathlib
import struct
import subprocess
import sys
import tempfile

try:
    import torch
    import torch.nn.functional as F
    from torch import nn
except ImportError:
    torch = None

SIZES = {"vocab_size": 11, "dim": 12, "depth": 2, "heads": 3, "context": 8}
NAMES = {"F64": "float64", "F32": "float32", "I64": "int64"}


def load(path):
    """Tensors by name, and the metadata."""
    data = pathlib.Path(path).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8:8 + length]), data[8 + length:]
    metadata = header.pop("__metadata__", {})
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        flat = torch.frombuffer(bytearray(body[begin:end]), dtype=getattr(torch, NAMES[entry["dtype"]]))
        tensors[name] = flat.reshape(entry["shape"])
    return tensors, metadata


def save(path, tensors, metadata):
    header, body = {"__metadata__": metadata}, b""
    for name, tensor in tensors.items():
        raw = tensor.detach().contiguous().numpy().tobytes()
        kind = next(k for k, v in NAMES.items() if v == str(tensor.dtype).split(".")[1])
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [len(body), len(body) + len(raw)]}
        body += raw
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pathlib.Path(path).write_bytes(struct.pack("<Q", len(text)) + text + body)


if torch:

    class Attention(nn.Module):
        def __init__(self, dim, heads):
            super().__init__()
            self.heads = heads
            self.to_qkv, self.to_out = nn.Linear(dim, 3 * dim, bias=False), nn.Linear(dim, dim, bias=False)

        def forward(self, x):
            B, N, C = x.shape
            q, k, v = (t.view(B, N, self.heads, -1).transpose(1, 2) for t in self.to_qkv(x).split(C, dim=-1))
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            return self.to_out(y.transpose(1, 2).reshape(B, N, C))

    class FeedForward(nn.Module):
        def __init__(self, dim):
            super().__init__()
            self.up, self.down = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

        def forward(self, x):
            return self.down(F.gelu(self.up(x)))

    class Layer(nn.Module):
        def __init__(self, dim, heads):
            super().__init__()
            self.attention_norm, self.feed_forward_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
            self.attention, self.feed_forward = Attention(dim, heads), FeedForward(dim)

        def forward(self, x):
            x = x + self.attention(self.attention_norm(x))
            return x + self.feed_forward(self.feed_forward_norm(x))

    class GPT(nn.Module):
        def __init__(self, vocab_size, dim, depth, heads, context):
            super().__init__()
            self.tokens, self.positions = nn.Embedding(vocab_size, dim), nn.Embedding(context, dim)
            self.layers = nn.ModuleList(Layer(dim, heads) for _ in range(depth))
            self.norm, self.output = nn.LayerNorm(dim), nn.Linear(dim, vocab_size, bias=False)

        def forward(self, ids):
            x = self.tokens(ids) + self.positions.weight[: ids.shape[1]]
            for layer in self.layers:
                x = layer(x)
            return self.output(self.norm(x))


def sizes_of(metadata):
    return {name: int(metadata[name]) for name in SIZES}


def compute(model, case):
    """Logits, loss and gradients of the case's tokens."""
    model.zero_grad()
    logits = model(case["in.tokens"])
    loss = F.cross_entropy(logits.flatten(0, 1), case["in.targets"].flatten())
    loss.backward()
    results = {"out.logits": logits.detach(), "out.loss": loss.detach()}
    results.update({"grad." + name: p.grad.clone() for name, p in model.named_parameters()})
    return results


def make_case(seed):
    """A model with random weights (large enough for every path to matter), trained for a few steps."""
    torch.manual_seed(seed)
    torch.set_default_dtype(torch.float64)
    model = GPT(**SIZES)
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    ids = torch.randint(SIZES["vocab_size"], (3, SIZES["context"] + 1))
    case = {"in.tokens": ids[:, :-1].contiguous(), "in.targets": ids[:, 1:].contiguous()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(5):
        compute(model, case)
        optimizer.step()
    case.update(compute(model, case))
    case.update({name: p.detach().clone() for name, p in model.named_parameters()})
    return case, {name: str(value) for name, value in SIZES.items()}


def check_case(path):
    """Does PyTorch compute what the other side has written? Every difference at most 1e-9 of 1 + |value|."""
    case, metadata = load(path)
    torch.set_default_dtype(torch.float64)
    model = GPT(**sizes_of(metadata))
    weights = {name: t for name, t in case.items() if not name.startswith(("in.", "out.", "grad."))}
    model.load_state_dict(weights)  # strict: every name, no other
    model.double()
    worst = 0.0
    for name, expected in compute(model, case).items():
        found = case[name]
        assert found.shape == expected.shape, f"{name}: {list(found.shape)}, PyTorch has {list(expected.shape)}"
        worst = max(worst, ((found - expected).abs() / (1 + expected.abs())).max().item())
    assert worst < 1e-9, f"the largest difference is {worst}"
    assert not math.isnan(worst)
    print(f"weights of gpt_interop in PyTorch: logits, loss and {len(weights)} gradients agree to {worst:.1e}")


def main():
    if torch is None:
        print("torch cannot be imported here, so this passes without a comparison; the committed golden case covers the same numbers")
        return
    if sys.argv[1] == "--golden":
        save(sys.argv[2], *make_case(seed=1))
        return
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = f"{folder}/weft.safetensors", f"{folder}/torch.safetensors"
        subprocess.run([sys.argv[1], "--make", ours], check=True)
        check_case(ours)
        save(theirs, *make_case(seed=2))
        subprocess.run([sys.argv[1], theirs], check=True)


if __name__ == "__main__":
    main()
