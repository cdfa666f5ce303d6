"""``scheduler.yaml``: what it means, and every mistake with its line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from authority import Authority
from hypothesis import given, settings
from hypothesis import strategies as st
from log_samples import KEY, OTHER_KEY

from amaru.errors import ConfigError
from amaru.ledger.anchoring_config import RefusedScheduler, SchedulerSettings, load
from amaru.ledger.anchoring_targets import GpgFile, Posted, TimeStamping
from amaru.ledger.anchoring_watch import Watch

GOOD = f"""\
cadences:
  weekly: {{interval_s: 604800, backoff_s: 60}}
  strong: {{backoff_s: 5}}
targets:
  authority: {{kind: timestamp, url: "https://tsa.example.org/tsr", roots: roots.pem}}
  vault: {{kind: gpg, folder: vault, signer: anchor@example.org, limit_s: 20}}
  witness:
    kind: post
    url: https://witness.example.org/checkpoints
    headers: {{authorization: "Bearer {{env:WITNESS_TOKEN}}", x-from: amaru}}
namespaces:
  gateway:
    log: ledger
    keys: [{KEY.verifier.vkey}]
    anchors:
      fast: [authority]
      strong: [authority, vault]
      weekly: [witness]
  elsewhere:
    log: s3://bucket/ledger
    trust: trust.txt
    anchors: {{cold: [witness]}}
