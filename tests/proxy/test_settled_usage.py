"""What a call is billed when its upstream says something else, or nothing, of what it used."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.fakes import FakeUpstream, UntilClosed, json_answer, sse_answer
from tests.house import CHAT, House, policy

DONE = b"data: [DONE]\n\n"
WORDS = " river stone cloud garden window silver winter music bridge market"  # ten tokens of o200k_base
RIGHT = {"prompt_tokens": 9, "completion_tokens": 11, "total_tokens": 20}


def chunk(text: str, **more: Any) -> bytes:
    return b"data: " + orjson.dumps({"choices": [{"index": 0, "delta": {"content": text}}], **more}) + b"\n\n"


def usage(block: Any) -> bytes:
    return b'data: {"choices":[],"usage":' + (block if isinstance(block, bytes) else orjson.dumps(block)) + b"}\n\n"


NONSENSE = [
    pytest.param([usage({**RIGHT, "completion_tokens": -11})], id="negative"),
    pytest.param([usage({**RIGHT, "completion_tokens": 11.5})], id="float"),
    pytest.param([usage({**RIGHT, "completion_tokens": "11"})], id="string"),
    pytest.param([usage(b'{"prompt_tokens":9,"completion_tokens":1e30}')], id="1e30"),
    pytest.param([usage(b'{"prompt_tokens":9,"completion_tokens":%d}' % 10**40)], id="10**40"),
    pytest.param([usage({"completion_tokens": 11})], id="half"),
    pytest.param([usage([])], id="list"),
    pytest.param([usage({"prompt_tokens": 0, "completion_tokens": 0})], id="zero"),
]


async def settled(tmp_path: Path, answer: Any, body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    async with FakeUpstream(default=answer) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        await house.post("/v1/chat/completions", body)
        [line] = await house.logged("call.finished")
        return line, await house.metrics()


@pytest.mark.parametrize("told", NONSENSE)
async def test_a_usage_that_makes_no_sense_is_counted_instead_and_noted(tmp_path: Path, told: list[bytes]) -> None:
    line, metrics = await settled(tmp_path, sse_answer([chunk(WORDS), *told, DONE]), {**CHAT, "stream": True})
    assert (line["outcome"], line["usage_source"], line["output_tokens"]) == ("completed", "counted", 10)
    assert line["input_tokens"] > 0
    assert line["cost_nanousd"] > 0
    assert "tollhouse_usage_mismatch_total 1" in metrics


@pytest.mark.parametrize("told", NONSENSE)
async def test_so_is_one_of_a_whole_answer(tmp_path: Path, told: list[bytes]) -> None:
    block = told[0].removeprefix(b'data: {"choices":[],"usage":').removesuffix(b"}\n\n")
    body = b'{"choices":[{"message":{"content":' + orjson.dumps(WORDS) + b'}}],"usage":' + block + b"}"
    script = json_answer(200, orjson.Fragment(body))
    line, metrics = await settled(tmp_path, script, CHAT)
    assert (line["outcome"], line["usage_source"], line["output_tokens"]) == ("completed", "counted", 10)
    assert "tollhouse_usage_mismatch_total 1" in metrics


@pytest.mark.parametrize(
    ("told", "output"),
    [
        ([chunk(WORDS), usage(RIGHT)], 11),
        ([chunk(WORDS), usage(RIGHT), usage({**RIGHT, "completion_tokens": 12})], 12),
        ([chunk(WORDS), usage({**RIGHT, "completion_tokens": 12}), usage({**RIGHT, "completion_tokens": -1})], 12),
        ([chunk(WORDS, usage=RIGHT), chunk(" tail")], 11),
        ([chunk(WORDS), usage({**RIGHT, "completion_tokens": 400})], 400),
        ([chunk(WORDS * 20), usage({**RIGHT, "completion_tokens": 3})], 3),
    ],
    ids=["once", "twice", "then nonsense", "in the middle", "far more", "far less"],
)
async def test_the_last_usage_that_makes_sense_is_billed(tmp_path: Path, told: list[bytes], output: int) -> None:
    line, metrics = await settled(tmp_path, sse_answer([*told, DONE]), {**CHAT, "stream": True})
    assert (line["usage_source"], line["output_tokens"]) == ("reported", output)
    noted = output in (400, 3) or b"-1" in told[-1]
    assert f"tollhouse_usage_mismatch_total {int(noted)}" in metrics


async def test_no_usage_at_all_is_counted_and_no_mismatch(tmp_path: Path) -> None:
    for block in (None, []):
        events = [chunk(WORDS), *([usage(block)] if block is None else []), DONE]
        folder = tmp_path / str(block)
        folder.mkdir()
        line, metrics = await settled(folder, sse_answer(events), {**CHAT, "stream": True})
        assert (line["usage_source"], line["output_tokens"]) == ("counted", 10)
        assert "tollhouse_usage_mismatch_total 0" in metrics


async def test_an_input_far_beyond_the_bytes_that_were_sent_is_noted(tmp_path: Path) -> None:
    line, metrics = await settled(tmp_path, json_answer(200, {"choices": [], "usage": {**RIGHT, "prompt_tokens": 90_000}}), CHAT)
    assert (line["usage_source"], line["input_tokens"]) == ("reported", 90_000)
    assert "tollhouse_usage_mismatch_total 1" in metrics


@pytest.mark.parametrize(
    ("events", "source", "output"),
    [
        ([chunk(WORDS, usage={**RIGHT, "completion_tokens": 10})], "reported", 10),
        ([chunk(" river", usage={**RIGHT, "completion_tokens": 1}), chunk(" stone cloud")], "counted", 3),
        ([chunk(" river", usage={**RIGHT, "completion_tokens": 7}), chunk(" stone")], "counted", 7),
    ],
    ids=["the last word", "outgrown", "more than was seen"],
)
async def test_a_usage_so_far_is_the_least_that_a_stream_left_early_is_billed(
    tmp_path: Path, events: list[bytes], source: str, output: int
) -> None:
    """Some servers tell their usage in every event, and some in the first."""
    async with FakeUpstream(default=[*sse_answer(events)[:-1], UntilClosed()]) as upstream:
        async with House(policy(), upstream.url + "/v1", tmp_path) as house:
            async with house.open_stream({**CHAT, "stream": True}) as answer:
                got = b""
                async with asyncio.timeout(5):
                    while got.count(b"\n\n") < len(events):
                        got += await answer.content.readany()
                answer.close()
            [line] = await house.logged("call.finished")
    assert (line["outcome"], line["usage_source"], line["output_tokens"]) == ("client_gone", source, output)
    assert line["input_tokens"] == 9


async def test_a_whole_answer_that_nobody_saw_is_billed_as_usual_where_no_cap_bounds_it(tmp_path: Path) -> None:
    """Nothing would be a way past a budget, and a model's whole context would be the end of one."""
    async with FakeUpstream(default=[UntilClosed()]) as upstream, House(policy(), upstream.url + "/v1", tmp_path) as house:
        call = asyncio.create_task(house.post("/v1/chat/completions", {**CHAT, "n": 2}))
        await upstream.arrived()
        call.cancel()
        [line] = await house.logged("call.finished")
    assert (line["usage_source"], line["output_tokens"]) == ("estimated", 512)
