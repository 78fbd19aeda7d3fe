"""Whether an upstream is asked at all: not while call after call failed there, but for one call at a time that looks whether it is back.

    closed ── so many failures in a row ──► open ── its pause is over, and a call comes ──► probing
      ▲                                      ▲                                             │  │  │
      └──────────────── answered ────────────┼─────────────────────────────────────────────┘  │  │
                                             ├──── failed: open again, for twice as long ─────┘  │
                                             └──── left: nobody knows, so the next call probes ──┘

Pure. What it is told of calls that began before it opened changes nothing while it is open: only its probe does. The rule a reader
could break: whoever was given a probe ends it, on every way out.
"""

MOST_PAUSE_S = 60.0  # that pauses grow to, unless one is longer from the start
# While a probe is on its way nobody knows when it ends; a call that comes so much later may find out.
_PROBING_S = 1.0


class Breaker:
    """Times are seconds of any clock that only grows. shut: open or probing, so that calls do not pass."""

    __slots__ = ("_failures", "_openings", "_probe", "_probe_at", "_probes", "shut")

    def __init__(self) -> None:
        self.shut = False
        self._failures = 0  # in a row
        self._openings = 0  # in a row
        self._probes = 0  # so far
        self._probe = 0  # the number of the one on its way; 0 = none
        self._probe_at = 0.0

    def __repr__(self) -> str:
        state = "closed" if not self.shut else f"probing by {self._probe}" if self._probe else f"open until {self._probe_at:.3f}"
        return f"<Breaker {state} failures={self._failures} openings={self._openings}>"

    def probe(self, now: float) -> int:
        """Of one that is shut: the number of the probe that the caller's call is, or 0 where it may not pass."""
        if self._probe or now < self._probe_at:
            return 0
        self._probes += 1
        self._probe = self._probes
        return self._probe

    def wait_s(self, now: float) -> float:
        """Of one that is shut: seconds until a call may pass, as far as is known; > 0."""
        return self._probe_at - now if now < self._probe_at else _PROBING_S

    def failed(self, now: float, *, probe: int, most: int, open_s: float) -> bool:
        """A call failed, the probe of that number, or 0 for any other. Returns whether that shut it.

        most: failures in a row that do, 0 = none ever do. open_s: for how long, at first.
        """
        if self.shut:
            if not probe or probe != self._probe:
                return False
        else:
            self._failures += 1
            if not most or self._failures < most:
                return False
        opened, self.shut = not self.shut, True
        self._probe = 0
        self._probe_at = now + min(open_s * 2.0 ** min(self._openings, 16), max(open_s, MOST_PAUSE_S))
        self._openings += 1
        return opened

    def answered(self, *, probe: int) -> bool:
        """A call was answered, by a success or by a refusal of its own. Returns whether that closed it."""
        if self.shut:
            if not probe or probe != self._probe:
                return False
            self.close()
            return True
        self._failures = 0
        return False

    def left(self, *, probe: int) -> None:
        """The probe ended without telling anything."""
        if probe and probe == self._probe:
            self._probe = 0

    def close(self) -> None:
        """Let every call pass, whatever was."""
        self.shut = False
        self._failures = self._openings = self._probe = 0
