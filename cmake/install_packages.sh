#!/usr/bin/env bash
# install_packages.sh GROUP...: installs the Debian packages of the groups that are missing, by one apt-get line that it shows first.
# Groups: build (the library and its programs), tests, checks (what .ci/run needs on top).
set -euo pipefail

build="g++ cmake ninja-build pkg-config libopenblas-openmp-dev libfmt-dev libhwy-dev nlohmann-json3-dev libcli11-dev zlib1g-dev
       libsentencepiece-dev"
tests="doctest-dev python3"
checks="libboost-context-dev clang-format-14 clang-19 libclang-rt-19-dev libomp-19-dev"

wanted=()
for group in "$@"; do
  read -ra names -d '' <<<"${!group}" || true
  wanted+=("${names[@]}")
done

if ! command -v dpkg-query >/dev/null; then
  echo "This system has no dpkg; weft needs its equivalents of these Debian packages: ${wanted[*]}" >&2
  exit 0
fi

missing=()
for name in "${wanted[@]}"; do
  status=$(dpkg-query -W -f ' ${db:Status-Status} ' "$name" 2>/dev/null || true)
  if [[ $status != *" installed "* ]] && ! command -v "$name" >/dev/null; then
    missing+=("$name")  # neither the package nor, for tools, a command of that name from elsewhere
  fi
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" -ne 0 ]; then
  echo "These Debian packages are missing and only root can install them: ${missing[*]}" >&2
  exit 1
fi

export DEBIAN_FRONTEND=noninteractive
install=(apt-get install -y --no-install-recommends "${missing[@]}")
echo "+ ${install[*]}"
# A bare image comes without package lists, an old one with lists whose files are gone: only then are they fetched.
if ! apt-get install --simulate "${missing[@]}" >/dev/null 2>&1; then
  apt-get update
  "${install[@]}"
else
  "${install[@]}" || { apt-get update && "${install[@]}"; }
fi
