"""The shape of a scenario file, as pydantic models; the words are those of ``amaru.yaml``.

What one field can tell by itself is checked here, what needs a second one in ``scenario_checks``. The descriptions are
the reference documentation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from amaru.domain import GLOBAL_REGION
from amaru.files.fields import FilePath, Identifier, Milliseconds, Name, Region, Section, mistake
from amaru.files.settings import CapabilityName, LimitSettings, PriceSettings, WeightSettings
from amaru.simulation.scenario import EventKind

MAX_STEPS = 10_000_000


def _no_flag(value: Any) -> Any:  # Any: raw YAML
    """``true`` is no number: pydantic would read it as 1."""
    return str(value).lower() if isinstance(value, bool) else value


def _span(low: float, high: float, *, above: bool = False) -> Callable[[tuple[float, ...]], tuple[float, ...]]:
    """A validator of ``[lowest, highest]`` within ``low`` to ``high``; ``above``: greater than ``low``."""
    bounds = f"{'greater than' if above else 'from'} {low:g}{',' if above else ''} {'up ' if above else ''}to {high:g}"

    def validated(value: tuple[float, ...]) -> tuple[float, ...]:
        if len(value) != 2:
            raise mistake(f"a range has two numbers, this one {len(value)}", "write [lowest, highest]")
        for number in value:
            if number < low or number > high or (above and number == low):
                raise mistake(f"{number:g} is out of bounds", f"both numbers must be {bounds}")
        if value[0] > value[1]:
            raise mistake(f"an empty range: {value[0]:g} is more than {value[1]:g}", "write the lowest number first")
        return value

    return validated


Number = Annotated[float, BeforeValidator(_no_flag)]
Share = Annotated[float, BeforeValidator(_no_flag), Field(ge=0, le=1)]
Shares = Annotated[dict[Name, Share], Field(min_length=1)]
Probabilities = Annotated[tuple[Number, ...], AfterValidator(_span(0, 1))]
Factors = Annotated[tuple[Number, ...], AfterValidator(_span(0, 1000, above=True))]
Deviations = Annotated[tuple[Number, ...], AfterValidator(_span(0, 10))]
Stays = Annotated[tuple[Number, ...], AfterValidator(_span(1, MAX_STEPS))]
WholeNumber = Annotated[int, BeforeValidator(_no_flag)]
Lags = Annotated[tuple[WholeNumber, ...], AfterValidator(_span(0, 100_000))]
GpuHours = Annotated[tuple[Number, ...], AfterValidator(_span(0, 1_000_000, above=True))]
Requests = Annotated[float, Field(ge=0, le=100_000)]
Usd = Annotated[float, Field(ge=0, le=1e12)]
Capacity = Annotated[float, Field(gt=0, le=1e12)]
Reputation = Annotated[float, Field(ge=0, le=100)]
Multiplier = Annotated[float, Field(gt=0, le=1000)]
Delta = Annotated[float, Field(ge=-3_600_000, le=3_600_000)]
Steps = Annotated[int, Field(ge=1, le=MAX_STEPS)]
Step = Annotated[int, Field(ge=0, le=MAX_STEPS)]


class OfferModel(Section):
    """What a provider asks for one resource."""

    price: PriceSettings = Field(
        description="usd_per_gpu_hour for GPUs; input_usd_per_mtok and output_usd_per_mtok for models.",
        examples=["{usd_per_gpu_hour: 1.8}"],
    )
    latency_ms: Milliseconds | None = Field(default=None, description="Advertised latency; left out: the provider's.")
    model: Name | None = Field(default=None, description="The provider's own name for it; left out: the resource.")
    context_window_tokens: int | None = Field(
        default=None, ge=1, description="Longest input and output together, in tokens; left out: not checked."
    )
    capabilities: tuple[CapabilityName, ...] = Field(
        default=("stream",), description="What it can do beyond plain text."
    )


class ProviderModel(Section):
    """Who offers, from where, and how much of it."""

    bridge: Identifier | None = Field(
        default=None, description="Over what it is reached; providers on one bridge are out together."
    )
    regions: tuple[Region, ...] = Field(
        default=(GLOBAL_REGION,), min_length=1, description="Regions that it serves from; `global` stands for anywhere."
    )
    reputation: Reputation = Field(default=50, description="How far it is trusted, 0 to 100.")
    latency_ms: Milliseconds = Field(
        default=500, description="Advertised time until a job is accepted, or to the first token."
    )
    capacity: Capacity | None = Field(
        default=None,
        description="GPU-hours, or requests, that it serves in a step, all its offers together; left out: unbounded.",
    )
    offers: dict[Name, OfferModel] = Field(
        min_length=1,
        description="By resource: a GPU type, or the name under which a model is asked for.",
        examples=["{A100: {price: {usd_per_gpu_hour: 1.8}}}"],
    )


class TenantModel(Section):
    """Who asks, for what, and with what preferences."""

    region: Region | None = Field(default=None, description="Where its jobs must run; left out: anywhere.")
    budget_usd_per_step: Usd | None = Field(default=None, description="What its jobs of one step may cost together.")
    requests_per_step: Requests | None = Field(
        default=None, description="Mean number of jobs; arrivals are max(0, int(N(mean, 2)))."
    )
    mix: Shares | None = Field(default=None, description="Share of each profile in its jobs; they sum to 1.")
    weights: WeightSettings = Field(default=WeightSettings(), description="What it prefers.")
    limits: LimitSettings = Field(default=LimitSettings(), description="What it never accepts.")


class ProfileModel(Section):
    """A sort of job."""

    resource: Name = Field(description="What it runs on.", examples=["A100"])
    gpu_hours: GpuHours = Field(description="Lowest and highest size; drawn per job.", examples=["[0.5, 2]"])


class EventModel(Section):
    """Something that befalls a provider; everybody sees it at once."""

    step: Step = Field(description="First step of it, from 0.", examples=[20])
    kind: EventKind = Field(
        description="price_spike, outage, latency_spike, capacity_surge or reputation_drop.", examples=["outage"]
    )
    provider: str = Field(description="A provider named under `providers`.", examples=["akash"])
    steps: Steps | None = Field(default=None, description="How long; left out: 10 steps, an outage 5.")
    multiplier: Multiplier | None = Field(
        default=None, description="Of the price (price_spike) or the capacity (capacity_surge)."
    )
    delta: Delta | None = Field(
        default=None, description="Milliseconds (latency_spike), or points of reputation (reputation_drop), added."
    )


class TraceModel(Section):
    """Requests from a trace of LLM traffic, in place of `profiles` and the tenants' `mix`."""

    path: FilePath | None = Field(
        default=None,
        description="In Azure's, Mooncake's or amaru's format, relative to this file; null: the one that comes with "
        "amaru.",
    )
    resource: Name = Field(description="What every request asks for.", examples=["llama-3.3-70b"])
    share: Shares = Field(description="Share of each tenant in the requests; they sum to 1.", examples=["{team: 1}"])
    speed: float = Field(
        default=1,
        gt=0,
        le=1_000_000,
        description="The trace runs this much faster than the world: a second of it takes 1/speed of a second. "
        "It begins anew when it ends.",
    )


