"""Text for a terminal, or for whatever stands in its place: tables with bars, plain where it can do no better.

The rule a reader could break: names come from clients and hold anything, so every cell passes `Screen.plain` before its width is
taken; nothing that moves a cursor, turns the direction of a line or cannot be encoded is written.
"""

import os
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

_LEAST_TEXT = 12  # of a column of names, when there is little room
_LEAST_BAR, _MOST_BAR = 6, 40
_GAP = "  "
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True)
class Screen:
    """width: columns. encoding: of what is written to."""

    width: int
    encoding: str

    @cached_property
    def blocks(self) -> bool:
        """Whether it can do more than ASCII, of what is needed here."""
        try:
            (_EIGHTHS + "█…–").encode(self.encoding)
        except (UnicodeEncodeError, LookupError):
            return False
        return True

    @property
    def none(self) -> str:
        """A cell for what is not known."""
        return "–" if self.blocks else "-"

    def plain(self, text: str) -> str:
        """The text with everything that a terminal could obey, or its encoding could not write, as an escape."""
        shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
        try:
            return shown.encode(self.encoding, "backslashreplace").decode(self.encoding)
        except LookupError:
            return shown.encode("ascii", "backslashreplace").decode("ascii")

    def bar(self, share: float, width: int) -> str:
        """share: 0 to 1. What is not nothing is seen."""
        eighths = round(share * width * 8)
        if share > 0:
            eighths = max(eighths, 1)
        if not self.blocks:
            return "#" * -(-eighths // 8)
        return "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()


@dataclass(frozen=True, slots=True)
class Column:
    """cells: plain texts. number: stands to the right. Names are shortened where there is little room, and nothing else is."""

    title: str
    cells: Sequence[str]
    number: bool = False
    name: bool = False


def table(columns: Sequence[Column], screen: Screen, *, bars: Sequence[float] = ()) -> list[str]:
    """Aligned lines, the titles first, that fit the screen as far as shortening names can make them. bars: a share for each line,
    fewer than lines where the last ones have none; names have their room before bars have it."""
    widths = [max(map(width_of, (column.title, *column.cells))) for column in columns]
    gaps = len(_GAP) * (len(columns) - 1)
    names = [at for at, column in enumerate(columns) if column.name]
    for room in (screen.width - gaps - len(_GAP) - _LEAST_BAR, screen.width - gaps) if bars else (screen.width - gaps,):
        fitted = _fitted(widths, names, room)
        if sum(fitted) <= room:
            break
    left = screen.width - sum(fitted) - gaps - len(_GAP)
    bar_width = min(left, _MOST_BAR) if left >= _LEAST_BAR else 0
    drawn = ["", *(screen.bar(share, bar_width) if bar_width else "" for share in bars)]
    lines = []
    for at, cells in enumerate(zip(*((column.title, *column.cells) for column in columns), strict=True)):
        shown = [
            _placed(cell, width, right=column.number, screen=screen)
            for cell, width, column in zip(cells, fitted, columns, strict=True)
        ]
        lines.append(_GAP.join([*shown, drawn[at] if at < len(drawn) else ""]).rstrip())
    return lines


def width_of(text: str) -> int:
    """Columns of a terminal that a plain text takes."""
    if text.isascii():
        return len(text)
    return sum(_columns(c) for c in text)


def write(text: str) -> None:
    """To standard output, all of it. A reader that has had enough, such as `head`, ends it quietly."""
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def usd(nanousd: int, *, places: int = 9) -> str:
    """US dollars with thousands apart, rounded half up."""
    units = (abs(nanousd) * 10**places + 500_000_000) // 1_000_000_000
    whole, rest = divmod(units, 10**places)
    return f"{'-' if nanousd < 0 and units else ''}{whole:,}.{rest:0{places}d}"


def usd_places(amounts: Sequence[int]) -> int:
    """Decimals at which none of these nanodollars looks like nothing."""
    return 6 if all(amount == 0 or abs(amount) >= 1000 for amount in amounts) else 9


def count(number: int) -> str:
    """Exact to ten million, then in millions."""
    return f"{number:,}" if abs(number) < 10_000_000 else f"{number // 100_000 / 10:,.1f}M"


def percent(part: int, whole: int) -> str:
    """A share that is never shown as all or nothing where it is neither."""
    if part == 0 or part == whole:
        return "100 %" if part else "0 %"
    tenths = round(part * 1000 / whole)
    if tenths == 0:
        return "<0.1 %"
    return ">99.9 %" if tenths == 1000 else f"{tenths / 10:.1f} %"


def _columns(c: str) -> int:
    if unicodedata.category(c) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


def _fitted(widths: Sequence[int], names: Sequence[int], room: int) -> list[int]:
    """The widths with the widest names shortened until there is room, or none of them can be."""
    fitted = list(widths)
    while sum(fitted) > room and any(fitted[at] > _LEAST_TEXT for at in names):
        fitted[max(names, key=lambda at: fitted[at])] -= 1
    return fitted


def _placed(text: str, width: int, *, right: bool, screen: Screen) -> str:
    taken = width_of(text)
    if taken > width and not right:
        more = "…" if screen.blocks else "~"
        while taken > width - 1:
            taken -= _columns(text[-1])
            text = text[:-1]
        text, taken = text + more, taken + 1
    pad = " " * (width - taken)
    return pad + text if right else text + pad
