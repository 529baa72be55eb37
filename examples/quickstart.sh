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
again=
given --resume "$@" >/dev/null && again=yes
if [ -z "$again" ]; then  # a resumed run remembers its text
  given --data "$@" >/dev/null || arguments+=(--data "$root/examples/data/tales.txt")
fi
if ! run=$(given --run "$@"); then
  # Another start is another run, unless it goes on with the latest or replaces it.
  run=runs/quickstart
  for ((i = 2; ; i++)); do
    next=runs/quickstart-$i
    [ -e "$run" ] || break
    if [ -n "$again" ] || given --overwrite "$@" >/dev/null; then
      [ -e "$next" ] || break
    fi
    run=$next
  done
  arguments+=(--run "$run")
fi
"$build/train_lm" "${arguments[@]}"
if given --help "$@" >/dev/null || given -h "$@" >/dev/null; then exit 0; fi

echo
"$build/generate_lm" --run "$run" --tokens 400
