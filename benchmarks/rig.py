"""The rig of the benchmarks: a fixed-answer upstream, pinned processes, and wrk."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
from peers import MODEL, Peer

GATEWAY_CORE, LOAD_CORE = "0", "1"
WHOLE_PORT, STREAM_PORT, TLS_PORT = 9100, 9101, 9102
CHUNKS = 32

WHOLE_ANSWER = (
    '{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"bench","choices":[{"index":0,"message":'
    '{"role":"assistant","content":"The quick brown fox jumps over the lazy dog."},"finish_reason":"stop"}],'
    '"usage":{"prompt_tokens":12,"completion_tokens":10,"total_tokens":22}}'
)
CHUNK = (
    '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench","choices":[{"index":0,"delta":'
    '{"content":" word"},"finish_reason":null}]}'
)
LAST = CHUNK.replace('{"content":" word"},"finish_reason":null', '{},"finish_reason":"stop"')
USAGE = (
    '{"id":"chatcmpl-1","object":"chat.completion.chunk","created":1,"model":"bench","choices":[],'
    '"usage":{"prompt_tokens":12,"completion_tokens":30,"total_tokens":42}}'
)


@dataclass
class Load:
    """What wrk measured."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    errors: int
    cpu_us: float = float("nan")
    """Of the gateway's processes, a request; other work on the machine moves it less than it moves throughput."""


def clean_up_on_sigterm() -> None:
    """Let a benchmark that is told to stop end its gateways too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def machine() -> str:
    """The machine in words, for the report."""
    model = platform.processor() or "unknown processor"
    with contextlib.suppress(OSError):
        match = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
        model = match.group(1) if match else model
    return (
        f"{model}, {os.cpu_count()} cores, {platform.system()} {platform.release()}, Python {platform.python_version()}"
    )


@contextlib.contextmanager
def upstream(folder: Path) -> Iterator[None]:
    """nginx on the load's core: a whole answer, a stream of 32 chunks flushed one by one, and the whole over TLS."""
    events = [CHUNK] * (CHUNKS - 2) + [LAST, USAGE]
    echoes = "\n".join(f"echo 'data: {event}'; echo ''; echo_flush;" for event in events)
    certificate(folder)
    module = "/usr/lib/nginx/modules/ngx_http_echo_module.so"
    config = folder / "nginx-upstream.conf"
    health = "location /health { return 200 'ok'; } location /get_model_info { return 200 '{}'; }"
    models = (
        f'location /v1/models {{ return 200 \'{{"object":"list","data":[{{"id":"{MODEL}","object":"model"}}]}}\'; }}'
    )
    infos = "".join(f"location /{name} {{ return 200 '{{}}'; }} " for name in ("get_server_info", "server_info"))
    common = f"{health} {infos}{models}"
    config.write_text(
        f"""load_module {module};
daemon off; worker_processes 1; pid {folder}/nginx-upstream.pid; error_log {folder}/nginx-error.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s; tcp_nodelay on; keepalive_requests 100000000;
  default_type application/json;
  server {{ listen 127.0.0.1:{WHOLE_PORT}; {common} location / {{ return 200 '{WHOLE_ANSWER}'; }} }}
  server {{ listen 127.0.0.1:{TLS_PORT} ssl; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
    {common} location / {{ return 200 '{WHOLE_ANSWER}'; }} }}
  server {{ listen 127.0.0.1:{STREAM_PORT}; {common} location / {{ default_type text/event-stream;
    {echoes}
    echo 'data: [DONE]'; echo ''; }} }}
}}
"""
    )
    with running(["nginx", "-c", str(config)], LOAD_CORE, folder / "upstream.log"):
        wait_for(f"http://127.0.0.1:{WHOLE_PORT}/health", 10.0)
        yield


def certificate(folder: Path) -> None:
    """A self-signed certificate for 127.0.0.1."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1", "-addext",
         "subjectAltName=IP:127.0.0.1", "-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")],
        check=True, capture_output=True,
    )  # fmt: skip


@contextlib.contextmanager
def running(
    argv: list[str], core: str, log: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process pinned to ``core``; ended, with its children, on the way out."""
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "-c", core, *argv], stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            env={**os.environ, **(env or {})},
        )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, 9)
            process.wait()


