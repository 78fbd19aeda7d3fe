"""How much is tried again at one upstream: a share of the calls of the last seconds, so that trying again cannot make a storm of a failure.

Pure: whoever owns it says when time has passed. The rule a reader could break: the first try of a call is never asked for here.
"""

from math import exp

WINDOW_S = 10.0  # calls and tries fade with this time constant
ROLL_S = 0.5  # how often `roll` is called
# What a quiet app may try again within the window, whatever its share comes to.
LEAST = 3.0
_FADE = exp(-ROLL_S / WINDOW_S)


class Retries:
    """Counts calls that it is told of as a running number, and the tries beyond their first."""

    __slots__ = ("_recent", "_seen", "_taken")

    def __init__(self) -> None:
        self._recent = 0.0  # calls, faded
        self._taken = 0.0  # tries beyond the first, faded
        self._seen = 0  # calls that are in `_recent`

    def __repr__(self) -> str:
        return f"<Retries {self._taken:.1f} for {self._recent:.1f} calls>"

    def take(self, calls: int, *, percent: int) -> bool:
        """Whether one more try beyond a call's first may be made; it is then taken to be. calls: made so far, this one too."""
        recent = self._recent + (calls - self._seen)
        if self._taken + 1 > LEAST + recent * percent / 100:
            return False
        self._taken += 1
        return True

    def roll(self, calls: int) -> None:
        """ROLL_S have passed. calls: made so far."""
        self._recent = (self._recent + (calls - self._seen)) * _FADE  # calls fade as tries do, or there would be more of these
        self._taken *= _FADE
        self._seen = calls
