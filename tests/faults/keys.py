"""Keys of callers: row B18."""

import asyncio
import time

import orjson

from tests.fakes import FakeUpstream
from tests.faults.guard import APP_KEY
from tests.faults.malformed import PATH, post
from tests.faults.raw import told, told_each
from tests.faults.rig import CHAT, OK, Proxy, Rig
from tests.faults.row import row
from tests.house import hash_of

_AT_ONCE = 20  # wrong keys of one source; then one a second
_MADE_KEY = "th-" + "Canary7f3a" + "k" * 33  # as `tollhouse keys new` makes them


def _unkeyed(*fields: bytes, target: bytes = PATH) -> bytes:
    """A call that shows its key, if it has one, by these fields alone."""
    sent = post(target, orjson.dumps(CHAT), *fields)
    return sent.replace(b"authorization: Bearer " + APP_KEY.encode() + b"\r\n", b"", 1)


@row(
    "B18",
    "keys that are guessed, revoked, shown twice or in odd places",
    "twenty wrong keys at once get one answer, whatever is wrong with them; further ones 429 `too_many_wrong_keys`, until one a "
    "second is looked at again; known and made keys always pass; a revoked one is a wrong one once the file is read",
)
async def guessed_keys(rig: Rig) -> str:
    key = APP_KEY.encode()
    guesses = [
        b"x",
        key[:-1],
        key + b"a",
        key.upper(),
        key[::-1],
        hash_of(APP_KEY).encode(),
        b"sk-" + b"a" * 2000,
        "schlüssel".encode(),
        b"null",
        b"*",
    ]
    guesses += [b"guess-%d" % n for n in range(rig.times(short=200, long=5000))]
    async with FakeUpstream(default=OK) as upstream, rig.proxy(upstream) as proxy:
        right = _unkeyed(b"authorization: Bearer " + key)
        sent = [_unkeyed((b"api-key: " if n % 2 else b"authorization: Bearer ") + guess) for n, guess in enumerate(guesses)]
        for at in range(0, len(sent), 50):
            sent.insert(at, right)
        began = time.monotonic()
        replies = await told_each(proxy.port, sent)
        took_s = time.monotonic() - began
        passed = [reply for one, reply in zip(sent, replies, strict=True) if one is right]
        assert {reply.status for reply in passed} == {200}, "a guesser locks out the app beside him"
        looked_at = [reply for reply in replies if reply.status == 401]
        assert len({reply.body for reply in looked_at}) == 1, "which key was guessed shows in the answer"
        assert len({frozenset(reply.fields) for reply in looked_at}) == 1, "which key was guessed shows in the head"
        assert looked_at[0].code == "invalid_api_key"
        assert _AT_ONCE <= len(looked_at) <= _AT_ONCE + took_s + 1, f"{len(looked_at)} keys were looked at in {took_s:.1f} s"
        slowed = [reply for reply in replies if reply.status == 429]
        assert len(slowed) == len(guesses) - len(looked_at)
        assert {reply.code for reply in slowed} == {"too_many_wrong_keys"}
        assert all(0 < int(reply.fields["retry-after-ms"]) <= 1000 for reply in slowed)
        await _odd_places(proxy, key)
        assert len(upstream.requests) == len(passed)
        text = proxy.file.read_text()
        proxy.file.write_text(text.replace(hash_of(APP_KEY), hash_of(_MADE_KEY)))
        await proxy.logged("policy.activated", 2)
        made = await told(proxy.port, _unkeyed(b"API-Key: " + _MADE_KEY.encode()))
        assert made is not None
        assert made.status == 200, "a key that nobody guesses is looked at, whatever its source tried before"
        async with asyncio.timeout(20):
            while (revoked := await told(proxy.port, right)) is None or revoked.status == 429:
                await asyncio.sleep(0.1)
        assert (revoked.status, revoked.body) == (401, looked_at[0].body), "whether a key was ever known shows"
        _, metrics = await proxy.admin("/metrics")
        assert f'tollhouse_wrong_keys_total{{code="invalid_api_key"}} {len(looked_at) + 1}\n' in metrics
    return (
        f"{len(guesses):,} guesses in {took_s:.1f} s: {len(looked_at)} times one answer, {len(slowed):,} times 429; {len(passed)} calls "
        "with the known key passed between them; a revoked key is refused like the others"
    )


async def _odd_places(proxy: Proxy, key: bytes) -> None:
    """A good key where none belongs, or more than once."""
    for fields, target, expected in (
        ((), PATH + b"?api_key=" + key, (401, "missing_api_key")),
        ((b"sec-websocket-protocol: openai-insecure-api-key." + key,), PATH, (401, "missing_api_key")),
        ((b"x-api-key: " + key,), PATH, (401, "missing_api_key")),
        ((b"cookie: api-key=" + key,), PATH, (401, "missing_api_key")),
        ((b"proxy-authorization: Bearer " + key,), PATH, (401, "missing_api_key")),
        ((b"authorization: Bearer " + key, b"api-key: " + key), PATH, (400, "ambiguous_credentials")),
        ((b"authorization: Bearer " + key,) * 2, PATH, (400, "ambiguous_credentials")),
        ((b"api-key: " + key,) * 2, PATH, (400, "ambiguous_credentials")),
        ((b"authorization: " + key,), PATH, (400, "bad_request")),
        ((b"authorization: Basic " + key,), PATH, (400, "bad_request")),
        ((b"authorization: Bearer",), PATH, (400, "bad_request")),
    ):
        reply = await told(proxy.port, _unkeyed(*fields, target=target))
        assert reply is not None
        assert (reply.status, reply.code) == expected, (fields, reply)
