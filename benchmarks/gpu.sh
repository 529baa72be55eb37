#!/usr/bin/env bash
# Builds for the GPU at hand, runs the tests on it and under compute-sanitizer, times the cases there, and writes
# benchmarks/results/<gpu>.md: bash benchmarks/gpu.sh [BUILD_FOLDER]. Fits in ten minutes on 16 cores; what does not fit is said.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=${1:-$root/build/gpu}
cd "$root"

step() { printf '\n==== %s (%d:%02d)\n' "$1" $((SECONDS / 60)) $((SECONDS % 60)); }

command -v nvidia-smi >/dev/null || { echo "gpu.sh: needs a GPU and its driver (nvidia-smi was not found)" >&2; exit 1; }
name=$(nvidia-smi --query-gpu=name --format=csv,noheader | head -1)
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)
[ "$architecture" = 90 ] && architecture=90a
slug=$(tr 'A-Z ' 'a-z-' <<<"$name" | tr -cd 'a-z0-9-')

step "build for $name (sm_$architecture)"
cmake/install_packages.sh build tests
cmake -S . -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DWEFT_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="$architecture-real"
cmake --build "$build"

step "tests"
failed=0
timeout 150 ctest --test-dir "$build" --output-on-failure --parallel "$(nproc)" -R '^cuda' || failed=$?
summary="tests on the GPU: $([ $failed -eq 0 ] && echo passed || echo "FAILED, exit code $failed")"

step "compute-sanitizer"
if command -v compute-sanitizer >/dev/null; then
  # A few of every kind: shared memory and barriers, asynchronous copies, tensor cores.
  chosen='cuda: *softmax*,cuda: *norm*,cuda: *sort*,cuda: mma*,cuda: *matrices*,cuda: *copies*,cuda: attention on tensor cores*rows that*'
  for tool in memcheck racecheck initcheck; do
    log=$build/$tool.log code=0
    timeout 60 compute-sanitizer --tool "$tool" --error-exitcode 9 "$build/weft_cuda_tests" -tc="$chosen" >"$log" 2>&1 || code=$?
    case $code in
      0) result=passed ;;
      124) result="did not end in time" ;;
      *) result="FAILED, exit code $code" failed=1 ;;
    esac
    grep -qE 'test cases: +[1-9]' "$log" || [ $code -eq 124 ] || { result="FAILED, it ran no test"; failed=1; }
    summary+="; $tool: $result"
  done
else
  summary+="; compute-sanitizer was not installed"
fi

step "benchmarks"
timeout 150 "$build/weft_bench" --device cuda --only cuda_ --json "$build/bench.jsonl" || summary+="; the CUDA cases did not end in time"
timeout 90 "$build/weft_bench" --device cuda --json "$build/all.jsonl" || summary+="; the cases of both devices did not all end in time"
grep -v '"case": "cuda_' "$build/all.jsonl" >>"$build/bench.jsonl" || true

python3 benchmarks/gpu_table.py "$build/bench.jsonl" --name "$name" --summary "$summary" --output "benchmarks/results/$slug.md"
cat "benchmarks/results/$slug.md"
step "done: benchmarks/results/$slug.md"
exit $failed
