"""The way from a training of one's own to a psi-field service, in a handful of calls.

::

    psi = PsiFieldIntegration(psi_url="http://127.0.0.1:8000", remembrancer_path="training.jsonl")
    metrics = psi.send_agent_metrics(rewards)
    if psi.check_intervention_needed(metrics) == "nigredo":
        ...  # reset the worst agent
    psi.record_training_step(n, {"reward": mean(rewards)})

A training never depends on the service: while it is away, metrics are empty, nothing needs intervention, and that is
said once. What is recorded is another matter: a record that cannot be kept raises.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from amaru.errors import StorageError
from amaru.stability.client import DEFAULT_URL, Attempts, Call, FieldError, Json, PsiClient, figure, http_call
from amaru.stability.guardian import GuardianSettings, Intervention
from amaru.telemetry.logs import get_logger

log = get_logger("stability")


class PsiFieldIntegration:
    """One training's link to a service.

    Parameters
    ----------
    psi_url
        Of the service (``amaru psi serve``).
    remembrancer_path
        File that `record_training_step` appends to; ``None``: there is none.
    nodes
        Further services, which `get_swarm_health` asks for their figures.
    thresholds
        Of `check_intervention_needed`; left out: the defaults.
    say
        Takes a line for the user; by default the log.
    clock, timer
        Unix seconds, of records; and monotonic ones, of pauses.
    call
        How calls are made; for tests.

    Raises
    ------
    ValueError
        A URL is none.
    """

    def __init__(
        self,
        psi_url: str = DEFAULT_URL,
        remembrancer_path: str | Path | None = None,
        *,
        nodes: Sequence[str] = (),
        thresholds: GuardianSettings | None = None,
        say: Callable[[str], None] | None = None,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
        call: Call | None = None,
    ) -> None:
        call = call or http_call()
        self._client = PsiClient(psi_url, call=call)
        self._nodes = [PsiClient(url, call=call) for url in nodes]
        self._path = None if remembrancer_path is None else Path(remembrancer_path)
        self._limits = thresholds or GuardianSettings()
        self._clock = clock
        self._attempts = Attempts(self._client.url, say=say or _log, clock=timer)
        self._dimension: int | None = None

    @property
    def missed(self) -> int:
        """Calls that got no answer, because the service was away."""
        return self._attempts.missed

    def send_agent_metrics(self, rewards: Iterable[float | None]) -> Json:
        """Have the field take a step.

        Parameters
        ----------
        rewards
            One per agent, always in the same order; ``None`` and NaN are missing.

        Returns
        -------
        dict
            ``Psi, C, U, Phi, H, PE, M, dt_eff, step``, and in ``_guardian`` the guardian's word; empty: the service is
            away.
        """
        # NaN goes over the wire as null: msgspec writes it so, and the service reads it as missing.
        given = list(rewards)
        metrics = self._attempts.make(lambda: self._step(given))
        if metrics is None:
            self._dimension = None  # it may have been restarted: it must be told the dimension again
        return metrics or {}

    def _step(self, rewards: Sequence[float | None]) -> Json:
        if self._dimension != len(rewards):
            self._client.init(len(rewards), kind="rewards")
            self._dimension = len(rewards)
        return self._client.step(rewards)

    def check_intervention_needed(self, metrics: Mapping[str, Any]) -> Intervention | None:  # Any: JSON
        """What to do after a step, if anything; comparable with ``"nigredo"`` and ``"albedo"``.

        ``nigredo`` where ``PE`` is above 1.5; ``albedo`` where ``H`` is high (0.8) and ``Psi`` low (0.5); else what the
        guardian asked for. The first two look at this step alone: only the guardian's word has a cool-down. Whoever
        wants that restraint takes the guardian's word alone, ``metrics["_guardian"]["intervention"]``.
        """
        limits = self._limits
        pe, h, psi = (figure(metrics.get(name)) for name in ("PE", "H", "Psi"))  # NaN is beyond no limit
        if pe > limits.nigredo_pe:
            return Intervention.NIGREDO
        if h >= limits.albedo_h and psi <= limits.albedo_psi:
            return Intervention.ALBEDO
        guardian = metrics.get("_guardian")
        asked = guardian.get("intervention") if isinstance(guardian, Mapping) else None
        return Intervention(asked) if asked in tuple(Intervention) else None

    def record_intervention(self, metrics: Mapping[str, Any], done: str, changed: Mapping[str, str]) -> bool:
        """Tell the guardian what its intervention changed, where it asked for what was ``done``; whether it took note.

        What was done on this step's figures alone is not the guardian's: that belongs into `record_training_step`.
        """
        guardian = metrics.get("_guardian")
        if not isinstance(guardian, Mapping) or guardian.get("intervention") != done:
            return False
        id = guardian.get("id")
        return isinstance(id, str) and self._attempts.make(lambda: self._client.applied(id, changed)) is not None

    def record_training_step(self, n: int, metrics: Mapping[str, Any]) -> Json:  # Any: JSON
        """Append one line of JSON to ``remembrancer_path``: on disk when this returns.

        NaN and infinities become null. A line that a crash has torn stays as it is, and the next one begins below it.

        Returns
        -------
        dict
            What was written: ``kind``, ``step``, ``at`` (Unix seconds), ``metrics``.

        Raises
        ------
        StorageError
            It could not be written, or there is no ``remembrancer_path``.
        TypeError
            The metrics cannot be written as JSON.
        """
        if self._path is None:
            raise StorageError("there is no remembrancer_path to record training steps in: give one")
        record = {"kind": "training_step", "step": int(n), "at": self._clock(), "metrics": dict(metrics)}
        line = msgspec.json.encode(record, enc_hook=_plain) + b"\n"
        try:
            _append(self._path, line)
        except OSError as error:
            raise StorageError(f"{self._path}: step {n} was not recorded: {error.strerror or error}") from error
        return record

    def get_swarm_health(self) -> Json:
        """``C``, ``U``, ``Phi`` and ``Psi`` over this service and the ``nodes``, as ``POST /federation/swarm`` answers.

        A node that does not answer is listed under ``silent``. Empty: the service itself is away.
        """
        return self._attempts.make(self._swarm) or {}

    def _swarm(self) -> Json:
        found = [self._client.get("federation/metrics")]
        for node in self._nodes:
            try:
                found.append(node.get("federation/metrics"))
            except FieldError:
                found.append({"node": node.url})
        return self._client.post("federation/swarm", {"nodes": found})


def _append(path: Path, line: bytes) -> None:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            line = b"\n" + line
        written = os.write(handle, line)
        if written < len(line):
            raise OSError(0, f"only {written} of {len(line)} bytes fitted")
        os.fsync(handle)
    finally:
        os.close(handle)
    if not size:
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _plain(value: object) -> object:
    """NumPy's numbers and arrays, as Python's."""
    plain = getattr(value, "tolist", None)
    if plain is None:
        raise TypeError(f"a training step's metrics hold a {type(value).__name__}, which JSON has no form for")
    return plain()


def _log(words: str) -> None:
    log.warning("psi_field", message=words)
