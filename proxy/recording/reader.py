"""A recording on its way to a reader: from where he is to its end, live or after it, as it was or with ids.

The rule a reader could break: a reader has a place and nothing else. He is slow or gone for himself alone; what he missed is still there,
or is told as a gap.
"""

import asyncio
import re
from collections.abc import Sequence

from proxy.deadlines import DRAIN, Watch
from proxy.errors import InvalidCall, ProxyError
from proxy.recording.recording import READ_BYTES, Recording
from proxy.relay import Sink
from proxy.wire.failure import stream_event
from proxy.wire.sse import data_of

WRITE_STALL_S = 30.0  # a reader who takes nothing for so long is cut off; he can come back
BEAT_S = 15.0  # what stands between two parties drops a connection that is silent for some time, often a minute
# A comment without the blank line that would end an event: openai-python parses an empty event once it has seen an id.
BEAT = b": hb\n"
_LAST_WORDS_S = 10.0  # the process waits no longer than it would for the call itself
_BOM = b"\xef\xbb\xbf"
# The upstream's own ids: of two in one event the last counts, and a client would come back with one that is not ours.
_THEIR_ID = re.compile(rb"(?<![^\r\n])id(?::[^\r\n]*)?(?>\r\n|\n|\r)")
_PAGE = ("content-type: text/event-stream; charset=utf-8", "cache-control: no-cache", "x-accel-buffering: no")
_ID = ("x-request-id: ",)
# What was true when the call was made, and would mislead whoever reads its answer later.
_OF_A_MOMENT = (*_ID, "x-ratelimit-", "ratelimit", "server-timing: ")
_COME_BACK = ("retry-after", "x-should-retry: ")
_MOST_EVENT_DATA = 1 << 20


async def copy(
    recording: Recording, sink: Sink, watch: Watch, own: Sequence[str], *, after: int = 0, ids: bool = False, again: bool = True
) -> None:
    """The recorded answer. own: lines of this reader, beside those of the head. after: the last piece that he has. again: he is not
    the one that the call was made for.

    Errors: InvalidCall for a gap; ConnectionError and CancelledError of a client that left.
    """
    while recording.head is None:
        if recording.over:
            raise lost()
        await news(recording, watch)
    head = recording.head
    lines = [*(line for line in head.lines if not line.startswith(_OF_A_MOMENT if again else _ID)), *own]
    if again and head.status >= 400 and recording.state != "running" and recording.claim is not None:
        # A failure that keeps its key is what another try with it would get as well.
        lines = [*(line for line in lines if not line.startswith(_COME_BACK)), "x-should-retry: false"]
    if after and not recording.stream:
        raise InvalidCall("task_has_no_events", "This answer is no stream of events, so nothing of it comes behind one.")
    if recording.gap(after):
        raise gap()
    length = None if after else head.length
    if recording.over and not recording.broken and not recording.stream:
        length = recording.content_bytes()
        if length <= READ_BYTES:  # of a larger one a reader who is slow has a piece at a time, as of a stream
            if sink.whole(b"".join(recording.all_pieces()), head.status, lines):
                await _room(sink, watch)
            return
    ids = ids and recording.stream
    first = recording.pieces(after)
    slow = sink.start(head.status, lines, length, first=_joined(recording, first, after, ids=ids))
    beat_s = recording.carrier.beat_s() if recording.carrier is not None and recording.stream else None
    await _rest(recording, sink, watch, after + len(first), ids=ids, slow=slow, beat_s=beat_s)


async def events(recording: Recording, sink: Sink, watch: Watch, own: Sequence[str], *, after: int) -> None:
    """The recorded answer as a page of events with ids, and a sign of life now and then; one that is no stream is a single event."""
    if recording.gap(after):
        raise gap()
    slow = sink.start(200, [*_PAGE, *own])
    if slow:
        await _room(sink, watch)
    while recording.head is None or not (recording.stream or recording.over):
        if recording.over:
            sink.write(stream_event(recording.surface, lost(), sequence=0))
            sink.end()
            return
        await news(recording, watch, beat=sink)
    if recording.stream:
        await _rest(recording, sink, watch, after, ids=True, slow=False, beat_s=BEAT_S)
        return
    if not after:
        sink.write(_single(recording))
    if sink.end():
        await _room(sink, watch)


async def _rest(recording: Recording, sink: Sink, watch: Watch, at: int, *, ids: bool, slow: bool, beat_s: float | None) -> None:
    """From behind piece `at` to the end."""
    while True:
        if slow:
            await _room(sink, watch)
        if recording.gap(at):
            if recording.stream:
                sink.write(stream_event(recording.surface, gap(), sequence=at))
                sink.end()
            else:
                sink.abort()
            return
        pieces = recording.pieces(at)
        if pieces:
            joined = _joined(recording, pieces, at, ids=ids)
            slow = bool(joined) and sink.write(joined)
            at += len(pieces)
        elif recording.over:
            break
        else:
            slow = False
            await news(recording, watch, beat=sink if beat_s is not None else None, every_s=beat_s or BEAT_S)
    if recording.broken:
        sink.abort()
    elif sink.end():
        await _room(sink, watch)


async def news(recording: Recording, watch: Watch, *, beat: Sink | None = None, every_s: float = BEAT_S) -> None:
    """Until something about a recording has changed, or so much time has passed that `beat` is told that we are still there."""
    try:
        if beat is None:
            await recording.news()
            return
        try:
            async with asyncio.timeout(every_s):
                await recording.news()
        except TimeoutError:
            if beat.write(BEAT):
                await _room(beat, watch)
    except asyncio.CancelledError:
        # The process ends: so does the call, which says so in its recording in a moment.
        if watch.expired != DRAIN or not watch.absorb():
            raise
        watch.rearm("write_stall", _LAST_WORDS_S)


async def _room(sink: Sink, watch: Watch) -> None:
    watch.expect("write_stall", WRITE_STALL_S)
    await sink.room()
    watch.expect_nothing()


def _joined(recording: Recording, pieces: Sequence[bytes], after: int, *, ids: bool) -> bytes:
    """Pieces as they are sent. With ids, what carries no data is left out: a blank line behind an id is an event to some clients."""
    if not ids:
        return b"".join(pieces)
    name = recording.id.encode()
    return b"".join(
        b"id: %b.%d\n%b" % (name, number, _THEIR_ID.sub(b"", piece.removeprefix(_BOM)))
        for number, piece in enumerate(pieces, after + 1)
        if data_of(piece) is not None
    )


def _single(recording: Recording) -> bytes:
    """A whole answer as one event, where it is text."""
    body = b"".join(recording.all_pieces())
    head = recording.head
    assert head is not None
    if recording.gap(0) or recording.broken:
        return stream_event(recording.surface, gap() if recording.gap(0) else lost(), sequence=0)
    if "json" not in (head.field("content-type") or "") or len(body) > _MOST_EVENT_DATA:
        error = InvalidCall("task_has_no_events", "This answer is no stream of events; read the task's result instead.")
        return stream_event(recording.surface, error, sequence=0)
    lines = b"".join(b"data: %b\n" % line for line in body.splitlines())
    return b"id: %b.1\n%b\n" % (recording.id.encode(), lines)


def gap() -> ProxyError:
    return InvalidCall("recording_gap", "What comes next in this recording is no longer kept.", should_retry=False)


def lost() -> ProxyError:
    return InvalidCall("task_interrupted", "The call ended without an answer.", should_retry=False)
