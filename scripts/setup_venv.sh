#!/usr/bin/env bash
# Creates or reuses a virtual environment and installs this checkout into it: setup_venv.sh VENV [EXTRA]
set -euo pipefail
venv=$1
extra=${2:-}
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(0 if sys.version_info >= (3, 10) else "Python 3.10 or newer is needed; set PYTHON=/path/to/python")'
stamp="$venv/.installed${extra:+-$extra}"
want=$(cat setup.cfg pyproject.toml | sha256sum | cut -d' ' -f1)
[ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
if [ "$(cat "$stamp" 2>/dev/null || true)" != "$want" ]; then
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --upgrade pip
    # Without a display of progress this step is silent for some minutes: say what happens.
    echo "Installing into $venv (several GB with a CUDA build of torch; set FAIRMEDFM_PIP_ARGS for a CPU-only index, see README)"
    # shellcheck disable=SC2086
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check ${FAIRMEDFM_PIP_ARGS:-} -e ".${extra:+[$extra]}"
    echo "$want" >"$stamp"
else
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . 2>/dev/null ||
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps -e .
fi
