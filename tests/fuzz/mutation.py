"""How requests are changed: in their lines, fields, chunks and JSON, where the bits of a plain fuzzer would only break the first of them.

Half of the changed requests get a length that fits again, since one that does not is refused before anything else is looked at. The rule
a reader could break: what comes out follows from what goes in and the seed alone.
"""

import random
import re
from collections.abc import Callable, Sequence

_LENGTH = re.compile(rb"(?im)^(content-length:[ \t]*)\d+(?=\r$)")
_NUMBER = re.compile(rb"-?\d+(?:\.\d+)?")

FIELDS = (
    b"content-length: 0",
    b"content-length: 1",
    b"content-length: +3",
    b"content-length: 3, 3",
    b"Content-Length : 3",
    b"transfer-encoding: chunked",
    b"Transfer-Encoding: xchunked",
    b"transfer-encoding: gzip, chunked",
    b"transfer-encoding:\x0bchunked",
    b"connection: close",
    b"connection: keep-alive",
    b"connection: authorization, x-request-id, host",
    b"connection: upgrade",
    b"upgrade: websocket",
    b"upgrade: h2c",
    b"expect: 100-continue",
    b"expect: 200-ok",
    b"host: other",
    b"host: a/b",
    b"authorization: Bearer no",
    b"authorization: Basic YTpi",
    b"api-key: no",
    b"content-type: text/plain",
    b"content-type: application/json; charset=utf-8",
    b"content-type: multipart/form-data; boundary=b",
    b'content-type: multipart/form-data; boundary="\xd6"',
    b"content-encoding: gzip",
    b"x-request-id: mine-1",
    b"x-request-id: a b",
    b"x-user: ada",
    b"x-user: \xff\xfe",
    b'idempotency-key: "a"',
    b"last-event-id: 1",
    b"prefer: respond-async",
    b"te: trailers",
    b"trailer: x",
    b"max-forwards: 0",
    b"via: 1.1 th",
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"traceparent: 00-00000000000000000000000000000000-b7ad6b7169203331-01",
    b"tracestate: a=b",
    b"baggage: a=b",
    b"x-odd: a\r\n folded",
    b"x-odd: \0",
    b"no colon",
    b": no name",
)
TARGETS = (
    b"/v1/chat/completions",
    b"/v1/completions",
    b"/v1/responses",
    b"/v1/responses/compact",
    b"/v1/responses/resp_1/cancel",
    b"/v1/embeddings",
    b"/v1/moderations",
    b"/v1/images/generations",
    b"/v1/images/edits",
    b"/v1/audio/speech",
    b"/v1/audio/transcriptions",
    b"/v1/models",
    b"/v1/models/gpt-4.1",
    b"/v1/files",
    b"/v1/files/../chat/completions",
    b"/v1//files",
    b"/v1/files%2f",
    b"/v1/batches",
    b"/v1/realtime?model=a",
    b"http://model/v1/files",
    b"*",
    b"/",
)
METHODS = (b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"PATCH", b"OPTIONS", b"TRACE", b"CONNECT", b"PRI", b"post", b"SOURCE")
VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/0.9", b"http/1.1", b"HTTP/1.1 ", b"HTTP/1")
MEMBERS = (
    b'"max_tokens":1',
    b'"max_tokens":100000',
    b'"max_tokens":-1',
    b'"max_tokens":1e3',
    b'"max_tokens":true',
    b'"max_tokens":null',
    b'"max_tokens":99999999999999999999',
    b'"max_\\u0074okens":5',
    b'"max_completion_tokens":7',
    b'"max_output_tokens":20',
    b'"n":2',
    b'"n":128',
    b'"n":"1"',
    b'"best_of":3',
    b'"stream":true',
    b'"stream":false',
    b'"stream_options":{"include_usage":true}',
    b'"stream_options":[]',
    b'"background":true',
    b'"service_tier":"flex"',
    b'"model":"gpt-4.1"',
    b'"model":"\\ud800"',
    b'"messages":[]',
    b'"input":"a"',
    b'"prompt":["a",[1,2],3]',
    b'"tools":[{"type":"web_search"}]',
    b'"max_tool_calls":3',
    b'"size":"9x9"',
    b'"":0',
    b'"a":' + b"[" * 300 + b"]" * 300,
)
_CHUNKS = (b"0", b"00", b"1", b"-1", b"+1", b"0x1", b"ffffffffffffffff", b"1;a=b", b"1 ", b" 1", b"1\n", b"g", b"")
_ENDS = (b"\n", b"\r", b"\r\r\n", b"\n\r\n", b"", b"\r\n ", b"\0\r\n", b"\r\n\t")


def _spot(data: bytes, chance: random.Random) -> int:
    return chance.randrange(len(data) + 1)


def _head_line(data: bytes, chance: random.Random) -> tuple[int, int]:
    """Where a line of the head begins and ends, with its CRLF."""
    end = data.find(b"\r\n\r\n")
    end = end + 2 if end >= 0 else len(data)
    starts = [0, *(match.end() for match in re.finditer(rb"\r\n", data[:end]))]
    at = chance.choice(starts)
    stop = data.find(b"\r\n", at)
    return at, stop + 2 if stop >= 0 else len(data)


def _add_field(data: bytes, chance: random.Random) -> bytes:
    _, at = _head_line(data, chance)
    return data[:at] + chance.choice(FIELDS) + b"\r\n" + data[at:]


