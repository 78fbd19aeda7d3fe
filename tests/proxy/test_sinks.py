"""Each kind of sink gets what its vendor documents. The receivers here accept nothing else."""

import base64
import hmac
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given
from hypothesis import strategies as st

from proxy.courier import Courier
from proxy.page import Page, severity
from proxy.policy.contract import Notice
from proxy.policy.sections import AlertmanagerSink, LogSink, PagerDutySink, SlackSink, WebhookSink
from proxy.sinks import PAGERDUTY_URL, Kind, Sink, render, sign, signing_key, sinks_of
from proxy.spenders import Top
from tests.clock import FakeClock

NOW_S = 1_795_340_060
ROUTING_KEY = "0123456789abcdef0123456789ABCDEF"
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
HOSTILE = "user=web/<!channel> & `*_~\u202e\x07</a>https://evil.example|" + "x" * 300
NOTICE = Notice(
    policy="everyone",
    subject="user=web/ada",
    threshold=80,
    spent_nanousd=40_120_000_000,
    limit_nanousd=50_000_000_000,
    window=(1_795_305_600, 1_795_392_000),
    to=(),
    refuses=True,
)


TOP = Top((("gpt-4.1", 30_120_000_000), ("o`3", 10_000_000_000)), (("web/ada", 40_120_000_000),), 40_120_000_000, None, 0)


def page(**changes: object) -> Page:
    return Page.of(NOTICE._replace(**changes), crossed_s=NOW_S - 60, top=TOP)


def turned(**changes: object) -> Page:
    """The resolve of a page whose window turned."""
    return page(**changes).resolving(taken_s=NOW_S - 30, lasts_s=0)


def raised(**changes: object) -> Page:
    """The resolve of a page whose budget was raised to 100 USD."""
    return turned(**changes).lifted(raised_nanousd=100_000_000_000, now_s=NOW_S)


def sink(kind: Kind, *, url: str = "https://sink.test/in") -> Sink:
    return Sink("oncall", kind=kind, url=url, secret={"pagerduty": ROUTING_KEY, "webhook": SECRET}.get(kind))


def body_of(kind: Kind, what: Page, *, now_s: float = NOW_S) -> Any:
    return orjson.loads(render(sink(kind), what, now_s=now_s).body)


# ---- strict receivers: what each vendor documents, and nothing else ----


async def pagerduty(request: web.Request) -> web.Response:
    """Events API v2. Source: facts on alert sinks, 1."""
    event = await request.json()
    payload = event.get("payload", {})
    if event.get("event_action") == "resolve":
        valid = set(event) == {"routing_key", "event_action", "dedup_key"} and re.fullmatch(
            r"[0-9A-Za-z]{32}", event["routing_key"]
        )
        return web.json_response(
            {"status": "success", "dedup_key": event["dedup_key"]} if valid else {}, status=202 if valid else 400
        )
    valid = (
        request.path == "/v2/enqueue"
        and request.content_type == "application/json"
        and re.fullmatch(r"[0-9A-Za-z]{32}", event.get("routing_key", ""))
        and event.get("event_action") == "trigger"
        and 0 < len(event.get("dedup_key", "").encode()) <= 255
        and 0 < len(payload.get("summary", "")) <= 1024
        and payload.get("source")
        and payload.get("severity") in ("critical", "error", "warning", "info")
        and RFC3339.fullmatch(payload.get("timestamp", ""))
        and set(payload) <= {"summary", "source", "severity", "timestamp", "component", "group", "class", "custom_details"}
        and set(event) <= {"routing_key", "event_action", "dedup_key", "client", "client_url", "payload", "links", "images"}
    )
    return web.json_response({"status": "success", "dedup_key": event["dedup_key"]} if valid else {}, status=202 if valid else 400)


