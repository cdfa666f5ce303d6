"""A good file becomes settings and domain types; of a bad one, every mistake is named at once, and no secret is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from amaru.accounts.keys import hash_key
from amaru.config import Config, effective, json_schema, load, needs_restart, parse, summary, warnings
from amaru.config.overrides import variables
from amaru.domain import Capability, Kind, LimitField, Limits, PrefillStyle, Rescue, Weights
from amaru.errors import ConfigError

SECRET = "sk-proj-Zq81LmVt93xKcYb27"
TEAM_KEY = "sk-amaru-team-key-for-tests-0001"
ENV = {"OPENAI_API_KEY": SECRET, "TEAM_KEY": TEAM_KEY, "ORG": "org-1"}

GOOD = """\
version: 1
server: {port: 9000}
providers:
  openai:
    base_url: https://api.openai.com/v1/
    key_env: OPENAI_API_KEY
    headers: {OpenAI-Organization: "{env:ORG}"}
    timeouts: {idle_ms: 5000}
  vllm:
    base_url: http://127.0.0.1:8000/v1
    regions: [eu]
offers:
  - provider: openai
    resource: gpt-4o-mini
    price: {input_usd_per_mtok: 0.15, cached_input_usd_per_mtok: 0.075, output_usd_per_mtok: 0.6}
    capabilities: [stream, tools]
  - provider: vllm
    resource: gpt-4o-mini
    model: local/model
    price: {input_usd_per_mtok: 0, output_usd_per_mtok: 0}
  - provider: vllm
    id: eu-h100
    resource: H100
    kinds: [gpu_job]
    price: {usd_per_gpu_hour: 2.5}
    capacity: 8
aliases:
  fast: [gpt-4o-mini]
  own: vllm/gpt-4o-mini
tenants:
  team:
    weights: {price: 1, latency: 0}
    limits: {max_price: 5, regions: [eu]}
    keys: [{env: TEAM_KEY}]
    resources: [fast, H100]
