"""How the process is asked to end.

The rule a reader could break: what is asked is noted on the event loop, and nothing is done from within a signal.
"""

import asyncio
import signal


def stop_signals() -> tuple[asyncio.Event, asyncio.Event]:
    """Set by the first SIGTERM or SIGINT, and by the second, which waits for running calls no longer."""
    asked, pressed = asyncio.Event(), asyncio.Event()

    def stop() -> None:
        (pressed if asked.is_set() else asked).set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    return asked, pressed
