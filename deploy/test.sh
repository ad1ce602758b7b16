#!/bin/sh
# Runs the tests in one command, with every lane that this machine can have. A lane that cannot be made
# says why and its tests are skipped; with CI=true they fail instead (tests/support/lanes.py).
set -eu
cd "$(dirname "$0")/.."
python=.venv/bin/python

lane() {
  eval "given=\${$2:-}"
  if [ -n "$given" ]; then return; fi
  if path=$($python deploy/lane.py "$1"); then export "$2=$path"; fi
}

lane opa INTERLOCK_OPA
lane nemo INTERLOCK_LANE_NEMO
lane mlflow INTERLOCK_LANE_MLFLOW
lane vllm INTERLOCK_LANE_VLLM
if [ -n "${INTERLOCK_OPA:-}" ]; then PATH=$(dirname "$INTERLOCK_OPA"):$PATH; export PATH; fi
exec $python -m pytest "$@"
