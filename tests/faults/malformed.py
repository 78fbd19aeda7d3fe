"""Requests that are malformed, ambiguous or odd, by name: each would be a call to a reader that is not strict enough.

All but a few carry a key that is good and a body that is a call, so that whoever takes one sends it on. `CANARY` stands in each, and in
no answer. The rule a reader could break: a name is stable, since results are told by it; bytes are as they go over the wire.
"""

from collections.abc import Mapping

from tests.faults.guard import APP_KEY

CANARY = b"EchoCanary51c8"
PATH = b"/v1/chat/completions"
BODY = b'{"model":"gpt-4.1-mini","messages":[{"role":"user","content":"%b"}],"max_tokens":9}' % CANARY
_KEY = b"authorization: Bearer " + APP_KEY.encode()
_TYPE = b"content-type: application/json"
_CHUNKED = b"transfer-encoding: chunked"
_LENGTH = b"content-length: %d" % len(BODY)
_ODD = b"x-odd: %b" % CANARY
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)

# What a WebSocket begins with.
OPENING = (
    b"connection: Upgrade",
    b"upgrade: websocket",
    b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    b"sec-websocket-version: 13",
)


def request(
    *fields: bytes,
    line: bytes = b"POST " + PATH + b" HTTP/1.1",
    host: bytes | None = b"host: model",
    body: bytes = BODY,
    end: bytes = b"\r\n",
) -> bytes:
    """A request of these fields, in the order in which they come; key and type go before them."""
    lines = [line, *([host] if host else []), _KEY, _TYPE, *fields, b"", b""]
    return end.join(lines) + body


def post(target: bytes, body: bytes, *fields: bytes) -> bytes:
    return request(b"content-length: %d" % len(body), *fields, line=b"POST %b HTTP/1.1" % target, body=body)


def get(target: bytes, *fields: bytes, method: bytes = b"GET") -> bytes:
    return request(*fields, line=b"%b %b HTTP/1.1" % (method, target), body=b"")


def _at(target: bytes, method: bytes = b"POST") -> bytes:
    return request(_LENGTH, line=b"%b %b HTTP/1.1" % (method, target))


def _chunked(body: bytes, *fields: bytes) -> bytes:
    return request(_CHUNKED, *fields, body=body)


_HALF = len(BODY) // 2
_TRAILED = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)

