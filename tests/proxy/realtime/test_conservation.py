"""Whatever happens, in whatever order: what is spent is what the lines say, to the nanodollar, and nothing stays held."""

import asyncio
import random
from pathlib import Path

import pytest

from tests.house import House, policy
from tests.proxy.realtime.talks import CREATED, USAGE, created, delta, done, sound
from tests.proxy.realtime.test_session import open_at, quotas
from tests.sockets import FakeSockets, Gone, Link, RawSocket

RULES = """
- {name: purse, budget: {usd: 50, per: month, by: user, when_spent: reject}}
- {name: pace, token_limit: {tokens: 100000000, per: day}, concurrency: {calls: 50}}
"""
SESSIONS = 12


def chaotic(chance: random.Random) -> object:
    """A server that answers, forgets, begins by itself, says nothing of usage, errs and hangs up, by chance."""

    async def script(link: Link) -> None:
        await link.say(CREATED)
        count = 0
        running: list[str] = []
        while True:
            event = await link.event()
            if event["type"] == "response.cancel" and event["response_id"] in running and chance.random() < 0.7:
                running.remove(event["response_id"])
                await link.say(done(event["response_id"], status="cancelled"))
            if event["type"] not in ("response.create", "input_audio_buffer.append"):
                continue
            what = chance.random()
            count += 1
            name = f"resp_{count}"
            if what < 0.15 and event["type"] == "response.create":
                error = {"type": "invalid_request_error", "message": "no", "event_id": event.get("event_id")}
                await link.say({"type": "error", "event_id": "e", "error": error})
                continue
            if what < 0.2:
                link.writer.transport.abort()
                return
            if what < 0.25:
                await link.close(1000)
                return
            running.append(name)
            await link.say(created(name), delta("Hello", name), sound("A" * 4000, name))
            if what < 0.8:
                running.remove(name)
                usage = USAGE if chance.random() < 0.8 else None
                await link.say(done(name, status=chance.choice(["completed", "incomplete", "cancelled", "failed"]), usage=usage))

    return script


async def chat(house: House, chance: random.Random) -> None:
    client = await open_at(house)
    listening = asyncio.ensure_future(listen(client))
    for _ in range(chance.randrange(12)):
        if listening.done():
            break
        if chance.random() < 0.3:
            client.say({"type": "input_audio_buffer.append", "audio": "A" * 8000})
        else:
            client.say({"type": "response.create", **({"event_id": "x"} if chance.random() < 0.5 else {})})
        for _ in range(chance.randrange(6)):
            await asyncio.sleep(0)
    if chance.random() < 0.5:
        client.close()
    else:
        client.leave()
    listening.cancel()
    await asyncio.wait([listening])


async def listen(client: RawSocket) -> None:
    try:
        while True:
            await client.told()
    except (Gone, EOFError, ConnectionError):
        return


@pytest.mark.parametrize("seed", range(4))
async def test_what_is_spent_is_what_is_told(seed: int, tmp_path: Path) -> None:
    chance = random.Random(seed)
    async with FakeSockets(chaotic(chance)) as upstream:  # type: ignore[arg-type]
        async with House(policy(RULES), upstream.url + "/v1", tmp_path) as house:
            await asyncio.gather(*(chat(house, random.Random(f"{seed}/{number}")) for number in range(SESSIONS)))
            await house.app.pipeline.idle()
            await house.app.settlement.finish()
            spent = quotas(house)
            house.app.accounts.tell()
        lines = house.lines("call.finished")
    assert sum(line["status"] == 101 for line in lines) == SESSIONS
    assert len({line["request_id"] for line in lines}) == len(lines), "one line for each"
    assert len(lines) > 2 * SESSIONS
    assert [amount for amount, _ in spent] == [sum(line["cost_nanousd"] for line in lines)]
    assert [held for _, held in spent] == [0]
    assert house.lines("fault.caught") == []
