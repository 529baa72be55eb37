#!/usr/bin/env bash
# Installs what is missing, builds, and trains a small language model on the tales in examples/data: bash examples/quickstart.sh
# Arguments go on to train_lm: bash examples/quickstart.sh --data war_and_peace.txt --attention local:window=64 --steps 2000
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$root/build/release

(
  cd "$root"
  cmake/install_packages.sh build
  cmake --preset release
  cmake --build --preset release --target train_lm generate_lm
)

# given OPTION ARGUMENTS...: is it among the arguments, and with which value?
given() {
  local option=$1
  shift
  while [ $# -gt 0 ]; do
    case $1 in
      "$option") echo "${2-}" && return ;;
      "$option"=*) echo "${1#*=}" && return ;;
    esac
    shift
  done
  return 1
}

arguments=("$@")
given --data "$@" >/dev/null || arguments+=(--data "$root/examples/data/tales.txt")
run=$(given --run "$@") || { run=runs/quickstart && arguments+=(--run "$run"); }
"$build/train_lm" "${arguments[@]}"

echo
"$build/generate_lm" --run "$run" --prompt "THE " --tokens 400 --temperature 0.8
