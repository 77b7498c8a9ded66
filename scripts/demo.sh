#!/usr/bin/env bash
# One command on a fresh machine: sets up .venv, makes the demo data, runs the main job, says where the report is.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${FAIRMEDFM_VENV:-.venv}
./scripts/setup_venv.sh "$venv"
exec "$venv/bin/python" -m fairmedfm_monai demo "$@"
