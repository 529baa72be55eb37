#!/usr/bin/env python3
"""Times weft and PyTorch beside each other, in alternation and in one run, and writes the table of ratios.

    python3 benchmarks/compare.py [--only TEXT] [--python PYTHON] [--output benchmarks/results/cpu.md]

Every measurement is a process of its own: ours by build/release/weft_bench, PyTorch's by benchmarks/peers.py under a Python that has
`torch`. That is --python; without it, a virtual environment in the user's cache folder, made and filled with torch at the first use.
OPENBLAS_CORETYPE and OPENBLAS_L2_SIZE are unset, so that OpenBLAS chooses its kernels itself.
"""
import argparse
import datetime
import json
import os
import pathlib
import subprocess
import sys
import venv

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent

# Ratio to reach (PyTorch's time / ours), and whether matrix products decide it: those are easier for PyTorch where MKL runs AVX-512.
TARGETS = {
    "sdpa_f_n512_full": (2.0, True), "sdpa_f_n512_causal": (2.0, True),
    "sdpa_f_n2048_full": (2.0, True), "sdpa_f_n2048_causal": (2.0, True),
    "sdpa_f_n8192_full": (2.0, True), "sdpa_f_n8192_causal": (2.0, True),
    "sdpa_fb_n512_full": (2.0, True), "sdpa_fb_n512_causal": (2.0, True),
    "sdpa_fb_n2048_full": (2.2, True), "sdpa_fb_n2048_causal": (2.2, True),
    "sdpa_fb_n8192_full": (1.8, True), "sdpa_fb_n8192_causal": (1.8, True),
    "attentions_MultiHeadSelfAttention_n1024": (6.0, False), "attentions_MultiHeadSelfAttention_n4096": (8.0, False),
    "attentions_LocalSelfAttention_n1024": (14.0, False), "attentions_LocalSelfAttention_n4096": (65.0, False),
    "train_tiny_c128_l4_n64_b12": (2.2, True), "train_baby_c384_l6_n256_b8": (2.0, True),
    "train_enwik8_c512_l6_n1024_b1": (2.0, True), "train_gpt2_124m_n64_b4": (2.0, True),
    "generate_enwik8": (30.0, False),
}
MKL_AVX512_ADVANTAGE = 1.7

# Share of the machine's matrix peak to reach: the targets that do not depend on another library.
FLOORS = {"sdpa_f_n2048": 0.75, "sdpa_f_n8192": 0.75, "sdpa_fb_n2048": 0.7, "sdpa_fb_n8192": 0.7, "train_baby": 0.6, "train_enwik8": 0.6,
          "train_gpt2": 0.6}

# OpenBLAS's kernel families, newest last, and the processor flags that they need.
OPENBLAS_KERNELS = {"Haswell": {"avx2", "fma"}, "SkylakeX": {"avx512f", "avx512dq", "avx512bw", "avx512vl"},
                    "Cooperlake": {"avx512f", "avx512vl", "avx512_bf16"},
                    "Sapphirerapids": {"avx512f", "avx512vl", "avx512_bf16", "amx_bf16"}}


def environment(**extra):
    kept = {k: v for k, v in os.environ.items() if k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}
    return {**kept, **extra}


def run(command, **extra):
    """The JSON line that a measurement prints, or nothing if it fails."""
    done = subprocess.run([str(part) for part in command], env=environment(**extra), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        print(f"  failed: {' '.join(map(str, command))}\n{done.stderr}", file=sys.stderr)
        return None
    return json.loads(done.stdout.splitlines()[-1])


def python_with_torch():
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME", pathlib.Path.home() / ".cache"))
    folder = cache / "weft" / "torch"
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"making a virtual environment with torch in {folder}", file=sys.stderr)
        venv.create(folder, with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "torch", "numpy"], check=True)
    return python


def processor():
    """Model name, vendor and flags of the first processor."""
    fields = {}
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    return fields.get("model name", "unknown"), fields.get("vendor_id", ""), set(fields.get("flags", "").split())


def best(results):
    """The lowest time of the repeats (the noise of a shared machine only adds), and the largest memory."""
    results = [r for r in results if r]
    if not results:
        return None
    return {**min(results, key=lambda r: r["ms"]), "peak_rss_mb": max(r["peak_rss_mb"] for r in results)}


def flops(result):
    return result["operations"] / (result["ms"] * 1e-3)


def measure(name, arguments, peer_cases, flags):
    """Best of alternating repeats of ours, the peer's, for plain products OpenBLAS's with each of its kernel families, and the yardstick: what
    the machine's matrix products reached meanwhile (a shared machine is not always as fast)."""
    ours, theirs, openblas, yardstick = [], [], [], []
    for _ in range(arguments.rounds):
        bench = [arguments.bench, "--only", name, "--threads", arguments.threads]
        ours.append(run(bench))
        if any(name.startswith(prefix) for prefix in FLOORS):
            yardstick.append(run([arguments.bench, "--only", "sgemm_2048", "--threads", arguments.threads]))
        if name in peer_cases:
            theirs.append(run([arguments.python, HERE / "peers.py", "--case", name, "--threads", arguments.threads]))
        if name.startswith("sgemm"):
            openblas += [run(bench, OPENBLAS_CORETYPE=kernels) for kernels, needed in OPENBLAS_KERNELS.items() if needed <= flags]
    return best(ours), best(theirs), best(openblas), best(yardstick)