class RegimeModel(Section):
    """How a provider fares while it is in a regime."""

    failure: Probabilities = Field(description="Probability that an attempt fails.", examples=["[0.005, 0.04]"])
    slowdown: Factors = Field(description="Factor on its latency.", examples=["[1, 1]"])
    steps: Stays = Field(description="Mean length of a stay (geometric).", examples=["[100, 400]"])


class HiddenModel(Section):
    """From what each world draws the truth that no policy is told. [lowest, highest], drawn uniformly per provider."""

    healthy: RegimeModel = Field(description="The regime that a provider is in most of the time.")
    degraded: RegimeModel = Field(description="It limps.")
    down: RegimeModel = Field(description="It is all but gone.")
    down_share: Probabilities = Field(
        description="Probability that a provider which leaves `healthy` goes down instead of degrading.",
        examples=["[0.2, 0.6]"],
    )
    latency_bias: Factors = Field(
        description="Factor of an offer's real mean latency to the advertised one, per offer and log-uniform.",
        examples=["[0.7, 1.6]"],
    )
    latency_noise: Deviations = Field(description="Standard deviation of log-latency.", examples=["[0.1, 0.35]"])
    latency_load: Deviations = Field(
        description="Rise of log-latency from no to full utilisation.", examples=["[0.1, 0.9]"]
    )
    bridge_up_steps: Stays = Field(
        description="Mean steps between outages of a bridge, drawn per bridge.", examples=["[200, 600]"]
    )
    bridge_down_steps: Stays = Field(description="Mean steps of such an outage.", examples=["[3, 12]"])
    bridge_failure: Share = Field(
        description="Probability that an attempt over the bridge fails while it is out.", examples=[0.98]
    )
    price_drift: Deviations = Field(
        description="Standard deviation of the log-price's change in a step; it is pulled back to the advertised one.",
        examples=["[0.005, 0.02]"],
    )
    price_jumps: Probabilities = Field(
        description="Probability of a jump of the price in a step.", examples=["[0.002, 0.01]"]
    )
    price_jump_sd: Annotated[float, Field(ge=0, le=10)] = Field(
        description="Standard deviation of a jump of the log-price.", examples=[0.25]
    )
    price_lag_steps: Lags = Field(description="How many steps old the posted price is.", examples=["[3, 20]"])


class ScenarioFile(Section):
    """A scenario of the war-game: who offers, who asks, what happens, and what is hidden."""

    name: Identifier | None = Field(
        default=None,
        description="Its name; a family's ends in its version. Needed.",
        examples=["my-worlds-v1"],
    )
    about: Annotated[str, Field(max_length=400)] = Field(default="", description="What it is, in one line.")
    purpose: Literal["train", "evaluate", "any"] = Field(
        default="any", description="evaluate: policies are judged on it and never trained on it; train: the reverse."
    )
    steps: Steps = Field(default=120, description="Steps of an episode; a longer run repeats the events.")
    step_s: float = Field(default=30, gt=0, le=86_400, description="Seconds that a step stands for.")
    providers: dict[Identifier, ProviderModel] = Field(default={}, description="Who offers, by name. Needed.")
    tenants: dict[Identifier, TenantModel] = Field(default={}, description="Who asks, by name. Needed.")
    profiles: dict[Name, ProfileModel] = Field(default={}, description="Sorts of job, by name.")
    trace: TraceModel | None = Field(default=None, description="Chat traffic in place of jobs.")
    events: tuple[EventModel, ...] = Field(default=(), description="What happens at known steps.")
    hidden: HiddenModel | None = Field(
        default=None,
        description="With it, the file is a family of worlds, one per seed; without, what is posted is the truth.",
    )
