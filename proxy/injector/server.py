"""The webhook's port: what is asked on it, within which bounds, and the process's life.

It stands on the same listener as the proxy's own ports, which bounds heads, idle connections and their number. The rule a reader could
break: what anybody on the network may send costs a bounded amount of memory and time, and none of it is logged.
"""

import asyncio
import contextlib
import sys

from proxy import __version__
from proxy.clock import SystemClock
from proxy.downstream.arrival import HttpArrival
from proxy.downstream.listener import Listener
from proxy.downstream.rules import Rejection
from proxy.downstream.sink import HttpSink
from proxy.errors import InvalidCall
from proxy.injector.identity import Identity, WrongIdentity
from proxy.injector.manifest import unreadable
from proxy.injector.pod import Malformed
from proxy.injector.review import review
from proxy.injector.sidecar import Sidecar, read_sidecar
from proxy.injector.watch import LOOK_S, Watch
from proxy.policy.document import MOST_BYTES, PolicyFileError
from proxy.settings import InjectSettings, SettingsError, cannot_listen, shown
from proxy.signals import stop_signals
from proxy.telemetry.faults import install, loop_handler, report
from proxy.telemetry.logs import Level, Log

MOST_BODY_BYTES = 4 << 20  # the API server itself takes objects of 3 MiB, and wraps them
SMALL_BYTES = 256 << 10  # a pod has a few kB
_LARGE_AT_ONCE = 4  # so that bodies take 16 MiB at most, and what small ones there may be besides
_MOST_CONNECTIONS = 128  # an API server has one for each review that it waits for; each may hold 0.7 MiB of a body that dawdles
_HEADER_S = 5.0
BODY_S = 10.0  # the API server waits for 10 s by default, and for 30 at most, for the whole
_DRAIN_S = 15.0
_GOODBYE_S = 1.0  # in which answers reach clients that are reading
_TEXT = ["content-type: text/plain; charset=utf-8"]
# A review is logged where something came of it, or should have.
_LEVELS: dict[str, Level] = {
    "not_asked": "debug",
    "not_a_pod": "debug",
    "not_created": "debug",
    "host_network": "warning",
    "windows": "warning",
    "would_not_end": "warning",
    "wrong_annotation": "warning",
    "volume_conflict": "warning",
}


