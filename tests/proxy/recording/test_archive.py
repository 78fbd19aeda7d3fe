"""All recordings: found by their owner alone, bounded in bytes, and nobody's flood is another's loss."""

import os
import tracemalloc

import pytest

from proxy.errors import Refusal
from proxy.recording.archive import LEAST_BYTES, MOST_READERS, Archive
from proxy.recording.recording import OWN_BYTES, Recording
from tests.proxy.recording.records import FACTS, JSON, OWNER, recording, terms

KEYS = int(os.environ.get("TOLLHOUSE_TEST_KEYS", "30000"))
BOB = ("app", "bob")


class Shelf:
    """An archive, and what it forgot."""

    def __init__(self) -> None:
        self.forgotten: list[tuple[str, str]] = []
        self.archive = Archive(lambda gone, why: self.forgotten.append((gone.id, why)))

    def run(self, number: int, size: int = 0, **fields: object) -> Recording:
        made = recording(number, **fields)
        self.archive.add(made)
        made.begin(JSON)
        self.grow(made, size)
        return made

    def grow(self, made: Recording, size: int) -> None:
        if size:
            made.add(b"x" * size)
            self.archive.grew(made)

    def keep(self, number: int, size: int = 0, *, at_s: float = 100.0, frees_key: bool = False, **fields: object) -> Recording:
        made = self.run(number, size, **fields)
        made.finish()
        made.end("completed", FACTS)
        self.archive.ended(made, expires_s=at_s, frees_key=frees_key)
        return made


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


def test_a_recording_exists_for_its_owner_alone(shelf: Shelf) -> None:
    made = shelf.keep(1, claim="k")
    assert shelf.archive.find(made.id, OWNER) is made
    assert shelf.archive.claimed(OWNER, "k") is made
    for other in (BOB, ("other", "ada")):
        assert shelf.archive.find(made.id, other) is None
        assert shelf.archive.claimed(other, "k") is None


def test_a_key_that_was_freed_is_free_and_its_recording_still_there(shelf: Shelf) -> None:
    made = shelf.keep(1, claim="k", frees_key=True)
    assert shelf.archive.claimed(OWNER, "k") is None
    assert shelf.archive.find(made.id, OWNER) is made
    again = shelf.run(2, claim="k")
    assert shelf.archive.claimed(OWNER, "k") is again


def test_it_goes_when_its_time_is_over(shelf: Shelf) -> None:
    made, later = shelf.keep(1, claim="k", at_s=100.0), shelf.keep(2, at_s=200.0)
    shelf.archive.expire(99.0)
    assert shelf.archive.find(made.id, OWNER) is made
    shelf.archive.expire(100.0)
    assert shelf.archive.find(made.id, OWNER) is shelf.archive.claimed(OWNER, "k") is None
    assert shelf.archive.find(later.id, OWNER) is later
    assert shelf.forgotten == [(made.id, "expired")]


def test_beyond_its_bound_a_pool_forgets_what_was_unread_for_longest(shelf: Shelf) -> None:
    bound = terms(most_bytes=1 << 20, most_total=5 << 20)
    kept = [shelf.keep(n, 900_000, terms=bound) for n in range(5)]
    shelf.archive.attach(kept[0])
    shelf.archive.detach(kept[0], 0.0)
    newest = shelf.keep(9, 900_000, terms=bound)
    assert [id for id, why in shelf.forgotten if why == "evicted"] == [kept[1].id]
    assert shelf.archive.find(kept[0].id, OWNER)
    assert shelf.archive.find(newest.id, OWNER)
    assert shelf.archive.size <= 5 << 20


def test_what_runs_and_what_is_read_is_never_evicted(shelf: Shelf) -> None:
    bound = terms(most_bytes=1 << 20, most_total=3 << 20)
    running = shelf.run(1, 900_000, terms=bound)
    read = shelf.keep(2, 900_000, terms=bound)
    shelf.archive.attach(read)
    for n in range(10, 30):
        shelf.keep(n, 900_000, terms=bound)
    assert shelf.archive.find(running.id, OWNER) is running
    assert shelf.archive.find(read.id, OWNER) is read
    assert not running.gap(0)
    assert shelf.archive.size <= 3 << 20