async def slack(request: web.Request) -> web.Response:
    """Incoming webhook. Source: facts on alert sinks, 3."""
    message = await request.json()
    text = message.get("text", "")
    stray = re.search(r"[<>]|&(?!amp;|lt;|gt;)", text)
    valid = (
        request.content_type == "application/json" and set(message) <= {"text", "blocks"} and 0 < len(text) <= 4000 and not stray
    )
    return web.Response(text="ok" if valid else "invalid_payload", status=200 if valid else 400)


async def alertmanager(request: web.Request) -> web.Response:
    """POST /api/v2/alerts. Source: facts on alert sinks, 2."""
    alerts = await request.json()
    valid = (
        request.path == "/api/v2/alerts"
        and request.content_type == "application/json"
        and isinstance(alerts, list)
        and all(
            set(alert) <= {"labels", "annotations", "startsAt", "endsAt", "generatorURL"}
            and alert["labels"].get("alertname")
            and all(re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_]*", name) for name in (*alert["labels"], *alert["annotations"]))
            and all(isinstance(value, str) and value for value in (*alert["labels"].values(), *alert["annotations"].values()))
            and datetime.fromisoformat(alert["startsAt"]) <= datetime.fromisoformat(alert["endsAt"])
            for alert in alerts
        )
    )
    return web.Response(status=200 if valid else 400)


async def webhook(request: web.Request) -> web.Response:
    """Standard Webhooks, verified as a receiver should. Source: facts on alert sinks, 4."""
    body = await request.read()
    id, timestamp = request.headers["webhook-id"], request.headers["webhook-timestamp"]
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.new(key, f"{id}.{timestamp}.".encode() + body, sha256).digest()).decode()
    signatures = [part.partition(",") for part in request.headers["webhook-signature"].split(" ")]
    event = orjson.loads(body)
    valid = (
        request.content_type == "application/json"
        and "." not in id
        and abs(int(timestamp) - NOW_S) <= 300
        and any(version == "v1" and hmac.compare_digest(signature, expected) for version, _, signature in signatures)
        and set(event) == {"type", "timestamp", "data"}
        and re.fullmatch(r"[a-zA-Z0-9_]+(\.[a-zA-Z0-9_]+)*", event["type"])
        and RFC3339.fullmatch(event["timestamp"])
    )
    return web.Response(status=204 if valid else 400)


RECEIVERS: Mapping[Kind, tuple[str, Callable[[web.Request], Awaitable[web.Response]]]] = {
    "pagerduty": ("/v2/enqueue", pagerduty),
    "slack": ("/services/T0/B0/x", slack),
    "alertmanager": ("", alertmanager),
    "webhook": ("/pages", webhook),
}


@pytest.fixture
async def courier() -> AsyncIterator[Courier]:
    courier = Courier(FakeClock(wall_s=NOW_S))
    yield courier
    await courier.close()


@pytest.mark.parametrize(
    "what",
    [
        page(),
        page(threshold=1000, refuses=False),
        page(subject=HOSTILE),
        page(subject="everyone"),
        turned(),
        raised(),
        turned(subject=HOSTILE),
        raised(subject=HOSTILE),
    ],
)
@pytest.mark.parametrize("kind", RECEIVERS)
async def test_a_receiver_that_accepts_only_what_its_vendor_documents_accepts_the_page(
    kind: Kind, what: Page, courier: Courier
) -> None:
    path, receive = RECEIVERS[kind]
    app = web.Application()
    app.router.add_post("/{path:.*}", receive)
    async with TestServer(app) as server:
        post = render(sink(kind, url=str(server.make_url("")).rstrip("/") + path), what, now_s=NOW_S)
        status, _ = await courier.post(post.url, post.headers, post.body)
    assert 200 <= status < 300


# ---- webhook ----


