"""The small readers: of header fields, paths, usage blocks, hosted tools and forms. The first byte of an input says which.

Each takes anything, raises InvalidCall where it raises at all, and what it gives out is within what it promises.
"""

import contextlib
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote_to_bytes

import orjson

from proxy.errors import InvalidCall
from proxy.telemetry.trace import TRACE_BYTES, continue_trace
from proxy.wire.form import boundary_of, parse_form, patched_form
from proxy.wire.glance import Glance
from proxy.wire.headers import presented_key, sane_request_id, towards_client, towards_upstream
from proxy.wire.hosted import called, offered
from proxy.wire.inputs import are_plain, hides_input, inputs
from proxy.wire.said import texts_of
from proxy.wire.surfaces import canonical, surface_of, why_unmetered
from proxy.wire.usage import doubtful, far_off, read_usage, tail_usage, together

_TRACE = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[0-3]\Z")
_RANDOM = "ab" * TRACE_BYTES
_glance = Glance()


def _text(data: bytes) -> str:
    """As header bytes are read."""
    return data.decode("utf-8", "surrogateescape")


def _request_id(data: bytes) -> None:
    kept = sane_request_id(_text(data))
    assert kept is None or (kept == _text(data) and re.fullmatch(r"[!-~]{1,128}", kept))


def _trace(data: bytes) -> None:
    assert _TRACE.match(continue_trace(_text(data), random=_RANDOM))
    assert _TRACE.match(continue_trace(_text(data), random="0" * len(_RANDOM)))


def _key(data: bytes) -> None:
    text = _text(data)
    first, _, second = text.partition("\n")
    key = presented_key(first, second or None)
    assert key is None or key.strip() == key


def _path(data: bytes) -> None:
    text = _text(data)
    path, query = canonical(text)
    assert text in (path, f"{path}?{query}")
    decoded = unquote_to_bytes(path)
    assert not {b"..", b".", b""} & set(decoded.split(b"/")[1:]), "it means another path to whoever decodes it"
    assert decoded.count(b"/") == path.count("/")
    assert not re.search(rb"[\x00-\x1f\x7f\\#?]", decoded)
    surface_of(path)
    why_unmetered(path)


def _usage(data: bytes) -> None:
    for block in (_json(data), tail_usage(data)):
        usage = read_usage(block)
        if usage is not None:
            doubled = together(usage, usage)
            for name in usage.__slots__:
                figure = getattr(usage, name)
                assert type(figure) is int
                assert 0 <= figure < 1 << 51
                assert getattr(doubled, name) == 2 * figure
            parts = (usage.cached_tokens, usage.cache_write_tokens, usage.audio_input_tokens, usage.image_input_tokens)
            assert max(parts) <= usage.input_tokens
            assert max(usage.reasoning_tokens, usage.audio_output_tokens, usage.image_output_tokens) <= usage.output_tokens
            assert isinstance(far_off(usage, len(data)), bool)
            assert isinstance(doubtful(usage, len(data)), bool)


def _said(data: bytes) -> None:
    fields = _json(data)
    called(fields)
    if isinstance(fields, dict):
        list(texts_of(fields))
        called(fields.get("output"))
        for surface in ("chat", "completions", "responses", "embeddings", "moderations", "images"):
            offered(surface, fields)
            found = inputs(surface, fields)
            assert found.tokens >= 0
            assert all(type(text) is str for text in found.texts)
            assert hides_input(surface, fields) == found.hidden or surface == "chat"


def _plain(data: bytes) -> None:
    if _glance.are_plain(memoryview(data)):
        assert are_plain(orjson.loads(data)), "it takes for plain what is not, or is no JSON"
    padded = data.replace(b"@", b"a" * 600)
    if _glance.are_plain(memoryview(padded)):
        assert are_plain(orjson.loads(padded))


def _form(data: bytes) -> None:
    kind, _, body = data.partition(b"\n")
    boundary = boundary_of(_text(kind))
    if boundary is None:
        return
    assert re.fullmatch(rb"[ -~]{1,70}", boundary)
    form = parse_form(body, boundary)
    assert b"".join(patched_form(body, form, {})) == body
    assert form.files >= 0
    assert 0 <= form.file_bytes <= len(body)
    if "model" in form.places:
        again = parse_form(b"".join(patched_form(body, form, {"model": "other"})), boundary)
        assert again.fields == {**form.fields, "model": "other"}


def _fields(data: bytes) -> None:
    headers = {}
    for line in data.split(b"\n"):
        name, _, value = line.partition(b":")
        headers[_text(name).lower()] = _text(value)
    ours = ["authorization: Bearer ours", "via: 1.1 th", "accept-encoding: identity"]
    sent = towards_upstream(headers, extra=["x-extra"], ours=ours, own=("x-request-id", "traceparent"))
    names = [line.partition(":")[0] for line in sent]
    assert len(names) == len(set(names))
    assert sent[-3:] == ours
    allowed = {"accept", "content-type", "user-agent", "openai-beta", "priority", "x-client-request-id", "x-extra"}
    assert all(name in allowed or name.startswith("x-stainless-") for name in names[:-3]), names
    assert not any(
        line.startswith(("set-cookie", "openai-organization", "x-ratelimit")) for line in towards_client(headers, request_id=None)
    )


def _json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return None


_READERS: tuple[Callable[[bytes], None], ...] = (_request_id, _trace, _key, _path, _usage, _said, _plain, _form, _fields)
_PART = b'--b\r\ncontent-disposition: form-data; name="%b"\r\n\r\n%b\r\n'
_FORM = (
    b"multipart/form-data; boundary=b\n"
    + _PART % (b"model", b"whisper-1")
    + _PART % (b"stream", b"true")
    + b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\nContent-Type: audio/wav\r\n\r\nRIFF\r\n--b--\r\n'
)
SEEDS = (
    b"\0mine-1",
    b"\1" + b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    b"\1cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
    b"\2Bearer k\nother",
    b"\3/v1/chat/completions?a=b",
    b"\3/v1/files/%2e%2e/%20%22a",
    b"\3/v1/responses/resp_1/input_items",
    b'\4{"prompt_tokens":3,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":9,"audio_tokens":1}}',
    b'\4{"input_tokens":3,"total_tokens":9,"output_tokens_details":{"reasoning_tokens":2}}',
    b'\4{"type":"duration","seconds":1.5}',
    b'\4..."usage" : {"prompt_tokens":3,"completion_tokens":4}}',
    b'\5{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url"}]}],"tools":[{"type":"web_search_preview"}]}',
    b'\5{"input":[{"type":"function_call_output","output":"a"}],"output":[{"type":"web_search_call"}],"prompt":[[1,2],"a"]}',
    b'\5{"choices":[{"message":{"content":"a","tool_calls":[{"function":{"name":"f","arguments":"{}"}}]},"text":"b"}]}',
    b'\6[{"role":"user","content":"@"},{"role":"user","content":"@"}]',
    b"\7" + _FORM,
    b"\7" + _FORM.replace(b"boundary=b", b'boundary="b"'),
    b"\x08connection:x-stainless-lang, authorization\nx-stainless-lang:python\nauthorization:theirs\nx-extra:1\ncookie:a",
)


def one(data: bytes) -> None:
    """The target."""
    if not data:
        return
    with contextlib.suppress(InvalidCall):
        _READERS[data[0] % len(_READERS)](data[1:])
