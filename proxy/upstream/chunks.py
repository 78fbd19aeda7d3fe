"""Chunks of HTTP: what shows that all of a read was one, and so that the parser stands between two of them.

The rule a reader could break: content may look like chunks, and may be made to, so a read's looks prove nothing. That a parser found a
size, one piece and an end in it, in this order and nothing else, does, together with where they are.
"""

SIZE, END = 1, 0  # of a chunk, as the parser came upon them
ONE_CHUNK = [SIZE, END]


def data_at(read: bytes, pieces: list[bytes]) -> int:
    """Where the data begins in a read that was one chunk, written as everybody writes them; 0 if it was anything else.

    pieces: of a body, found in the read together with ONE_CHUNK. The size found ended with the first line, so if the lengths fit,
    nothing stands before it or behind the end.
    """
    at = read.find(b"\n") + 1
    size = len(read) - at - 2
    return at if len(pieces) == 1 and len(pieces[0]) == size and read[:at] == b"%x\r\n" % size else 0
