"""Messages are signed as Standard Webhooks has it, and sent within bounds to whoever answers however."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import pytest
from hook_server import SECRET, Receiver, receiving, verify

from amaru.accounts.webhooks import Hook, read_secret, signed_headers
from amaru.http1.posting import PostError

BODY = '{"type":"budget.threshold","data":{"subject":"größe"}}'.encode()
AT = 1_700_000_000.9


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as server:
        yield server


def test_the_example_of_the_specifications_libraries_is_signed_as_they_do() -> None:
    secret = read_secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    made = signed_headers([secret], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b'{"test": 2432232314}')
    assert made == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_message_arrives_signed(receiver: Receiver) -> None:
    answer = Hook(receiver.url, [SECRET]).send("msg_1", BODY, AT)
    (headers, body), *more = receiver.got
    assert (body, more) == (BODY, [])
    assert headers["content-type"] == "application/json"
    assert headers["webhook-timestamp"] == "1700000000"
    assert verify(SECRET, headers, body)
    assert not verify(SECRET, headers, body + b" ")
    assert not verify(SECRET, {**headers, "webhook-id": "msg_2"}, body)
    assert not verify(SECRET, {**headers, "webhook-timestamp": "1700000001"}, body)
    assert answer == "answer to /hooks/… [31m"


def test_while_a_secret_is_rotated_either_one_verifies(receiver: Receiver) -> None:
    new = bytes(reversed(SECRET))
    Hook(receiver.url, [new, SECRET]).send("msg_1", BODY, AT)
    headers, body = receiver.got[0]
    assert verify(new, headers, body)
    assert verify(SECRET, headers, body)
    assert not verify(b"x" * 32, headers, body)


@pytest.mark.parametrize(
    ("word", "said", "status", "is_passing"),
    [
        ("500", r"answered with status 500 \(answer to /hooks/…", 500, True),
        ("410", "answered with status 410", 410, False),
        ("redirect", "answered with status 302", 302, False),
        ("close", "cannot be reached", None, True),
        ("flood", "an answer of more than 262,144 bytes", None, False),
        ("hang", "gave no answer within 0.3 s", None, True),
    ],
)
def test_what_is_not_taken_says_why_and_no_token(
    receiver: Receiver, word: str, said: str, status: int | None, is_passing: bool
) -> None:
    receiver.script.append(word)
    with pytest.raises(PostError, match=said) as caught:
        Hook(receiver.url, [SECRET], limit_s=0.3 if word == "hang" else 15.0).send("msg_1", BODY, AT)
    assert (caught.value.status, caught.value.is_passing) == (status, is_passing)
    assert "127.0.0.1" in str(caught.value)
    assert "t0ken" not in str(caught.value)
    assert receiver.paths == ["/hooks/t0ken-of-the-hook"], "no redirect was followed"


def test_a_receiver_that_is_not_there_or_asks_to_wait_is_told_apart(receiver: Receiver) -> None:
    with pytest.raises(PostError, match=r"127.0.0.1:9/… cannot be reached") as caught:
        Hook("http://127.0.0.1:9/hooks/t0ken-of-the-hook", [SECRET]).send("msg_1", BODY, AT)
    assert caught.value.is_passing
    for asked, waits_s in (("120", 120.0), ("Fri, 31 Dec 1999 23:59:59 GMT", None), ("-1", None)):
        receiver.script.append(f"busy {asked}")
        with pytest.raises(PostError) as caught:
            Hook(receiver.url, [SECRET]).send("msg_1", BODY, AT)
        assert caught.value.retry_after_s == waits_s


def test_a_token_is_not_shown_either_where_it_is_encoded(receiver: Receiver) -> None:
    answer = Hook(f"{receiver.url}%2Bmore?key=f00fb4r0", [SECRET]).send("msg_1", BODY, AT)
    assert answer == "answer to /hooks/…?key=… [31m"
    receiver.answer = b"you sent t0ken-of-the-hook+more"
    assert Hook(f"{receiver.url}%2Bmore", [SECRET]).send("msg_1", BODY, AT) == "you sent …"


def test_secrets_are_read_with_and_without_prefix_and_never_repeated() -> None:
    text = base64.b64encode(SECRET).decode()
    assert read_secret(f"whsec_{text}") == read_secret(text) == read_secret(text.rstrip("=")) == SECRET
    assert len(read_secret("0123456789abcdef" * 4)) == 48, "what `openssl rand -hex 32` makes can be used too"
    for wrong in ("", "whsec_", "not base64: ünicode", "c2hvcnQ=", "A" * 100, "whsec_" + "a b" * 20):
        with pytest.raises(ValueError, match="the secret") as caught:
            read_secret(wrong)
        assert not wrong or wrong not in str(caught.value)
