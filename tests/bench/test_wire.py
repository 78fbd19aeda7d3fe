"""The bytes of the benchmark have the sizes that its documentation gives."""

import json

import pytest

from bench.wire import EVENT, REPLY, Stream, calls, request


def test_sizes_are_as_documented() -> None:
    assert len(REPLY) == 760
    assert len(EVENT) == 300
    json.loads(REPLY)


@pytest.mark.parametrize("stream", [Stream(250, 0.02), Stream(4000, 0), Stream(1, 0.001), Stream(30, 1 / 30)])
def test_the_mock_reads_what_was_asked_for(stream: Stream) -> None:
    body = request(80, prompt_bytes=1000, capped=True, stream=stream).partition(b"\r\n\r\n")[2]
    read = Stream.read(body)
    assert read.events == stream.events
    assert read.pace_s == pytest.approx(stream.pace_s, abs=1e-6)
    assert stream.expected.count(EVENT) == stream.events


def test_one_of_two_calls_leaves_the_cap_to_the_proxy() -> None:
    bodies = [json.loads(call.partition(b"\r\n\r\n")[2]) for call in calls(80, prompt_bytes=32_000)]
    assert [body.get("max_tokens") for body in bodies] == [256, None]
    assert all(len(body["messages"][0]["content"]) == 32_000 for body in bodies)
