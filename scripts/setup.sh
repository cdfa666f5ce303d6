#!/bin/sh
# Makes .venv and fills it with locked, hash-checked dependencies and amaru itself (editable).
#
#   scripts/setup.sh runtime    what serving needs
#   scripts/setup.sh dev        and what the checks, the docs and the benchmarks need
#
# PYTHON names the interpreter to build .venv with; else the newest suitable one on the PATH is taken. Only pip is used:
# it is in every Python, and it honours the mirrors and proxies that a site has set up for it.
set -eu
cd "$(dirname "$0")/.."

stage=${1:?usage: scripts/setup.sh runtime|dev}
venv=.venv
log=$venv/setup.log

# A candidate must run (a version manager's shim may not), be new enough, and be able to make a virtual environment.
suitable() {
  "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
  for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
    if suitable "$candidate"; then
      echo "$candidate"
      return
    fi
  done
  echo "amaru needs Python 3.11 or newer with its venv and ensurepip modules; tried: ${PYTHON:-python3.13 python3.12 python3.11 python3}." >&2
  echo "Install one (on Debian and Ubuntu: apt-get install python3 python3-venv), or name one: make PYTHON=/path/to/python3 ..." >&2
  exit 1
}

# Runs pip, silent unless it fails.
pip() {
  if ! "$venv/bin/python" -m pip install --quiet --no-input --disable-pip-version-check "$@" >"$log" 2>&1; then
    cat "$log" >&2
    echo "pip failed; nothing was run." >&2
    exit 1
  fi
}

# An interrupted start may have left one without pip.
if ! suitable "$venv/bin/python" || ! "$venv/bin/python" -c 'import pip' >/dev/null 2>&1; then
  python=$(find_python)
  printf 'Making %s with %s (%s)\n' "$venv" "$("$python" --version)" "$python"
  "$python" -m venv --clear "$venv"
fi

case $stage in
  runtime)
    echo "Installing the locked runtime dependencies (the first time: about half a minute)"
    pip --require-hashes --only-binary :all: -r requirements/runtime.txt -r requirements/build.txt
    ;;
  dev)
    echo "Installing the locked development dependencies (the first time: about a minute)"
    pip --require-hashes --only-binary :all: -r requirements/dev.txt
    ;;
  *)
    echo "unknown stage $stage: runtime or dev" >&2
    exit 2
    ;;
esac
pip --no-deps --no-build-isolation --editable .
