#!/usr/bin/env bash
# Creates or repairs an environment that has torchattacks and captum beside what .venv has, and runs
# a command in it: tools/attack_peers.sh benchmarks/attack_parity.py --out FILE
# Environment: PIP_FLAGS. Needs .venv (`make venv`).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
unset VIRTUAL_ENV PYTHONHOME PIP_USER PIP_TARGET PIP_PREFIX PIP_CONSTRAINT
export PIP_DISABLE_PIP_VERSION_CHECK=1

venv=build/attack-peers
installed=$venv/.installed # a copy of what was installed, and for which .venv
wanted=$(cat tools/attack_peers.txt; .venv/bin/python -c 'import sys; print(sys.version, sys.prefix)')
if [[ ! -f $installed || $(<"$installed") != "$wanted" ]]; then
  echo "» torchattacks and captum into $venv"
  rm -rf "$venv"
  .venv/bin/python -m venv "$venv"
  # The packages of .venv, among them torch and this package, are found after the environment's own.
  .venv/bin/python -c 'import site; print("\n".join(f"import site; site.addsitedir({each!r})" for each in site.getsitepackages()))' \
    >"$("$venv/bin/python" -c 'import site; print(site.getsitepackages()[0])')/beneath.pth"
  # shellcheck disable=SC2086  # PIP_FLAGS is a list of words
  "$venv/bin/python" -m pip install ${PIP_FLAGS:-} -q --no-deps -r tools/attack_peers.txt
  printf '%s\n' "$wanted" >"$installed"
fi
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
exec "$venv/bin/python" "$@"
