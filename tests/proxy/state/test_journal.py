"""What is written before a call goes on, what is read back of it, and what a torn or rotten line changes."""

import random
import resource
from pathlib import Path
from zlib import crc32

import pytest

from proxy.call import Usage
from proxy.policy.contract import Unit
from proxy.state.contract import Holder
from proxy.state.counters import SpendKey, Tally
from proxy.state.journal import Journal, generations, path_of
from proxy.state.replay import Replay
from proxy.state.totals import Totals
from tests.proxy.state.limits import money

DAY = (1_799_971_200, 1_800_057_600)
ADA, BOB = Holder("web", "ada\n", "gpt-4.1", "chat"), Holder("web", "bob", "gpt-4.1", "chat")
USED = (Usage(10, 5, cached_tokens=3), "reported", 70)
HOUR = 1_799_996_400


def quota(subject: str) -> Tally:
    return Tally(key(subject))


def key(subject: str) -> SpendKey:
    return ("everyone", "budget", subject, Unit.NANOUSD, DAY)


def read(journal: bytes) -> Replay:
    replay = Replay()
    replay.read(journal)
    return replay


def written(directory: Path) -> bytes:
    """A journal with an open hold, one that is over, one that used nothing, a call without a hold, and spend without a hold."""
    everyone, alone = quota("everyone"), quota("user=bob")
    journal = Journal(directory, 7)
    journal.hold(1, ADA, 1_800_000_000, 1_800_000_100, [(money(100), everyone)])
    journal.hold(2, BOB, 1_800_000_001, 1_800_000_101, [(money(200), everyone), (money(50), alone)])
    journal.hold(3, ADA, 1_800_000_002, 1_800_000_102, [(money(30), everyone)])
    used = Totals()
    for holder in (ADA, BOB):
        used.book((HOUR, holder, "reported"), USED)
    journal.end([(1, [70]), (3, [0])], [(everyone, 5)], used.used)
    journal.close()
    return path_of(directory, 7).read_bytes()


def test_a_journal_says_what_is_spent_what_was_used_and_what_is_held(tmp_path: Path) -> None:
    replay = read(written(tmp_path))
    assert replay.totals.spent == {key("everyone"): 75}
    numbers = [1, 10, 3, 0, 0, 5, 0, 0, 70]
    assert replay.totals.used == {(HOUR, ADA, "reported"): numbers, (HOUR, BOB, "reported"): numbers}
    (hold,) = replay.holds.values()
    assert (hold.id, hold.holder, hold.began_s, hold.expires_s) == (2, BOB, 1_800_000_001, 1_800_000_101)
    assert hold.amounts == ((key("everyone"), 200), (key("user=bob"), 50))
    assert (hold.nanousd, hold.tokens) == (200, 0)
    assert (replay.lines, replay.damaged) == (11, 0)


def test_a_hold_is_in_the_file_when_it_was_made(tmp_path: Path) -> None:
    everyone, journal = quota("everyone"), Journal(tmp_path, 1)
    for id in (1, 2):
        journal.hold(id, ADA, 0, 1, [(money(100), everyone)])
        assert list(read(path_of(tmp_path, 1).read_bytes()).holds) == list(range(1, id + 1))
    journal.end([(1, [70])], [], {})
    replay = read(path_of(tmp_path, 1).read_bytes())
    assert (list(replay.holds), replay.totals.spent) == ([2], {key("everyone"): 70})
    journal.close()


def test_a_page_that_is_made_ready_says_nothing_new(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 7, room=4096)
    everyone, sizes = quota("everyone"), []
    for id in range(1, 40):
        journal.hold(id, ADA, 1_800_000_000, 1_800_000_100, [(money(100), everyone)])
        journal.make_ready()
        sizes.append(journal.size)
        assert len(read(path_of(tmp_path, 7).read_bytes()).holds) == id
    journal.end([], [(everyone, 10 ** (4096 - journal.size - len("00000000 D 0:\n") - 1))], {})
    assert journal.size == 4096
    journal.make_ready()
    assert sizes == sorted(set(sizes))
    journal.close()


