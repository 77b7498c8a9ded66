#!/usr/bin/env bash
# Exports a small study as a Snakemake workflow and runs it with the local profile. Not part of scripts/test.sh.
#   FAIRMEDFM_VENV             environment of this package, made or reused (.venv)
#   FAIRMEDFM_SNAKEMAKE_VENV   environment of Snakemake, made or reused (.venv-snakemake; MLflow and it cannot share one)
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${FAIRMEDFM_VENV:-.venv}
snakemake_venv=${FAIRMEDFM_SNAKEMAKE_VENV:-.venv-snakemake}
./scripts/setup_venv.sh "$venv" dev
[ -x "$snakemake_venv/bin/python" ] || python3 -m venv "$snakemake_venv"
[ -x "$snakemake_venv/bin/snakemake" ] ||
    "$snakemake_venv/bin/python" -m pip install --quiet "snakemake>=9,<10" snakemake-executor-plugin-slurm
export MLFLOW_DISABLE_TELEMETRY=true HF_HUB_DISABLE_TELEMETRY=1 PYTHONWARNINGS=ignore
unset PYTHONDONTWRITEBYTECODE
exec "$venv/bin/python" scripts/integrations/snakemake_test.py --snakemake "$snakemake_venv/bin/snakemake"
