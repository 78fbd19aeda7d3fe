"""Pages to deliver: each once, until a sink took it. Over each store."""

from proxy.state.contract import Delivery
from proxy.state.memory import MemoryStore
from proxy.state.sqlite import SqliteStore
from tests.clock import FakeClock

Outbox = MemoryStore | SqliteStore

DAY = 86_400


def page(name: str, *, due_s: float = 0.0, sink: str = "oncall") -> Delivery:
    return Delivery(id=f"tollhouse/budget/{name}/{sink}", sink=sink, body=b'{"threshold":80}', due_s=due_s)


async def test_a_page_is_queued_once(store: Outbox) -> None:
    assert await store.put([page("a"), page("b"), page("a")]) == 2
    assert await store.put([page("a"), page("c")]) == 1
    assert [delivery.id for delivery in await store.due(1.0)] == [page(name).id for name in "abc"]


async def test_a_page_to_two_sinks_is_two_deliveries(store: Outbox) -> None:
    assert await store.put([page("a"), page("a", sink="team")]) == 2


async def test_pages_come_as_they_were_put(store: Outbox) -> None:
    await store.put([page("a", due_s=0.5)])
    assert await store.due(1.0) == (page("a", due_s=0.5),)


async def test_pages_that_are_due_come_oldest_first_and_no_more_than_asked(store: Outbox) -> None:
    await store.put([page("later", due_s=30.0), page("second", due_s=20.0), page("first", due_s=10.0), page("third", due_s=20.0)])
    assert [delivery.id for delivery in await store.due(20.0)] == [page(name).id for name in ("first", "second", "third")]
    assert [delivery.id for delivery in await store.due(99.0, most=1)] == [page("first").id]
    assert await store.due(9.9) == ()


async def test_a_failed_attempt_is_counted_and_comes_again_when_told(store: Outbox) -> None:
    await store.put([page("a")])
    await store.retry(page("a").id, due_s=60.0)
    assert await store.due(59.0) == ()
    (delivery,) = await store.due(60.0)
    assert (delivery.attempts, delivery.due_s) == (1, 60.0)


async def test_a_delivered_page_is_never_due_and_never_queued_again(store: Outbox) -> None:
    await store.put([page("a")])
    await store.done(page("a").id)
    assert await store.due(1e12) == ()
    assert await store.put([page("a")]) == 0
    await store.retry(page("a").id, due_s=0.0)
    assert await store.due(1e12) == ()


async def test_a_delivered_id_is_known_for_40_days_and_then_forgotten(store: Outbox, clock: FakeClock) -> None:
    await store.put([page("a"), page("waiting")])
    await store.done(page("a").id)
    clock.advance(40 * DAY)
    assert await store.put([page("a")]) == 0
    clock.advance(1)
    assert await store.put([page("b")]) == 1
    assert await store.put([page("a"), page("waiting")]) == 1


async def test_what_follows_from_a_delivered_page_is_queued_in_the_same_step_and_once(store: Outbox) -> None:
    await store.put([page("a")])
    follows = page("a/resolved", due_s=50.0)
    for _ in range(2):
        await store.done(page("a").id, then=follows)
    assert await store.due(49.0) == ()
    assert await store.due(50.0) == (follows,)
    await store.done(follows.id)
    await store.done(page("a").id, then=follows)
    assert await store.due(1e12) == ()


async def test_a_page_that_is_forgotten_when_another_is_done_may_be_queued_anew(store: Outbox) -> None:
    await store.put([page("a"), page("b")])
    await store.done(page("a").id, then=page("a/resolved"))
    await store.done(page("a/resolved").id, forget=(page("a/resolved").id, page("a").id))
    assert await store.put([page("a"), page("b")]) == 1


async def test_a_waiting_page_can_be_given_another_body_and_time_and_a_delivered_one_cannot(store: Outbox) -> None:
    await store.put([page("a", due_s=50.0), page("b")])
    await store.done(page("b").id)
    for name in "abc":
        await store.replace(Delivery(page(name).id, "oncall", b"{}", due_s=10.0))
    assert await store.due(1e12) == (Delivery(page("a").id, "oncall", b"{}", due_s=10.0),)


async def test_an_unknown_id_is_nobodys_page(store: Outbox) -> None:
    await store.retry("unknown", due_s=0.0)
    await store.done("unknown")
    assert await store.due(1e12) == ()


async def test_pages_to_a_sink_that_rests_are_passed_over(store: Outbox) -> None:
    await store.put([page("a", sink="down"), page("b"), page("c", sink="down")])
    assert [delivery.id for delivery in await store.due(1.0, skip={"down"})] == [page("b").id]
    assert await store.due(1.0, skip=["down", "oncall"]) == ()


async def test_what_waits_is_found_by_how_its_id_begins_whenever_it_is_due(store: Outbox) -> None:
    await store.put([page("a", due_s=9e9), page("b"), page("done"), Delivery("tollhouse/budget", "oncall", b"{}", due_s=0.0)])
    await store.put([Delivery("tollhouse/upstream/up/down/oncall", "oncall", b"{}", due_s=9e9, attempts=0)])
    await store.done(page("done").id)
    assert [one.id for one in await store.under("tollhouse/upstream/")] == ["tollhouse/upstream/up/down/oncall"]
    assert await store.under("tollhouse/budget/") == (page("a", due_s=9e9), page("b"))
    assert await store.under("tollhouse/budget/c") == ()
