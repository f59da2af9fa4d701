#!/usr/bin/env bash
# `make test` and `make test-all`: the C++ tests under AddressSanitizer and
# UndefinedBehaviorSanitizer, then the Python tests. The first argument selects `quick` or `all`
# Python tests, further arguments go to pytest. Both parts always run; the exit status is nonzero if
# either failed. TEST_PROCESSES is the number of parallel tests (default: one per core).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
which=$1
shift
# Use cmake and ninja from the pinned wheels, even if the system has its own.
PATH=$PWD/.venv/bin:$PATH
export PATH
# Each test is single-threaded, and one test runs per core. Waiting threads must not spin: on a busy
# machine that is many times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
processes=${TEST_PROCESSES:-$(python -c 'from build_tools.environment import cores; print(cores())')}
failed=0

echo "» C++ tests (ctest, sanitizers)"
configure() { cmake -S . -B build/ctest -G Ninja "$@" >build/ctest-configure.log 2>&1; }
mkdir -p build
cpp_tests() {
  # A stale cache (moved checkout, other compiler) is discarded instead of failing.
  { configure || configure --fresh || { cat build/ctest-configure.log; false; }; } &&
    cmake --build build/ctest &&
    ctest --test-dir build/ctest --output-on-failure --no-tests=error --parallel "$processes"
}
if [[ ${SIGN_EXT_BUILD:-} == none ]] && ! command -v "${CXX:-c++}" >/dev/null; then
  echo "skipped: SIGN_EXT_BUILD=none, and this machine has no C++ compiler"
elif ! cpp_tests; then
  failed=1
  echo "» the C++ tests FAILED (above)"
fi

case $which in
  quick) select="not gpu and not slow" ;;
  all) select="not gpu" ;;
esac
echo "» Python tests (pytest): $select, $processes at once"
python -m pytest -n "$processes" --dist loadfile --no-loadscope-reorder -m "$select" "$@" || failed=1
# GPU tests measure GPU memory, so they run one at a time.
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "» Python tests (pytest): gpu"
  python -m pytest -m gpu "$@" || failed=1
fi
if ((failed)); then echo "make test: FAILED" >&2; fi
exit "$failed"
