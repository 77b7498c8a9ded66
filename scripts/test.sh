#!/usr/bin/env bash
# Lint, types, tests. Arguments go to pytest. FAIRMEDFM_VENV names the virtual environment (default .venv).
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${FAIRMEDFM_VENV:-.venv}
./scripts/setup_venv.sh "$venv" dev
export PATH="$venv/bin:$PATH" MLFLOW_DISABLE_TELEMETRY=true HF_HUB_DISABLE_TELEMETRY=1
# Compiled modules are worth seconds per process here: importing MONAI compiles thousands of files otherwise.
unset PYTHONDONTWRITEBYTECODE
ruff check .
ruff format --check .
mypy
exec python -m pytest -n "${FAIRMEDFM_TEST_WORKERS:-2}" --dist loadscope "$@"
