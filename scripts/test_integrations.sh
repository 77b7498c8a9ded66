#!/usr/bin/env bash
# Proves two demo bundles in a real MONAI Label server and a real MONAI Deploy application, each in its own virtual
# environment: test_integrations.sh [label] [deploy]   (default: both). Not part of scripts/test.sh.
#   FAIRMEDFM_LABEL_VENV, FAIRMEDFM_DEPLOY_VENV   environments, made or reused (.venv-label, .venv-deploy; 7 GB each)
#   FAIRMEDFM_INTEGRATION_DIR                     working folder (default: a temporary one, kept when something fails)
#   FAIRMEDFM_INTEGRATION_WEIGHTS                 weights of the FMs: pretrained (default), random or tiny
set -euo pipefail
cd "$(dirname "$0")/.."
what=${*:-label deploy}
label_venv=${FAIRMEDFM_LABEL_VENV:-.venv-label}
deploy_venv=${FAIRMEDFM_DEPLOY_VENV:-.venv-deploy}
weights=${FAIRMEDFM_INTEGRATION_WEIGHTS:-pretrained}
for name in $what; do
    [ "$name" = label ] || [ "$name" = deploy ] || { echo "usage: $0 [label] [deploy], got $name" >&2; exit 2; }
done
work=${FAIRMEDFM_INTEGRATION_DIR:-$(mktemp -d "${TMPDIR:-/tmp}/fairmedfm-integrations.XXXXXX")}
mkdir -p "$work"
work=$(cd "$work" && pwd)

finish() {
    code=$?
    if [ "$code" -ne 0 ]; then
        echo "FAILED. Logs and everything else are kept in $work (logs: $work/logs)" >&2
    elif [ -z "${FAIRMEDFM_INTEGRATION_DIR:-}" ]; then
        rm -rf "$work"
    fi
    exit "$code"
}
trap finish EXIT

# A child that is waited for in the background can be told to stop, and stops its server, when this script is told to.
child=
trap '[ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true; [ -z "$child" ] || wait "$child" || true; exit 143' \
    INT TERM HUP
run() {
    "$@" &
    child=$!
    wait "$child"
    child=
}

export MLFLOW_DISABLE_TELEMETRY=true HF_HUB_DISABLE_TELEMETRY=1 PYTHONWARNINGS=ignore
# Compiled modules are worth 20 s per process here: MONAI Label and Deploy import thousands of files.
unset PYTHONDONTWRITEBYTECODE PYTHONPATH MLFLOW_TRACKING_URI

first=
for name in $what; do
    venv=$label_venv
    [ "$name" = label ] || venv=$deploy_venv
    echo "== environment for MONAI $name: $venv"
    run ./scripts/setup_venv.sh "$venv" "$name"
    first=${first:-$venv}
done
echo "== two bundles with a model.pt, and what they answer by themselves"
run "$first/bin/python" scripts/integrations/prepare.py "$work" --weights "$weights"
for name in $what; do
    venv=$label_venv
    [ "$name" = label ] || venv=$deploy_venv
    echo "== MONAI $name"
    run "$venv/bin/python" "scripts/integrations/${name}_test.py" "$work"
done
echo "== all of it held: $what"