def test_a_signature_agrees_with_the_known_answer_of_standard_webhooks() -> None:
    signature = sign(SECRET, id="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp_s=1614265330, body=b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_every_attempt_of_a_page_has_the_same_webhook_id_and_body_and_its_own_timestamp() -> None:
    first, later = (render(sink("webhook"), page(), now_s=now_s) for now_s in (NOW_S, NOW_S + 5.5))
    assert first.headers["webhook-id"] == later.headers["webhook-id"]
    assert first.body == later.body
    assert (first.headers["webhook-timestamp"], later.headers["webhook-timestamp"]) == (str(NOW_S), str(NOW_S + 5))
    assert first.headers["webhook-signature"] != later.headers["webhook-signature"]


def test_another_threshold_is_another_webhook_message() -> None:
    ids = {render(sink("webhook"), page(threshold=t), now_s=NOW_S).headers["webhook-id"] for t in (50, 80, 100)}
    assert len(ids) == 3


def test_without_a_secret_a_webhook_is_not_signed() -> None:
    post = render(Sink("team", kind="webhook", url="https://sink.test"), page(), now_s=NOW_S)
    assert set(post.headers) == {"content-type", "webhook-id", "webhook-timestamp"}


def test_a_webhook_says_what_happened_when_and_all_facts() -> None:
    assert body_of("webhook", page()) == {
        "type": "budget.threshold_crossed",
        "timestamp": "2026-11-22T09:33:20Z",
        "data": page().facts(),
    }


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        (SECRET, base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")),
        ("a plain text of 24 bytes", b"a plain text of 24 bytes"),
    ],
)
def test_a_signing_secret_is_standard_or_plain_text(secret: str, key: bytes) -> None:
    assert signing_key(secret) == key


@pytest.mark.parametrize("secret", ["", "short", "whsec_", "whsec_c2hvcnQ=", "whsec_this is not base64, not at all"])
def test_a_weak_or_broken_signing_secret_makes_no_sink_and_is_not_quoted(secret: str) -> None:
    with pytest.raises(ValueError) as caught:
        Sink("team", kind="webhook", url="https://sink.test", secret=secret)
    assert not secret or secret not in str(caught.value)


# ---- slack ----


def test_a_slack_message_reads_well() -> None:
    assert body_of("slack", page())["text"].split("\n") == [
        "Budget of policy 'everyone' crossed 80 %: `user=web/ada` spent 40.12 of 50 USD.",
        "Window: 2026-11-22T00:00:00Z to 2026-11-23T00:00:00Z.",
        "At this rate the budget is spent by 11:55 (UTC).",
        "Top models: `gpt-4.1` 30.12 USD (75 %), `o'3` 10 USD (25 %).",
        "Top users: `web/ada` 40.12 USD (100 %).",
        "Calls still pass; they are refused once it is spent. The window turns at 2026-11-23T00:00:00Z.",
        page().remedy(quote="`"),
    ]


def test_a_subject_cannot_mention_format_link_or_leave_its_quotes_in_slack() -> None:
    first = body_of("slack", page(subject=HOSTILE))["text"].split("\n")[0]
    quoted = first.partition("`")[2].rpartition("`")[0]
    assert quoted.startswith("user=web/&lt;!channel&gt; &amp; '*_~\ufffd\ufffd&lt;/a&gt;")
    assert "`" not in quoted


def test_no_name_of_a_spender_can_format_link_or_leave_its_quotes_in_slack() -> None:
    """Outside of quotes stands nothing that a client chose."""
    top = Top(((HOSTILE, 2),), ((HOSTILE, 2),), 2, None, 0)
    text = body_of("slack", Page.of(NOTICE._replace(subject=HOSTILE), crossed_s=NOW_S, top=top))["text"]
    own = "".join(text.split("`")[::2])
    assert text.count("`") == 2 * 6  # subject, model, user, both once more in what to do, and `usd`
    assert "evil" not in own
    assert "&" not in own


# ---- pagerduty ----


def test_a_pagerduty_event_names_the_alarm_deterministically() -> None:
    assert body_of("pagerduty", page()) == {
        "routing_key": ROUTING_KEY,
        "event_action": "trigger",
        "dedup_key": "tollhouse/budget/everyone/user=web/ada/1795305600/80",
        "client": "Tollhouse",
        "payload": {
            "summary": page().headline(),
            "source": "tollhouse",
            "severity": "warning",
            "timestamp": "2026-11-22T09:33:20Z",
            "component": "everyone",
            "class": "budget.threshold_crossed",
            "custom_details": page().facts(),
        },
    }


