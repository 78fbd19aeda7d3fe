"""Event streams and JSON answers, whatever is in them and however they are cut.

What must hold: what comes out is what went in, up to a reported error; a cut changes neither that nor what is read; usage is never below
zero; and nothing but UpstreamError is raised.
"""

import random
from zlib import crc32

from proxy.errors import UpstreamError
from proxy.wire.meter import BodyMeter, Meter, StreamMeter
from tests.whole.conversation import ANSWER, RESPONSES_STREAM, STREAM, chunk, event

_ERROR = b'data: {"error":{"message":"overloaded","type":"server_error","code":503}}\n\n'
_FINISH = chunk("", finish="stop")
SEEDS = (
    b"".join(STREAM),
    b"".join(RESPONSES_STREAM),
    b"\xef\xbb\xbf" + b"".join(STREAM).replace(b"\n", b"\r\n"),
    b"".join(STREAM).replace(b"\n", b"\r"),
    b"".join([chunk(word) for word in ("a", "b", "ä", "𝄞", "\\", '"')] + STREAM[2:]),
    b"".join(STREAM[:2]) + _ERROR + b"".join(STREAM[2:]),
    b": a comment\n\nretry: 10\n\nid: 1\nevent: x\ndata: 1\ndata: 2\n\n" + b"".join(STREAM),
    b"".join(STREAM).replace(b'"prompt_tokens":9', b'"prompt_tokens":-9'),
    b"".join(STREAM).replace(b'"prompt_tokens":9', b'"prompt_tokens":9.5').removesuffix(b"\n\n"),
    b'data: {"choices":[{"index":1,"delta":{"tool_calls":[{"function":{"name":"f","arguments":"{}"}}]}}]}\n\n'
    + _FINISH
    + STREAM[3]
    + STREAM[4],
    event("image_generation.completed", 1, usage={"input_tokens": 1, "output_tokens": 2}) * 2,
    event("response.failed", 1, response={"status": "failed", "error": {"message": "x"}}),
    event("error", 9007199254740993, message="x", code=None),
    b"{" + b'"usage":{"prompt_tokens":1,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":5}},"choices":[]}',
    repr(ANSWER).replace("'", '"').encode(),
)

_Told = tuple[bytes, str | None, object, object]


def one(data: bytes) -> None:
    """The target."""
    chance = random.Random(crc32(data))
    for hide in (False, True):
        whole = _passed(StreamMeter(hide_usage=hide), [data], offered=False)
        cut = _passed(StreamMeter(hide_usage=hide), _cut(data, chance), offered=False)
        offered = _passed(StreamMeter(hide_usage=hide), _cut(data, chance), offered=True)
        assert whole == cut == offered, (whole, cut, offered)
        assert hide or data.startswith(whole[0])
        assert hide or whole[1] is not None or whole[3] is not None or whole[0] == data
    out, fault, _, _ = _passed(BodyMeter(), _cut(data, chance), offered=False)
    assert out == (b"" if fault else data)


def _passed(meter: Meter, pieces: list[bytes], *, offered: bool) -> _Told:
    """What comes out, what was wrong, and what was read. offered: as chunks that may be events like the last, first."""
    out = bytearray()
    fault = None
    try:
        for piece in pieces:
            if offered and meter.error is None and meter.repeats(piece, 0, len(piece)):
                out += piece
            else:
                out += meter.feed(piece)
        if meter.error is None:
            out += meter.finish()
    except UpstreamError as error:
        fault = error.code
    usage = meter.usage
    if usage is not None:
        figures = [getattr(usage, name) for name in usage.__slots__]
        assert all(type(figure) is int and figure >= 0 for figure in figures), figures
        assert usage.cached_tokens <= usage.input_tokens
        assert max(usage.reasoning_tokens, usage.audio_output_tokens) <= usage.output_tokens
    said = [bytes(text) for text in meter.texts()]
    figures = None if usage is None else [getattr(usage, name) for name in usage.__slots__]
    read = (figures, said, meter.model, meter.sequence, meter.ended, meter.nonsense, meter.first_token, repr(meter.tier))
    return bytes(out), fault, read, repr(meter.error) if meter.error is not None else None


def _cut(data: bytes, chance: random.Random) -> list[bytes]:
    """In pieces: byte by byte, event by event, or anywhere."""
    how = chance.randrange(8)
    if how == 0 and len(data) < 700:
        return [data[at : at + 1] for at in range(len(data))]
    if how <= 3:
        *events, rest = data.split(b"\n\n")
        return [piece for piece in (*(event + b"\n\n" for event in events), rest) if piece]
    cuts = sorted({chance.randrange(len(data) + 1) for _ in range(chance.randrange(1, 9))})
    return [piece for piece in (data[start:end] for start, end in zip((0, *cuts), (*cuts, len(data)), strict=True)) if piece]
