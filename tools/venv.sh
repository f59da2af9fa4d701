#!/usr/bin/env bash
# Creates or repairs .venv and installs everything that the make commands use. Returns quickly if
# nothing relevant has changed.
# Environment: PYTHON, PIP_FLAGS, SIGN_EXT_BUILD, TORCH_CUDA_ARCH_LIST.
#
# Without SIGN_EXT_BUILD, the operators are built for what this machine can run: the CUDA kernels,
# which take minutes, only if an NVIDIA GPU is visible. The last given value is remembered in .venv
# until another one is given.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=${PYTHON:-python3}
venv=.venv
installed=$venv/.sign-ext-installed    # fingerprint of the installation, then the operators' library
installing=$venv/.sign-ext-installing  # exists while pip runs; a leftover means the run was killed
remembered=$venv/.sign-ext-build       # SIGN_EXT_BUILD and TORCH_CUDA_ARCH_LIST as last chosen
extras=experiments,test,lint

# The user's settings must not redirect the install or expose another interpreter's packages.
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH PIP_USER PIP_TARGET PIP_PREFIX
# Isolated builds use the same pins (older pips read the first variable, newer ones the second).
export PIP_CONSTRAINT=constraints.txt PIP_BUILD_CONSTRAINT=constraints.txt
export PIP_DISABLE_PIP_VERSION_CHECK=1

notice=""
if [[ -n ${SIGN_EXT_BUILD:-}${TORCH_CUDA_ARCH_LIST:-} ]]; then
  export SIGN_EXT_BUILD=${SIGN_EXT_BUILD:-auto}
  choice=$SIGN_EXT_BUILD$'\n'${TORCH_CUDA_ARCH_LIST:-}
elif [[ -f $remembered ]]; then
  choice=$(<"$remembered")
  { read -r SIGN_EXT_BUILD; read -r TORCH_CUDA_ARCH_LIST || true; } <"$remembered"
  export SIGN_EXT_BUILD TORCH_CUDA_ARCH_LIST
else
  choice=""
  if nvidia-smi -L 2>/dev/null | grep -q GPU; then
    export SIGN_EXT_BUILD=auto
  else
    export SIGN_EXT_BUILD=cpu
    if command -v nvcc >/dev/null; then
      notice="no NVIDIA GPU is visible, so the CUDA kernels were not built; to build them as well: SIGN_EXT_BUILD=cuda make venv"
    fi
  fi
fi

fingerprint() {
  {
    echo "$PWD" "$extras" "$SIGN_EXT_BUILD" "${TORCH_CUDA_ARCH_LIST:-}" "${CXX:-}" \
      "${CUDA_HOME:-}" "$(command -v nvcc || true)"
    find pyproject.toml constraints.txt setup.py build_backend.py build_tools tools/venv.sh csrc \
      -type f -not -path 'csrc/tests/*' -not -path 'csrc/testing/*' -not -name '*.pyc' -print0 |
      LC_ALL=C sort -z | xargs -0 sha256sum
  } | sha256sum | cut -d' ' -f1
}

works() {  # pip runs, and the environment belongs to this folder (not copied, python not removed)
  [[ $("$venv/bin/python" -c 'import pip, sys; print(sys.prefix)' 2>/dev/null) == "$PWD/$venv" ]]
}

up_to_date() {
  [[ -f $installed && ! -e $installing ]] || return 1
  local print extension
  { read -r print; read -r extension; } <"$installed" || return 1
  [[ $print == "$(fingerprint)" && ( $extension == none || -f $extension ) ]] && works
}

# A second make command waits for the first.
mkdir -p build
exec 9>build/.venv-lock
if command -v flock >/dev/null; then flock 9; fi
if up_to_date; then exit 0; fi

pip() { "$venv/bin/python" -m pip "$@" 9>&-; }
# shellcheck disable=SC2206  # PIP_FLAGS is a list of words
flags=(${PIP_FLAGS:-})

# Write the build's output to a file; print each source as it is compiled, and the summary.
progress() {
  tee "$1" | awk '
    match($0, /\[[0-9]+\/[0-9]+\]/) {
      count = substr($0, RSTART, RLENGTH)
      source = ""
      for (i = 1; i <= NF; ++i) if ($i ~ /\.(cpp|cu)$/) source = $i
      sub(/.*\//, "", source)
      if (source != "") print "  " count, source
    }
    /^ *sign_ext: / { sub(/^ */, "  "); print }
    { fflush() }'
}

if [[ -e $installing ]] || ! works; then
  "$python" tools/check_machine.py
  echo "» creating $venv with $("$python" --version)"
  "$python" -m venv --clear "$venv"
fi
print=$(fingerprint)
rm -f "$installed"
touch "$installing"
echo "» installing the pinned torch (large: the first time takes minutes)"
pip install "${flags[@]}" -q --upgrade pip
# Of these 18,000 modules, those that are imported are compiled then.
pip install "${flags[@]}" torch numpy --no-compile
echo "» installing the requirements of sign-ext[$extras]"
"$venv/bin/python" tools/requirements.py core huggingface ${extras//,/ } >build/requirements.txt
pip install "${flags[@]}" -r build/requirements.txt --no-compile
echo "» building sign-ext (SIGN_EXT_BUILD=$SIGN_EXT_BUILD)"
if ! pip install "${flags[@]}" -v --no-deps -e . 2>&1 | progress build/venv-build.log; then
  tail -n 40 build/venv-build.log >&2
  echo "» building sign-ext FAILED; its full output is in build/venv-build.log" >&2
  exit 1
fi
extension=$(cd build && "../$venv/bin/python" - <<'CODE'
import sys
import sign_ext
config = sign_ext.build_config()
print("» sign-ext is installed:", ", ".join(f"{key} {value}" for key, value in config.items()), file=sys.stderr)
print(config["library"] or "none")
CODE
)
if [[ -n $notice ]]; then echo "» $notice"; fi
if [[ -n $choice ]]; then printf '%s\n' "$choice" >"$remembered"; fi
printf '%s\n%s\n' "$print" "$extension" >"$installed"
rm -f "$installing"
