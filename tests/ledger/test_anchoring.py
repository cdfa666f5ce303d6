"""A line of anchors against a clock that stands still until it is told: each slot once, whatever happens."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from anchoring_world import FAST, NAME, START, AnchoringWorld, FakeTarget
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from log_samples import KEY, OTHER_KEY, make_leaf

from amaru.errors import LedgerBusy, LedgerError
from amaru.ledger.anchoring import Line
from amaru.ledger.anchoring_metrics import LineFigures
from amaru.ledger.anchoring_pace import PHI, TRIES, Cadence
from amaru.ledger.anchoring_source import Source
from amaru.ledger.anchoring_state import LineState, StateFolder
from amaru.ledger.anchoring_targets import Ask
from amaru.ledger.checkpoint import read_checkpoint
from amaru.ledger.log import Log
from amaru.ledger.notes import NoteSigner
from amaru.ledger.proofs import MAX_PIECES, Proofs
from amaru.ledger.tile_store import FolderStore, open_store
from amaru.ledger.troubles import Trouble

SLOT = int(START)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[AnchoringWorld]:
    made = AnchoringWorld(tmp_path)
    yield made
    made.states.close()


def test_each_slot_is_anchored_once_while_the_log_grows(world: AnchoringWorld) -> None:
    for n in range(4):
        size = world.grow()
        world.run_until(START + 90 * (n + 1))
        assert world.line.state.last is not None
        assert world.line.state.last.size == size
    assert world.kept_slots() == [SLOT, SLOT + 90, SLOT + 180, SLOT + 270]
    assert (world.figures.attempted, world.figures.succeeded, world.figures.failed) == (4, 4, 0)
    assert world.line.status == "anchored"
    assert [read_checkpoint(ask.note).size for ask in world.fake.placed] == [1, 2, 3, 4]


def test_a_log_that_has_not_grown_is_passed_over_until_it_has(world: AnchoringWorld) -> None:
    world.grow()
    world.run_until(START + 900)
    assert world.kept_slots() == [SLOT]
    assert (world.line.status, world.line.state.settled) == ("unchanged", SLOT + 810)
    world.grow()
    world.run_until(START + 990)
    assert world.kept_slots() == [SLOT, SLOT + 900]


def test_an_empty_log_is_passed_over(world: AnchoringWorld) -> None:
    world.grow(0)
    world.run_until(START + 90)
    assert (world.line.status, world.fake.asked) == ("unchanged", [])


def test_another_place_gets_the_checkpoint_that_the_one_before_has(world: AnchoringWorld) -> None:
    world.grow()
    world.run_until(START + 90)
    world.fake.where = "another place"
    world.run_until(START + 180)
    assert world.kept_slots() == [SLOT, SLOT + 90]


def test_slots_that_passed_while_nothing_ran_are_made_up_for_by_one(world: AnchoringWorld) -> None:
    world.grow()
    world.run_until(START + 90)
    world.grow(5)
    world.now = START + 9000.5
    world.restarted()
    world.run_until(START + 9090)
    assert world.kept_slots() == [SLOT, SLOT + 9000]
    assert world.line.state.last is not None
    assert world.line.state.last.size == 6


@pytest.mark.parametrize(("trouble", "factor"), [
    (Trouble.NETWORK, 1.0), (Trouble.AUTHENTICATION, 2.0), (Trouble.VALIDATION, 0.5),
])  # fmt: skip
def test_troubles_are_waited_out_by_the_golden_ratio_seven_times(
    world: AnchoringWorld, trouble: Trouble, factor: float
) -> None:
    world.grow()
    world.fake.troubles = [trouble] * TRIES
    waits = []
    for n in range(1, TRIES):
        due = world.line.step()
        waits.append(due - world.now)
        assert world.line.status == "retrying"
        assert world.figures.backoff == n
        assert world.line.step() == due  # nothing before it is due
        world.now = due
    assert waits == pytest.approx([factor * 1.5 * PHI**n for n in range(TRIES - 1)])
    late = world.now
    due = world.line.step()
    assert (world.line.status, world.figures.backoff, len(world.fake.asked)) == ("failed", TRIES, TRIES)
    assert (world.figures.attempted, world.figures.succeeded, world.figures.failed) == (TRIES, 0, TRIES)
    assert "no" in world.line.problem
    # The slot failed; the next one begins anew, at once where its time has come.
    assert due == max(START + 90, late)
    world.now = due
    world.line.step()
    assert world.line.status == "anchored"
    assert world.figures.backoff == 0
    assert world.kept_slots() == [int(late) // 90 * 90 if late >= START + 90 else SLOT + 90]


def test_tries_and_waits_outlast_restarts(world: AnchoringWorld) -> None:
    world.grow()
    world.fake.troubles = [Trouble.NETWORK] * TRIES
    for n in range(1, TRIES):
        due = world.line.step()
        world.restarted()
        assert world.line.step() == due
        assert world.figures.backoff == n
        world.now = due
    world.line.step()
    assert world.line.status == "failed"
    assert len(world.fake.asked) == TRIES


def test_an_anchor_that_is_late_keeps_its_checkpoint_and_the_slot_of_now_follows_at_once(
    tmp_path: Path,
) -> None:
    world = AnchoringWorld(tmp_path, cadence=Cadence.of("fast", 90, base_s=3.0))
    world.grow()
    world.fake.troubles = [Trouble.AUTHENTICATION] * 5
    while len(world.fake.asked) < 5:
        world.now = max(world.now, world.line.step())
    world.grow()
    assert world.now > START + 90
    due = world.line.step()
    assert due == world.now
    assert world.kept_slots() == [SLOT]
    world.line.step()
    assert world.kept_slots() == [SLOT, int(world.now) // 90 * 90]
    assert [ask.key for ask in world.fake.asked[:6]] == [world.fake.asked[0].key] * 6
    assert world.fake.asked[6].key != world.fake.asked[0].key
    world.states.close()


def test_what_was_asked_for_is_written_down_before_it_is_asked(world: AnchoringWorld) -> None:
    world.grow()
    seen: list[LineState] = []
    world.fake.during = lambda ask: seen.append(world.states.load(NAME))
    world.line.step()
    pending = seen[0].pending
    assert pending is not None
    assert (pending.slot, pending.note, pending.token) == (SLOT, world.fake.asked[0].note, None)


def test_a_state_that_cannot_be_written_lets_nothing_be_asked(
    world: AnchoringWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.grow()

    def full(name: object, state: object) -> None:
        raise LedgerError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(world.states, "save", full)
        due = world.line.step()
    assert world.fake.asked == []
    assert "no space" in world.line.problem
    world.now = due
    world.line.step()
    assert world.kept_slots() == [SLOT]


def test_a_token_is_not_kept_before_it_is_written_down_nor_asked_for_again(
    world: AnchoringWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.grow()
    save, calls = world.states.save, 0

    def full_from_the_second_on(name: object, state: LineState) -> None:
        nonlocal calls
        calls += 1
        if calls > 1:
            raise LedgerError("no space left on device")
        save(NAME, state)

    with monkeypatch.context() as patch:
        patch.setattr(world.states, "save", full_from_the_second_on)
        world.now = world.line.step()
        assert world.kept() == []
        world.now = world.line.step()
        assert world.kept() == []
    world.line.step()
    assert world.kept_slots() == [SLOT]
    assert len(world.fake.asked) == 1


def test_a_token_that_cannot_be_kept_is_kept_as_soon_as_it_can(world: AnchoringWorld) -> None:
    world.grow()
    (world.root / "proofs").write_text("in the way")
    world.run_until(START + 5000)
    assert world.line.status == "failed"
    assert "proofs" in world.line.problem
    assert len(world.fake.asked) == 1  # a token is in hand
    assert world.figures.failed < TRIES + 5000 / 90  # after seven tries, one a slot
    world.restarted()
    assert world.line.step() > world.now
    assert world.line.status == "failed"
    (world.root / "proofs").unlink()
    world.run_until(world.now + 180)
    assert world.kept_slots()[0] == SLOT
    assert len(world.fake.asked) == 1  # and the log has not grown since


def test_what_was_got_from_a_place_is_not_put_into_another(world: AnchoringWorld) -> None:
    world.grow()
    (world.root / "proofs").write_text("in the way")
    due = world.line.step()
    (world.root / "proofs").unlink()
    world.fake.where, world.fake.placed = "another place", []
    world.restarted()
    world.now = due
    world.line.step()
    assert world.kept_slots() == [SLOT]
    assert world.fake.placed == []
    assert world.line.state.last is not None
    assert world.line.state.last.where == "a place"
    world.run_until(START + 180)
    assert world.kept_slots() == [SLOT, SLOT + 90]
    assert [ask.slot for ask in world.fake.placed] == [SLOT + 90]


def test_what_another_process_wrote_over_is_kept_again(world: AnchoringWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.grow()
    keep_stamp = Proofs.keep_stamp

    def overwritten(proofs: Proofs, note: bytes, response: bytes, *, checkpoint: bool = False) -> None:
        keep_stamp(proofs, note, b"another's", checkpoint=checkpoint)

    with monkeypatch.context() as patch:
        patch.setattr(Proofs, "keep_stamp", overwritten)
        world.now = world.line.step()
        assert "wrote a proof over this one" in world.line.problem
    world.line.step()
    assert [stamp.split()[0] for stamp in world.kept()] == [b"another's", str(SLOT).encode()]
    assert len(world.fake.asked) == 1


def test_what_a_target_raises_unforeseen_ends_no_line(world: AnchoringWorld) -> None:
    world.grow()

    def break_down(_: Ask) -> None:
        world.fake.during = None
        raise RuntimeError("a bug")

    world.fake.during = break_down
    world.now = world.line.step()
    assert "RuntimeError: a bug" in world.line.problem
    world.line.step()
    assert world.kept_slots() == [SLOT]
    assert world.figures.attempted == world.figures.succeeded + world.figures.failed == 2


def test_a_checkpoint_with_as_many_proofs_as_may_be_gets_no_more_and_stops_nothing(world: AnchoringWorld) -> None:
    world.grow()
    note = (world.root / "checkpoint").read_bytes()
    for n in range(MAX_PIECES):
        Proofs(FolderStore(world.root)).keep_stamp(note, b"%d" % n, checkpoint=True)
    world.line.step()
    assert world.line.status == "anchored"
    assert len(world.kept()) == MAX_PIECES


# ---- the log ------------------------------------------------------------------------------------------------------


def forge(root: Path, entries: int, *, key: object = KEY) -> None:
    """Put another log where the first one was."""
    keep = (root / "proofs").rename(root.with_name("proofs")) if (root / "proofs").exists() else None
    shutil.rmtree(root)
    with Log.open(str(root), [key]) as log:  # type: ignore[list-item]  # a signer
        log.append([make_leaf(1_000 + number) for number in range(entries)])
    if keep is not None:
        keep.rename(root / "proofs")


@pytest.mark.parametrize(("entries", "words"), [(9, "consisten"), (5, "split view"), (3, "replayed, or log truncated")])
def test_a_rewritten_log_is_alarmed_and_never_anchored(world: AnchoringWorld, entries: int, words: str) -> None:
    world.grow(5)
    world.run_until(START + 90)
    forge(world.root, entries)
    world.run_until(START + 900)
    assert words in world.source.alarm.lower()
    assert words in world.line.problem.lower()
    assert len(world.fake.asked) == 1
    assert world.figures.failed >= TRIES
    world.restarted()  # nor by a scheduler that begins anew
    world.run_until(START + 1800)
    assert words in world.source.alarm.lower()
    assert len(world.fake.asked) == 1


def test_a_state_that_was_lost_lets_no_rewritten_log_through(world: AnchoringWorld) -> None:
    world.grow(5)
    world.run_until(START + 90)
    forge(world.root, 9)
    shutil.rmtree(world.folder / "state")
    world.restarted()
    world.run_until(START + 180)
    assert "consisten" in world.source.alarm
    assert len(world.fake.asked) == 1


def test_a_log_that_is_restored_is_anchored_again(world: AnchoringWorld) -> None:
    world.grow(5)
    world.run_until(START + 90)
    shutil.copytree(world.root, world.folder / "copy")
    forge(world.root, 9)
    world.run_until(START + 180)
    assert world.source.alarm
    shutil.rmtree(world.root)
    (world.folder / "copy").rename(world.root)
    world.grow()
    world.run_until(START + 360)
    assert (world.source.alarm, world.line.status) == ("", "unchanged")
    assert len(world.kept()) == 2


def test_a_checkpoint_that_the_log_did_not_sign_is_not_anchored(world: AnchoringWorld) -> None:
    world.grow(5)
    head = read_checkpoint((world.root / "checkpoint").read_bytes())
    (world.root / "checkpoint").write_bytes(head.sign([OTHER_KEY]))
    world.run_until(START + 90)
    assert world.fake.asked == []
    assert world.source.alarm


def test_a_log_that_is_away_is_waited_for(world: AnchoringWorld) -> None:
    due = world.line.step()
    assert due == pytest.approx(START + 1.5)  # as for a network
    assert (world.line.status, world.source.alarm) == ("retrying", "")
    assert "no log here" in world.line.problem
    world.grow()
    world.now = due
    world.line.step()
    assert world.line.status == "anchored"


def test_new_signatures_over_a_tree_that_was_anchored_do_not_lose_what_it_has(world: AnchoringWorld) -> None:
    world.grow()
    world.run_until(START + 90)
    with Log.open(str(world.root), [KEY, OTHER_KEY]) as log:
        note = log.head.sign([KEY, OTHER_KEY])
    (world.root / "checkpoint").write_bytes(note)
    world.fake.where = "another place"
    world.run_until(START + 180)
    assert world.kept_slots() == [SLOT, SLOT + 90]
    assert world.fake.asked[1].note == world.fake.asked[0].note != note


BOTH = (KEY.verifier, OTHER_KEY.verifier)


def sign_anew(world: AnchoringWorld, *keys: NoteSigner) -> bytes:
    """As a log does whose last checkpoint a crash of the machine took, and whose keys were rotated."""
    path = world.root / "checkpoint"
    path.write_bytes(read_checkpoint(path.read_bytes()).sign(keys))
    return path.read_bytes()


def test_what_was_got_before_a_rotation_and_cannot_be_kept_any_more_is_got_anew(world: AnchoringWorld) -> None:
    world.grow()
    world.restarted(BOTH)
    world.fake.troubles = [Trouble.NETWORK]
    due = world.line.step()  # has chosen a checkpoint, by the key of then
    note = sign_anew(world, KEY, OTHER_KEY)
    Proofs(FolderStore(world.root)).keep_stamp(note, b"0 by hand", checkpoint=True)  # of the key of now
    world.now = due
    world.run_until(START + 90)
    assert (world.line.status, world.figures.backoff) == ("anchored", 0)
    assert world.kept_slots() == [0, SLOT]
    assert world.fake.asked[-1].note == note
    assert world.figures.failed == 2  # the network's, and the one that came too late
    world.grow()
    world.run_until(START + 180)
    assert world.kept_slots() == [0, SLOT, SLOT + 90]


def test_what_was_got_for_another_tree_is_never_kept_and_told_until_the_log_is_restored(world: AnchoringWorld) -> None:
    world.grow()
    world.fake.troubles = [Trouble.NETWORK]
    due = world.line.step()
    good = (world.root / "checkpoint").read_bytes()
    forged = read_checkpoint(good)._replace(root=bytes(32)).sign([KEY])
    Proofs(FolderStore(world.root)).keep_stamp(forged, b"0 forged", checkpoint=True)
    world.now = due
    world.run_until(START + 900)
    assert "split view" in world.source.alarm
    assert world.line.status in ("failed", "retrying")
    shutil.rmtree(world.root / "proofs")
    world.run_until(START + 1080)
    assert (world.line.status, world.source.alarm) == ("unchanged", "")
    assert len(world.kept()) == 1


def test_keys_rotated_and_retired_between_two_anchors_stop_no_line(world: AnchoringWorld) -> None:
    """Who gives the scheduler the new key during the overlap may take the old one away after it."""
    world.grow()
    world.run_until(START + 90)
    sign_anew(world, KEY, OTHER_KEY)
    world.restarted(BOTH)
    world.run_until(START + 180)
    with Log.open(str(world.root), [OTHER_KEY], verifiers=[KEY.verifier]) as log:
        log.append([make_leaf(1)])
    world.restarted((OTHER_KEY.verifier,))
    world.run_until(START + 270)
    assert (world.line.status, world.source.alarm) == ("anchored", "")
    assert world.kept_slots() == [SLOT, SLOT + 180]


def test_proofs_by_a_key_that_is_known_no_more_are_told_until_it_is_known_or_the_log_has_grown(
    world: AnchoringWorld,
) -> None:
    world.grow()
    world.run_until(START + 90)
    sign_anew(world, KEY, OTHER_KEY)
    world.restarted(BOTH)
    world.run_until(START + 180)
    world.restarted((OTHER_KEY.verifier,))
    world.run_until(START + 270)
    assert "proofs/checkpoints/0/1: has proofs of a checkpoint by a key that is not known" in world.line.problem
    assert world.source.alarm
    with Log.open(str(world.root), [OTHER_KEY], verifiers=[KEY.verifier]) as log:
        log.append([make_leaf(1)])
    world.run_until(START + 360)
    assert (world.line.status, world.line.problem, world.source.alarm) == ("anchored", "", "")


def test_a_key_that_is_known_no_more_is_told(world: AnchoringWorld) -> None:
    world.grow()
    world.run_until(START + 90)
    world.restarted((OTHER_KEY.verifier,))
    world.now = START + 90
    world.line.step()
    assert "state/gateway/checkpoint" in world.source.alarm
    assert "give a new log a new namespace" in world.source.alarm
    shutil.rmtree(world.folder / "state")
    world.restarted((OTHER_KEY.verifier,))
    world.line.step()
    assert "log/proofs" in world.source.alarm


# ---- the state ----------------------------------------------------------------------------------------------------


def test_a_state_that_cannot_be_read_is_set_aside_and_the_slot_of_now_anchored(world: AnchoringWorld) -> None:
    world.grow()
    world.run_until(START + 90)
    path = world.folder / "state" / "gateway" / "lines" / "fast" / "authority.json"
    path.write_bytes(b'{"settled": "never"')
    world.grow()
    world.restarted()
    world.run_until(START + 180)
    assert world.kept_slots() == [SLOT, SLOT + 90]
    assert path.with_suffix(".damaged").exists()


def test_a_state_that_is_away_lets_nothing_be_done(world: AnchoringWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    world.grow()
    line = world.restarted()

    def away(_: object) -> LineState:
        raise LedgerError("cannot be read: Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(world.states, "load", away)
        assert line.step() > world.now
        assert (line.status, world.fake.asked) == ("failed", [])
    line.step()
    assert world.kept_slots() == [SLOT]


def test_one_scheduler_uses_a_state(world: AnchoringWorld) -> None:
    with pytest.raises(LedgerBusy, match="another scheduler"):
        StateFolder(world.folder / "state")


def test_a_wait_that_a_wrong_clock_wrote_down_is_not_waited_out(world: AnchoringWorld) -> None:
    world.grow()
    world.now = START + 10_000_000
    world.fake.troubles = [Trouble.NETWORK]
    world.line.step()
    world.now = START
    world.line.step()
    assert world.line.status == "anchored"
    assert world.line.step() <= world.now + 90


moments = st.lists(
    st.tuples(
        st.floats(0, 400),  # seconds that pass
        st.booleans(),  # the log grows
        st.booleans(),  # the process is started anew
        st.lists(st.sampled_from(Trouble), max_size=9),
    ),
    max_size=12,
)


@pytest.mark.slow
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(moments)
def test_no_history_doubles_a_slot_or_leaves_the_last_growth_unanchored(
    tmp_path_factory: pytest.TempPathFactory, history: list[tuple[float, bool, bool, list[Trouble]]]
) -> None:
    world = AnchoringWorld(tmp_path_factory.mktemp("world"))
    size = world.grow()
    for passes_s, grows, restarts, troubles in history:
        size = world.grow() if grows else size
        if restarts:
            world.restarted()
        world.fake.troubles += troubles
        world.run_until(world.now + passes_s)
    world.fake.troubles.clear()
    world.run_until(world.now + 400)
    world.states.close()
    slots = world.kept_slots()
    assert slots == sorted(set(slots))
    assert world.line.state.last is not None
    assert world.line.state.last.size == size


def test_a_log_in_a_bucket_gets_its_anchors_there(tmp_path: Path) -> None:
    url = f"memory://{tmp_path.name}/ledger"
    with Log.open(url, [KEY]) as log:
        log.append([make_leaf(0)])
    states = StateFolder(tmp_path / "state")
    try:
        source = Source(NAME.namespace, url, [KEY.verifier], states)
        line = Line(NAME, FAST, FakeTarget(), source, states, LineFigures(), clock=lambda: START)
        assert line.step() == START + 90
        head, note = source.checked()
        assert head.size == 1
        assert len(Proofs(open_store(url)).of_checkpoint(note).stamps) == 1
    finally:
        states.close()
