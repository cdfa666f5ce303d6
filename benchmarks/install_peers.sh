#!/usr/bin/env bash
# Installs the gateways that amaru is measured beside, each in a folder of its own under benchmarks/.peers.
set -euo pipefail
cd "$(dirname "$0")"
mkdir -p .peers && cd .peers
python3 -m venv router
router/bin/pip install --quiet --no-deps sglang-router vllm-router
router/bin/pip install --quiet aiohttp fastapi orjson requests setproctitle uvicorn
python3 -m venv litellm
litellm/bin/pip install --quiet 'litellm[proxy]'
mkdir -p portkey && cd portkey
[ -f package.json ] || npm init -y >/dev/null
npm install --silent @portkey-ai/gateway
