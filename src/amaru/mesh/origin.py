"""Where a policy's state comes from: what it learned while serving, an artifact, or nothing.

What was learned live goes before the artifact, but only where it was learned on top of that very version. Whatever
cannot be used is said in the log, with its reason, and passed over: a gateway that serves untrained is better than one
that does not serve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from amaru.config import Config
from amaru.errors import StorageError
from amaru.mesh.learner import Used
from amaru.routing.policies import make_policy
from amaru.routing.policies_base import Policy
from amaru.storage import DecisionStore, PolicyState
from amaru.telemetry.logs import get_logger

log = get_logger("mesh")


@dataclass(frozen=True, slots=True)
class Origin:
    """What was found for the policy that the configuration names."""

    version: str = ""
    """Of the artifact that it is to stand on; empty: none."""
    artifact: bytes | None = None
    """That artifact's state; ``None`` where it needs not, or could not, be loaded."""
    knobs: Mapping[str, int | float] = field(default_factory=dict)
    """Those that the artifact was trained with."""
    stored: PolicyState | None = None
    """What the store kept of it."""
    failure: str = ""
    """Why the artifact could not be loaded, though one is named."""


async def stored_policy(store: DecisionStore, name: str) -> PolicyState | None:
    """What the store kept of a policy; what is damaged or cannot be read counts as nothing, and is logged."""
    try:
        return await store.policy(name)
    except StorageError as error:
        log.warning("policy_begins_anew", policy=name, reason=str(error))
        return None


def used_of(config: Config, origin: Origin, current: Used | None) -> Used:
    """The policy to serve with: as ``current`` or the store knows it, or as the artifact has it, or untrained.

    Where the named artifact could not be loaded, the policy stays what it was.
    """
    name, settings = config.routing.policy, dict(origin.knobs if origin.version else config.routing.policy_settings)
    if origin.failure and current is not None:
        name, settings = current.policy.name, dict(current.settings)
    elif origin.failure and origin.stored is not None:
        settings = dict(origin.stored.settings)
    policy = make_policy(name, **settings)
    if not policy.learns:
        return Used(policy, settings)
    for learned in _learned(name, current, origin.stored):
        reason = _mismatch(learned, settings, origin) or _restore(policy, learned.state)
        if not reason:
            return Used(policy, settings, learned.artifact, learned.outcomes)
        log.warning("policy_begins_anew", policy=name, outcomes=learned.outcomes, reason=reason)
        policy = make_policy(name, **settings)
    if origin.artifact is not None:
        reason = _restore(policy, origin.artifact)
        if not reason:
            return Used(policy, settings, origin.version)
        log.error("artifact_refused", policy=name, version=origin.version, reason=reason, effect="begins untrained")
        policy = make_policy(name, **settings)
    return Used(policy, settings)


def _learned(name: str, current: Used | None, stored: PolicyState | None) -> list[PolicyState]:
    """What was learned live, the newest: this process knows more than the store."""
    if current is not None and current.policy.name == name:
        try:
            return [current.snapshot(0.0)]
        except Exception as error:  # a reload must not fail for it
            log.error("policy_not_saved", policy=name, error=str(error), exc_info=error)
    return [] if stored is None else [stored]


def _mismatch(learned: PolicyState, settings: Mapping[str, int | float], origin: Origin) -> str:
    """Why it is not to be used; empty: it is."""
    if not origin.failure and learned.artifact != origin.version:  # first: an artifact brings its own settings
        return f"it was learned on top of {_named(learned.artifact)}, not of {_named(origin.version)}"
    if learned.settings != settings:
        return "routing.policy_settings differ from those that it was learned with"
    return ""


def _restore(policy: Policy, state: bytes) -> str:
    """Why the state cannot be taken over; empty: it was."""
    try:
        policy.restore(state)
    except Exception as error:  # a damaged state must not keep amaru from serving
        return str(error) or type(error).__name__
    return ""


def _named(version: str) -> str:
    return f"artifact {version}" if version else "no artifact"
