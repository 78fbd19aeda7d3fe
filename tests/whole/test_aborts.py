"""Clients that leave at any moment: one record each, billed for what the upstream had sent, and nothing stays held.

The upstream here keeps step with its client: it sends the next token of each choice once the client has read the last, so at any moment no
more than one token a choice is on its way, and "what the upstream had sent" is known to the token by both. A token counts as sent once the
whole of its event was written. Lost on the way may be what was written and had not reached the proxy when it closed: one a choice.

TOLLHOUSE_TEST_ABORTS says how many calls there are; 10,000 take some minutes.
"""

import asyncio
import os
import random
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import orjson
import pytest

from policies import KINDS
from proxy.call import Call, Principal
from proxy.wire.surfaces import SURFACES
from tests.house import House, policy

ABORTS = int(os.environ.get("TOLLHOUSE_TEST_ABORTS", "400"))
AT_ONCE = 24
MOST = 12  # tokens of a choice
# Each is one token of o200k_base, whatever stands around it.
WORDS = (
    " river",
    " stone",
    " cloud",
    " garden",
    " window",
    " silver",
    " winter",
    " music",
    " bridge",
    " market",
    " forest",
    " letter",
)
RULES = """- {name: all, max_tokens: {cap: 64}, concurrency: {calls: 500, by: key}, token_limit: {tokens: 900000000, per: day, by: key},
   budget: {usd: 90000, per: month, by: key, when_spent: reject}, on_disconnect: {do: %s}}"""
MOMENTS = ("half a head", "no body", "asked", "before the head", "reading", "last byte")


SECOND = 100  # ticks


class Ticks:
    """A clock that stands still while the machine has no time for the loop: one tick each 10 ms, or later."""

    def __init__(self) -> None:
        self.now = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0.01)
            self.now += 1


@dataclass(eq=False)
class Journey:
    """One call, as its client and its upstream know it. sent: tokens of all choices whose events were written; read: by the client."""

    number: int
    moment: str
    choices: int
    tokens: int  # of each choice
    leaves_after: int  # tokens of a choice, for one that leaves while reading
    reports: bool
    halves: bool  # events come in two writes
    reset: bool
    sent: int = 0
    rounds: int = 0  # how many tokens of each choice were read
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)  # the upstream may answer
    moved: asyncio.Event = field(default_factory=asyncio.Event)  # the client read on, or left
    left_at: int | None = None  # ticks
    closed_at: int | None = None
    whole: bool = False  # the upstream wrote its last byte

    @property
    def id(self) -> str:
        return f"call-{self.number}"


class Model(asyncio.Protocol):
    """One connection of an upstream that keeps step with its clients. onward: it does not wait for one that has left."""

    def __init__(self, journeys: dict[str, Journey], ticks: "Ticks", *, onward: bool) -> None:
        self._journeys = journeys
        self._ticks = ticks
        self._onward = onward
        self._journey: Journey | None = None
        self._task: asyncio.Task[None] | None = None
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        if not found:
            return
        fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        if len(body) < int(fields[b"content-length"]):
            return
        self._data = b""
        journey = self._journey = self._journeys[fields[b"x-request-id"].decode()]
        self._task = asyncio.get_running_loop().create_task(self._answer(journey))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._journey is not None and not self._journey.whole:
            self._journey.closed_at = self._ticks.now
        if self._task is not None:
            self._task.cancel()

    async def _answer(self, journey: Journey) -> None:
        journey.arrived.set()
        await journey.go.wait()
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
        for n in range(journey.tokens):
            while journey.rounds < n and not (self._onward and journey.left_at is not None):
                journey.moved.clear()
                await journey.moved.wait()
            for choice in range(journey.choices):
                await self._event({"choices": [{"index": choice, "delta": {"content": WORDS[n]}}]}, halves=journey.halves)
                journey.sent += 1
        if journey.reports:
            usage = {"prompt_tokens": 20, "completion_tokens": journey.tokens * journey.choices}
            await self._event({"choices": [], "usage": usage}, halves=False)
        self._transport.write(b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n")
        journey.whole = True
        self._journey = None

    async def _event(self, said: object, *, halves: bool) -> None:
        event = b"data: " + orjson.dumps(said) + b"\n\n"
        cut = len(event) // 2 if halves else len(event)
        for piece in filter(None, (event[:cut], event[cut:])):
            self._transport.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0)


class Client:
    """A client's side of one journey, on its own connection."""

    def __init__(self, journey: Journey, address: tuple[str, int], chance: random.Random, ticks: Ticks) -> None:
        self._journey = journey
        self._ticks = ticks
        self._address = address
        self._chance = chance

    async def travel(self) -> None:
        journey, chance = self._journey, self._chance
        reader, writer = await asyncio.open_connection(*self._address)
        fields = {
            "model": "gpt-4.1-mini",
            "messages": [{"role": "user", "content": "Say words"}],
            "stream": True,
            "n": journey.choices,
        }
        body = orjson.dumps(fields)
        head = (
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer app-key\r\ncontent-type: application/json\r\n"
            b"x-request-id: %b\r\ncontent-length: %d\r\n\r\n" % (journey.id.encode(), len(body))
        )
        match journey.moment:
            case "half a head":
                writer.write(head[: chance.randrange(1, len(head) - 1)])
            case "no body":
                writer.write(head + body[: chance.randrange(len(body))])
                await asyncio.sleep(chance.random() * 0.01)
            case "asked":
                writer.write(head + body)
            case "before the head":
                writer.write(head + body)
                await journey.arrived.wait()
                if chance.random() < 0.5:  # and as it is sent
                    journey.go.set()
            case _:
                writer.write(head + body)
                journey.go.set()
                await self._read(reader)
        for _ in range(chance.randrange(4)):
            await asyncio.sleep(0)
        self._leave(writer)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        """As far as it goes, and a random share of a further event at the most."""
        journey, got = self._journey, bytearray()
        goal = journey.tokens if journey.moment == "last byte" else journey.leaves_after
        while not (journey.moment == "last byte" and got.endswith(b"0\r\n\r\n")):
            if journey.moment == "reading" and journey.rounds >= goal:
                return
            piece = await reader.read(self._chance.randrange(1, 600))
            assert piece, "the proxy does not end an answer by itself"
            got += piece
            rounds = got.count(b'"content"') // journey.choices
            if rounds > journey.rounds:
                journey.rounds = rounds
                journey.moved.set()

    def _leave(self, writer: asyncio.StreamWriter) -> None:
        journey = self._journey
        journey.left_at = self._ticks.now
        journey.moved.set()
        journey.go.set()
        if journey.reset:
            plain = writer.transport.get_extra_info("socket")
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()


