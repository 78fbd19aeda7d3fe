"""Webhooks that hear of tasks: signed, tried again, told once."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import orjson

from proxy.herald import MOST_UNDER_WAY, Herald
from proxy.lane import Unreachable
from proxy.sinks import Sink, sign
from tests.clock import FakeClock
from tests.fakes import FakeUpstream, json_answer
from tests.house import CHAT, House, policy
from tests.whole.conversation import OK

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
FACTS = {"id": "task_1", "status": "completed"}


class World:
    """Receivers that answer what they are told to: a status, or nothing."""

    def __init__(self, *answers: int | None, sinks: Mapping[str, Sink] | None = None) -> None:
        self._answers = list(answers)
        self.sent: list[tuple[str, Mapping[str, str], bytes]] = []
        self.counted: list[str] = []
        self.events: list[str] = []
        hook = {"hook": Sink("hook", kind="webhook", url="https://hook.test/x", secret=SECRET)}
        self.herald = Herald(
            sinks=lambda: hook if sinks is None else sinks,
            send=self.send,
            clock=FakeClock(),
            log=self,
            count=lambda _, result: self.counted.append(result),
            pauses_s=(0.0, 0.0),
        )

    async def send(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, float | None]:
        self.sent.append((url, headers, body))
        status = self._answers.pop(0)
        if status is None:
            raise Unreachable
        return status, None

    def event(self, name: str, /, *, level: str = "info", **fields: Any) -> None:
        self.events.append(name)

    async def told(self) -> None:
        async with asyncio.timeout(10):
            await asyncio.gather(*self.herald._telling)


async def test_a_webhook_is_told_once_and_signed() -> None:
    world = World(200)
    world.herald.announce(["hook"], FACTS)
    await world.told()
    [(url, headers, body)] = world.sent
    assert url == "https://hook.test/x"
    assert orjson.loads(body) == {"type": "task.completed", "timestamp": "2027-01-15T08:00:00Z", "data": FACTS}
    signed = sign(SECRET, id=headers["webhook-id"], timestamp_s=int(headers["webhook-timestamp"]), body=body)
    assert headers["webhook-signature"] == signed
    assert (world.counted, world.events) == (["delivered"], ["page.delivered"])


async def test_a_webhook_that_fails_is_tried_again_under_one_id() -> None:
    world = World(None, 503, 200)
    world.herald.announce(["hook"], FACTS)
    await world.told()
    assert len({headers["webhook-id"] for _, headers, _ in world.sent}) == 1
    assert world.counted == ["failed", "failed", "delivered"]


async def test_a_webhook_that_refuses_or_never_answers_is_given_up() -> None:
    for answers, results in (((410,), ["given_up"]), ((None, 500, None), ["failed", "failed", "given_up"])):
        world = World(*answers)
        world.herald.announce(["hook"], FACTS)
        await world.told()
        assert (world.counted, world.events) == (results, ["page.failed"])


async def test_nobody_else_is_told() -> None:
    world = World(sinks={"chat": Sink("chat", kind="slack", url="https://slack.test")})
    world.herald.announce(["chat", "gone"], FACTS)
    await world.told()
    assert world.sent == []


async def test_so_many_are_told_at_once() -> None:
    world = World(*[200] * MOST_UNDER_WAY)
    for _ in range(MOST_UNDER_WAY + 1):
        world.herald.announce(["hook"], FACTS)
    assert world.counted == ["given_up"]
    await world.told()
    assert world.counted.count("delivered") == MOST_UNDER_WAY


async def test_a_task_that_ended_is_told_of_without_content(tmp_path: Path) -> None:
    async with FakeUpstream(default=OK) as upstream, FakeUpstream(default=json_answer(200, {})) as receiver:
        pages = f"pages:\n  hook: {{webhook: {{url: '{receiver.url}/hook', secret: {SECRET}}}}}"
        text = policy("- {name: all, record: {tell: [hook]}}", more=pages)
        async with House(text, upstream.url + "/v1", tmp_path) as proxy:
            _, headers, _ = await proxy.post("/v1/chat/completions", CHAT, headers={"prefer": "respond-async"})
            await proxy.post("/v1/chat/completions", CHAT, headers={"idempotency-key": "no task, so nobody is told"})
            told = await receiver.arrived()
            [line] = await proxy.logged("page.delivered")
    said = orjson.loads(told.body)
    assert (said["type"], said["data"]["id"], said["data"]["cost_usd"]) == ("task.completed", headers["tollhouse-task"], "0.001604")
    assert b"Hi" not in told.body
    assert told.header("webhook-signature")
    assert (line["sink"], line["attempts"]) == ("hook", 1)
    assert len(receiver.requests) == 1
