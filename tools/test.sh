#!/usr/bin/env bash
# `make test` and `make test-all`: the C++ tests under AddressSanitizer and
# UndefinedBehaviorSanitizer, then the Python tests, `quick` or `all` of them (the first argument).
# Both parts always run; the exit status is nonzero when either failed. Further arguments go to
# pytest. TEST_PROCESSES: how many tests run at once; without it, one a core.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
which=$1
shift
# cmake, ninja and the rest come from the pinned wheels, also where the system has others.
PATH=$PWD/.venv/bin:$PATH
export PATH
# A test has one thread, and as many run as there are cores. Threads that wait for each other must
# not spin: on a busy machine that is many times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
processes=${TEST_PROCESSES:-$(python -c 'from build_tools.environment import cores; print(cores())')}
failed=0

echo "» C++ tests (ctest, sanitizers)"
configure() { cmake -S . -B build/ctest -G Ninja "$@" >build/ctest-configure.log 2>&1; }
mkdir -p build
cpp_tests() {
  # A cache that a moved checkout or another compiler left is thrown away, not an error.
  { configure || configure --fresh || { cat build/ctest-configure.log; false; }; } &&
    cmake --build build/ctest &&
    ctest --test-dir build/ctest --output-on-failure --no-tests=error --parallel "$processes"
}
if [[ ${SIGN_EXT_BUILD:-} == none ]] && ! command -v "${CXX:-c++}" >/dev/null; then
  echo "not run: SIGN_EXT_BUILD=none, and this machine has no C++ compiler"
elif ! cpp_tests; then
  failed=1
  echo "» the C++ tests FAILED (above)"
fi

case $which in
  quick) select="not gpu and not slow" ;;
  all) select="not gpu" ;;
esac
echo "» Python tests (pytest): $select, $processes at once"
python -m pytest -n "$processes" --dist loadgroup -m "$select" "$@" || failed=1
# Tests on a GPU measure its memory and must be alone on it.
if python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "» Python tests (pytest): gpu"
  python -m pytest -m gpu "$@" || failed=1
fi
if ((failed)); then echo "make test: FAILED" >&2; fi
exit "$failed"
