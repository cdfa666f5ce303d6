#!/bin/sh
# Resolves requirements/*.txt anew from pyproject.toml: every version and hash, for every platform and Python at once,
# and no index address. Each lock is held to the versions of the one before, so that one .venv serves them all.
# Uses the uv on the PATH, else one that it puts into .venv.
set -eu
cd "$(dirname "$0")/.."

uv=$(command -v uv || echo .venv/bin/uv)
[ -x "$uv" ] || .venv/bin/python -m pip install --quiet --disable-pip-version-check uv

compile() {
  output=requirements/$1.txt
  shift
  echo "$output"
  "$uv" pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
    --output-file "$output" "$@"
}

compile runtime pyproject.toml
compile build --group build --constraints requirements/runtime.txt
compile dev pyproject.toml --all-extras --group dev \
  --constraints requirements/runtime.txt --constraints requirements/build.txt
