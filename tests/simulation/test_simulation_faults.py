"""Each fault at each of its points, over real sockets; and the rules by which faults strike."""

import asyncio
import email.utils
import json
import random
import time

import httpx
import msgspec
import pytest

from amaru.domain import Price
from amaru.simulation import Fault, Incident, Latency, ProviderProfile, SimulatedProvider
from amaru.simulation.faults import EDITS, KINDS, POINTS, checked
from amaru.simulation.striking import Faults

BODY = {"model": "sim-model", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 12, "ignore_eos": True}


async def call(provider: SimulatedProvider, *, stream: bool, silent_s: float = 60.0) -> tuple[str, int, bytes]:
    """How a request ended ("whole", or the client's error), its status (0: no head), and the bytes of its body.

    ``silent_s`` is for how long the client bears silence.
    """
    received, status = b"", 0
    async with httpx.AsyncClient(timeout=httpx.Timeout(60.0, read=silent_s), verify=False) as http:
        try:
            async with http.stream(
                "POST", f"{provider.base_url}/chat/completions", json={**BODY, "stream": stream}
            ) as r:
                status = r.status_code
                async for part in r.aiter_raw():
                    received += part
        except httpx.TransportError as error:
            return type(error).__name__, status, received
    return "whole", status, received


def finished(received: bytes, *, stream: bool) -> bool:
    """Whether the answer is complete by its content: what a careful client would accept."""
    if stream:
        return b'"finish_reason":"length"' in received and received.endswith(b"data: [DONE]\n\n")
    try:
        return json.loads(received)["choices"][0]["finish_reason"] == "length"
    except (ValueError, KeyError, TypeError):
        return False


SILENT = ("hang", "stall")
STRIKES = [
    (kind, point, how, stream)
    for kind in KINDS
    if kind not in ("refuse", "slow", "price", "capacity", "status", "keepalive_only", *EDITS)
    for point in POINTS[kind]
    for how in ("end", "close", "rst")
    for stream in (True, False)
    if not (kind in ("no_done", "error_in_stream") and not stream)  # these exist in streams alone
    if not (kind in SILENT and how != "rst")  # how does not concern them
]


@pytest.mark.parametrize(("kind", "point", "how", "stream"), STRIKES)
async def test_a_struck_answer_is_never_whole_and_the_next_one_is(
    kind: str, point: str, how: str, stream: bool
) -> None:
    async with SimulatedProvider(faults=[Fault(kind=kind, at=point, how=how, times=1)]) as provider:
        silent_s = 0.3 if kind in SILENT else 60.0
        ended, status, received = await call(provider, stream=stream, silent_s=silent_s)
        assert not finished(received, stream=stream)
        if point in ("connect", "head", "half_head"):
            assert status == 0
            assert ended in ("ReadTimeout" if kind == "hang" else "ReadError RemoteProtocolError")
        elif kind == "stall":
            assert ended == "ReadTimeout"
        elif stream and how != "end" and point in ("mid", "last", "done"):
            assert ended in ("ReadError", "RemoteProtocolError")
            assert received or how == "rst"
        elif stream and how == "end":
            assert (ended, status) == ("whole", 200)
        assert (await call(provider, stream=stream))[0] == "whole"
        again = (await call(provider, stream=stream))[2]
        assert finished(again, stream=stream)
        assert provider.in_flight == 0


@pytest.mark.parametrize("garbage", ["json", "empty", "missing_field", "null_choices", "html"])
@pytest.mark.parametrize("stream", [True, False])
async def test_garbage_takes_the_place_of_an_event_or_of_the_body(garbage: str, stream: bool) -> None:
    async with SimulatedProvider(faults=[Fault(kind="garbage", garbage=garbage, times=1)]) as provider:
        ended, status, received = await call(provider, stream=stream)
        whole = (await call(provider, stream=stream))[2]
        assert (ended, status) == ("whole", 200)
        if stream:
            assert finished(received, stream=True)  # the stream goes on behind it …
            lost = [event for event in whole.split(b"\n\n") if event and _content(event) not in received]
            assert len(lost) == 1  # … and one event is gone
        else:
            assert not finished(received, stream=False)


