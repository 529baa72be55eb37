#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test: bash tests/run.sh. Arguments go on to ctest: bash tests/run.sh -R attention
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cmake/install_packages.sh build tests
cmake --preset release
cmake --build --preset release
export OMP_WAIT_POLICY=passive  # tests run side by side: a thread that waits leaves its core to the others
exec ctest --test-dir build/release --output-on-failure --parallel "$(nproc)" "$@"
