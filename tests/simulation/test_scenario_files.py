"""Scenarios as files: what is read, what is inherited, and how each mistake is told."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from amaru.domain import Kind, Limits, Weights
from amaru.errors import ScenarioError
from amaru.simulation.scenario import Event, EventKind, Scenario
from amaru.simulation.scenario_files import dump_scenario, load_scenario, read_scenario_file, shipped

SMALL = """\
name: small
steps: 50
providers:
  akash:
    bridge: axelar
    regions: [eu]
    capacity: 220
    offers:
      A100: {price: {usd_per_gpu_hour: 1.8}}
  salad:
    latency_ms: 400
    offers:
      A100: {price: {usd_per_gpu_hour: 1.1}, latency_ms: 700}
      H100: {price: {usd_per_gpu_hour: 3}}
profiles:
  inference: {resource: A100, gpu_hours: [0.2, 1]}
  training: {resource: H100, gpu_hours: [3, 10]}
tenants:
  lab:
    region: eu
    budget_usd_per_step: 500
    requests_per_step: 10
    mix: {inference: 0.7, training: 0.3}
    limits: {max_latency_ms: 900, min_reputation: 20, regions: [eu, global]}
events:
  - {step: 20, kind: price_spike, provider: salad, multiplier: 1.6}
  - {step: 30, kind: outage, provider: akash}
hidden:
  healthy: {failure: [0.01, 0.04], slowdown: [1, 1], steps: [100, 400]}
  degraded: {failure: [0.15, 0.5], slowdown: [1.3, 2.5], steps: [15, 60]}
  down: {failure: [0.85, 1], slowdown: [1, 2], steps: [8, 40]}
  down_share: [0.2, 0.6]
  latency_bias: [0.7, 1.6]
  latency_noise: [0.1, 0.35]
  latency_load: [0.1, 0.9]
  bridge_up_steps: [200, 600]
  bridge_down_steps: [3, 12]
  bridge_failure: 0.98
  price_drift: [0.005, 0.02]
  price_jumps: [0.002, 0.01]
  price_jump_sd: 0.25
  price_lag_steps: [3, 20]
"""

CHAT = """\
name: chats
providers:
  anvil:
    offers:
      llama: {price: {input_usd_per_mtok: 0.6, output_usd_per_mtok: 0.75}, model: anvil/llama}
  cloud:
    offers:
      A100: {price: {usd_per_gpu_hour: 1.8}}
tenants:
  people: {}
  batch: {weights: {price: 1, latency: 0, reputation: 0, availability: 0}}
trace:
  resource: llama
  share: {people: 0.6, batch: 0.4}
  speed: 2