def _content(event: bytes) -> bytes:
    return event[event.index(b'"choices"') :] if b'"choices"' in event else event


async def test_half_a_character_is_not_utf8() -> None:
    async with SimulatedProvider(faults=[Fault(kind="truncated_utf8", times=2)]) as provider:
        for stream in (True, False):
            _, _, received = await call(provider, stream=stream)
            with pytest.raises(UnicodeDecodeError):
                received.decode()


async def test_keep_alives_and_nothing_else() -> None:
    async with SimulatedProvider(faults=[Fault(kind="keepalive_only", at="first_byte")]) as provider:
        async with httpx.AsyncClient(verify=False) as http:
            for stream, beat in ((True, b": keep-alive\n\n"), (False, b"\n")):
                url = f"{provider.base_url}/chat/completions"
                async with http.stream("POST", url, json={**BODY, "stream": stream}) as answer:
                    beats = answer.aiter_raw()
                    assert [await anext(beats) for _ in range(3)] == [beat] * 3
        await _until(lambda: provider.in_flight == 0)


async def _until(true) -> None:
    async with asyncio.timeout(60.0):
        while not true():  # noqa: ASYNC110 -- other people's tasks give no event to wait for
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 404, 429, 500, 502, 503, 504, 529])
async def test_every_status_has_openais_error_object(status: int) -> None:
    async with SimulatedProvider(faults=[Fault(kind="status", status=status)]) as provider:
        _, seen, received = await call(provider, stream=True)
        assert seen == status
        assert set(json.loads(received)["error"]) == {"message", "type", "param", "code"}
        assert provider.bill.total.requests == 0


@pytest.mark.parametrize(
    ("code", "status"),
    [("insufficient_quota", 429), ("context_length_exceeded", 400), ("content_policy_violation", 400)],
)
async def test_a_code_brings_its_status(code: str, status: int) -> None:
    async with SimulatedProvider(faults=[Fault(kind="status", code=code)]) as provider:
        _, seen, received = await call(provider, stream=False)
        assert (seen, json.loads(received)["error"]["code"]) == (status, code)


async def test_retry_after_in_each_form() -> None:
    async with SimulatedProvider() as provider, httpx.AsyncClient(verify=False) as http:

        async def headers_with(form: str | None) -> httpx.Headers:
            provider.faults.add(Fault(kind="status", status=429, retry_after=form, retry_after_s=1.5, times=1))
            return (await http.post(f"{provider.base_url}/chat/completions", json=BODY)).headers

        assert (await headers_with("seconds"))["retry-after"] == "1.5"
        assert (await headers_with("ms"))["retry-after-ms"] == "1500"
        date = email.utils.parsedate_to_datetime((await headers_with("date"))["retry-after"])
        assert -60 <= date.timestamp() - time.time() < 2
        assert "retry-after" not in await headers_with(None)


@pytest.mark.parametrize("stream", [True, False])
async def test_an_error_in_a_200(stream: bool) -> None:
    fault = Fault(kind="error_in_200", status=429, code="insufficient_quota")
    async with SimulatedProvider(faults=[fault]) as provider:
        ended, status, received = await call(provider, stream=stream)
        assert (ended, status) == ("whole", 200)
        data = received.removeprefix(b"data: ")
        assert json.loads(data)["error"]["code"] == "insufficient_quota"
        assert provider.bill.total.requests == 0  # it made no token


def test_a_fault_says_where_it_strikes_in_words() -> None:
    assert Fault(kind="stall", at="first_byte").describe() == "falls silent before the first token"
    assert Fault(kind="cut").describe() == "cuts answers off half-way"


async def test_a_closed_port_refuses_and_comes_back() -> None:
    async with SimulatedProvider() as provider, httpx.AsyncClient(verify=False) as http:
        port = provider.port
        assert (await http.get(f"{provider.url}/health")).status_code == 200  # leaves a resting connection
        refuse = provider.faults.add(Fault(kind="refuse"))
        for _ in range(3):
            assert (await call(provider, stream=True))[0] == "ConnectError"
            with pytest.raises(httpx.TransportError):
                await http.get(f"{provider.url}/health")
        assert provider.faults.remove(refuse.id)
        await _until(lambda: provider._server.is_listening)
        assert provider.port == port
        assert (await call(provider, stream=True))[0] == "whole"
        provider.faults.add(Fault(kind="refuse", duration_s=0.01))
        assert not provider._server.is_listening
        await _until(lambda: provider._server.is_listening)  # by itself, when its time is over
        assert (await call(provider, stream=False))[0] == "whole"


