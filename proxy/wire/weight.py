"""How many values a JSON body holds, told without reading it, a slice at a time.

Making Python's objects of a body takes 25 ns to 1 µs a value, in one piece that nothing interrupts: of 30 MB of empty lists, five seconds.
So a body that is large enough to hold so many is looked through first, and refused when it does. The rule a reader could break: only
what stands outside of texts counts, or a prompt of source code would be refused for its brackets.
"""

from collections.abc import Iterator

from proxy.errors import InvalidCall

LIGHT_BYTES = 256 << 10  # a body up to this size takes at most 50 ms, whatever it holds
SLICE_BYTES = 128 << 10
# Measured for what costs most of its kind: a name within a spaced object, an empty list, a number.
_WEIGHTS = ((b":", 9), (b"[", 4), (b"{", 4), (b",", 1))
MOST = 400_000  # what takes 50 ms; embeddings are asked of up to 300,000 tokens, each a number


def weigh(body: bytes, at: int = 0) -> Iterator[int]:
    """The weight so far of what stands from `at` on, after each slice, so that a caller may let others have their turn.

    Errors: InvalidCall when it is too much.
    """
    weight, start, within = 0, at, 0
    while start < len(body):
        piece = body[start : start + SLICE_BYTES]
        start += len(piece)
        if start < len(body) and (len(piece) - len(piece.rstrip(b"\\"))) % 2:  # half an escape is for the next slice
            piece = piece[:-1]
            start -= 1
        parts = piece.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"') if b"\\" in piece else piece.split(b'"')
        outside = b"".join(parts[within::2])
        within = (within + len(parts) - 1) % 2
        if outside:
            for what, each in _WEIGHTS:
                weight += outside.count(what) * each
            if weight > MOST:
                raise InvalidCall("too_many_values", "The body holds too many values.")
        yield weight
