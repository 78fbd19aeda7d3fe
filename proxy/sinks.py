"""Who is paged, and how each kind of sink wants a page: a page in, one HTTP request out.

Pure: no clock, no sockets, no randomness. The rule a reader could break: the URL of a Slack or webhook sink is a credential like a
routing key, so neither a sink nor a request shows one in its `repr`.
"""

import base64
import binascii
import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

import orjson

from proxy.outage_page import AnyPage
from proxy.page import rfc3339
from proxy.policy.sections import AlertmanagerSink, LogSink, PagerDutySink, PageSink, SlackSink, WebhookSink

Kind = Literal["log", "webhook", "slack", "pagerduty", "alertmanager"]

PAGERDUTY_URL = "https://events.pagerduty.com/v2/enqueue"
_ALERTS_PATH = "/api/v2/alerts"

# A key must not be guessable from the pages it signed. Standard Webhooks asks for 24 random bytes; HMAC-SHA256 uses at most 64 as is.
LEAST_SECRET_BYTES = 24
# Alertmanager forgets an alert at its end. One that is sent late, or just before the window turns, must outlive `group_wait` (30 s
# unless set otherwise), or it resolves before anybody heard of it.
LEAST_ALERT_S = 90
_MOST_SUMMARY_CHARS = 1024  # PagerDuty, payload.summary


@dataclass(frozen=True, slots=True)
class Sink:
    """One target under `pages`. A PagerDuty sink needs no URL, a log sink nothing.

    url: where to post, for Alertmanager its address; secret: PagerDuty's routing key, or what signs a webhook: `whsec_` and base64,
    or plain text of at least 24 bytes. Errors: ValueError, which quotes neither.
    """

    name: str
    kind: Kind
    url: str = field(default="", repr=False)
    secret: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.kind in ("webhook", "slack", "alertmanager") and not self.url:
            raise ValueError(f"sink {self.name!r} needs a URL")
        if self.kind == "pagerduty" and not self.secret:
            raise ValueError(f"sink {self.name!r} needs a routing key")
        if self.kind == "webhook" and self.secret is not None:
            signing_key(self.secret)


@dataclass(frozen=True, slots=True)
class Post:
    """One HTTP request to a sink."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


def sinks_of(pages: Mapping[str, PageSink]) -> dict[str, Sink]:
    """The sinks of a policy file's `pages`, by name."""
    return {name: _sink(name, page) for name, page in pages.items()}


def _sink(name: str, page: PageSink) -> Sink:
    match page:
        case LogSink():
            return Sink(name, kind="log")
        case WebhookSink(url=url, secret=secret):
            return Sink(name, kind="webhook", url=url, secret=secret)
        case SlackSink(url=url):
            return Sink(name, kind="slack", url=url)
        case PagerDutySink(routing_key=routing_key, url=url):
            return Sink(name, kind="pagerduty", url=url or PAGERDUTY_URL, secret=routing_key)
        case AlertmanagerSink(url=url):
            return Sink(name, kind="alertmanager", url=url)


def render(sink: Sink, page: AnyPage, *, now_s: float) -> Post:
    """The request that delivers `page`. sink: of any kind but log. now_s: epoch seconds of this attempt."""
    return _RENDER[sink.kind](sink, page, now_s)


def signing_key(secret: str) -> bytes:
    """The bytes that sign. Errors: ValueError, without the secret."""
    encoded = secret.removeprefix("whsec_")
    try:
        key = secret.encode() if encoded == secret else base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise ValueError("what follows `whsec_` is not base64") from None
    if len(key) < LEAST_SECRET_BYTES:
        raise ValueError(f"a signing secret has at least {LEAST_SECRET_BYTES} bytes")
    return key


def sign(secret: str, *, id: str, timestamp_s: int, body: bytes) -> str:
    """The `webhook-signature` of a message. Source: Standard Webhooks, symmetric signatures (v1)."""
    signed = f"{id}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(signing_key(secret), signed, "sha256")).decode()


def _webhook(sink: Sink, page: AnyPage, now_s: float) -> Post:
    # The same for every attempt, also of another replica: receivers tell repeats by it. Hashed, as it must hold no dot of a client's.
    id = "msg_" + sha256(f"{page.type} {page.key}".encode()).hexdigest()[:32]
    timestamp_s = int(now_s)
    body = orjson.dumps({"type": page.type, "timestamp": rfc3339(page.since_s), "data": page.facts()})
    headers = {"webhook-id": id, "webhook-timestamp": str(timestamp_s)}
    if sink.secret is not None:
        headers["webhook-signature"] = sign(sink.secret, id=id, timestamp_s=timestamp_s, body=body)
    return _post(sink.url, body, headers)


def _slack(sink: Sink, page: AnyPage, now_s: float) -> Post:
    # The subject stands as code, where Slack reads neither mentions nor emphasis nor links; a backtick would end that.
    subject = "`" + page.subject.replace("`", "'") + "`"
    text = "\n".join((f"{page.headline(subject=subject)}.", *page.lines(quote="`")))
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _post(sink.url, orjson.dumps({"text": escaped}))


def _pagerduty(sink: Sink, page: AnyPage, now_s: float) -> Post:
    event: dict[str, Any] = {"routing_key": sink.secret, "event_action": "resolve", "dedup_key": page.id}
    if page.resolved_s is None:
        event["event_action"] = "trigger"
        event["client"] = "Tollhouse"
        event["payload"] = {
            "summary": page.headline()[:_MOST_SUMMARY_CHARS],
            "source": "tollhouse",
            "severity": page.severity,
            "timestamp": rfc3339(page.crossed_s),
            "component": page.component,
            "class": page.type,
            "custom_details": page.facts(),
        }
    return _post(sink.url or PAGERDUTY_URL, orjson.dumps(event))


def _alertmanager(sink: Sink, page: AnyPage, now_s: float) -> Post:
    alert: dict[str, Any] = {
        "labels": page.labels,
        # An annotation that is empty is a mistake to Alertmanager.
        "annotations": {name: text for name, text in page.annotations.items() if text},
        "startsAt": rfc3339(min(page.crossed_s, now_s)),
        # Until then it fires without being sent again.
        "endsAt": rfc3339(now_s if page.resolved_s is not None else max(page.ends_s, now_s + LEAST_ALERT_S)),
    }
    base = sink.url.rstrip("/").removesuffix(_ALERTS_PATH)
    return _post(base + _ALERTS_PATH, orjson.dumps([alert]))


def _post(url: str, body: bytes, headers: Mapping[str, str] | None = None) -> Post:
    return Post(url, headers={"content-type": "application/json", **(headers or {})}, body=body)


_RENDER: Mapping[Kind, Callable[[Sink, AnyPage, float], Post]] = {
    "webhook": _webhook,
    "slack": _slack,
    "pagerduty": _pagerduty,
    "alertmanager": _alertmanager,
}
