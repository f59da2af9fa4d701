#!/usr/bin/env bash
# `make test`: the C++ tests under AddressSanitizer and UndefinedBehaviorSanitizer, then the Python
# tests. Both always run; the exit status is nonzero when either failed. Arguments go to pytest.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# cmake, ninja and the rest come from the pinned wheels, also where the system has others.
PATH=$PWD/.venv/bin:$PATH
export PATH
# Threads that wait for each other must not spin: on a busy machine that is many times slower.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
failed=0

echo "» C++ tests (ctest, sanitizers)"
configure() { cmake -S . -B build/ctest -G Ninja "$@" >build/ctest-configure.log 2>&1; }
mkdir -p build
cpp_tests() {
  # A cache that a moved checkout or another compiler left is thrown away, not an error.
  { configure || configure --fresh || { cat build/ctest-configure.log; false; }; } &&
    cmake --build build/ctest &&
    ctest --test-dir build/ctest --output-on-failure --no-tests=error
}
if [[ ${SIGN_EXT_BUILD:-} == none ]] && ! command -v "${CXX:-c++}" >/dev/null; then
  echo "not run: SIGN_EXT_BUILD=none, and this machine has no C++ compiler"
elif ! cpp_tests; then
  failed=1
  echo "» the C++ tests FAILED (above)"
fi

# Tests marked gpu are left out where there is no GPU to run them on, and run where there is one.
select=()
if ! python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  select=(-m "not gpu")
fi
echo "» Python tests (pytest)"
python -m pytest "${select[@]}" "$@" || failed=1
if ((failed)); then echo "make test: FAILED" >&2; fi
exit "$failed"
