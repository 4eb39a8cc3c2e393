#!/usr/bin/env bash
# Builds prunecca for the GPU of this machine, runs the tests that need one, memory checkers and the benchmarks:
#
#   benchmarks/cuda/run.sh OUT [build] [tests] [checkers] [benchmarks] [--wheel FILE] [--seconds 540] [--dry-run]
#
# Without a stage all run, in one call of nine minutes; named alone, a stage has them for itself. What fails or hangs
# stops nothing else: every command has its limit, every file of tests, section of benchmarks and checker its process.
# The package is built when a stage needs it, outside OUT (build/cuda, or PRUNECCA_WORK), and is kept while its sources
# are unchanged; --wheel installs one that make_wheel.sh made elsewhere.
#
# OUT receives stages.json (the state of each step), logs.tgz, and from the benchmarks gpu.json and gpu.md, all written
# anew with every step or row. The last line says what could not run; the exit status is 0 when what could was good.
# Needs no network, but torch, pytest, pybind11, scikit-build-core, cmake, ninja and nvcc. PYTHON names the interpreter.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
start='import sys; sys.path.insert(0, sys.argv.pop(1)); from benchmarks.cuda.stages import main; sys.exit(main())'
exec python3 -u -c "$start" "$root" "$@"
