#!/usr/bin/env python3
"""The run of the README on the PyTorch side: shakespeare.py TEXT trains a character model in nanoGPT's setting for the CPU.

4 layers, 4 heads, dim 128, context 64, batch 12, 2000 steps, no dropout, AdamW (learning rate 1e-3 down to 1e-4 by cosine after 100 steps
of warm-up, beta2 0.99, decay 0.1 of matrices, gradients clipped to norm 1). Prints the validation loss over the last tenth of the text and
the seconds that the steps took. Ours, the same: see the README.
"""
import argparse
import math
import sys
import time

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("text")
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--seed", type=int, default=1)
arguments = parser.parse_args()  # before torch is needed: --help works without

try:
    import torch
except ImportError as error:
    sys.exit(f"{error}: call this with a Python that has torch (compare.py makes one in ~/.cache/weft/torch/bin/python)")
import torch.nn.functional as F

from peers import GPT

STEPS, BATCH, CONTEXT, WARM_UP, LR, LR_END = 2000, 12, 64, 100, 1e-3, 1e-4


def learning_rate(step):
    if step < WARM_UP:
        return LR * (step + 1) / WARM_UP
    done = (step - WARM_UP) / (STEPS - WARM_UP)
    return LR_END + 0.5 * (1 + math.cos(math.pi * done)) * (LR - LR_END)


def loss_of(model, ids):
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


@torch.no_grad()
def validation_loss(model, ids):
    windows = ids[: (len(ids) - 1) // CONTEXT * CONTEXT + 1].unfold(0, CONTEXT + 1, CONTEXT)
    losses = [loss_of(model, chunk).item() * len(chunk) for chunk in windows.split(128)]
    return sum(losses) / len(windows)


def main():
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)

    text = open(arguments.text, encoding="utf-8").read()
    characters = sorted(set(text))
    ids = torch.tensor([characters.index(c) for c in text])
    split = len(ids) * 9 // 10
    train, validation = ids[:split], ids[split:]

    model = GPT(len(characters), 128, 4, 4, CONTEXT)
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}], lr=LR,
                                  betas=(0.9, 0.99), fused=True)
    seconds = 0.0
    for step in range(STEPS):
        start = time.perf_counter()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        starts = torch.randint(len(train) - CONTEXT, (BATCH,))
        batch = torch.stack([train[s : s + CONTEXT + 1] for s in starts])
        loss = loss_of(model, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        seconds += time.perf_counter() - start
        if step % 250 == 0 or step == STEPS - 1:
            print(f"step {step:4}  loss {loss.item():.4f}  {seconds:.1f} s", flush=True)
    print(f"validation loss {validation_loss(model, validation):.4f} after {STEPS} steps, {seconds:.1f} s")


if __name__ == "__main__":
    main()