def planned(count: int, chance: random.Random) -> list[Journey]:
    return [
        Journey(
            number=n,
            moment=chance.choice((*MOMENTS, "reading", "reading", "reading")),
            choices=chance.choice((1, 1, 2, 3)),
            tokens=(tokens := chance.randrange(1, MOST + 1)),
            leaves_after=chance.randrange(tokens + 1),
            reports=chance.random() < 0.7,
            halves=chance.random() < 0.3,
            reset=chance.random() < 0.5,
        )
        for n in range(count)
    ]


async def travelled(tmp_path: Path, do: str, count: int) -> tuple[list[Journey], dict[str, list[dict[str, object]]], House]:
    """The journeys, the records of each by its id, and the house, after everything has ended."""
    chance = random.Random(count)
    journeys = planned(count, chance)
    by_id = {journey.id: journey for journey in journeys}
    loop = asyncio.get_running_loop()
    ticks = Ticks()
    ticking = asyncio.create_task(ticks.run())
    server = await loop.create_server(lambda: Model(by_id, ticks, onward=do == "drain"), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with House(policy(RULES % do), f"http://127.0.0.1:{port}/v1", tmp_path) as house:
        gate = asyncio.Semaphore(AT_ONCE)
        await house.app.tokenizer.count((WORDS[0],), model="gpt-4.1-mini")  # which loads the encoding

        async def one(journey: Journey) -> None:
            async with gate, asyncio.timeout(60):
                await Client(journey, house.app.data_address, chance, ticks).travel()
                while house.app.pipeline.inflight > AT_ONCE:  # more than 64 counts that wait are estimated, which is another test's
                    await asyncio.sleep(0.001)

        await asyncio.gather(*map(one, journeys))
        async with asyncio.timeout(30):
            await house.app.pipeline.idle()
            await house.app.settlement.finish()
        await house.logged("call.finished", sum(journey.moment != "half a head" for journey in journeys))
        await asyncio.sleep(0.05)  # for a second record, if there were one
        books_balance(house)
    server.close()
    ticking.cancel()
    records: dict[str, list[dict[str, object]]] = {}
    for line in house.lines("call.finished"):
        records.setdefault(str(line["request_id"]), []).append(line)
    return journeys, records, house


def books_balance(house: House) -> None:
    """Nothing is held, and what was spent is what the records say."""
    spent = sum(line["cost_nanousd"] for line in house.lines("call.finished"))
    call = Call("x", "POST", surface=SURFACES[0], principal=Principal("app", "app", ("web",)), model="gpt-4.1-mini", fields={})
    call.price = house.app.shelf.current.prices.find("gpt-4.1-mini")
    call.input_bound = call.cap = 1
    clauses = [clause for rule in house.app.shelf.current.policies for clause in rule.clauses]
    balances = {charge.limit.clause: house.app.store.peek(charge) for clause in clauses for charge in clause.charges(call)}
    assert {name: balance.held for name, balance in balances.items()} == {"concurrency": 0, "token_limit": 0, "budget": 0}
    assert balances["concurrency"].remaining == 500
    assert balances["budget"].spent == spent
    assert len(KINDS) > len(balances)


@pytest.mark.parametrize("do", ["cancel", "drain"])
async def test_clients_that_leave_at_random_moments(tmp_path: Path, do: str) -> None:
    journeys, records, _ = await travelled(tmp_path, do, ABORTS if do == "cancel" else max(100, ABORTS // 4))
    assert {len(lines) for lines in records.values()} == {1}, "one record a call"
    assert set(records) == {journey.id for journey in journeys if journey.moment != "half a head"}
    sources = set()
    for journey in journeys:
        if journey.moment == "half a head":
            continue
        [line] = records[journey.id]
        source, output, told = line["usage_source"], cast(int, line["output_tokens"]), (journey, line)
        sources.add(source)
        if journey.moment == "last byte":
            assert line["outcome"] in ("completed", "client_gone"), told
        elif journey.leaves_after < journey.tokens or journey.moment != "reading":
            assert line["outcome"] == "client_gone", told
        if not journey.arrived.is_set():
            assert output == 0, told
            continue
        assert source in ("counted", "reported"), told
        assert (source == "reported") <= journey.reports, told
        assert journey.sent - journey.choices <= output <= journey.sent, told
        if do == "drain":
            assert (journey.whole, output) == (True, journey.sent), told
            assert (source == "reported") is journey.reports, told
        elif not journey.whole:
            assert journey.closed_at is not None, told
            assert journey.left_at is not None
            assert journey.closed_at - journey.left_at < SECOND, told
    assert {"counted", "reported"} <= sources
