#!/bin/sh
# Makes .venv in the clone from requirements-dev.lock, with the interlock command in it. Doing it again
# is free: .venv/made-from holds what it was made from, and as long as that is unchanged nothing is done.
#
# pip's own configuration (index, certificates, wheel folders) is honoured; see install.py.
# PYTHON=… chooses the interpreter; otherwise the newest fit one on PATH is taken.
set -eu
cd "$(dirname "$0")/.."
lock=requirements-dev.lock

made_from() { pwd; cat "$lock" pyproject.toml deploy/setup.sh deploy/install.py; }
current() { [ -x .venv/bin/interlock ] && made_from | cmp -s - .venv/made-from && .venv/bin/python -c ''; }
say() { printf '%s\n' "$*" >&2; }
fail() { say "setup: $1"; shift; for line in "$@"; do say "       $line"; done; exit 1; }

fit() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

interpreter() {
  for name in ${PYTHON:-python3.12 python3.11 python3}; do
    if fit "$name"; then command -v "$name"; return; fi
  done
  fail "no Python 3.11 or 3.12 was found${PYTHON:+ (PYTHON=$PYTHON is none)}." \
    "Debian 12, Ubuntu 24.04:  apt-get install python3 python3-venv" \
    "elsewhere:  install one by your package manager or pyenv, then  make setup PYTHON=/path/to/python3.12"
}

# Debian keeps ensurepip in a package of its own.
need_ensurepip() {
  "$1" -c 'import ensurepip, venv' 2>/dev/null && return
  version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
  remedy="apt-get install -y --no-install-recommends python$version-venv"
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    say "setup: $1 cannot make environments yet; running: $remedy"
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive $remedy; } >&2 || true
  fi
  "$1" -c 'import ensurepip, venv' 2>/dev/null ||
    fail "$1 cannot make environments: its venv and ensurepip modules are missing." "Remedy:  sudo $remedy"
}

if current; then exit 0; fi
mkdir -p .venv
exec 9>.venv/.setup-lock   # not .lock: that one is uv's own
if command -v flock >/dev/null; then flock 9; fi
if current; then exit 0; fi   # another run made it while this one waited

python=$(interpreter)
need_ensurepip "$python"
say "setup: making .venv with $("$python" --version) from $lock"
find .venv -mindepth 1 -maxdepth 1 ! -name .setup-lock -exec rm -rf {} +
"$python" -m venv .venv
.venv/bin/python deploy/install.py .venv "$lock"
.venv/bin/python -m pip --disable-pip-version-check --quiet install \
  --no-deps --no-build-isolation --no-index --editable .
made_from > .venv/made-from
