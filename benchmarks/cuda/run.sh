#!/usr/bin/env bash
# Builds prunecca for the GPU of this machine, runs the tests that need one, memory checkers and the benchmarks:
#
#   benchmarks/cuda/run.sh OUT_FOLDER
#
# Needs torch, pybind11, scikit-build-core, cmake, ninja, nvcc and pytest, and no network. Ends within 9 minutes: every
# stage has its limit, and one that fails does not stop the next. OUT_FOLDER receives the log of each stage, stages.json,
# gpu.json and gpu.md. The exit status is 0 when all stages that could run were good. PYTHON names the interpreter.
set -uo pipefail
if [ $# -ne 1 ]; then
  echo "usage: benchmarks/cuda/run.sh OUT_FOLDER" >&2
  exit 2
fi
mkdir -p "$1" || exit 2
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.." || exit 2
python=${PYTHON:-python3}
limit=530 # seconds for all stages; the rest of the nine minutes is for starting and ending
# A folder of packages in front of the interpreter's own, not a virtual environment: one made from within another would
# not see what that has installed.
package=$out/package
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
names=() states=() seconds=()

left() { echo $((limit - SECONDS)); }

note() { # NAME STATE SECONDS
  names+=("$1") states+=("$2") seconds+=("$3")
  echo "== $1: $2 ($3 s)"
}

stage() { # NAME LIMIT COMMAND...: its output to OUT_FOLDER/NAME.log
  local name=$1 most=$2 began=$SECONDS code
  shift 2
  if [ "$(left)" -lt 10 ]; then
    note "$name" "no time left" 0
    return 1
  fi
  [ "$most" -lt "$(left)" ] || most=$(left)
  timeout --kill-after=5 "$most" "$@" >"$out/$name.log" 2>&1
  code=$?
  case $code in
    0) note "$name" good $((SECONDS - began)) ;;
    124 | 137) note "$name" "over its $most s" $((SECONDS - began)) ;;
    *) note "$name" "FAILED ($code)" $((SECONDS - began)); tail -n 15 "$out/$name.log" ;;
  esac
  return $code
}

device() { # compute capability without the dot, as CMake writes the architecture
  local found
  found=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -n 1 | tr -d '. ')
  [ -n "$found" ] || found=$("$python" -c 'import torch; print(*torch.cuda.get_device_capability(), sep="")' 2>/dev/null)
  case $found in
    "") return 1 ;;
    90) echo 90a-real ;;
    *) echo "$found-real" ;;
  esac
}

report() {
  {
    printf '[\n'
    for i in "${!names[@]}"; do
      printf ' {"stage": "%s", "state": "%s", "seconds": %s}%s\n' "${names[i]}" "${states[i]}" "${seconds[i]}" \
        "$([ "$i" -lt $((${#names[@]} - 1)) ] && echo ,)"
    done
    printf ']\n'
  } >"$out/stages.json"
  [ ! -f "$out/gpu.md" ] || { echo; cat "$out/gpu.md"; }
  printf '\n| stage | state | time |\n|---|---|---:|\n'
  for i in "${!names[@]}"; do printf '| %s | %s | %s s |\n' "${names[i]}" "${states[i]}" "${seconds[i]}"; done
}

if ! architecture=$(device); then
  echo "no CUDA device was found (nvidia-smi and torch name none); run this on a machine that has one" >&2
  note device "FAILED (none was found)" 0
  report
  exit 1
fi
echo "architecture $architecture, $(nproc) cores"
rm -rf "$package" "$out/gpu.md" "$out/gpu.json"

export PRUNECCA_CUDA=ON PRUNECCA_CUDA_ARCHS=$architecture CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)}
if stage build 200 "$python" -m pip install --no-index --no-deps --no-build-isolation --no-compile --disable-pip-version-check \
  --config-settings=build-dir="$work/build" --target "$package" .; then
  export PYTHONPATH=$package${PYTHONPATH:+:$PYTHONPATH} PRUNECCA_REQUIRE_CUDA=1
  stage tests 170 "$python" -m pytest -q -m cuda -p no:cacheprovider tests
  [ ! -f "$out/tests.log" ] || tail -n 3 "$out/tests.log"
  # The benchmarks before the checkers: figures are worth more than a second proof, should time be short.
  stage benchmarks 165 "$python" -m benchmarks.cuda.run "$out" --seconds 140
  checker=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | head -n 1)
  for tool in memcheck racecheck synccheck; do
    if [ -z "$checker" ]; then
      note $tool "not run: compute-sanitizer is not there" 0
    elif ! stage $tool 60 "$checker" --tool $tool --error-exitcode 9 "$python" benchmarks/cuda/exercise.py &&
      grep -qi "device not supported" "$out/$tool.log"; then
      unset 'names[-1]' 'states[-1]' 'seconds[-1]'
      note $tool "not run: compute-sanitizer refuses this machine's device" 0
    fi
  done
else
  for each in tests benchmarks memcheck racecheck synccheck; do note "$each" "not built" 0; done
fi
report
for state in "${states[@]}"; do
  case $state in good | "not run"*) ;; *) exit 1 ;; esac
done
exit 0