# What a request that may pass looks like: these must.
SOUND: Mapping[str, bytes] = {
    "length": request(_LENGTH),
    "chunks": _chunked(CHUNKS),
    "chunks in two": _chunked(b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\n\r\n" % (_HALF, BODY[:_HALF], len(BODY) - _HALF, BODY[_HALF:])),
    "chunk extension": _chunked(b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "trailer": _chunked(_TRAILED + b"x-after: 1\r\n\r\n"),
    "empty line before": b"\r\n" + request(_LENGTH),
    "query": _at(PATH + b"?a=b"),
}

REQUESTS: Mapping[str, bytes] = {
    # two lengths, or a length that is none
    "length and chunks": request(_LENGTH, _CHUNKED, body=CHUNKS),
    "chunks and length": request(_CHUNKED, _LENGTH, body=CHUNKS),
    "length before a short chunked body": request(b"content-length: 4", _CHUNKED, body=b"0\r\n\r\n" + request(_LENGTH)),
    "length twice, the same": request(_LENGTH, _LENGTH),
    "length twice, another": request(_LENGTH, b"content-length: 0"),
    "length twice, in one field": request(b"content-length: %d, %d" % (len(BODY), len(BODY))),
    "length with a sign": request(b"content-length: +%d" % len(BODY)),
    "length below zero": request(b"content-length: -1"),
    "length in hex": request(b"content-length: 0x%x" % len(BODY)),
    "length with a fraction": request(b"content-length: %d.0" % len(BODY)),
    "length with letters": request(b"content-length: %dabc" % len(BODY)),
    "length without digits": request(b"content-length:"),
    "length beyond 64 bits": request(b"content-length: 18446744073709551616"),
    "length with a space in it": request(b"content-length: 1 %d" % len(BODY)),
    "length with an underscore": request(b"content-length: 1_0"),
    # transfer codings
    "coding twice": request(_CHUNKED, _CHUNKED, body=CHUNKS),
    "coding chunked twice in one field": request(b"transfer-encoding: chunked, chunked", body=CHUNKS),
    "coding gzip, then chunked": request(b"transfer-encoding: gzip, chunked", body=CHUNKS),
    "coding chunked, then identity": request(b"transfer-encoding: chunked, identity", body=CHUNKS),
    "coding identity": request(b"transfer-encoding: identity", _LENGTH),
    "coding unknown": request(b"transfer-encoding: xchunked", body=CHUNKS),
    "coding empty": request(b"transfer-encoding:", body=CHUNKS),
    "coding with a tab": request(b"transfer-encoding:\tchunked\x0b", body=CHUNKS),
    "coding quoted": request(b'transfer-encoding: "chunked"', body=CHUNKS),
    "coding with a parameter": request(b"transfer-encoding: chunked;q=1", body=CHUNKS),
    "coding folded": request(b"transfer-encoding:\r\n chunked", body=CHUNKS),
    "coding in HTTP/1.0": request(_CHUNKED, line=b"POST " + PATH + b" HTTP/1.0", body=CHUNKS),
    "coding with a space before its colon": request(b"transfer-encoding : chunked", _LENGTH, body=CHUNKS),
    "coding with an underscore": request(b"transfer_encoding: chunked", _LENGTH, b"content-length: 0", body=CHUNKS),
    # chunks
    "chunk size with 0x": _chunked(b"0x%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "chunk size below zero": _chunked(b"-1\r\n%b\r\n0\r\n\r\n" % BODY),
    "chunk size with a sign": _chunked(b"+%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "chunk size beyond 64 bits": _chunked(b"10000000000000001\r\n%b\r\n0\r\n\r\n" % BODY),
    "chunk size empty": _chunked(b"\r\n%b\r\n0\r\n\r\n" % BODY),
    "chunk size in letters": _chunked(b"zz\r\n%b\r\n0\r\n\r\n" % BODY),
    "chunk size with a space before": _chunked(b" %x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "chunk size ends in LF": _chunked(b"%x\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "chunk size ends in CR": _chunked(b"%x\r%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "chunk longer than its size": _chunked(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY) - 1, BODY)),
    "chunk without its CRLF": _chunked(b"%x\r\n%b0\r\n\r\n" % (len(BODY), BODY)),
    "chunk ends in LF": _chunked(b"%x\r\n%b\n0\r\n\r\n" % (len(BODY), BODY)),
    "chunk extension with a NUL": _chunked(b"%x;a=\0\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "chunk extension with a LF": _chunked(b"%x;a=b\nc\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY)),
    "chunk extension without end": _chunked(b"%x;%b\r\n%b\r\n0\r\n\r\n" % (len(BODY), b"a" * 40_000, BODY)),
    "trailer with a space before its colon": _chunked(_TRAILED + b"x-after : 1\r\n\r\n"),
    "trailer with a NUL": _chunked(_TRAILED + b"x-after: \0\r\n\r\n"),
    "trailers without end": _chunked(_TRAILED + b"x-after: 1\r\n" * 10_000 + b"\r\n"),
    # fields
    "field folded": request(b"x-odd: a\r\n %b" % CANARY, _LENGTH),
    "field folded by a tab": request(b"x-odd: a\r\n\t%b" % CANARY, _LENGTH),
    "first field folded": request(_LENGTH, line=b"POST " + PATH + b" HTTP/1.1\r\n " + _ODD),
    "field with a space before its colon": request(b"x-odd : %b" % CANARY, _LENGTH),
    "field with a tab before its colon": request(b"x-odd\t: %b" % CANARY, _LENGTH),
    "field without a colon": request(CANARY, _LENGTH),
    "field without a name": request(b": %b" % CANARY, _LENGTH),
    "field name with a NUL": request(b"x-o\0dd: %b" % CANARY, _LENGTH),
    "field name with a space": request(b"x odd: %b" % CANARY, _LENGTH),
    "field name in UTF-8": request("x-öd: ".encode() + CANARY, _LENGTH),
    "field name in brackets": request(b"x-odd[]: %b" % CANARY, _LENGTH),
    "field value with a NUL": request(b"x-odd: a\0%b" % CANARY, _LENGTH),
    "field value with a CR": request(b"x-odd: a\r%b" % CANARY, _LENGTH),
    "field value with a control character": request(b"x-odd: a\x01%b" % CANARY, _LENGTH),
    "field value with DEL": request(b"x-odd: a\x7f%b" % CANARY, _LENGTH),
    "fields end in LF": request(_LENGTH, _ODD, end=b"\n"),
    "one field ends in LF": request(b"x-odd: %b\nx-more: 1" % CANARY, _LENGTH),
    "one field ends in CR": request(b"x-odd: %b\rcontent-length: 0" % CANARY, _LENGTH),
    "head ends in LF": request(_LENGTH, body=b"").removesuffix(b"\r\n") + b"\n" + BODY,
    "key twice": request(_KEY, _LENGTH),
    "key in two places": request(b"api-key: " + CANARY, _LENGTH),
    "type twice": request(b"content-type: text/plain", _LENGTH),
    "host twice": request(b"host: model", _LENGTH),
    "host missing": request(_LENGTH, host=None),
    "host empty and another": request(b"host: other", _LENGTH, host=b"host:"),
    "hosts in one field": request(_LENGTH, host=b"host: model, other"),
    "host with a path": request(_LENGTH, host=b"host: model/v1"),
    "host with a space": request(_LENGTH, host=b"host: mo del"),
    "host with a user": request(_LENGTH, host=b"host: me@model"),
    "one long field": request(b"x-odd: " + CANARY + b"a" * 70_000, _LENGTH),
    "101 fields": request(*[b"x-odd-%d: %b" % (n, CANARY) for n in range(101)], _LENGTH),
    "20,000 small fields": request(*[b"x: 1"] * 20_000, _LENGTH),
    "expects something else": request(b"expect: 200-ok", _LENGTH),
    "upgrade with a body": request(b"upgrade: websocket", b"connection: upgrade", _LENGTH),
    "upgrade to HTTP/2": request(
        b"upgrade: h2c", b"connection: upgrade, http2-settings", b"http2-settings: AAMAAABkAAQAAP__", _LENGTH
    ),
    "type missing": request(_LENGTH).replace(_TYPE + b"\r\n", b""),
    "body compressed, it says": request(b"content-encoding: gzip", _LENGTH),
    # the request line
    "HTTP/0.9": b"GET /v1/models\r\n" + _KEY + b"\r\n\r\n",
    "HTTP/0.9 by name": request(_LENGTH, line=b"POST " + PATH + b" HTTP/0.9"),
    "HTTP/1.2": request(_LENGTH, line=b"POST " + PATH + b" HTTP/1.2"),
    "HTTP/2.0": request(_LENGTH, line=b"POST " + PATH + b" HTTP/2.0"),
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + request(_LENGTH),
    "version in lower case": request(_LENGTH, line=b"POST " + PATH + b" http/1.1"),
    "version of another protocol": request(_LENGTH, line=b"POST " + PATH + b" RTSP/1.0"),
    "version with more digits": request(_LENGTH, line=b"POST " + PATH + b" HTTP/1.10"),
    "two spaces": request(_LENGTH, line=b"POST  " + PATH + b" HTTP/1.1"),
    "a tab": request(_LENGTH, line=b"POST\t" + PATH + b"\tHTTP/1.1"),
    "a space behind": request(_LENGTH, line=b"POST " + PATH + b" HTTP/1.1 " + CANARY),
    "a space before": b" " + request(_LENGTH),
    "a NUL before": b"\0" + request(_LENGTH),
    "an unknown method": _at(PATH, b"GARBLE"),
    "a method in lower case": _at(PATH, b"post"),
    "a method with a NUL": _at(PATH, b"PO\0ST"),
    "a method with a colon": _at(PATH, b"POST:"),
    "CONNECT": request(line=b"CONNECT model:443 HTTP/1.1", body=b""),
    "TRACE": request(_ODD, line=b"TRACE " + PATH + b" HTTP/1.1", body=b""),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + CANARY + bytes(range(40)),
    "nothing but zeros": bytes(4096),
    # the target
    "absolute-form": _at(b"http://model" + PATH),
    "absolute-form of another host": _at(b"http://169.254.169.254" + PATH),
    "authority-form": _at(b"model:80"),
    "asterisk-form": _at(b"*"),
    "no slash": _at(PATH[1:]),
    "two slashes before": _at(b"/" + PATH),
    "two slashes inside": _at(b"/v1//chat/completions"),
    "dot segments": _at(b"/v1/files/../chat/completions"),
    "one dot": _at(b"/v1/./chat/completions"),
    "encoded dots": _at(b"/v1/files/%2e%2e/chat/completions"),
    "encoded slash": _at(b"/v1%2fchat%2fcompletions"),
    "encoded letters": _at(b"/v1/chat/%63ompletions"),
    "encoded twice": _at(b"/v1/%252e%252e/chat/completions"),
    "encoded NUL": _at(PATH + b"%00"),
    "encoded line break": _at(PATH + b"%0d%0ax-odd:%20" + CANARY),
    "encoded badly": _at(PATH + b"%zz"),
    "backslashes": _at(b"/v1\\chat\\completions"),
    "a semicolon": _at(PATH + b";a=b"),
    "a fragment": _at(PATH + b"#a"),
    "a slash behind": _at(PATH + b"/"),
    "in upper case": _at(PATH.upper()),
    "a space in it": _at(PATH + b" " + CANARY),
    "a control character in it": _at(PATH + b"\x01"),
    "UTF-8 in it": _at(PATH + "é".encode()),
    "overlong UTF-8 in it": _at(b"/v1/files/\xc0\xae\xc0\xae/chat/completions"),
    "a long one": _at(PATH + b"?" + b"a" * 70_000),
    # bodies that end elsewhere than they say
    "cut off in its body": request(b"content-length: %d" % (len(BODY) + 10)),
    "cut off in its chunks": _chunked(b"%x\r\n%b" % (len(BODY), BODY)),
    "cut off before its last chunk": _chunked(b"%x\r\n%b\r\n" % (len(BODY), BODY)),
    "cut off in its head": request(_LENGTH)[:80],
    "no length at all": request(),
}
