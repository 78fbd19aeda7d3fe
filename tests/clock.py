"""A clock that stands still until a test moves it."""


class FakeClock:
    """Both clocks move together with `advance`; `step` sets the wall clock alone, as an operator or NTP does."""

    def __init__(self, *, wall_s: float = 1_800_000_000.0, monotonic_ns: int = 1_000_000_000) -> None:
        self._wall_ns = round(wall_s * 1_000_000_000)
        self._monotonic_ns = monotonic_ns

    def monotonic_ns(self) -> int:
        return self._monotonic_ns

    def wall_s(self) -> float:
        return self._wall_ns / 1_000_000_000

    def advance(self, seconds: float) -> None:
        passed_ns = round(seconds * 1_000_000_000)
        assert passed_ns >= 0, "time does not run backwards; use step for the wall clock"
        self._wall_ns += passed_ns
        self._monotonic_ns += passed_ns

    def step(self, seconds: float) -> None:
        self._wall_ns += round(seconds * 1_000_000_000)