def number(value, digits=3):
    return "-" if value is None else f"{value:.{digits}g}" if value < 1000 else f"{value:.0f}"


def row(name, ours, theirs, openblas, peak, advantage):
    ratio = theirs["ms"] / ours["ms"] if theirs else None
    target, matmul_bound = TARGETS.get(name, (None, False))
    if matmul_bound:
        target /= advantage
    floor = flops(ours) / peak if ours["operations"] else None
    floor_target = next((share for prefix, share in FLOORS.items() if name.startswith(prefix)), None)
    cells = [f"`{name}`", number(ours["ms"]), number(theirs and theirs["ms"]), number(ratio), number(target),
             number(ours["peak_rss_mb"], 4), number(theirs and theirs["peak_rss_mb"], 4), number(floor, 2), number(floor_target),
             f"OpenBLAS with its best kernels: {number(openblas['ms'])} ms" if openblas else ""]
    return "| " + " | ".join(cells) + " |"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="cases with this text in their names")
    parser.add_argument("--rounds", type=int, default=3, help="alternating repeats of each side; the lowest counts")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bench", default=ROOT / "build" / "release" / "weft_bench", help="our program")
    parser.add_argument("--python", help="a Python that has torch")
    parser.add_argument("--output", help="also write the table to this file (benchmarks/results/cpu.md holds the last full one)")
    arguments = parser.parse_args()
    arguments.python = arguments.python or python_with_torch()

    about = run([arguments.python, HERE / "peers.py"])
    if about is None:
        sys.exit(f"{arguments.python} cannot run benchmarks/peers.py")
    model, vendor, flags = processor()
    mkl_avx512 = about["mkl"] and about["capability"] == "AVX512" and vendor == "GenuineIntel"
    names = subprocess.run([arguments.bench, "--list"], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    blas = subprocess.run([arguments.bench, "--only", "sgemm_768x512x512"], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                          text=True, check=True).stderr.splitlines()[0]

    # The yardstick first: what the machine's matrix products reach, by whichever library is faster.
    ours, theirs, openblas, _ = measure("sgemm_2048", arguments, about["cases"], flags)
    rates = [2 * 2048**3 / (r["ms"] * 1e-3) for r in (ours, theirs, openblas) if r]
    peak, pytorch_rate = max(rates), 2 * 2048**3 / (theirs["ms"] * 1e-3) if theirs else 0

    lines = [
        "# weft beside PyTorch, on the CPU",
        "",
        f"{datetime.date.today()}, {model}, {arguments.threads} threads, float32. {blas}. PyTorch {about['torch']} "
        f"({about['capability']} kernels{', MKL with AVX-512' if mkl_avx512 else ''}). Best of {arguments.rounds} alternating repeats, each the "
        "median of a process of its own, by "
        f"`python3 benchmarks/compare.py{' --only ' + arguments.only if arguments.only else ''}`.",
        "",
        f"Matrix peak of this machine: {peak * 1e-9:.0f} GFLOP/s (`sgemm_2048`, the faster of both libraries); PyTorch's products reach "
        f"{pytorch_rate / peak:.0%} of it. *Floor* is the share of it that "
        "a case reaches, counting only the operations of the mathematics; where there is a share to reach, the peak is measured again beside the "
        "case.",
        "",
    ]
    if mkl_avx512:
        lines += ["PyTorch's MKL runs AVX-512 here: the ratios to reach of cases decided by matrix products are the targets divided by "
                  f"{MKL_AVX512_ADVANTAGE}.", ""]
    lines += [("`attentions_*`: beside the original package." if about["original_attentions"] else
               "`attentions_*`: beside a dense PyTorch module of our own that computes the same (the original package was not importable)."), "",
              "| case | ms | PyTorch ms | ratio | to reach | MB | PyTorch MB | floor | to reach | |", "|---" * 10 + "|"]
    print("\n".join(lines))
    for name in names:
        if arguments.only not in name:
            continue
        ours, theirs, openblas, yardstick = measure(name, arguments, about["cases"], flags)
        if ours is None:
            lines.append(f"| `{name}` | failed | | | | | | | | |")
        else:
            lines.append(row(name, ours, theirs, openblas, flops(yardstick) if yardstick else peak, MKL_AVX512_ADVANTAGE if mkl_avx512 else 1.0))
        print(lines[-1], flush=True)
        if arguments.output:  # after every case: what is measured is kept
            pathlib.Path(arguments.output).write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