class Injector:
    """One running webhook. address: where it listens. body_s: how long a body may take. look_s: how often files are looked at."""

    def __init__(self, settings: InjectSettings, *, log: Log, body_s: float = BODY_S, look_s: float = LOOK_S) -> None:
        self.address = ("", 0)
        self._settings = settings
        self._log = log
        self._body_s = body_s
        self._look_s = look_s
        self._sidecar: Sidecar | None = None
        self._identity = Identity(settings.tls_cert, settings.tls_key)
        self._large = asyncio.Semaphore(_LARGE_AT_ONCE)
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self._background: list[asyncio.Task[None]] = []
        self.listener = Listener(answer=self._answer, reject=self._reject, wall_s=SystemClock().wall_s, most=_MOST_CONNECTIONS)

    def __repr__(self) -> str:
        return f"<Injector {self.address} running={self._running} {self.listener!r}>"

    async def start(self) -> None:
        """Read the files and open the port. Errors: PolicyFileError for the sidecar file, SettingsError for anything else."""
        watches = (
            Watch([self._settings.sidecar], self._reload_sidecar, log=self._log),
            Watch(self._identity.files, self._reload_identity, log=self._log),
        )
        self._sidecar = self._read_sidecar()
        try:
            self._identity.load()
        except WrongIdentity as error:
            raise SettingsError([str(error)]) from error
        host, port = self._settings.listen
        try:
            self.address = await self.listener.listen(host, port, tls=self._identity.context)
        except OSError as error:
            raise cannot_listen("--listen", (host, port), error) from error
        self._background = [asyncio.create_task(watch.run(every_s=self._look_s)) for watch in watches]
        self._background.append(asyncio.create_task(self._close_late()))
        self._log.event("server.ready", version=__version__, listen=shown(self.address))

    async def drain(self, pressed: asyncio.Event) -> None:
        """No new reviews; running ones are answered. pressed: wait no longer."""
        self._log.event("server.draining", running=self._running, grace_s=_DRAIN_S)
        self.listener.stop_accepting()
        waiting = {asyncio.ensure_future(self._idle.wait()), asyncio.ensure_future(pressed.wait())}
        await asyncio.wait(waiting, timeout=_DRAIN_S, return_when=asyncio.FIRST_COMPLETED)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0 if pressed.is_set() else _GOODBYE_S):
                while self.listener.connections:  # noqa: ASYNC110 (nobody tells when the last one has gone)
                    await asyncio.sleep(0.01)
        for task in (*waiting, *self._background):
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.listener.close()
        self._log.event("server.stopped")

    # ── what is asked ────────────────────────────────────────────────────────────────────────────────────────────────

    async def _answer(self, arrival: HttpArrival, sink: HttpSink) -> None:
        self._running += 1
        self._idle.clear()
        try:
            await self._respond(arrival, sink)
        except ConnectionError:  # whoever asked has left
            pass
        except Exception as error:  # a last line of defence: the API server does what its failurePolicy says
            report(self._log, error, where="injector")
            if not sink.head_sent:
                _say(sink, 500, "an internal error")
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def _respond(self, arrival: HttpArrival, sink: HttpSink) -> None:
        method, path = arrival.head.method, arrival.head.target.partition("?")[0]
        if path in ("/healthz", "/readyz") and method in ("GET", "HEAD"):
            ready = path == "/healthz" or not self.listener.closing
            _say(sink, 200 if ready else 503, "ok" if ready else "not ready")
        elif path == "/inject" and method == "POST":
            await self._review(arrival, sink)
        elif path in ("/healthz", "/readyz", "/inject"):
            sink.whole(b"this path takes another method\n", 405, [*_TEXT, f"allow: {'POST' if path == '/inject' else 'GET, HEAD'}"])
        else:
            _say(sink, 404, "there is no such path: reviews go to /inject")
        await sink.room()

    async def _review(self, arrival: HttpArrival, sink: HttpSink) -> None:
        if arrival.head.headers.get("content-encoding", "identity") != "identity":
            return self._refuse(sink, 415, "the body must come without a content coding")
        try:
            async with asyncio.timeout(self._body_s):
                body = await self._read(arrival)
        except TimeoutError:
            return self._refuse(sink, 408, "the body was not sent in time")
        except InvalidCall:
            return self._refuse(sink, 400, "the body's framing is malformed")
        if body is None:
            return self._refuse(sink, 413, f"a review may have {MOST_BODY_BYTES} bytes")
        assert self._sidecar is not None, "start() comes first"
        try:
            found = review(body, self._sidecar)
        except Malformed as error:
            return self._refuse(sink, 400, str(error))
        self._log.event(
            "pod.reviewed",
            level=_LEVELS.get(found.decision, "info"),
            decision=found.decision,
            namespace=found.namespace or None,
            pod=found.pod or None,
            review_uid=found.uid,
        )
        sink.whole(found.body, 200, ["content-type: application/json"])
        return None

    async def _read(self, arrival: HttpArrival) -> bytes | None:
        """The body; None for one that is too large. Large ones wait for each other, not for small ones."""
        if arrival.length is not None and arrival.length <= SMALL_BYTES:
            return await arrival.read(SMALL_BYTES)
        if arrival.length is not None and arrival.length > MOST_BODY_BYTES:
            return None
        async with self._large:
            return await arrival.read(MOST_BODY_BYTES)

    def _refuse(self, sink: HttpSink, status: int, why: str) -> None:
        """why: ours, and nothing of what was sent."""
        self._log.event("review.rejected", level="warning", status=status, why=why)
        _say(sink, status, why, close=True)

    async def _reject(self, sink: HttpSink, rejection: Rejection) -> None:
        _say(sink, rejection.error.status, rejection.error.message, close=True)
        await sink.room()

    # ── what is in force ─────────────────────────────────────────────────────────────────────────────────────────────

    async def _close_late(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self.listener.close_late(header_s=_HEADER_S)

    def _read_sidecar(self) -> Sidecar:
        file = self._settings.sidecar
        try:
            with file.open("rb") as opened:
                data = opened.read(MOST_BYTES + 1)
        except OSError as error:
            raise unreadable(str(file), error) from None
        return read_sidecar(data, file=str(file))

    def _reload_sidecar(self) -> None:
        file = str(self._settings.sidecar)
        try:
            self._sidecar = self._read_sidecar()
        except PolicyFileError as error:
            self._rejected(file, [str(mistake) for mistake in error.mistakes])
            return
        self._log.event("files.activated", file=file, version=self._sidecar.version)

    def _reload_identity(self) -> None:
        file = str(self._settings.tls_cert)
        try:
            self._identity.load()
        except WrongIdentity as error:
            self._rejected(file, [str(error)])
            return
        self._log.event("files.activated", file=file)

    def _rejected(self, file: str, mistakes: list[str]) -> None:
        self._log.event("files.rejected", level="error", file=file, mistakes=len(mistakes), mistake_lines=mistakes)


def run_injector(settings: InjectSettings) -> int:
    """Answer until a signal. Returns the process's exit code; mistakes of the operator go to standard error, in words."""
    log = Log(sys.stdout.fileno(), clock=SystemClock(), level=settings.log_level, format=settings.log_format)
    undo = install(log)
    try:
        return asyncio.run(_serve(settings, log))
    finally:
        undo()
        log.close()


async def _serve(settings: InjectSettings, log: Log) -> int:
    asyncio.get_running_loop().set_exception_handler(loop_handler(log))
    asked, pressed = stop_signals()
    injector = Injector(settings, log=log)
    try:
        await injector.start()
    except PolicyFileError as error:
        print(*error.mistakes, sep="\n", file=sys.stderr)
        return 2
    except SettingsError as error:
        print(*(f"tollhouse: {mistake}" for mistake in error.mistakes), sep="\n", file=sys.stderr)
        return 2
    await asked.wait()
    await injector.drain(pressed)
    return 0


def _say(sink: HttpSink, status: int, text: str, *, close: bool = False) -> None:
    sink.whole(f"{text}\n".encode(), status, list(_TEXT), close=close)
