"""Kept connections that end at any moment: no call is sent twice, and none is lost that could have been sent again."""

import asyncio

import pytest

from proxy.errors import UpstreamError
from tests.proxy.upstream.calls import ask, client_of, fetch, soon
from tests.proxy.upstream.moody import Moody

CALLS = 10_000
WORKERS = 8


@pytest.mark.parametrize("polite", [True, False])
async def test_no_call_is_sent_twice_and_none_is_lost_however_idle_connections_end(polite: bool) -> None:
    moody = Moody(seed=7, polite=polite)
    answered: list[bytes] = []
    unknown: list[bytes] = []
    numbers = iter(range(CALLS))

    async with moody.listening() as url, client_of(url) as client:

        async def work() -> None:
            for number in numbers:
                body = b"call %d" % number
                while True:
                    try:
                        status, got = await fetch(client, ask(body))
                    except UpstreamError as error:
                        if not error.sent:
                            continue
                        unknown.append(body)
                    else:
                        assert (status, got) == (200, body)
                        answered.append(body)
                    break

        await soon(asyncio.gather(*(work() for _ in range(WORKERS))))
    assert moody.closed > CALLS / 10, "there was something to survive"
    assert max(moody.seen.values()) == 1
    assert len(answered) + len(unknown) == CALLS
    if polite:
        assert unknown == []
    else:
        assert moody.seen.keys().isdisjoint(unknown), "the upstream closed over what it had not read"