def test_a_flood_of_one_user_pushes_out_his_own(shelf: Shelf) -> None:
    bound = terms(most_bytes=1 << 20, most_total=8 << 20)
    bobs = [shelf.keep(n, 500_000, terms=bound, owner=BOB) for n in range(8)]
    for n in range(100, 300):
        shelf.keep(n, 500_000, terms=bound)
    left = [made for made in bobs if shelf.archive.find(made.id, BOB)]
    assert left == bobs
    assert shelf.archive.size <= 8 << 20


def test_a_recording_that_is_too_long_loses_its_beginning(shelf: Shelf) -> None:
    made = shelf.run(1, terms=terms(most_bytes=100_000))
    for _ in range(30):
        shelf.grow(made, 10_000)
    assert made.gap(0)
    assert made.size <= 100_000
    assert ("trimmed" in {why for _, why in shelf.forgotten}) is True


def test_running_ones_share_a_full_pool_and_keep_their_ends(shelf: Shelf) -> None:
    bound = terms(most_bytes=1 << 20, most_total=1 << 20, most_running=100)
    running: list[Recording] = []

    def flood() -> None:
        for n in range(100):
            running.append(shelf.run(n, terms=bound))
            for made in running:
                shelf.grow(made, 20_000)

    with pytest.raises(Refusal) as error:
        flood()
    assert error.value.code == "recording_limit_exceeded"
    assert len(running) == (1 << 20) // LEAST_BYTES
    assert all(shelf.archive.find(made.id, OWNER) for made in running)
    assert all(made.pieces(made.last - 1) for made in running), "nobody lost his end"
    assert shelf.archive.size <= (1 << 20) + len(running) * LEAST_BYTES


def test_so_many_of_one_user_run_at_once(shelf: Shelf) -> None:
    few = terms(most_running=2)
    first = shelf.run(1, terms=few)
    shelf.run(2, terms=few)
    with pytest.raises(Refusal):
        shelf.run(3, terms=few)
    shelf.run(4, terms=few, owner=BOB)
    first.end("completed", FACTS)
    shelf.archive.ended(first, expires_s=1.0, frees_key=False)
    shelf.run(5, terms=few)


def test_so_many_read_at_once(shelf: Shelf) -> None:
    made, bobs = shelf.keep(1), shelf.keep(2, owner=BOB)
    for _ in range(MOST_READERS):
        shelf.archive.attach(made)
    with pytest.raises(Refusal):
        shelf.archive.attach(made)
    shelf.archive.attach(bobs)
    shelf.archive.detach(made, 0.0)
    shelf.archive.attach(made)


def test_whoever_reads_what_is_forgotten_reads_on(shelf: Shelf) -> None:
    made = shelf.keep(1, 1000, at_s=10.0)
    shelf.archive.attach(made)
    shelf.archive.expire(11.0)
    assert made.forgotten
    assert made.pieces(0) == [b"x" * 1000]
    assert shelf.archive.size == made.size, "what it takes counts as long as it is read"
    shelf.archive.detach(made, 0.0)
    assert shelf.archive.size == 0


def test_a_flood_of_keys_stays_within_the_bound() -> None:
    """TOLLHOUSE_TEST_KEYS says how many; what they use is measured for the first of them, as that takes its time."""
    shelf = Shelf()
    shelf.forgotten = Few()  # type: ignore[assignment]
    bound = terms(most_bytes=64 << 10, most_total=16 << 20)
    bobs = shelf.keep(0, 1000, terms=bound, owner=BOB, at_s=1e9)
    runs = shelf.run(KEYS, 1000, terms=bound, claim="runs")
    tracemalloc.start()
    try:
        for n in range(1, 10_000):
            shelf.keep(n, 500, terms=bound, claim=f"key-{n}", at_s=1e9)
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    for n in range(10_000, KEYS):
        shelf.keep(n, 500, terms=bound, claim=f"key-{n}", at_s=1e9)
        assert shelf.archive.size <= 16 << 20
    assert used <= shelf.archive.size, "what is counted is no less than what is used"
    assert shelf.archive.kept <= (16 << 20) // OWN_BYTES + 1
    assert shelf.archive.find(bobs.id, BOB) is bobs
    assert shelf.archive.claimed(OWNER, "runs") is runs, "what runs is never evicted"
    assert runs.pieces(0), "nor is what it said"


class Few(list[tuple[str, str]]):
    """Of a million, nobody keeps a list."""

    def append(self, one: tuple[str, str]) -> None:
        pass