"""


def problems_of(text: str | bytes, env: dict[str, str] | None = None, path: Path | str = "amaru.yaml") -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, path, ENV if env is None else env)
    return caught.value.problems


def good(**replaced: str) -> Config:
    text = GOOD
    for old, new in replaced.items():
        text = text.replace(old, new)
    return parse(text, env=ENV)


def test_a_good_file_becomes_domain_types() -> None:
    config = good()
    openai, vllm, gpu = config.offers()
    assert (openai.id, openai.model, openai.regions) == ("openai/gpt-4o-mini", "gpt-4o-mini", ("global",))
    assert openai.capabilities == Capability.STREAM | Capability.TOOLS
    assert openai.price.cached_input_usd_per_mtok == 0.075
    assert (vllm.id, vllm.model, vllm.regions) == ("vllm/gpt-4o-mini", "local/model", ("eu",))
    assert (gpu.id, gpu.kinds, gpu.price.usd_per_gpu_hour, gpu.capacity) == ("eu-h100", (Kind.GPU_JOB,), 2.5, 8)
    (team,) = config.tenants()
    assert team.weights == Weights(price=1, latency=0)
    assert team.limits == Limits(max_price=5, regions=("eu",))
    assert team.key_hashes == (hash_key(TEAM_KEY),)
    assert config.aliases == {"fast": ("gpt-4o-mini",), "own": ("vllm/gpt-4o-mini",)}
    assert config.server.port == 9000
    assert config.storage_path == Path("amaru-data/amaru.db")


def test_a_provider_has_its_key_and_every_limit() -> None:
    provider = good().providers()["openai"]
    assert provider.base_url == "https://api.openai.com/v1"
    assert provider.key is not None
    assert provider.key.get_secret_value() == SECRET
    assert provider.headers["openai-organization"].get_secret_value() == "org-1"
    assert (provider.idle_ms, provider.first_token_ms, provider.connect_ms) == (5000, 30_000, 3000)
    assert isinstance(provider.connect_ms, float)


@pytest.mark.parametrize(
    ("address", "field"),
    [
        ("https://api.openai.com/v1", LimitField.MAX_COMPLETION_TOKENS),
        ("https://eu.api.openai.com/v1", LimitField.MAX_COMPLETION_TOKENS),
        ("https://mine.openai.azure.com/openai/v1", LimitField.BOTH),
        ("https://api.openai.com.example.org/v1", LimitField.MAX_TOKENS),
        ("http://[::1]:8000/v1", LimitField.MAX_TOKENS),
    ],
)
def test_the_field_of_a_limit_is_known_by_the_address_unless_an_offer_says_it(address: str, field: LimitField) -> None:
    moved = good(**{"https://api.openai.com/v1": address})
    assert moved.offers()[0].limit_field is field
    assert effective(moved)["offers"][0]["limit_field"] == field
    lines = "[stream, tools]\n    limit_field: max_tokens\n    bills_beyond_limit: true"
    said = good(**{"https://api.openai.com/v1": address, "[stream, tools]": lines}).offers()[0]
    assert (said.limit_field, said.bills_beyond_limit) == (LimitField.MAX_TOKENS, True)


def test_how_broken_answers_are_rescued_is_the_tenants_and_the_offers_to_say() -> None:
    by_itself = good(**{"[stream, tools]": "[stream, prefill]"})
    assert by_itself.offers()[0].prefill_style is PrefillStyle.PLAIN
    assert by_itself.tenants()[0].rescue is Rescue.JOIN
    assert [offer["prefill_style"] for offer in effective(by_itself)["offers"]] == ["plain", None, None]
    said = good(
        **{
            "[stream, tools]": "[prefill]\n    prefill_style: continue_final_message",
            "resources: [fast, H100]": "rescue: hold",
        }
    )
    assert said.offers()[0].prefill_style is PrefillStyle.CONTINUE_FINAL_MESSAGE
    assert said.tenants()[0].rescue is Rescue.HOLD
    assert effective(said)["tenants"]["team"]["rescue"] == "hold"


def test_adaptive_limits_are_on_with_floors_of_two_seconds() -> None:
    routing = good().routing
    assert (routing.adaptive_limits, routing.least_first_token_ms, routing.least_idle_ms) == (True, 2_000, 2_000)
    off = parse(GOOD, env={**ENV, "AMARU_ROUTING__ADAPTIVE_LIMITS": "false"}).routing
    assert not off.adaptive_limits


def test_secrets_are_in_no_repr_dump_or_summary() -> None:
    config = good()
    seen = [repr(config), repr(config.providers()), str(effective(config)), str(summary(config)), repr(config.file)]
    assert not any(secret in text for text in seen for secret in (SECRET, TEAM_KEY))
    assert effective(config)["providers"]["openai"]["key"] == "key set by OPENAI_API_KEY"


def test_settings_cannot_be_changed() -> None:
    config = good()
    with pytest.raises(ValueError, match="frozen"):
        config.server.port = 1
    with pytest.raises(TypeError):
        config.providers()["x"] = config.providers()["vllm"]  # type: ignore[index]  # that it is refused is the test


MISTAKES = [
    ("https://api.openai.com/v1/", "api.openai.com", 5, "providers.openai.base_url", "https://api.openai.com/v1"),
    ("https://api.openai.com/v1/", "https://u:hunter2pw@h/v1", 5, "providers.openai.base_url", "user name"),
    ("https://api.openai.com/v1/", "https://h/v1?key=abc", 5, "providers.openai.base_url", "query"),
    ("https://api.openai.com/v1/", "https://h:99999/v1", 5, "providers.openai.base_url", "port"),
    ("key_env: OPENAI_API_KEY", "key_env: OPENAI_KEY", 6, "providers.openai.key_env", "OPENAI_KEY is not set"),
    ("key_env: OPENAI_API_KEY", "key_file: no/such", 6, "providers.openai.key_file", "No such file"),
    ("key_env: OPENAI_API_KEY", "api_key: " + SECRET, 6, "providers.openai.api_key", "key_env"),
    ("key_env: OPENAI_API_KEY", "key_env: " + SECRET, 6, "providers.openai.key_env", "name of an environment"),
    ("OpenAI-Organization", "Authorization", 7, "", None),
    ('"{env:ORG}"', '"{env:NOPE}"', 7, "providers.openai.headers.OpenAI-Organization", "NOPE is not set"),
    ('OpenAI-Organization: "{env:ORG}"', "X-Api-Key: abc", 7, "providers.openai.headers.X-Api-Key", "{env:NAME}"),
    ('OpenAI-Organization: "{env:ORG}"', "Host: abc", 7, "providers.openai.headers.Host", "itself"),
    ("timeouts:", "timeout:", 8, "providers.openai.timeout", 'did you mean "timeouts"?'),
    ("idle_ms: 5000", "idle_ms: soon", 8, "providers.openai.timeouts.idle_ms", "not a number"),
    ("idle_ms: 5000", "idle_ms: true", 8, "providers.openai.timeouts.idle_ms", "not a number"),
    ("idle_ms: 5000", "idle_ms: .nan", 8, "providers.openai.timeouts.idle_ms", "finite"),
    ("provider: openai", "provider: opena", 13, "offers[0].provider", 'did you mean "openai"?'),
    ("output_usd_per_mtok: 0.6", "output_usd_per_mtok: -1", 15, "offers[0].price.output_usd_per_mtok", "at least 0"),
    (", output_usd_per_mtok: 0.6", "", 15, "offers[0].price", "output_usd_per_mtok is missing"),
    ("[stream, tools]", "[strem]", 16, "offers[0].capabilities[0]", 'did you mean "stream"?'),
    ("[stream, tools]", "stream", 16, "offers[0].capabilities", "must be a list"),
    ("[stream, tools]", "[stream]\n    prefill_style: prefix", 17, "offers[0].prefill_style", "add prefill"),
    ("[stream, tools]", "[prefill]\n    prefill_style: vllm", 17, "offers[0].prefill_style", "continue_final_message"),
    ("resources: [fast, H100]", "rescue: held", 35, "tenants.team.rescue", "join, hold"),
    ("    id: eu-h100", "    id: openai/gpt-4o-mini", 22, "offers[2].id", "offers[0] has the same id"),
    ("    id: eu-h100", "    id: gpt-4o-mini", 22, "offers[2].id", "resource's name"),
    ("{usd_per_gpu_hour: 2.5}", "{}", 25, "offers[2].price", "needs usd_per_gpu_hour"),
    ("kinds: [gpu_job]", "kinds: [chat]", 25, "offers[2].price.usd_per_gpu_hour", "per GPU-hour"),
    ("kinds: [gpu_job]", "kinds: [gpujob]", 24, "offers[2].kinds[0]", 'did you mean "gpu_job"?'),
    ("kinds: [gpu_job]", "kinds: []", 24, "offers[2].kinds", "is empty"),
    ("fast: [gpt-4o-mini]", "fast: [gpt-5]", 28, "aliases.fast[0]", "no such resource"),
    ("own: vllm/gpt-4o-mini", "own: fast", 29, "aliases.own[0]", "an alias itself"),
    ("own: vllm", "H100: vllm", 29, "aliases.H100", "would hide it"),
    (
        "{price: 1, latency: 0}",
        "{price: 0, latency: 0, reputation: 0, availability: 0}",
        32,
        "tenants.team.weights",
        "0",
    ),
    ("{price: 1, latency: 0}", "{price: -1}", 32, "tenants.team.weights.price", "at least 0"),
    ("max_price: 5", "max_price: -5", 33, "tenants.team.limits.max_price", "at least 0"),
    ("regions: [eu]}", "regions: [us]}", 33, "tenants.team.limits.regions[0]", "no offer serves"),
    ("{env: TEAM_KEY}", "{env: TEAM_KEY, sha256: " + "a" * 64 + "}", 34, "tenants.team.keys[0]", "exactly one"),
    ("{env: TEAM_KEY}", "{sha256: sk-amaru-abc}", 34, "tenants.team.keys[0].sha256", "SHA-256"),
    ("{env: TEAM_KEY}", "{key: sk-amaru-abc}", 34, "tenants.team.keys[0].key", "sha256, env or file"),
    ("[fast, H100]", "[fats]", 35, "tenants.team.resources[0]", 'did you mean "fast"?'),
    ("{port: 9000}", "{port: 90000}", 2, "server.port", "at most 65535"),
    ("{port: 9000}", "{auth: none, host: 0.0.0.0}", 2, "server.auth", "127.0.0.1"),
    ("version: 1", "version: 2", 1, "version", "write version: 1"),
    ("  team:", "  te am:", 31, "tenants.te am", "not a name"),
    ("version: 1", "version: 1\nrouting: {breaker: {cool_down_s: 60}}", 2, "routing.breaker.max_cool_down_s", "60"),
    ("version: 1", "version: 1\nroutin: {}", 2, "routin", 'did you mean "routing"?'),
]


@pytest.mark.parametrize(("old", "new", "line", "place", "says"), MISTAKES, ids=[f"{m[3]}-{m[4]}" for m in MISTAKES])
def test_each_mistake_is_named_with_line_place_and_remedy(
    old: str, new: str, line: int, place: str, says: str | None
) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new)
    if says is None:  # a credential from the environment is fine
        parse(text, env=ENV)
        return
    found = [p for p in problems_of(text) if p.startswith(f"amaru.yaml:{line}: {place}: ")]
    assert found, problems_of(text)
    assert any(says in problem for problem in found), found
    assert not any(secret in problem for problem in found for secret in (SECRET, "hunter2pw", "sk-amaru", "=abc"))


def test_every_mistake_comes_at_once_in_the_files_order() -> None:
    text = GOOD
    for old, new in [
        ("port: 9000", "port: x"),
        ("https://api.openai.com/v1/", "api.openai.com"),
        ("output_usd_per_mtok: 0.6", "output_usd_per_mtok: -1"),
        ("  - provider: vllm\n    id", "  - provider: vlm\n    id"),
        ("[gpt-4o-mini]", "[gpt4o-mini]"),
        ("price: 1", "prise: 1"),
        ("TEAM_KEY", "TEAM_KEE"),
    ]:
        assert old in text
        text = text.replace(old, new)
    places = [line.split(": ")[1] for line in problems_of(text, {"OPENAI_API_KEY": SECRET})]
    assert places == [
        "server.port",
        "providers.openai.base_url",
        "offers[0].price.output_usd_per_mtok",
        "offers[2].provider",
        "aliases.fast[0]",
        "tenants.team.weights.prise",
        "tenants.team.keys[0].env",
    ]


def test_a_refused_part_does_not_make_others_unknown() -> None:
    """An offer of a provider with a bad address does name a provider; only the address is the mistake."""
    assert len(problems_of(GOOD.replace("http://127.0.0.1:8000/v1", "ftp://x"))) == 1
    assert (
        len(problems_of(GOOD.replace("provider: vllm\n    resource", "provider: vllm\n    zap: 1\n    resource"))) == 1
    )


def test_tenants_must_not_share_a_key() -> None:
    text = GOOD + f"  other:\n    keys: [{{sha256: {hash_key(TEAM_KEY).upper()}}}]\n"
    (problem,) = problems_of(text)
    assert problem.startswith("amaru.yaml:37: tenants.other.keys[0]: the same key as tenant team's")


def test_a_guessable_key_is_refused() -> None:
    (problem,) = problems_of(GOOD, {**ENV, "TEAM_KEY": "hunter2pw"})
    assert "shorter than 16" in problem
    assert "hunter2pw" not in problem


def test_a_key_that_could_smuggle_a_header_is_refused() -> None:
    (problem,) = problems_of(GOOD, {**ENV, "OPENAI_API_KEY": "abc\r\nX-Evil: 1"})
    assert "line break" in problem
    assert "Evil" not in problem


@pytest.mark.parametrize(
    "pasted", ["gsk_a1B2c3D4e5F6g7H8i9J0k1L2", "AIzaSyD4e5F6g7H8i9J0k1L2m3", "9f8c2d7e1b4a3908d7f6e5c4"]
)
def test_a_key_pasted_in_place_of_a_variables_name_is_never_quoted(pasted: str) -> None:
    for line in (f"key_env: {pasted}", f"key_file: {pasted}{pasted}", f"{pasted}{pasted}: x"):
        text = GOOD.replace("key_env: OPENAI_API_KEY", line)
        assert not any(pasted in problem for problem in problems_of(text))


def test_keys_come_from_files_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "openai.key").write_text(f"{SECRET}\n")
    path = tmp_path / "amaru.yaml"
    path.write_text(GOOD.replace("key_env: OPENAI_API_KEY", "key_file: openai.key"))
    config = load(path, ENV)
    key = config.providers()["openai"].key
    assert key is not None
    assert key.get_secret_value() == SECRET
    assert config.watched == (path, tmp_path / "openai.key")
    assert config.storage_path == tmp_path / "amaru-data" / "amaru.db"


def test_auth_none_knows_an_anonymous_tenant() -> None:
    config = good(**{"{port: 9000}": "{auth: none}"})
    assert [tenant.id for tenant in config.tenants()] == ["team", "anonymous"]
    assert config.key_ring().tenant_of(None).id == "anonymous"


def test_the_environment_overrides_single_values() -> None:
    config = parse(GOOD, env={**ENV, "AMARU_SERVER__PORT": "9001", "AMARU_ROUTING__BREAKER__WINDOW_S": "30"})
    assert config.server.port == 9001
    assert config.routing.breaker.window_s == 30
    assert config.overridden == {
        "server.port": "AMARU_SERVER__PORT",
        "routing.breaker.window_s": "AMARU_ROUTING__BREAKER__WINDOW_S",
    }


def test_a_bad_override_is_named_as_such() -> None:
    env = {**ENV, "AMARU_SERVER__PORT": "high", "AMARU_SERVR__HOST": "x", "AMARU_PORT_80_TCP": "x", "AMARU_CONFIG": "x"}
    assert problems_of(GOOD, env) == [
        'environment variable AMARU_SERVR__HOST: overrides nothing — did you mean "AMARU_SERVER__HOST"?',
        'environment variable AMARU_SERVER__PORT: server.port: not a whole number: "high" — e.g. port: 8080',
    ]


def test_only_single_values_of_these_sections_are_overridden() -> None:
    sections = {"server", "routing", "storage", "health", "stability", "accounts", "sharing", "ledger", "logging"}
    assert {loc[0] for loc in variables().values()} == sections
    assert "AMARU_SERVER__OPERATOR_KEYS" not in variables()


def test_every_field_is_described_in_the_schema() -> None:
    schema = json_schema()
    for name, model in [("amaru.yaml", schema), *schema["$defs"].items()]:
        assert model.get("description") or "enum" in model, name
        for field, details in model.get("properties", {}).items():
            # A section's description is its model's.
            assert details.get("description") or "$ref" in details, f"{name}.{field}"


def test_health_is_remembered_beside_the_database_unless_the_file_says_otherwise() -> None:
    assert good().health_path == good().storage_path.parent / "health"
    elsewhere = parse("health: {path: sense}")
    assert elsewhere.health_path == elsewhere.path.parent / "sense"


def test_the_ledger_lies_beside_the_database_unless_the_file_says_otherwise() -> None:
    assert good().ledger_url == str(good().storage_path.parent / "ledger")
    elsewhere = parse("ledger: {url: proofs/log}")
    assert elsewhere.ledger_url == str(elsewhere.path.parent / "proofs/log")
    remote = parse("ledger: {url: 's3://key:secret@bucket/log'}")
    assert remote.ledger_url == "s3://key:secret@bucket/log"
    assert effective(remote)["ledger"]["url"] == "s3://bucket/log"


def test_labels_of_an_offer_win_over_its_providers() -> None:
    config = parse(
        "providers: {a: {base_url: 'http://127.0.0.1:1/v1', labels: {bridge: axelar, site: north}}}\n"
        "offers: [{provider: a, resource: m, labels: {site: south},"
        " price: {input_usd_per_mtok: 0, output_usd_per_mtok: 0}}]\n"
    )
    assert config.labels() == {"a/m": {"bridge": "axelar", "site": "south"}}


def test_what_needs_a_restart_is_named() -> None:
    old = good()
    new = good(**{"port: 9000": "port: 9001, drain_s: 5", "fast:": "quick:", "[fast, H100]": "[quick]"})
    assert needs_restart(old, new) == ("server.port",)
    assert needs_restart(old, old) == ()


def test_warnings_name_what_is_likely_not_meant() -> None:
    text = GOOD.replace("http://127.0.0.1:8000/v1", "http://gpu.example/v1\n    key_env: OPENAI_API_KEY")
    text = text.replace("[stream, tools]", "[tools]") + "routing: {deadline_ms: 1000, least_idle_ms: 60000}\n"
    found = "\n".join(warnings(parse(text, env=ENV)))
    for expected in (
        "providers.vllm.base_url: its key travels unencrypted",
        "offers[0].capabilities: openai/gpt-4o-mini is never asked for streams",
        "offers: H100 comes from vllm alone",
        "routing.first_token_ms: longer than deadline_ms",
        "routing.least_idle_ms: longer than idle_ms (30000), which holds in its place",
    ):
        assert expected in found
    assert "gpt-4o-mini comes from" not in found


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"No such file.*amaru init"):
        load(tmp_path / "amaru.yaml")
    with pytest.raises(ConfigError, match="directory"):
        load(tmp_path)


def test_the_digest_tells_versions_apart(tmp_path: Path) -> None:
    key_file = tmp_path / "k"
    path = tmp_path / "amaru.yaml"
    path.write_text(GOOD.replace("key_env: OPENAI_API_KEY", "key_file: k"))
    key_file.write_text("one-key-of-ours")
    first = load(path, ENV).digest
    assert load(path, ENV).digest == first
    assert len(first) == hashlib.sha256().digest_size
    key_file.write_text("another-key-of-ours")
    assert load(path, ENV).digest != first
