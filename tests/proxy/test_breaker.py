"""An upstream that fails is left alone, and looked for by one call at a time."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from proxy.breaker import MOST_PAUSE_S, Breaker

MOST, OPEN_S = 3, 10.0


def fail(breaker: Breaker, now: float, *, probe: int = 0, most: int = MOST) -> bool:
    return breaker.failed(now, probe=probe, most=most, open_s=OPEN_S)


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker()
    assert [fail(breaker, now) for _ in range(MOST)] == [False] * (MOST - 1) + [True]
    return breaker


def test_so_many_failures_in_a_row_open_it_and_a_success_between_them_starts_anew() -> None:
    breaker = Breaker()
    for _ in range(10):
        assert not fail(breaker, 0)
        assert not fail(breaker, 0)
        breaker.answered(probe=0)
    assert not breaker.shut
    assert opened().shut


def test_it_never_opens_where_the_file_says_so() -> None:
    breaker = Breaker()
    assert not any(fail(breaker, 0, most=0) for _ in range(1000))
    assert not breaker.shut


def test_one_call_looks_when_the_pause_is_over_and_its_answer_lets_all_pass() -> None:
    breaker = opened()
    assert breaker.probe(9.9) == 0
    assert breaker.wait_s(9.0) == 1.0
    probe = breaker.probe(10.0)
    assert probe
    assert breaker.probe(10.0) == 0, "there is one already"
    assert breaker.wait_s(10.0) > 0
    assert breaker.answered(probe=probe)
    assert not breaker.shut


def test_pauses_double_up_to_a_minute_and_are_short_again_once_it_answered() -> None:
    breaker, now, pauses = opened(), 0.0, []
    for _ in range(6):
        pauses.append(breaker.wait_s(now))
        now += pauses[-1]
        assert not fail(breaker, now, probe=breaker.probe(now)), "it was open before"
    assert pauses == [10, 20, 40, MOST_PAUSE_S, MOST_PAUSE_S, MOST_PAUSE_S]
    now += MOST_PAUSE_S
    breaker.answered(probe=breaker.probe(now))
    assert [fail(breaker, now) for _ in range(MOST)][-1]
    assert breaker.wait_s(now) == OPEN_S


def test_a_longer_pause_than_a_minute_stays_as_the_file_has_it() -> None:
    breaker, now = Breaker(), 0.0
    breaker.failed(now, probe=0, most=1, open_s=300)
    for _ in range(3):
        assert breaker.wait_s(now) == 300
        now += 300
        breaker.failed(now, probe=breaker.probe(now), most=1, open_s=300)


def test_a_probe_that_ends_without_an_answer_leaves_the_next_call_to_look() -> None:
    breaker = opened()
    breaker.left(probe=breaker.probe(10))
    assert breaker.probe(10)


def test_calls_that_began_before_it_opened_change_nothing_any_more() -> None:
    breaker = opened()
    assert not fail(breaker, 9)
    assert not breaker.answered(probe=0)
    assert breaker.shut
    assert breaker.probe(10), "no later than before"


class Interleaved(RuleBasedStateMachine):
    """Calls that begin and end in any order, while time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now = 0.0
        self.running: list[int] = []  # the probes of calls; 0 for what passed a closed one
        self.most = MOST

    @rule(seconds=st.sampled_from((0.1, 1.0, 9.0, 30.0, 100.0)))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def a_call_comes(self) -> None:
        probe = self.breaker.probe(self.now) if self.breaker.shut else 0
        if probe or not self.breaker.shut:
            self.running.append(probe)

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(("failed", "answered", "left")))
    def a_call_ends(self, data: st.DataObject, how: str) -> None:
        probe = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        shut = self.breaker.shut
        if how == "failed":
            told = fail(self.breaker, self.now, probe=probe, most=self.most)
            assert told == (not shut and self.breaker.shut)
        elif how == "answered":
            told = self.breaker.answered(probe=probe)
            assert told == (shut and not self.breaker.shut)
        else:
            self.breaker.left(probe=probe)
            assert self.breaker.shut == shut

    @rule(most=st.sampled_from((1, MOST, 5)))
    def a_reload(self, most: int) -> None:
        self.most = most

    @rule()
    def a_reload_turns_it_off_for_a_while(self) -> None:
        self.breaker.close()

    @invariant()
    def there_is_at_most_one_probe_that_counts(self) -> None:
        live = [probe for probe in self.running if probe and probe == self.breaker._probe]
        assert len(live) <= 1
        assert len(live) == bool(self.breaker._probe), "and one that is waited for is on its way"

    @invariant()
    def it_is_never_stuck(self) -> None:
        """With no call running, the next one passes after a pause of a minute at most."""
        if self.breaker.shut:
            assert 0 < self.breaker.wait_s(self.now) <= MOST_PAUSE_S
            if not any(self.running):
                later = self.now + MOST_PAUSE_S
                probe = self.breaker.probe(later)
                assert probe
                self.breaker.left(probe=probe)


Interleaved.TestCase.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
TestInterleaved = Interleaved.TestCase
