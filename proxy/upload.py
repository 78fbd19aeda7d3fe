"""A body on its way through to the upstream: of calls without a meter, which are passed on while they come.

The rule a reader could break: time is charged to whoever takes it. While the client is waited for, `body_read` runs, and what it has
used is used; while the upstream is, `first_byte`, which whoever sends begins anew with every piece that the upstream has taken.
"""

from collections.abc import AsyncIterator

from proxy.deadlines import Watch


async def upload(chunks: AsyncIterator[bytes], watch: Watch, body_s: float) -> AsyncIterator[bytes]:
    """The same chunks. body_s: how long the client may take for all of them, the time that the upstream takes aside."""
    left_s = body_s
    while True:
        watch.expect("body_read", left_s)
        chunk = await anext(chunks, None)
        if chunk is None:
            return
        left_s = watch.stage_left_s
        yield chunk