@pytest.mark.parametrize(
    ("threshold", "word"), [(1, "info"), (79, "info"), (80, "warning"), (99, "warning"), (100, "critical"), (1000, "critical")]
)
def test_the_severity_follows_the_threshold(threshold: int, word: str) -> None:
    assert severity(threshold) == word


def test_dedup_keys_of_two_long_subjects_fit_and_differ() -> None:
    keys = [body_of("pagerduty", page(subject="u" * 400 + end))["dedup_key"] for end in "ab"]
    assert [len(key) for key in keys] == [255, 255]
    assert keys[0] != keys[1]


# ---- alertmanager ----


def test_an_alert_is_known_by_its_labels_and_carries_amounts_only_beside_them() -> None:
    early, late = (body_of("alertmanager", page(spent_nanousd=spent))[0] for spent in (40_120_000_000, 49_000_000_000))
    assert early["labels"] == late["labels"]
    assert early["annotations"]["forecast"] == "At this rate the budget is spent by 11:55 (UTC)."
    assert early["annotations"]["top_users"] == "Top users: web/ada 40.12 USD (100 %)."
    assert early["labels"] == {
        "alertname": "TollhouseBudgetThresholdCrossed",
        "policy": "everyone",
        "subject": "user=web/ada",
        "threshold": "80%",
        "window": "2026-11-22T00:00:00Z",
        "severity": "warning",
    }
    assert (early["annotations"]["spent_usd"], late["annotations"]["spent_usd"]) == ("40.12", "49")


@pytest.mark.parametrize(
    "changes", [{"threshold": 50}, {"policy": "batch"}, {"subject": "everyone"}, {"window": (1_795_392_000, 1_795_478_400)}]
)
def test_another_threshold_policy_subject_or_window_is_another_alert(changes: dict[str, object]) -> None:
    assert body_of("alertmanager", page(**changes))[0]["labels"] != body_of("alertmanager", page())[0]["labels"]


def test_an_alert_lasts_until_its_window_turns() -> None:
    alert = body_of("alertmanager", page())[0]
    assert (alert["startsAt"], alert["endsAt"]) == ("2026-11-22T09:33:20Z", "2026-11-23T00:00:00Z")


def test_an_alert_that_is_late_still_lasts_long_enough_to_be_told() -> None:
    alert = body_of("alertmanager", page(), now_s=1_795_392_000 + 3600)[0]
    assert alert["endsAt"] == "2026-11-23T01:01:30Z"


def test_an_alert_is_not_from_the_future_when_the_clock_was_set_back() -> None:
    alert = body_of("alertmanager", page(), now_s=NOW_S - 7200)[0]
    assert alert["startsAt"] == "2026-11-22T07:34:20Z"


@pytest.mark.parametrize("url", ["http://am:9093", "http://am:9093/", "http://am:9093/api/v2/alerts"])
def test_alertmanager_is_given_by_its_address_or_by_the_whole_url(url: str) -> None:
    assert render(Sink("am", kind="alertmanager", url=url), page(), now_s=NOW_S).url == "http://am:9093/api/v2/alerts"


# ---- resolved ----


def test_pagerduty_resolves_the_incident_that_the_page_opened() -> None:
    opened = body_of("pagerduty", page())
    for resolve in (turned(), raised()):
        assert body_of("pagerduty", resolve) == {
            "routing_key": ROUTING_KEY,
            "event_action": "resolve",
            "dedup_key": opened["dedup_key"],
        }


def test_alertmanager_resolves_the_alert_of_the_same_labels_now() -> None:
    alert = body_of("alertmanager", raised())[0]
    assert alert["labels"] == body_of("alertmanager", page())[0]["labels"]
    assert (alert["startsAt"], alert["endsAt"]) == ("2026-11-22T09:33:20Z", "2026-11-22T09:34:20Z")


