#!/usr/bin/env bash
# Makes a wheel of prunecca for CPython 3.12, its kernels compiled for one architecture, to be installed by
# `benchmarks/cuda/run.sh OUT build --wheel FILE` on a machine with a GPU whose time is not to be spent on compiling:
#
#   benchmarks/cuda/make_wheel.sh FOLDER
#
# Needs nvcc and a C++ compiler, and pip with its registry (scikit-build-core, pybind11, cmake, ninja, wheel). CPython
# 3.12 with its headers is looked for as $PYTHON312, as python3.12 on the PATH, among pyenv's versions, and in Debian's
# and Ubuntu's package python3.12-dev where that exists and we are root. ARCHS names other architectures than 90a-real.
# The wheel's build number is a digest of its sources, by which run.sh knows a wheel that is out of date.
set -euo pipefail
if [ $# -ne 1 ]; then
  echo "usage: benchmarks/cuda/make_wheel.sh FOLDER" >&2
  exit 2
fi
mkdir -p "$1"
folder=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."

has_headers() { # a CPython 3.12 with its headers
  "$1" -c 'import os, sys, sysconfig
sys.exit(sys.version_info[:2] != (3, 12) or not os.path.exists(sysconfig.get_paths()["include"] + "/Python.h"))' 2>/dev/null
}

find_python() {
  local each
  for each in ${PYTHON312:+"$PYTHON312"} "$(command -v python3.12)" "${PYENV_ROOT:-$HOME/.pyenv}"/versions/3.12*/bin/python; do
    if [ -n "$each" ] && has_headers "$each"; then
      echo "$each"
      return 0
    fi
  done
  return 1
}

if ! python=$(find_python); then
  if [ "$(id -u)" = 0 ] && apt-cache show python3.12-dev >/dev/null 2>&1; then
    apt-get -qq install -y --no-install-recommends python3.12-dev python3.12-venv >/dev/null
  fi
  if ! python=$(find_python); then
    echo "no CPython 3.12 with headers was found; install one (pyenv install 3.12, or Ubuntu 24.04's python3.12-dev) and name it in PYTHON312" >&2
    exit 1
  fi
fi
command -v nvcc >/dev/null || { echo "nvcc was not found; put the CUDA compiler on PATH" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install -q "scikit-build-core>=0.11" "pybind11>=3" cmake ninja wheel
export PATH=$work/venv/bin:$PATH PRUNECCA_CUDA=ON PRUNECCA_CUDA_ARCHS=${ARCHS:-90a-real}
export CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
pip wheel -q --no-deps --no-build-isolation --config-settings=build-dir="$work/build" -w "$work/wheel" .
digest=$(python benchmarks/cuda/sources.py)
made=$(cd "$work/wheel" && wheel tags --build "0$digest" --remove ./*.whl)
mv "$work/wheel/$made" "$folder/"
echo "$folder/$made"
