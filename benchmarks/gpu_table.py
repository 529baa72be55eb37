#!/usr/bin/env python3
"""Makes the table of benchmarks/gpu.sh from weft_bench's JSON lines: rates, and how far they are from what is to be reached."""
import argparse
import datetime
import json
import pathlib

# TFLOP/s on an H200-class GPU, bf16, causal, 16,384 tokens: (FlashAttention-2, FlashAttention-3) by head dimension.
FORWARD = {64: (300, 480), 128: (335, 640)}
BACKWARD = {64: (None, 474), 128: (None, 561)}
COPY_SHARE = 0.85  # of a device copy's bandwidth: what kernels that memory bounds should reach
LLM_C_TOKENS_PER_TFLOP = 145e3 / 312  # GPT-2 124M in bf16 on an A100 (312 TFLOP/s dense bf16), tokens per second and TFLOP/s of peak
PEAKS = {"H200": 989, "H100": 989, "A100": 312}  # TFLOP/s, dense bf16


def anchors(case):
    if not case.startswith("cuda_sdpa_"):
        return ""
    head_dim = 64 if "_d64_" in case else 128
    flash2, flash3 = (FORWARD if "_sdpa_f_" in case else BACKWARD)[head_dim]
    if "causal" not in case:
        return ""
    return ", ".join(f"FlashAttention-{version} {rate}" for version, rate in ((2, flash2), (3, flash3)) if rate) + " TFLOP/s"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lines", type=pathlib.Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--summary", default="")
    parser.add_argument("--output", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    results = [json.loads(line) for line in arguments.lines.read_text().splitlines() if line.strip()]
    bandwidth = next((r["bytes"] / r["ms"] / 1e6 for r in results if r["case"] == "cuda_copy"), None)  # GB/s
    peak = next((p for name, p in PEAKS.items() if name in arguments.name), None)

    lines = [f"# weft on {arguments.name}", "",
             f"{datetime.date.today()}, by `bash benchmarks/gpu.sh`; {arguments.summary}. CUDA events, median of repeated runs, the L2 cache "
             "emptied before each.", "",
             f"A device copy reaches {bandwidth:.0f} GB/s; kernels that memory bounds should reach {COPY_SHARE:.0%} of it." if bandwidth else
             "The copy was not timed.", "",
             "| case | ms | TFLOP/s | GB/s | of a copy | device MB | beside |", "|---|---|---|---|---|---|---|"]
    for r in results:
        rate = f"{r['operations'] / r['ms'] / 1e9:.3g}" if r["operations"] else ""
        gbs = r["bytes"] / r["ms"] / 1e6
        share = f"{gbs / bandwidth:.0%}" if bandwidth and r["bytes"] else ""
        beside = anchors(r["case"])
        if "train_gpt2" in r["case"] and r["case"].startswith("cuda_"):
            beside = f"{1e3 / r['ms']:.0f} tokens/s"
            if peak:
                beside += f"; llm.c's rate per TFLOP/s of peak would be {LLM_C_TOKENS_PER_TFLOP * peak:.0f}"
        lines.append(f"| `{r['case']}` | {r['ms']:.4g} | {rate} | {f'{gbs:.0f}' if r['bytes'] else ''} | {share} | "
                     f"{r['peak_device_mb']:.0f} | {beside} |")
    arguments.output.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
