"""An upstream's errors: what an app is told of them is short, on one line, and holds none of our secrets, whatever the upstream says.

Each `@` of an input stands for a secret, so that they are found in every place of a body.
"""

import orjson

from proxy.errors import ProxyError
from proxy.wire.failure import in_band_refusal, masked, public_body, stream_event, upstream_refusal
from tests.house import UPSTREAM_KEY

_HOST = "gateway-7.models.example.internal"
SECRETS = (UPSTREAM_KEY, f"http://{_HOST}:8443/v1", f"{_HOST}:8443", _HOST)
_STATUSES = (400, 401, 403, 404, 409, 413, 422, 429, 302, 500, 503, 600, 100)
SEEDS = (
    b'\0{"error":{"message":"Incorrect API key provided: @.","type":"invalid_request_error","param":"a[0]","code":"invalid_api_key"}}',
    b'\2{"error":"@ is not known"}',
    b'\7{"detail":"slow down, @","message":null}',
    b'\7{"error":{"message":"limit of organization org-Ab12Cd34Ef56 at @ ... sk-proj-***abc","code":"@","type":"@","param":"@"}}',
    b"\2<html>502 at @</html>",
    b'\3{"error":{"message":"\\u0073k-@ \\n\\u2028 \\ud83d\\ude00 http://@/x?y=@","code":429}}',
    b'\0{"error":{"message":"' + b"a " * 3000 + b'@"}}',
    b"\0[1,2]",
    b"\x08",
)


def one(data: bytes) -> None:
    """The target."""
    if not data:
        return
    status, raw = _STATUSES[data[0] % len(_STATUSES)], data[1:]
    for secret in SECRETS[:2]:
        body = raw.replace(b"@", secret.encode())
        headers = {"retry-after": "3", "content-type": "application/json"}
        error = upstream_refusal(status, body, headers, secrets=SECRETS)
        assert 400 <= error.status < 600
        _told(error)
        try:
            said = orjson.loads(body)
        except orjson.JSONDecodeError:
            said = body.decode("utf-8", "replace")
        _told(in_band_refusal(said, secrets=SECRETS))
        if isinstance(said, dict):
            _told(in_band_refusal(said.get("error"), secrets=SECRETS))
        text = masked(body.decode("utf-8", "replace"), SECRETS)
        assert not any(secret in text for secret in SECRETS)


def _told(error: ProxyError) -> None:
    """As the client hears of it: before its head, and in a stream."""
    body = public_body(error)
    told = orjson.loads(body)["error"]
    assert set(told) == {"message", "type", "param", "code"}
    assert "\n" not in told["message"]
    assert len(told["message"]) <= 2001
    for surface in ("chat", "responses"):
        event = stream_event(surface, error, sequence=7)
        assert event.endswith(b"\n\n")
        assert event.count(b"\n\n") == 1
        body += event
    for secret in SECRETS:
        assert secret.encode() not in body, f"{secret} in {body!r}"
