"""The other end of every page: receivers that take nothing but what their vendor documents, and tell repeats as he does.

PagerDuty: one incident a dedup_key while it is open; a trigger after its resolve opens another.
Standard Webhooks: one event a webhook-id; the signature must be right and the time near.
Slack: every message is one.
Alertmanager: its own notifications, which come here as a webhook.
"""

import asyncio
import base64
import hmac
import json
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Self

from aiohttp import web

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
ROUTING_KEY = "0123456789abcdef0123456789ABCDEF"
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
CROSSED, RESOLVED = "crossed", "resolved"
THRESHOLDS = (50, 80, 100)
Told = tuple[str, int, str]  # user, threshold, crossed or resolved

_SLACK = re.compile(r"^(Budget of policy 'spenders' crossed|Resolved: ).*", re.DOTALL)


class Vendors:
    """One HTTP server on loopback. pages: how many of each a person got, by receiver. requests: how many came, repeats included.

    wrong: requests that a vendor would not have taken. fails: how many of a hundred requests are answered 503, untaken.
    """

    def __init__(self, *, seed: int, fails: int) -> None:
        self.pages: defaultdict[str, Counter[Told]] = defaultdict(Counter)
        self.order: defaultdict[str, list[Told]] = defaultdict(list)
        self.requests: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.url = ""
        self.now_s: dict[str, float] = {}  # what each user's process takes for now: its webhooks' timestamps are near
        self.told = asyncio.Condition()
        self._open: set[str] = set()  # incidents
        self._events: dict[str, bytes] = {}  # webhook-id → body
        self._random = random.Random(seed)
        self._fails = fails
        application = web.Application(client_max_size=2**26)
        for path, take in (
            ("/pagerduty/v2/enqueue", self._pagerduty),
            ("/slack", self._slack),
            ("/webhook", self._webhook),
            ("/alertmanager", self._alertmanager),
        ):
            application.router.add_post(path, take)
        self._runner = web.AppRunner(application, access_log=None)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._runner.cleanup()

    def sinks(self) -> list[tuple[str, str, str, str | None]]:
        """Those that Tollhouse speaks to here."""
        return [
            ("pagerduty", "pagerduty", f"{self.url}/pagerduty/v2/enqueue", ROUTING_KEY),
            ("slack", "slack", f"{self.url}/slack", None),
            ("webhook", "webhook", f"{self.url}/webhook", SECRET),
        ]

    def _tell(self, receiver: str, told: Told) -> None:
        self.pages[receiver][told] += 1
        self.order[receiver].append(told)

    def _refuse(self, receiver: str, why: str) -> web.Response:
        self.wrong.append(f"{receiver}: {why}")
        return web.Response(status=400)

    def _unwell(self, receiver: str) -> bool:
        self.requests[receiver] += 1
        return self._random.randrange(100) < self._fails

    async def _pagerduty(self, request: web.Request) -> web.Response:
        if self._unwell("pagerduty"):
            return web.Response(status=503)
        event = await request.json()
        action, key = event.get("event_action"), event.get("dedup_key", "")
        fields = {"routing_key", "event_action", "dedup_key"} | ({"client", "payload"} if action == "trigger" else set())
        if request.content_type != "application/json" or set(event) != fields or event["routing_key"] != ROUTING_KEY:
            return self._refuse("pagerduty", f"fields {sorted(event)}")
        told = _told(key)
        if told is None or len(key.encode()) > 255:
            return self._refuse("pagerduty", f"dedup_key {key}")
        if action == "trigger":
            payload = event["payload"]
            if not (
                0 < len(payload["summary"]) <= 1024
                and payload["source"]
                and payload["severity"] in ("critical", "error", "warning", "info")
                and RFC3339.fullmatch(payload["timestamp"])
                and (payload["custom_details"]["top_users"] or "Find who spends" in payload["custom_details"]["remedy"])
            ):
                return self._refuse("pagerduty", f"payload {payload}")
            if key not in self._open:
                self._open.add(key)
                self._tell("pagerduty", (*told, CROSSED))
        elif action == "resolve":
            if key in self._open:
                self._open.discard(key)
                self._tell("pagerduty", (*told, RESOLVED))
        else:
            return self._refuse("pagerduty", f"event_action {action}")
        return web.json_response({"status": "success", "message": "Event processed", "dedup_key": key}, status=202)

    async def _webhook(self, request: web.Request) -> web.Response:
        if self._unwell("webhook"):
            return web.Response(status=503)
        body = await request.read()
        id, timestamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
        signed = f"{id}.{timestamp}.".encode() + body
        right = base64.b64encode(hmac.new(base64.b64decode(SECRET.removeprefix("whsec_")), signed, sha256).digest()).decode()
        if not any(hmac.compare_digest(one, f"v1,{right}") for one in request.headers["webhook-signature"].split(" ")):
            return self._refuse("webhook", "signature")
        event = json.loads(body)
        word = {"budget.threshold_crossed": CROSSED, "budget.threshold_resolved": RESOLVED}.get(event["type"])
        told = _told(event["data"]["id"])
        if "." in id or told is None or abs(float(timestamp) - self.now_s[told[0]]) > 300:
            return self._refuse("webhook", f"id {id} or timestamp {timestamp}")
        if set(event) != {"type", "timestamp", "data"} or word is None or not RFC3339.fullmatch(event["timestamp"]):
            return self._refuse("webhook", f"event {event}")
        if id not in self._events:
            self._events[id] = body
            self._tell("webhook", (*told, word))
        elif self._events[id] != body:
            return self._refuse("webhook", f"another body under {id}")
        return web.Response(status=204)

    async def _slack(self, request: web.Request) -> web.Response:
        if self._unwell("slack"):
            return web.Response(status=503)
        message = await request.json()
        text = message.get("text", "")
        named = re.search(r"`user=web/([\w-]+)`", text)
        percent = re.search(r"(\d+) %", text)
        if set(message) != {"text"} or not _SLACK.match(text) or named is None or percent is None or re.search(r"[<>]", text):
            return self._refuse("slack", text)
        self._tell("slack", (named[1], int(percent[1]), RESOLVED if text.startswith("Resolved") else CROSSED))
        return web.Response(text="ok")

    async def _alertmanager(self, request: web.Request) -> web.Response:
        """What a real Alertmanager has to say to whoever is on call."""
        self.requests["alertmanager"] += 1
        for alert in (await request.json())["alerts"]:
            labels: dict[str, Any] = alert["labels"]
            user = labels["subject"].removeprefix("user=").removeprefix("web/")
            word = {"firing": CROSSED, "resolved": RESOLVED}[alert["status"]]
            self._tell("alertmanager", (user, int(labels["threshold"].rstrip("%")), word))
        async with self.told:
            self.told.notify_all()
        return web.Response()

    async def heard(self, users: Sequence[str], word: str) -> None:
        """Wait until Alertmanager has told of every threshold of these users."""
        pages = self.pages["alertmanager"]
        wanted = [(user, threshold, word) for user in users for threshold in THRESHOLDS]
        async with self.told:
            await self.told.wait_for(lambda: all(pages[told] for told in wanted))


def _told(key: str) -> tuple[str, int] | None:
    found = re.fullmatch(r"tollhouse/budget/spenders/user=web/([\w-]+)/\d+/(\d+)", key)
    return None if found is None else (found[1], int(found[2]))