def test_a_webhook_of_a_resolve_has_a_type_an_id_and_a_time_of_its_own() -> None:
    first, second = (render(sink("webhook"), what, now_s=NOW_S) for what in (page(), turned()))
    assert first.headers["webhook-id"] != second.headers["webhook-id"]
    assert orjson.loads(second.body) == {
        "type": "budget.threshold_resolved",
        "timestamp": "2026-11-23T00:00:00Z",
        "data": turned().facts(),
    }


def test_a_threshold_that_is_crossed_again_under_a_larger_budget_is_another_webhook_message() -> None:
    first, second = (render(sink("webhook"), page(limit_nanousd=limit), now_s=NOW_S) for limit in (50 * 10**9, 100 * 10**9))
    assert first.headers["webhook-id"] != second.headers["webhook-id"]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        (
            turned(),
            [
                "Resolved: the window is over in which `user=web/ada` crossed 80 % of the budget of policy 'everyone'.",
                "A new window began at 2026-11-23T00:00:00Z, with nothing spent. There is nothing to do.",
            ],
        ),
        (
            raised(),
            [
                "Resolved: `user=web/ada` is below 80 % of the budget of policy 'everyone' again, as it was raised from 50 to 100 USD.",
                "The threshold pages again when it is crossed under the new budget. The window turns at 2026-11-23T00:00:00Z.",
            ],
        ),
    ],
)
def test_slack_is_told_that_it_is_over_and_why(what: Page, says: list[str]) -> None:
    assert body_of("slack", what)["text"].split("\n") == says


# ---- all of them ----


@given(subject=st.text(st.characters(categories=None), max_size=400))
@pytest.mark.parametrize("kind", RECEIVERS)
def test_any_subject_makes_a_request_of_printable_ascii_headers_and_valid_json(kind: Kind, subject: str) -> None:
    post = render(sink(kind), page(subject=subject), now_s=NOW_S)
    orjson.loads(post.body)
    assert all(value.isascii() and value.isprintable() for value in post.headers.values())


@pytest.mark.parametrize("kind", RECEIVERS)
def test_neither_a_sink_nor_a_request_shows_its_url_or_secret(kind: Kind) -> None:
    target = sink(kind, url="https://hooks.test/services/T0/B0/credential")
    shown = repr(target) + repr(render(target, page(), now_s=NOW_S))
    assert "hooks.test" not in shown
    assert ROUTING_KEY not in shown
    assert SECRET not in shown
    assert "oncall" in shown


@pytest.mark.parametrize("kind", ["webhook", "slack", "alertmanager", "pagerduty"])
def test_a_sink_without_what_it_needs_does_not_exist(kind: Kind) -> None:
    with pytest.raises(ValueError, match="'oncall' needs"):
        Sink("oncall", kind=kind)


def test_the_targets_of_a_policy_file_become_sinks() -> None:
    pages = {
        "audit": LogSink(),
        "bot": WebhookSink(url="https://bot.test", secret=SECRET),
        "team": SlackSink(url="https://hooks.test/x"),
        "oncall": PagerDutySink(routing_key=ROUTING_KEY),
        "europe": PagerDutySink(routing_key=ROUTING_KEY, url="https://events.eu.pagerduty.com/v2/enqueue"),
        "ops": AlertmanagerSink(url="http://am:9093"),
    }
    assert sinks_of(pages) == {
        "audit": Sink("audit", kind="log"),
        "bot": Sink("bot", kind="webhook", url="https://bot.test", secret=SECRET),
        "team": Sink("team", kind="slack", url="https://hooks.test/x"),
        "oncall": Sink("oncall", kind="pagerduty", url=PAGERDUTY_URL, secret=ROUTING_KEY),
        "europe": Sink("europe", kind="pagerduty", url="https://events.eu.pagerduty.com/v2/enqueue", secret=ROUTING_KEY),
        "ops": Sink("ops", kind="alertmanager", url="http://am:9093"),
    }