"""


def written(folder: Path, text: str, name: str = "mine.yaml") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(path: Path) -> list[str]:
    """The mistakes of a file, without its folder."""
    with pytest.raises(ScenarioError) as caught:
        load_scenario(path)
    assert caught.value.problems
    return [problem.replace(f"{path.parent}/", "") for problem in caught.value.problems]


def changed(text: str, old: str, new: str) -> str:
    assert text.count(old) == 1, old
    return text.replace(old, new)


def without_name(scenario: Scenario) -> Scenario:
    return msgspec.structs.replace(scenario, name="", purpose="")


# --- what is read


def test_a_scenario_of_gpu_jobs(tmp_path: Path) -> None:
    scenario = load_scenario(written(tmp_path, SMALL))
    assert [(offer.id, offer.latency_ms, offer.capacity) for offer in scenario.offers] == [
        ("akash/A100", 500, 220),
        ("salad/A100", 700, None),
        ("salad/H100", 400, None),
    ]
    first = scenario.offers[0]
    assert (first.kinds, first.regions, first.price.usd_per_gpu_hour) == ((Kind.GPU_JOB,), ("eu",), 1.8)
    assert scenario.offers[1].regions == ("global",)
    assert scenario.bridges == {"akash": "axelar"}
    assert (scenario.steps, scenario.step_s, scenario.purpose) == (50, 30, "any")
    (demand,) = scenario.demands
    assert (demand.tenant.id, demand.tenant.weights) == ("lab", Weights())
    assert demand.tenant.limits == Limits(max_latency_ms=900, min_reputation=20, regions=("eu", "global"))
    assert demand.mix == {"inference": 0.7, "training": 0.3}
    assert scenario.events == (
        Event(step=20, kind=EventKind.PRICE_SPIKE, provider="salad", steps=10, multiplier=1.6),
        Event(step=30, kind=EventKind.OUTAGE, provider="akash", steps=5),
    )
    assert scenario.hidden is not None
    assert scenario.hidden.down.failure == (0.85, 1)
    assert scenario.tenants == ()
    assert scenario.trace is None


def test_a_scenario_of_chats_from_a_trace(tmp_path: Path) -> None:
    scenario = load_scenario(written(tmp_path, CHAT))
    assert scenario.offers[0].kinds == (Kind.CHAT,)
    assert scenario.offers[0].model == "anvil/llama"
    assert [tenant.id for tenant in scenario.tenants] == ["people", "batch"]
    assert scenario.demands == ()
    assert scenario.trace is not None
    assert (scenario.trace.path, scenario.trace.share, scenario.trace.speed) == (None, {"people": 0.6, "batch": 0.4}, 2)


def test_a_trace_stands_relative_to_the_file_that_names_it(tmp_path: Path) -> None:
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "trace.csv").write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    written(folder, changed(CHAT, "  resource: llama", "  path: trace.csv\n  resource: llama"), "base.yaml")
    heir = load_scenario(written(tmp_path, "name: heir\nextends: base/base.yaml\n"))
    assert heir.trace is not None
    assert heir.trace.path == str(folder / "trace.csv")
    (problem,) = refused(written(tmp_path, "name: heir\nextends: base/base.yaml\ntrace: {path: trace.csv}\n"))
    assert problem.startswith("mine.yaml:3: trace.path: no such file")


@pytest.mark.parametrize("name", shipped())
def test_what_is_shipped_is_fine_and_bears_its_file_s_name(name: str) -> None:
    assert load_scenario(name).name == name
    assert read_scenario_file(name).about


def test_the_classic_game_is_the_one_of_the_json() -> None:
    classic = load_scenario("classic")
    for source in (Path(__file__).parent / "wargame", Path(__file__).parent / "wargame" / "workloads.json"):
        assert without_name(load_scenario(source)) == without_name(classic)
    assert [len(part) for part in (classic.bridges, classic.offers, classic.demands, classic.events)] == [7, 11, 4, 5]
    assert (classic.steps, classic.hidden) == (120, None)


def test_hidden_families_keep_the_offers_and_part_training_from_evaluation() -> None:
    classic, train, judge = map(load_scenario, ("classic", "hidden-train-v1", "hidden-eval-v1"))
    for family in (train, judge):
        assert family.hidden is not None
        assert without_name(msgspec.structs.replace(family, hidden=None)) == without_name(classic)
    assert (train.purpose, judge.purpose) == ("train", "evaluate")
    assert train.hidden != judge.hidden


def test_a_name_is_what_is_shipped_and_a_path_is_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ScenarioError, match='clasic: no such file or scenario — did you mean "classic"'):
        load_scenario("clasic")
    with pytest.raises(ScenarioError, match="no such file or scenario"):
        load_scenario(Path("classic"))
    with pytest.raises(ScenarioError, match="no such file or scenario"):
        load_scenario("x" * 5000)


# --- what is inherited


def test_a_file_says_only_what_differs(tmp_path: Path) -> None:
    written(tmp_path, SMALL, "base.yaml")
    heir = load_scenario(
        written(
            tmp_path,
            "name: heir\nextends: base.yaml\npurpose: train\nproviders:\n  akash: {reputation: 90}\n"
            "events:\n  - {step: 1, kind: outage, provider: salad}\nhidden: null\n",
        )
    )
    base = load_scenario(tmp_path / "base.yaml")
    assert heir.offers[0] == msgspec.structs.replace(base.offers[0], reputation=90)
    assert heir.offers[1:] == base.offers[1:]
    assert heir.events == (Event(step=1, kind=EventKind.OUTAGE, provider="salad", steps=5),)
    assert heir.hidden is None
    assert heir.demands == base.demands


def test_null_takes_out_what_is_inherited(tmp_path: Path) -> None:
    written(tmp_path, SMALL, "base.yaml")
    heir = load_scenario(
        written(tmp_path, "name: heir\nextends: base.yaml\nevents: null\nproviders: {salad: {latency_ms: null}}\n")
    )
    assert [offer.latency_ms for offer in heir.offers] == [500, 700, 500]
    assert heir.events == ()


def test_name_about_and_purpose_are_a_file_s_own(tmp_path: Path) -> None:
    written(tmp_path, "about: the base\npurpose: train\n" + SMALL, "base.yaml")
    assert refused(written(tmp_path, "extends: base.yaml\n")) == ["mine.yaml: name: missing — write name: my-worlds-v1"]
    heir = read_scenario_file(written(tmp_path, "name: heir\nextends: base.yaml\n"))
    assert (heir.purpose, heir.about) == ("any", "")


def test_a_mistake_is_told_where_it_stands(tmp_path: Path) -> None:
    written(tmp_path, changed(SMALL, "resource: H100", "resource: H200"), "base.yaml")
    problems = refused(
        written(
            tmp_path, "name: heir\nextends: base.yaml\nproviders:\n  akash: {capacity: -1}\nevents:\n  - {step: 1}\n"
        )
    )
    assert [problem.partition(": ")[0] for problem in problems] == ["base.yaml:17"] + ["mine.yaml:4"] + [
        "mine.yaml:6"
    ] * 2
    assert 'profiles.training.resource: no provider offers "H200"' in problems[0]
    assert "providers.akash.capacity: must be greater than 0, not -1" in problems[1]
    assert "events[0].kind: missing" in problems[2]


@pytest.mark.parametrize(
    ("extends", "says"),
    [
        ("clasic", 'extends: no such file or scenario: "clasic" — did you mean "classic"?'),
        ("mine.yaml", "extends: extends itself in the end"),
        ("[classic]", "extends: not a text: a list"),
        ("workloads.json", "turn it into YAML first: amaru wargame show workloads.json"),
    ],
)
def test_what_cannot_be_extended(extends: str, says: str, tmp_path: Path) -> None:
    written(tmp_path, "{}", "workloads.json")
    (problem,) = refused(written(tmp_path, f"name: heir\nextends: {extends}\n"))
    assert problem.startswith("mine.yaml:2: ")
    assert says in problem


def test_a_broken_base_is_one_mistake_and_not_many(tmp_path: Path) -> None:
    written(tmp_path, "providers: [\n", "base.yaml")
    (problem,) = refused(written(tmp_path, "name: heir\nextends: base.yaml\n"))
    assert problem.startswith("base.yaml:2:1: not valid YAML")


# --- what is refused


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "provider: salad",
            "provider: sald",
            ':26: events[0].provider: no such provider: "sald" — did you mean "salad"?',
        ),
        ("1.8", "-1.8", ":9: providers.akash.offers.A100.price.usd_per_gpu_hour: must be at least 0, not -1.8"),
        ("1.8", ".nan", "not a finite number"),
        ("training: 0.3}", "training: 0.2}", ":23: tenants.lab.mix: the shares sum to 0.9, not 1"),
        (
            "training: 0.3}",
            "trainin: 0.3}",
            'tenants.lab.mix.trainin: no such profile: "trainin" — did you mean "training"',
        ),
        ("inference: 0.7", "inference: -0.7", "tenants.lab.mix.inference: must be at least 0, not -0.7"),
        ("inference: 0.7", "inference: true", "tenants.lab.mix.inference: not a number"),
        (
            "resource: H100",
            "resource: H200",
            'profiles.training.resource: no provider offers "H200" — did you mean "H100"?',
        ),
        ("[0.2, 1]", "[1, 0.2]", ":16: profiles.inference.gpu_hours: an empty range: 1 is more than 0.2"),
        ("[0.2, 1]", "[0.2]", "a range has two numbers, this one 1 — write [lowest, highest]"),
        ("[0.2, 1]", "[0, 1]", "0 is out of bounds — both numbers must be greater than 0"),
        ("[0.2, 1]", "3", "must be a list, not 3"),
        ("[0.01, 0.04]", "[0.04, 0.01]", "hidden.healthy.failure: an empty range"),
        ("[0.85, 1]", "[0.85, 1.01]", "1.01 is out of bounds — both numbers must be from 0 to 1"),
        ("bridge_failure: 0.98", "bridge_failure: 98", "hidden.bridge_failure: must be at most 1, not 98"),
        ("[3, 20]", "[3, 20.5]", "hidden.price_lag_steps[1]: not a whole number: 20.5"),
        ("[8, 40]", "[0.5, 40]", "0.5 is out of bounds"),
        ("  price_jump_sd: 0.25\n", "", "hidden.price_jump_sd: missing — write price_jump_sd: 0.25"),
        ("latency_noise", "latency_nois", 'hidden.latency_nois: unknown field — did you mean "latency_noise"?'),
        (
            "reputation: 20",
            "reputaton: 20",
            'tenants.lab.limits.min_reputaton: unknown field — did you mean "min_reputation"',
        ),
        (
            "[eu, global]",
            "[eu, globl]",
            'tenants.lab.limits.regions[1]: nobody serves from "globl" — did you mean "global"?',
        ),
        ("kind: outage", "kind: outrage", "events[1].kind: not one of"),
        ("step: 30", "step: 50", "events[1].step: never happens: the scenario has 50 steps, from 0"),
        ("step: 30", "step: -1", "events[1].step: must be at least 0, not -1"),
        (", multiplier: 1.6", "", "events[0].multiplier: missing: a price_spike needs it — write multiplier: 1.6"),
        ("multiplier: 1.6", "multiplier: 0", "events[0].multiplier: must be greater than 0, not 0"),
        ("multiplier: 1.6", "multiplier: 1.6, delta: 3", "events[0].delta: has no meaning for price_spike"),
        ("akash}", "akash, delta: 3}", "events[1].delta: has no meaning for outage — remove the line"),
        (
            "kind: outage, provider: akash",
            "kind: latency_spike, provider: akash, delta: -500",
            "leaves no latency of 500 ms",
        ),
        ("    budget_usd_per_step: 500\n", "", "tenants.lab.budget_usd_per_step: missing"),
        ("    requests_per_step: 10\n", "", "tenants.lab.requests_per_step: missing"),
        ("    mix: {inference: 0.7, training: 0.3}\n", "", "tenants.lab.mix: missing"),
        ("{usd_per_gpu_hour: 3}", "{}", "providers.salad.offers.H100.price: the price is missing"),
        (
            "{usd_per_gpu_hour: 3}",
            "{usd_per_gpu_hour: 3, input_usd_per_mtok: 1}",
            "prices of GPU-hours and of tokens at once",
        ),
        (
            "{usd_per_gpu_hour: 3}",
            "{input_usd_per_mtok: 1, output_usd_per_mtok: 1}",
            "providers.salad.offers: offers both GPUs and models, but has one capacity",
        ),
        (
            "{usd_per_gpu_hour: 3}",
            "{input_usd_per_mtok: 1, output_usd_per_mtok: 1}",
            'profiles.training.resource: "H100" answers chats, and jobs need GPUs',
        ),
        ("  salad:\n", "  akash:\n", ":10: providers.akash: written twice (first on line 4)"),
        ("name: small", "name: no good", 'name: not a name: "no good"'),
        ("name: small\n", "", "name: missing"),
        ("steps: 50", "steps: 0", "steps: must be at least 1, not 0"),
        ("steps: 50", "purpose: exam\nsteps: 50", 'purpose: not one of train, evaluate, any: "exam"'),
        (
            "    mix:",
            "    weights: {price: 0, latency: 0, reputation: 0, availability: 0}\n    mix:",
            "every weight is 0",
        ),
        (
            "hidden:",
            "trace: {resource: A100, share: {lab: 1}}\nhidden:",
            "profiles: a scenario has jobs or a trace, not both",
        ),
    ],
)
def test_a_mistake_is_named_with_line_place_and_remedy(old: str, new: str, says: str, tmp_path: Path) -> None:
    problems = refused(written(tmp_path, changed(SMALL, old, new)))
    assert any(says in problem for problem in problems), problems
    assert all(problem.startswith("mine.yaml:") for problem in problems)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("batch: 0.4", "batc: 0.4", ':14: trace.share.batc: no such tenant: "batc" — did you mean "batch"?'),
        ("batch: 0.4", "batch: 0.5", "trace.share: the shares sum to 1.1, not 1"),
        ("resource: llama", "resource: lama", 'trace.resource: no provider offers "lama" — did you mean "llama"?'),
        ("resource: llama", "resource: A100", 'trace.resource: "A100" runs GPU jobs, and a trace holds chats'),
        ("speed: 2", "speed: 0", "trace.speed: must be greater than 0, not 0"),
        ("people: {}", "people: {budget_usd_per_step: 3}", "is for jobs, and this scenario plays a trace"),
        (", output_usd_per_mtok: 0.75", "", "providers.anvil.offers.llama.price: the price is missing"),
    ],
)
def test_a_mistake_in_a_scenario_of_chats(old: str, new: str, says: str, tmp_path: Path) -> None:
    problems = refused(written(tmp_path, changed(CHAT, old, new)))
    assert any(says in problem for problem in problems), problems


def test_a_region_must_be_served_by_somebody_who_offers_what_is_asked_for(tmp_path: Path) -> None:
    # An offer in `global` serves any region, and a profile that nobody serves there is a hard life, not a mistake.
    load_scenario(written(tmp_path, changed(SMALL, "    region: eu", "    region: us")))
    eu_only = changed(SMALL, "    latency_ms: 400", "    regions: [eu]\n    latency_ms: 400")
    eu_only = changed(eu_only, ", regions: [eu, global]", "")
    (problem,) = refused(written(tmp_path, changed(eu_only, "    region: eu", "    region: ue")))
    assert problem == 'mine.yaml:21: tenants.lab.region: nobody serves "ue" — known: eu'
    split = changed(eu_only, "    regions: [eu]\n    latency_ms", "    regions: [us]\n    latency_ms")
    load_scenario(written(tmp_path, split))
    (problem,) = refused(written(tmp_path, changed(split, "{inference: 0.7, training: 0.3}", "{training: 1}")))
    assert problem.startswith('mine.yaml:21: tenants.lab.region: nobody serves H100 in "eu"')


def test_every_mistake_is_named_at_once_and_none_twice(tmp_path: Path) -> None:
    text = changed(SMALL, "usd_per_gpu_hour: 3", "usd_per_gpu_hour: -3")  # H100's only price
    text = changed(text, "step: 20", "step: x")
    text = changed(text, "provider: akash", "provider: akahs")
    text = changed(text, "training: 0.3", "training: 0.4")
    text = changed(text, "[0.7, 1.6]", "[1.6, 0.7]")
    text = changed(text, "steps: 50", "steps: -50")
    assert [problem.partition(" — ")[0] for problem in refused(written(tmp_path, text))] == [
        "mine.yaml:2: steps: must be at least 1, not -50",
        "mine.yaml:14: providers.salad.offers.H100.price.usd_per_gpu_hour: must be at least 0, not -3",
        "mine.yaml:23: tenants.lab.mix: the shares sum to 1.1, not 1",
        'mine.yaml:26: events[0].step: not a whole number: "x"',
        'mine.yaml:27: events[1].provider: no such provider: "akahs"',
        "mine.yaml:33: hidden.latency_bias: an empty range: 1.6 is more than 0.7",
    ]


@pytest.mark.parametrize("text", ["", "[", "- a\n", "name: x\n", "\x00", "name: x\nproviders: {}\ntenants: 3\n"])
def test_a_file_that_is_no_scenario(text: str, tmp_path: Path) -> None:
    assert all(problem.startswith("mine.yaml") for problem in refused(written(tmp_path, text)))


def test_a_written_scenario_is_the_same_when_read(tmp_path: Path) -> None:
    for name in shipped():
        path = written(tmp_path, dump_scenario(read_scenario_file(name)), f"{name}.yaml")
        assert load_scenario(path) == load_scenario(name)
