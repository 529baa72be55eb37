#!/usr/bin/env bash
# The whole suite, and the tests of CUDA kernels in emulation, under the address and undefined-behaviour sanitizers, and the tests about
# threads under the thread sanitizer (clang with libomp: libgomp reports races that are none). Slow: sanitizer builds take several times as
# long.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cmake/install_packages.sh build tests checks
export OMP_WAIT_POLICY=passive

cmake --preset asan -DWEFT_WERROR=ON -DWEFT_BUILD_BENCHMARKS=OFF -DWEFT_CUDA=EMULATED
cmake --build --preset asan
ctest --test-dir build/asan --output-on-failure --parallel "$(nproc)" -E '^cuda\.'

# libomp and OpenBLAS are not instrumented: what they do among themselves is not judged.
export TSAN_OPTIONS=ignore_noninstrumented_modules=1
cmake --preset tsan -DWEFT_CUDA=OFF -DWEFT_BUILD_BENCHMARKS=OFF -DWEFT_BUILD_PROGRAMS=OFF
cmake --build --preset tsan
ctest --test-dir build/tsan --output-on-failure -R 'thread|parallel' --no-tests=error