def _drop_line(data: bytes, chance: random.Random) -> bytes:
    start, end = _head_line(data, chance)
    return data[:start] + data[end:]


def _double_line(data: bytes, chance: random.Random) -> bytes:
    start, end = _head_line(data, chance)
    return data[:end] + data[start:end] + data[end:]


def _other_end(data: bytes, chance: random.Random) -> bytes:
    ends = [match.start() for match in re.finditer(rb"\r\n", data)]
    if not ends:
        return data + b"\r\n\r\n"
    at = chance.choice(ends)
    return data[:at] + chance.choice(_ENDS) + data[at + 2 :]


def _word_of_line(table: Sequence[bytes], place: int) -> Callable[[bytes, random.Random], bytes]:
    def change(data: bytes, chance: random.Random) -> bytes:
        line, found, rest = data.partition(b"\r\n")
        words = line.split(b" ")
        if place < len(words):
            words[place] = chance.choice(table)
        return b" ".join(words) + found + rest

    return change


def _bits(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.randrange(1, 4)):
        if changed:
            at = chance.randrange(len(changed))
            changed[at] = chance.choice((changed[at] ^ (1 << chance.randrange(8)), chance.randrange(256), 0, 10, 13, 32, 34, 58))
    return bytes(changed)


def _insert(data: bytes, chance: random.Random) -> bytes:
    at = _spot(data, chance)
    return data[:at] + chance.choice((b"\r\n", b"\n", b"\0", b" ", b"\t", b"\xff", b'"', b"\\", b"{", b"[", b",", b"0")) + data[at:]


def _cut_off(data: bytes, chance: random.Random) -> bytes:
    return data[: _spot(data, chance)]


def _drop(data: bytes, chance: random.Random) -> bytes:
    at = _spot(data, chance)
    return data[:at] + data[at + chance.randrange(1, 9) :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    at = _spot(data, chance)
    size = chance.randrange(1, 40)
    return data[: at + size] + data[at : at + size] * chance.randrange(1, 4) + data[at + size :]


def _chunked(data: bytes, chance: random.Random) -> bytes:
    """The same body in chunks."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found or not _LENGTH.search(head + b"\r\n"):
        return data
    at = _spot(body, chance)
    pieces = [piece for piece in (body[:at], body[at:]) if piece]
    chunks = b"".join(b"%x%b\r\n%b\r\n" % (len(p), chance.choice((b"", b"", b";a=b")), p) for p in pieces)
    trailer = chance.choice((b"", b"", b"x: y\r\n", b"content-length: 3\r\n", b"x : y\r\n"))
    return (
        _LENGTH.sub(b"transfer-encoding: chunked", head + b"\r\n", count=1)[:-2]
        + b"\r\n\r\n"
        + chunks
        + b"0\r\n"
        + trailer
        + b"\r\n"
    )


def _odd_chunk(data: bytes, chance: random.Random) -> bytes:
    head, found, body = data.partition(b"\r\n\r\n")
    sizes = list(re.finditer(rb"(?m)^[0-9a-f]+", body))
    if not sizes:
        return data
    size = chance.choice(sizes)
    return head + found + body[: size.start()] + chance.choice(_CHUNKS) + body[size.end() :]


def _member(data: bytes, chance: random.Random) -> bytes:
    """Another field in the body."""
    head, found, body = data.partition(b"\r\n\r\n")
    at = body.find(b"{") + 1
    if not at:
        return data
    member = chance.choice(MEMBERS)
    if chance.random() < 0.5:
        return head + found + body[:at] + member + b"," + body[at:]
    end = body.rfind(b"}")
    return head + found + body[:end] + b"," + member + body[end:]


def _number(data: bytes, chance: random.Random) -> bytes:
    numbers = list(_NUMBER.finditer(data))
    if not numbers:
        return data
    number = chance.choice(numbers)
    other = chance.choice((b"0", b"1", b"-1", b"1.0", b"1e9", b"2147483648", b"18446744073709551616", b"true", b"NaN", b"129"))
    return data[: number.start()] + other + data[number.end() :]


def _fitted(data: bytes) -> bytes:
    """With the length that its body has, where it names one."""
    head, found, body = data.partition(b"\r\n\r\n")
    if not found:
        return data
    return _LENGTH.sub(rb"\g<1>%d" % len(body), head + b"\r\n")[:-2] + found + body


_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    _add_field,
    _add_field,
    _drop_line,
    _double_line,
    _other_end,
    _word_of_line(METHODS, 0),
    _word_of_line(TARGETS, 1),
    _word_of_line(TARGETS, 1),
    _word_of_line(VERSIONS, 2),
    _bits,
    _bits,
    _insert,
    _cut_off,
    _drop,
    _repeat,
    _chunked,
    _odd_chunk,
    _member,
    _member,
    _number,
)


def changed(data: bytes, seed: int, *, others: Sequence[bytes] = (), most: int = 8192) -> bytes:
    """A request, changed once to four times. others: to put before or behind it, now and then."""
    chance = random.Random(seed)
    for _ in range(chance.choice((1, 1, 1, 2, 2, 4))):
        data = chance.choice(_CHANGES)(data, chance)
    if chance.random() < 0.5:
        data = _fitted(data)
    if others and chance.random() < 0.15:
        other = chance.choice(others)
        data = data + other if chance.random() < 0.5 else other + data
    return data[:most]