@pytest.mark.parametrize("under_way", [True, False])
async def test_an_outage_may_take_the_answers_under_way_with_it(under_way: bool) -> None:
    profile = ProviderProfile(latency=Latency(ttft_ms=0, itl_ms=5, itl_sigma=0))
    async with SimulatedProvider(profile) as provider:
        answer = asyncio.create_task(call(provider, stream=True))
        await _until(lambda: provider.in_flight == 1)
        provider.faults.add(Fault(kind="refuse", under_way=under_way))
        ended, _, received = await answer
        assert (ended == "whole") is not under_way
        assert finished(received, stream=True) is not under_way


async def test_a_cut_under_way_is_billed_up_to_the_cut() -> None:
    profile = ProviderProfile(latency=Latency(ttft_ms=0, itl_ms=5, itl_sigma=0))
    async with SimulatedProvider(profile) as provider:
        answer = asyncio.create_task(call(provider, stream=True))
        await _until(lambda: provider.in_flight == 1)
        provider.faults.add(Fault(kind="cut", at="last", under_way=True, times=1))
        provider.faults.add(Fault(kind="cut", at="last", times=1))  # not for what is under way
        assert not finished((await answer)[2], stream=True)
        await _until(lambda: provider.in_flight == 0)
        assert provider.bill.total.output_tokens == 12
        assert [entry.hits for entry in provider.faults.active()] == [0]


async def test_after_k_events_exactly() -> None:
    async with SimulatedProvider() as provider:
        for events in (0, 1, 5, 12, 40):
            provider.faults.add(Fault(kind="cut", after_events=events, how="end", times=1))
            _, _, received = await call(provider, stream=True)
            assert received.count(b'"content":') == 1 + min(events, 12)  # and the one that opens the answer
            assert b"length" not in received


async def test_price_and_capacity_change_while_switched_on() -> None:
    async with SimulatedProvider(ProviderProfile(price=Price(output_usd_per_mtok=1.0))) as provider:
        await call(provider, stream=False)
        entry = provider.faults.add(Fault(kind="price", price=Price(output_usd_per_mtok=3.0)))
        await call(provider, stream=False)
        provider.faults.remove(entry.id)
        await call(provider, stream=False)
        assert provider.bill.total.pico_usd == 12 * 1_000_000 * (1 + 3 + 1)
        provider.faults.add(Fault(kind="capacity", capacity=1))
        assert provider.inference.slots.load == 0
        provider.inference.slots.in_flight = 1
        assert (await call(provider, stream=False))[1] == 503
        provider.inference.slots.in_flight = 0


async def test_slow_multiplies_and_delays() -> None:
    async with SimulatedProvider() as provider:
        provider.faults.add(Fault(kind="slow", factor=3, delay_ms=40, times=1))
        began = time.monotonic()
        await call(provider, stream=True)
        assert time.monotonic() - began >= 0.040


async def test_faults_over_http() -> None:
    async with SimulatedProvider() as provider, httpx.AsyncClient(base_url=provider.url, verify=False) as http:
        made = await http.post("/sim/faults", json={"kind": "status", "status": 500, "times": 2})
        assert made.status_code == 201
        assert (await call(provider, stream=False))[1] == 500
        listed = (await http.get("/sim/faults")).json()["faults"]
        assert [(entry["id"], entry["hits"]) for entry in listed] == [(made.json()["id"], 1)]
        assert (await http.delete(f"/sim/faults/{made.json()['id']}")).status_code == 200
        assert (await http.delete(f"/sim/faults/{made.json()['id']}")).status_code == 404
        await http.post("/sim/faults", json={"kind": "hang"})
        assert (await http.delete("/sim/faults")).json() == {"faults": []}
        assert (await http.put("/sim/faults")).status_code == 405
        for wrong, words in [
            ({"kind": "explode"}, "Invalid enum value 'explode'"),
            ({"kind": "cut", "at": "head"}, "cannot strike at head"),
            ({"kind": "refuse"}, "duration_s"),
            ({"kind": "cut", "tims": 1}, "unknown field"),
        ]:
            answer = await http.post("/sim/faults", json=wrong)
            assert answer.status_code == 400
            assert words in answer.json()["error"]["message"]