def test_every_image_of_a_crash_is_read_and_says_no_less_than_what_is_whole(tmp_path: Path) -> None:
    """Cut anywhere: what was whole counts, and no more than one line is damaged."""
    whole = written(tmp_path)
    for end in range(len(whole) + 1):
        replay, lines = read(whole[:end]), whole[:end].count(b"\n")
        torn = not whole[:end].endswith(b"\n") and end > 0
        assert replay.lines - replay.damaged in (lines, lines + 1)  # a line may lack its end alone
        assert replay.damaged <= torn
        assert set(replay.holds) <= {1, 2, 3}


def test_a_page_that_never_reached_the_disk_takes_its_own_lines_and_no_others(tmp_path: Path) -> None:
    """Zeros in the middle, as a file system leaves them behind a loss of power."""
    whole, chance = written(tmp_path), random.Random(5)
    for _ in range(2_000):
        start = chance.randrange(len(whole) - 80)
        end = start + chance.randrange(1, 80)  # up to the end it would be room that was not used
        replay = read(whole[:start] + bytes(end - start) + whole[end:])
        assert replay.damaged >= 1
        assert all(amount >= 0 for amount in replay.totals.spent.values())


def test_any_byte_that_has_rotted_is_found(tmp_path: Path) -> None:
    whole = written(tmp_path)
    for at in range(len(whole)):
        for flipped in (1, 0x20, 0x80):
            rotten = whole[:at] + bytes([whole[at] ^ flipped]) + whole[at + 1 :]
            replay = read(rotten)
            assert replay.damaged >= 1


@pytest.mark.parametrize(
    "words",
    [
        b"",
        b"X 1",
        b"K x []",
        b"K 1 [",
        b'K 1 ["a"]',
        b"H 1 0 0 0 9:1",
        b"H 1 9 0 0",
        b"S 9 1",
        b"S x",
        b"U 9",
        b"D 0 7:1",
        b"W 1 7",
    ],
)
def test_a_line_that_makes_no_sense_changes_nothing(words: bytes) -> None:
    replay = read(b"%08x %b\n" % (crc32(words), words))
    assert (replay.lines, replay.damaged, replay.totals.spent, replay.totals.used, replay.holds) == (1, 1, {}, {}, {})


def test_a_journal_grows_where_its_room_is_used_up(tmp_path: Path) -> None:
    everyone, journal = quota("everyone"), Journal(tmp_path, 1, room=64)
    for id in range(1, 100):
        journal.hold(id, ADA, 0, 1, [(money(100), everyone)])
        replay = read(path_of(tmp_path, 1).read_bytes())
        assert (len(replay.holds), replay.damaged) == (id, 0)
    journal.close()
    assert path_of(tmp_path, 1).stat().st_size == journal.size


def test_a_disk_that_is_full_is_an_error_and_what_comes_after_it_is_read_again(tmp_path: Path) -> None:
    everyone, journal = quota("everyone"), Journal(tmp_path, 1, room=250)
    journal.hold(1, ADA, 0, 1, [(money(100), everyone)])
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (250, limits[1]))
    try:
        with pytest.raises(OSError, match="large"):
            journal.hold(2, BOB, 0, 1, [(money(100), quota("new"))])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    journal.hold(3, BOB, 0, 1, [(money(100), everyone)])
    journal.close()
    replay = read(path_of(tmp_path, 1).read_bytes())
    assert ({id: hold.holder for id, hold in replay.holds.items()}, replay.damaged) == ({1: ADA, 3: BOB}, 0)


def test_no_journal_is_begun_where_there_is_no_room_for_it(tmp_path: Path) -> None:
    path_of(tmp_path, 1).symlink_to("/dev/full")
    with pytest.raises(OSError):
        Journal(tmp_path, 1)


def test_journals_are_found_oldest_first_and_read_from_one_on(tmp_path: Path) -> None:
    for generation in (10, 9, 2):
        journal = Journal(tmp_path, generation)
        journal.hold(generation, ADA, 0, 1, [(money(1), quota("everyone"))])
        journal.close()
    (tmp_path / "journal-old").touch()
    assert generations(tmp_path) == [2, 9, 10]
    replay = Replay()
    replay.read_all(tmp_path, since=9)
    assert list(replay.holds) == [9, 10]


def test_a_settlement_whose_hold_is_lost_changes_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path, 1)
    journal.end([(9, [70])], [], {})
    journal.close()
    replay = read(path_of(tmp_path, 1).read_bytes())
    assert (replay.damaged, replay.totals.spent, replay.holds) == (0, {}, {})