@contextlib.contextmanager
def gateway(peer: Peer, folder: Path, body: str, *, cores: str = GATEWAY_CORE) -> Iterator[subprocess.Popen[bytes]]:
    """``peer`` on the gateway's core, ready to answer."""
    log = folder / f"{peer.name.replace(' ', '-')}.log"
    with running(peer.argv, cores, log, peer.env) as process:
        wait_for_port(peer, process, log, body.encode())
        yield process


def wait_for_port(peer: Peer, process: subprocess.Popen[bytes], log: Path, body: bytes) -> None:
    """Until ``peer`` serves a request. Raises ``RuntimeError`` with its last words where it does not."""
    last = "nothing"
    for _ in range(int(peer.ready_s * 20)):
        if process.poll() is not None:
            raise RuntimeError(f"{peer.name} ended: {log.read_text(errors='replace')[-800:]}")
        request = urllib.request.Request(
            f"http://127.0.0.1:{peer.port}{peer.path}", body, {"content-type": "application/json", **peer.headers}
        )
        try:
            with urllib.request.urlopen(request, timeout=5.0) as answer:
                answer.read()
                return
        except urllib.error.HTTPError as error:
            last = f"{error.code} {error.read()[:200]!r}"
        except OSError as error:
            last = str(error)
        time.sleep(0.05)
    raise RuntimeError(f"{peer.name} is not ready: {last}; {log.read_text(errors='replace')[-800:]}")


def wait_for(url: str, timeout_s: float) -> float:
    """Seconds until ``url`` answers 200."""
    started = time.perf_counter()
    while time.perf_counter() - started < timeout_s:
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=1.0) as answer:
            if answer.status == 200:
                return time.perf_counter() - started
        time.sleep(0.005)
    raise RuntimeError(f"{url} did not answer within {timeout_s} s")


def body_of(stream: bool) -> str:
    """The request that is sent, over and over."""
    tail = ',"stream":true,"stream_options":{"include_usage":true}' if stream else ""
    return (
        f'{{"model":"{MODEL}","messages":[{{"role":"system","content":"You are a helpful assistant."}},'
        f'{{"role":"user","content":"Tell me about the fox and the dog, please, in one sentence."}}],'
        f'"max_tokens":64{tail}}}'
    )


def load(
    peer: Peer,
    folder: Path,
    *,
    body: str,
    connections: int = 32,
    seconds: int = 4,
    path: str | None = None,
    process: subprocess.Popen[bytes] | None = None,
    cores: str = LOAD_CORE,
) -> Load:
    """wrk against ``peer``, which runs as ``process``, from the load's core."""
    headers = {"content-type": "application/json", **peer.headers}
    script = folder / "wrk.lua"
    lines = ['wrk.method = "POST"', f"wrk.body = [[{body}]]"]
    lines += [f'wrk.headers["{name}"] = "{value}"' for name, value in headers.items()]
    script.write_text("\n".join(lines))
    url = f"http://127.0.0.1:{peer.port}{path or peer.path}"
    before_s = cpu_s(process)
    out = subprocess.run(
        ["taskset", "-c", cores, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--latency", "-s", str(script),
         url],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    return parse_wrk(out, cpu_s(process) - before_s)


def cpu_s(process: subprocess.Popen[bytes] | None) -> float:
    """Processor time that a process and its children have used; not a number where there is none."""
    if process is None:
        return float("nan")
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    return sum(times.user + times.system for times in (member.cpu_times() for member in family))


def parse_wrk(out: str, used_s: float) -> Load:
    """wrk's report, with the gateway's processor time meanwhile."""

    def percentile(which: str) -> float:
        match = re.search(rf"{which}%\s+([\d.]+)(us|ms|s)", out)
        if match is None:
            return float("nan")
        return float(match.group(1)) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[match.group(2)]

    requests = re.search(r"(\d+) requests in", out)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", out)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", out)
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", out)
    errors = int(bad.group(1)) if bad else 0
    errors += sum(int(n) for n in sockets.groups()) if sockets else 0
    cpu_us = used_s / int(requests.group(1)) * 1e6 if requests and int(requests.group(1)) else float("nan")
    return Load(float(rate.group(1)) if rate else 0.0, percentile("50"), percentile("99"), errors, cpu_us)