async def test_a_script_switches_itself_on() -> None:
    script = [
        Incident(provider="sim", at_s=0.0, kind="status", status=500, times=1),
        Incident(provider="other", at_s=0.0, kind="status", status=502),
    ]
    async with SimulatedProvider(script=script) as provider:
        await _until(lambda: provider.faults.active())
        assert [(await call(provider, stream=False))[1] for _ in range(2)] == [500, 200]


# --- the rules, without sockets -------------------------------------------------------------------------------------


def faults_at(now: list[float]) -> Faults:
    return Faults(lambda: now[0], random.Random(1))


def test_times_duration_and_probability_bound_a_fault() -> None:
    now = [0.0]
    faults = faults_at(now)
    faults.add(Fault(kind="cut", times=2))
    strikes = [faults.plan(model="m", stream=True) for _ in range(4)]
    assert [plan is not None for plan in strikes] == [True, True, False, False]
    faults.add(Fault(kind="cut", duration_s=5))
    assert faults.plan(model="m", stream=True)
    now[0] = 5.0
    assert faults.plan(model="m", stream=True) is None
    faults.add(Fault(kind="cut", probability=0.25))
    struck = sum(faults.plan(model="m", stream=True) is not None for _ in range(2000))
    assert 400 < struck < 600


def test_only_model_and_kind_of_answer_narrow_a_fault() -> None:
    faults = faults_at([0.0])
    faults.add(Fault(kind="cut", only="stream", model="a"))
    assert faults.plan(model="a", stream=True)
    assert faults.plan(model="a", stream=False) is None
    assert faults.plan(model="b", stream=True) is None


def test_slow_faults_multiply_and_the_older_break_wins() -> None:
    faults = faults_at([0.0])
    faults.add(Fault(kind="slow", factor=2))
    faults.add(Fault(kind="slow", factor=3, delay_ms=10))
    faults.add(Fault(kind="stall"))
    faults.add(Fault(kind="cut"))
    plan = faults.plan(model="m", stream=True)
    assert (plan.factor, plan.delay_ms) == (6.0, 10.0)
    assert plan.breaks["mid"].kind == "stall"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kind": "cut", "times": 0}, "times must be at least 1"),
        ({"kind": "cut", "probability": 0}, "probability"),
        ({"kind": "cut", "duration_s": -1}, "duration_s"),
        ({"kind": "slow", "factor": 0}, "factor"),
        ({"kind": "price"}, "needs `price`"),
        ({"kind": "capacity"}, "needs `capacity`"),
        ({"kind": "status", "status": 200}, "between 400 and 599"),
        ({"kind": "refuse", "times": 1}, "use duration_s"),
        ({"kind": "stall", "at": "head"}, "it can at first_byte, mid, last, done"),
    ],
)
def test_a_fault_that_makes_no_sense_says_so(fields: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Fault(**fields)


def test_incidents_are_checked_and_put_in_order() -> None:
    late, soon = (Incident(provider="a", at_s=at, kind="cut") for at in (9.0, 1.0))
    assert checked([late, soon], ["a"]) == [soon, late]
    assert isinstance(soon.fault, Fault)
    with pytest.raises(ValueError, match="no provider 'a'"):
        checked([late], ["b"])
    with pytest.raises(ValueError, match="at_s"):
        Incident(provider="a", at_s=-1, kind="cut")


def test_every_kind_describes_itself_and_survives_json() -> None:
    for kind in KINDS:
        fault = Fault(kind=kind, price=Price(1.0, 1.0, 1.0), capacity=2)
        assert fault.describe()
        assert msgspec.json.decode(msgspec.json.encode(fault), type=Fault) == fault
