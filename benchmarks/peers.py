"""How each gateway of the serving benchmark is started: a command, its configuration, and the headers it wants."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

PEERS = Path(__file__).parent / ".peers"
KEY = "sk-benchmark-key-of-no-value"
MODEL = "bench"


@dataclass
class Peer:
    """One gateway under test. ``argv`` is run pinned to the gateway's core, in ``folder``."""

    name: str
    argv: list[str]
    port: int
    headers: dict[str, str] = field(default_factory=dict)
    path: str = "/v1/chat/completions"
    env: dict[str, str] = field(default_factory=dict)
    ready_s: float = 60.0


def amaru(
    folder: Path,
    upstream: str,
    port: int,
    *,
    name: str = "amaru",
    offers: int = 3,
    ca: Path | None = None,
    source: Path | None = None,
    policy: str = "rules",
    ledger: bool = False,
    accounts: bool = False,
    workers: int = 1,
) -> Peer:
    """amaru with authentication, decisions over ``offers`` offers, recording and metrics on; with ``ledger``, that too.

    ``accounts``: the caller's key is one of the store, and budgets and limits bind the caller and what it asks.
    ``source``: another checkout, whose code is run with this one's dependencies.
    """
    lines = [
        "version: 1",
        f"server: {{host: 127.0.0.1, port: {port}{f', workers: {workers}' if workers > 1 else ''}}}",
        "providers:",
    ]
    tls = f", ca_file: {ca}" if ca else ""
    lines += [f"  up{i}: {{protocol: openai, base_url: '{upstream}/v1'{tls}}}" for i in range(offers)]
    lines.append("offers:")
    lines += [
        f"  - {{provider: up{i}, resource: {MODEL}, kinds: [chat], latency_ms: {300 + i}, reputation: {80 - i}, "
        f"capabilities: [stream, tools, json_schema], "
        f"price: {{input_usd_per_mtok: 0.{i + 1}, output_usd_per_mtok: 0.{i + 2}}}}}"
        for i in range(offers)
    ]
    lines += [
        f"routing: {{policy: {policy}}}",
        "tenants:",
        "  bench:",
        f"    keys: [{{sha256: {hashlib.sha256(KEY.encode()).hexdigest()}}}]",
        *((*BOUND, f"accounts: {{url: '{folder / (name + '.accounts.db')}'}}") if accounts else ()),
        f"storage: {{path: '{folder / (name + '.db')}'}}",
    ]
    if ledger:
        lines.append(f"ledger: {{enabled: true, url: '{folder / (name + '.ledger')}'}}")
    config = folder / f"{name.replace(' ', '-')}.yaml"
    config.write_text("\n".join(lines) + "\n")
    env = {} if source is None else {"PYTHONPATH": str(source.resolve() / "src")}
    binary = str(Path(__file__).parent.parent / ".venv/bin/amaru")
    key = _key_of_the_store(binary, config) if accounts else KEY
    return Peer(name, [binary, "serve", "--config", str(config)], port, {"authorization": f"Bearer {key}"}, env=env)


BOUND = (
    "    budgets: [{usd: 1000000, per: month}, {usd: 100000, per: day}]",
    "    limits: {requests_per_min: 100000000, tokens_per_min: 1000000000000, concurrency: 10000}",
    "budgets:",
    f"  models: {{{MODEL}: [{{usd: 1000000, per: month}}]}}",
    "  providers: {up0: [{usd: 1000000, per: month}]}",
)
"""Budgets and limits that are far away: what they cost, not what they refuse."""


def _key_of_the_store(binary: str, config: Path) -> str:
    command = [binary, "keys", "create", "bench", "--config", str(config)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def nginx(folder: Path, upstream: str, port: int) -> Peer:
    """nginx as a plain proxy: the limit of what forwarding alone can do."""
    scheme, address = upstream.split("://")
    config = folder / "nginx-proxy.conf"
    config.write_text(
        f"""daemon off; worker_processes 1; pid {folder}/nginx-proxy.pid; error_log /dev/null;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}/b1; proxy_temp_path {folder}/p1;
  fastcgi_temp_path {folder}/f1; uwsgi_temp_path {folder}/u1; scgi_temp_path {folder}/s1;
  keepalive_requests 100000000;
  upstream up {{ server {address}; keepalive 64; keepalive_requests 100000000; }}
  server {{ listen 127.0.0.1:{port}; location / {{
    proxy_pass {scheme}://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }} }}
}}
"""
    )
    return Peer("nginx", ["nginx", "-c", str(config)], port)


def sglang_router(_folder: Path, upstream: str, port: int) -> Peer:
    argv = [
        str(PEERS / "router/bin/sglang-router"), "launch", "--worker-urls", upstream, "--port", str(port), "--host",
        "127.0.0.1", "--policy", "round_robin", "--log-level", "error", "--prometheus-port", str(port + 1000),
        "--disable-health-check",
    ]  # fmt: skip
    return Peer("sglang-router", argv, port)


def vllm_router(_folder: Path, upstream: str, port: int) -> Peer:
    argv = [
        str(PEERS / "router/bin/vllm-router"), "--worker-urls", upstream, "--port", str(port), "--host", "127.0.0.1",
        "--policy", "random", "--log-level", "error", "--prometheus-port", str(port + 1000),
    ]  # fmt: skip
    return Peer("vllm-router", argv, port)


def litellm(folder: Path, upstream: str, port: int) -> Peer:
    config = folder / "litellm.yaml"
    config.write_text(
        f"""model_list:
  - model_name: {MODEL}
    litellm_params: {{model: openai/{MODEL}, api_base: {upstream}/v1, api_key: none}}
litellm_settings: {{telemetry: false, num_retries: 0, set_verbose: false}}
general_settings: {{master_key: {KEY}, disable_spend_logs: true}}
"""
    )
    argv = [str(PEERS / "litellm/bin/litellm"), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
    env = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
    return Peer("LiteLLM proxy", argv, port, {"authorization": f"Bearer {KEY}"}, env=env, ready_s=120.0)


def portkey(_folder: Path, upstream: str, port: int) -> Peer:
    script = PEERS / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
    headers = {
        "authorization": f"Bearer {KEY}",
        "x-portkey-provider": "openai",
        "x-portkey-custom-host": f"{upstream}/v1",
    }
    env = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
    return Peer("Portkey", ["node", str(script), f"--port={port}", "--headless"], port, headers, env=env)


def installed(peer: Peer) -> bool:
    """Whether the program that ``peer`` needs is here."""
    program = peer.argv[1] if peer.argv[0] == "node" else peer.argv[0]
    return Path(program).exists() or shutil.which(program) is not None
