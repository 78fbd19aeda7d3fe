"""`python -m bench.watched --stalls FILE …`: `tollhouse serve` with one more timer on its event loop, which sees how long others hold it.

The timer comes back every millisecond. Of each gap between two of its turns two figures count: how much longer than a millisecond
it was, and how much CPU time the loop's thread used in it. The first includes whatever else ran on this core and the waits for the
interpreter lock; the second is the process's own doing. SIGUSR1 ends a phase: the longest of both are appended to FILE, as a line
of JSON, and forgotten.

The rule a reader could break: the proxy is entered as its command enters it, through `run_app` and its `on_ready`; no name in it is
patched, or what is measured would not be what is served.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

from policies import KINDS
from proxy.app import App, run_app
from proxy.settings import SETTINGS, add_flags, read_settings

_TICK_S = 0.001  # the resolution of the loop's timers


class Watch:
    """Lives on the loop that it watches."""

    def __init__(self, stalls: Path) -> None:
        self._stalls = stalls
        self._loop = asyncio.get_running_loop()
        self._begin()
        self._loop.call_later(_TICK_S, self._tick)
        self._loop.add_signal_handler(signal.SIGUSR1, self._turn)

    def _begin(self) -> None:
        self._longest_wall_s = self._longest_cpu_s = 0.0
        self._wall_s, self._cpu_s = time.perf_counter(), time.thread_time()

    def _look(self) -> None:
        wall_s, cpu_s = time.perf_counter(), time.thread_time()
        self._longest_wall_s = max(self._longest_wall_s, wall_s - self._wall_s - _TICK_S)
        self._longest_cpu_s = max(self._longest_cpu_s, cpu_s - self._cpu_s)
        self._wall_s, self._cpu_s = wall_s, cpu_s

    def _tick(self) -> None:
        self._look()
        self._loop.call_later(_TICK_S, self._tick)

    def _turn(self) -> None:
        self._look()
        line = json.dumps({"wall_ms": self._longest_wall_s * 1000, "cpu_ms": self._longest_cpu_s * 1000})
        with self._stalls.open("a") as file:
            file.write(line + "\n")
        self._begin()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stalls", type=Path, required=True)
    add_flags(parser)
    given = parser.parse_args()
    settings = read_settings(os.environ, {s.field: getattr(given, s.field) for s in SETTINGS if s.flag is not None})

    def watch(_: App) -> None:
        Watch(given.stalls)  # its timer keeps it

    return run_app(settings, kinds=KINDS, pretend=False, on_ready=watch)


if __name__ == "__main__":
    sys.exit(main())
