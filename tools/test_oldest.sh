#!/usr/bin/env bash
# `make test-oldest`: builds the package against the oldest torch that pyproject.toml allows, then
# runs the tests that an older torch can break (loading, schemas, operators, the compiler, the
# engine's parity). It uses a separate environment (5 GB), which is removed afterwards.
# OLDEST_WITH="torchvision timm" also runs the tests with whole networks.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$PWD
release=$(sed -nE 's/^dependencies = \[.*"torch>=([0-9.]+)".*/\1/p' pyproject.toml)
[[ -n $release ]] || { echo "pyproject.toml names no oldest torch" >&2; exit 1; }
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX PIP_CONSTRAINT
export PIP_DISABLE_PIP_VERSION_CHECK=1
# Device code includes no torch header and does not run here: one architecture, not optimised.
export TORCH_CUDA_ARCH_LIST=9.0 NVCC_APPEND_FLAGS="${NVCC_APPEND_FLAGS:-} -Xcicc -O0 -Xptxas -O0"
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}

mkdir -p build
work=$(mktemp -d "$root/build/oldest-XXXXXX")
trap 'rm -rf "$work"' EXIT
python=$work/venv/bin/python
echo "» torch $release.*, the oldest supported"
"${PYTHON:-python3}" -m venv "$work/venv"
# The usual pins, except for packages whose versions this torch determines.
grep -vE '^(torch|torchvision|triton|setuptools|nvidia-|cuda-)' constraints.txt >"$work/pins.txt"
# Of the thousands of modules, those that are imported are compiled then.
# shellcheck disable=SC2086  # PIP_FLAGS and OLDEST_WITH are lists of words
"$python" -m pip install ${PIP_FLAGS:-} -q --no-compile -c "$work/pins.txt" "torch==$release.*" \
  "setuptools>=77" ninja pybind11 numpy pytest pytest-xdist hypothesis ${OLDEST_WITH:-}
# Build from a copy: a build in the checkout would replace the extension that .venv uses.
git ls-files -z --cached --others --exclude-standard | xargs -0 cp --parents -t "$work"
# Optimising the kernels takes most of the build, and the tests are none of speed.
printf '#!/bin/sh\nexec %s "$@" -O1\n' "${CXX:-c++}" >"$work/c++"
chmod +x "$work/c++"
PATH=$work/venv/bin:$PATH CXX=$work/c++ \
  "$python" -m pip install -q --no-build-isolation --no-deps "$work"
# Run the tests in a folder without the sources, so that they import the installed sign_ext.
mv "$work/sign_ext" "$work/sources"
# Kernels on the emulated device have nothing of torch. Most of their tests are left out below, and
# what the others compile is compiled once for both environments.
mkdir -p build/emulated "$work/build"
ln -s "$root/build/emulated" "$work/build/emulated"
cd "$work"
"$python" -c 'import sign_ext; print(sign_ext.build_config())'
tests=(python_tests/{ops,compiler,engine,sign} python_tests/test_{calibrate,eval_state,pushforward,reference}.py)
processes=${TEST_PROCESSES:-$("$python" -c 'from build_tools.environment import cores; print(cores())')}
"$python" -m pytest -q -p no:cacheprovider -n "$processes" --dist loadfile --no-loadscope-reorder \
  -m "not gpu and not slow" --ignore-glob="*/engine/test_onchip_*" --ignore-glob="*_emulated.py" \
  "${tests[@]}" "$@"
echo "» make test-oldest took $SECONDS s"