"""
ENV = {"WITNESS_TOKEN": "hush-hush-hush-1234"}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return Authority(tmp_path_factory.mktemp("authority")).roots.read_bytes()


@pytest.fixture
def folder(tmp_path: Path, roots: bytes) -> Path:
    (tmp_path / "roots.pem").write_bytes(roots)
    (tmp_path / "trust.txt").write_text(f"# keys\n{OTHER_KEY.verifier.vkey}\n")
    return tmp_path


def read(folder: Path, text: str, env: dict[str, str] = ENV) -> SchedulerSettings:
    (folder / "scheduler.yaml").write_text(text)
    return load(folder / "scheduler.yaml", env)


def mistakes(folder: Path, text: str, env: dict[str, str] = ENV) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(folder, text, env)
    return [problem.removeprefix(f"{folder}/") for problem in caught.value.problems]


def test_a_file_says_what_is_anchored_how_often_and_where(folder: Path) -> None:
    found = read(folder, GOOD)
    assert (found.host, found.port, found.state) == ("127.0.0.1", 9091, folder / "amaru-data/scheduler")
    assert ["/".join(line.name) for line in found.lines] == [
        "gateway/fast/authority", "gateway/strong/authority", "gateway/strong/vault", "gateway/weekly/witness",
        "elsewhere/cold/witness",
    ]  # fmt: skip
    cadences = {line.name.cadence: (line.cadence.interval_s, line.cadence.base_s) for line in found.lines}
    assert cadences == {"fast": (90, 1.5), "strong": (3600, 5.0), "weekly": (604_800, 60.0), "cold": (86_400, 1440.0)}
    authority, _, vault, witness, _ = (line.target for line in found.lines)
    assert isinstance(authority, TimeStamping)
    assert (authority.url, len(authority.roots)) == ("https://tsa.example.org/tsr", 1)
    assert vault == GpgFile(folder / "vault", "anchor@example.org", None, 20.0)
    assert isinstance(witness, Posted)
    assert witness.headers["authorization"].get_secret_value() == "Bearer hush-hush-hush-1234"
    assert found.sources["gateway"].url == str(folder / "ledger")
    assert found.sources["elsewhere"].url == "s3://bucket/ledger"
    assert found.sources["elsewhere"].verifiers == (OTHER_KEY.verifier,)
    assert set(found.watched) == {folder / name for name in ("scheduler.yaml", "roots.pem", "trust.txt")}
    assert "hush" not in repr(found)


def test_the_same_file_is_the_same_settings(folder: Path) -> None:
    first, second = read(folder, GOOD), read(folder, GOOD)
    assert first.lines == second.lines
    assert first.digest == second.digest
    assert read(folder, GOOD, {"WITNESS_TOKEN": "another-token"}).lines != first.lines


@pytest.mark.parametrize(("old", "new", "expected"), [
    ("fast: [authority]", "fast: [autority]",
     "scheduler.yaml:16: namespaces.gateway.anchors.fast[0]: no such target: autority — did you mean \"authority\"?"),
    ("fast: [authority]", "fats: [authority]",
     "scheduler.yaml:16: namespaces.gateway.anchors.fats: no such cadence — did you mean \"fast\"?"),
    ("fast: [authority]", "fast: [authority, authority]", "scheduler.yaml:16: namespaces.gateway.anchors.fast[1]: "),
    ("interval_s: 604800", "interval_s: 0", "scheduler.yaml:2: cadences.weekly.interval_s: must be at least 1, not 0"),
    ("interval_s: 604800, ", "", "scheduler.yaml:2: cadences.weekly: has no interval — write interval_s: 900"),
    ("roots: roots.pem", "roots: none.pem", "scheduler.yaml:5: targets.authority.roots: cannot be read (No such file"),
    ("roots: roots.pem", "roots: trust.txt", "scheduler.yaml:5: targets.authority.roots: holds no PEM certificates"),
    (", roots: roots.pem", "", "scheduler.yaml:5: targets.authority.roots: missing — a target of kind timestamp needs"),
    ("folder: vault", "url: https://vault", "scheduler.yaml:6: targets.vault.folder: missing"),
    ("signer: anchor@example.org", "url: https://x.example", "scheduler.yaml:6: targets.vault.url: a target of kind"),
    ("kind: post", "kind: poste", "scheduler.yaml:8: targets.witness.kind: not one of timestamp, gpg, post"),
    ("https://tsa.example.org", "ftp://tsa.example.org", "scheduler.yaml:5: targets.authority.url: the URL of tsa"),
    ("https://tsa.example.org", "https://me:pass@tsa.example.org", "holds credentials"),
    ("{env:WITNESS_TOKEN}", "{env:OTHER_TOKEN}",
     "scheduler.yaml:10: targets.witness.headers.authorization: environment variable OTHER_TOKEN is not set"),
    ("Bearer {env:WITNESS_TOKEN}", "Bearer abc", "headers.authorization: keys do not stand in this file"),
    ("x-from", "content-type", "amaru writes this header itself"),
    ("x-from", "x from", "not a header's name"),
    (KEY.verifier.vkey, "nonsense", "scheduler.yaml:14: namespaces.gateway.keys[0]:"),
    (f"keys: [{KEY.verifier.vkey}]", "# none", "scheduler.yaml:12: namespaces.gateway: no key of this log is known"),
    ("trust: trust.txt", "trust: scheduler.yaml", "scheduler.yaml:21: namespaces.elsewhere.trust: "),
    ("s3://bucket/ledger", "./ledger", "scheduler.yaml:20: namespaces.elsewhere.log: gateway is the same log"),
    ("log: ledger", "logs: ledger", "scheduler.yaml:13: namespaces.gateway.logs: unknown field — did you mean"),
    ("targets:\n", "port: many\ntargets:\n", "scheduler.yaml:4: port: not a whole number"),
    ("  vault:", "  vau lt:", "scheduler.yaml:6: targets.vau lt: not a name"),
])  # fmt: skip
def test_a_mistake_is_named_with_its_line(folder: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    found = mistakes(folder, GOOD.replace(old, new, 1))
    assert any(expected in problem for problem in found), found
    assert not any("pass@" in problem or "abc" in problem for problem in found)


def test_all_mistakes_come_at_once_in_the_order_of_the_file(folder: Path) -> None:
    text = GOOD.replace("604800", "-1").replace("roots.pem", "none.pem").replace("cold: [witness]", "cold: [vaults]")
    found = mistakes(folder, text, {})
    assert [int(problem.split(":")[1]) for problem in found] == [2, 5, 10, 22]


@pytest.mark.parametrize("text", ["", "[]", "namespaces: {", "targets: {}\nnamespaces: {}\n", "\x00", "state: 3"])
def test_what_is_no_such_file_is_refused(folder: Path, text: str) -> None:
    assert mistakes(folder, text)


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RefusedScheduler, match="No such file"):
        load(tmp_path / "none.yaml")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_damage_to_a_file_is_told_or_is_none(
    tmp_path_factory: pytest.TempPathFactory, roots: bytes, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.yaml"
    path.with_name("roots.pem").write_bytes(roots)
    path.with_name("trust.txt").write_text(OTHER_KEY.verifier.vkey)
    at = data.draw(st.integers(0, len(GOOD)))
    cut = data.draw(st.integers(0, 30))
    path.write_text(GOOD[:at] + data.draw(st.text(max_size=5)) + GOOD[at + cut :], errors="replace")
    problems = [f"{path}: none"]
    try:
        load(path, ENV)
    except ConfigError as error:
        problems = error.problems
    assert problems
    assert all(problem.startswith(str(path)) for problem in problems)


def test_the_file_in_the_guide_is_one(folder: Path, roots: bytes) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "scheduler.md").read_text()
    (folder / "tsa-roots.pem").write_bytes(roots)
    (folder / "amaru-data" / "ledger.keys").mkdir(parents=True)
    (folder / "amaru-data" / "ledger.keys" / "trust").write_text(KEY.verifier.vkey)
    found = read(folder, guide.partition("```yaml\n")[2].partition("```")[0])
    assert len(found.lines) == 4


# ---- watching -----------------------------------------------------------------------------------------------------


def put(path: Path, text: str, tick: int) -> None:
    """Write a file as if a moment had passed since the last time."""
    path.write_text(text)
    os.utime(path, ns=(tick * 10**9, tick * 10**9))


def test_a_change_is_taken_once_the_file_is_still(folder: Path) -> None:
    watch = Watch(read(folder, GOOD), env=ENV)
    path = folder / "scheduler.yaml"
    assert watch.look() is None
    assert watch.look() is None
    put(path, GOOD.replace("cold: [witness]", "cold: [witness, vault]"), 1)
    assert watch.look() is None  # it may be written still
    new = watch.look()
    assert new is not None
    assert len(new.lines) == 6
    assert watch.look() is None
    assert watch.current is new


def test_a_broken_change_is_told_once_and_its_repair_taken(folder: Path) -> None:
    watch = Watch(read(folder, GOOD), env=ENV)
    path = folder / "scheduler.yaml"
    put(path, GOOD.replace("roots.pem", "later.pem"), 1)
    watch.look()
    with pytest.raises(ConfigError):
        watch.look()
    assert watch.look() is None
    assert watch.look() is None
    (folder / "later.pem").write_bytes((folder / "roots.pem").read_bytes())  # what was missing arrives
    assert watch.look() is None
    new = watch.look()
    assert new is not None
    assert folder / "later.pem" in new.watched


def test_a_file_that_is_named_is_watched_too(folder: Path) -> None:
    watch = Watch(read(folder, GOOD), env=ENV)
    watch.look()
    watch.look()
    put(folder / "trust.txt", f"{KEY.verifier.vkey}\n{OTHER_KEY.verifier.vkey}\n", 1)
    watch.look()
    new = watch.look()
    assert new is not None
    assert len(new.sources["elsewhere"].verifiers) == 2


def test_a_hang_up_reads_at_once(folder: Path) -> None:
    watch = Watch(read(folder, GOOD), env=ENV)
    put(folder / "scheduler.yaml", GOOD.replace("604800", "60480"), 1)
    assert watch.look(settled=True) is not None
    assert watch.look(settled=True) is None
