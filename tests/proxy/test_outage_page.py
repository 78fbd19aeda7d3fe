"""What a page about an upstream says, and that every sink can carry it."""

import json
from typing import Any

import orjson
import pytest

from proxy.outage import Outage, What
from proxy.outage_page import BEGAN, ENDED, NO_TIME_S, OutagePage, read_page
from proxy.sinks import Kind, render
from tests.pages import sink

AT_S = 1_800_000_000.0


def page(what: What = "credentials") -> OutagePage:
    return OutagePage.of(Outage("openai", what, ("bot",)), crossed_s=AT_S)


def ended(what: What = "credentials", *, removed: bool = False) -> OutagePage:
    return page(what).resolving(taken_s=AT_S + 1, lasts_s=0).ended(now_s=AT_S + 60, removed=removed)


def test_it_is_read_as_it_was_written() -> None:
    for one in (page(), page("down"), page().resolving(taken_s=AT_S, lasts_s=90), ended(), ended(removed=True)):
        assert read_page(one.write()) == one


@pytest.mark.parametrize(
    "change",
    [{"type": ENDED}, {"what": "flood"}, {"surprise": 1}, {"type": "upstream.other"}, {"id": None, "crossed_s": None, "type": 3}],
    ids=str,
)
def test_a_page_of_a_newer_version_is_no_page(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="page"):
        read_page(json.dumps({**json.loads(page().write()), **change}).encode())


def test_its_resolve_waits_without_a_time_and_is_due_once_it_is_over_and_was_heard_of() -> None:
    waiting = page().resolving(taken_s=AT_S + 1, lasts_s=90)
    assert (waiting.type, waiting.since_s, waiting.reopens) == (ENDED, NO_TIME_S, False)
    over = waiting.ended(now_s=AT_S + 5, removed=False)
    assert (over.since_s, over.reopens) == (AT_S + 91, True)
    assert waiting.ended(now_s=AT_S + 500, removed=False).since_s == AT_S + 500


@pytest.mark.parametrize(
    ("one", "headline"),
    [
        (page(), "Upstream 'openai' refuses our credentials"),
        (page("down"), "Upstream 'openai' failed call after call and is not asked"),
        (ended(), "Resolved: upstream 'openai' accepts our credentials again"),
        (ended("down"), "Resolved: upstream 'openai' answers again"),
        (ended(removed=True), "Resolved: the policy file no longer names upstream 'openai'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_says_what_is_wrong_and_where(one: OutagePage, headline: str) -> None:
    assert one.headline() == headline
    assert one.facts()["summary"] == headline


def test_it_says_since_when_what_follows_and_what_to_do() -> None:
    since, effect, remedy = page().lines()
    assert since == "Since 2027-01-15T08:00:00Z."
    assert effect == "Calls that go there fail with 502 upstream_credentials."
    assert "`api_key` of upstream 'openai'" in remedy
    assert ended().lines() == ("There is nothing to do.",)


@pytest.mark.parametrize("kind", ["webhook", "slack", "pagerduty", "alertmanager"])
@pytest.mark.parametrize("what", ["credentials", "down"])
def test_every_sink_takes_it_and_its_resolve(kind: Kind, what: What) -> None:
    bodies = [orjson.loads(render(sink("bot", kind=kind), one, now_s=AT_S + 60).body) for one in (page(what), ended(what))]
    began, over = bodies
    match kind:
        case "webhook":
            assert [body["type"] for body in bodies] == [BEGAN, ENDED]
            assert [body["timestamp"] for body in bodies] == ["2027-01-15T08:00:00Z", "2027-01-15T08:01:00Z"]
            assert over["data"]["reason"] == "upstream_answered"
        case "slack":
            assert "`openai`" in began["text"]
            assert over["text"].startswith("Resolved")
        case "pagerduty":
            assert [body["event_action"] for body in bodies] == ["trigger", "resolve"]
            assert began["dedup_key"] == over["dedup_key"] == f"tollhouse/upstream/openai/{what}"
            assert (began["payload"]["severity"], began["payload"]["component"]) == ("critical", "openai")
        case "alertmanager":
            assert began[0]["labels"] == over[0]["labels"]
            assert began[0]["labels"]["upstream"] == "openai"
            assert began[0]["endsAt"] > "2027-01-20"
            assert over[0]["endsAt"] == "2027-01-15T08:01:00Z"
            assert all(began[0]["annotations"].values())


def test_the_next_outage_has_another_webhook_id_and_another_try_has_the_same() -> None:
    def id_of(one: OutagePage, now_s: float) -> str:
        return render(sink("bot"), one, now_s=now_s).headers["webhook-id"]

    later = OutagePage.of(Outage("openai", "credentials", ("bot",)), crossed_s=AT_S + 1)
    assert id_of(page(), AT_S) == id_of(page(), AT_S + 99)
    assert len({id_of(page(), AT_S), id_of(later, AT_S), id_of(ended(), AT_S)}) == 3
