"""Where the parts meet. `App.start` builds everything from the settings, `App.drain` ends it; `run_app` is the process's life.

Nobody imports this but the commands, and it is the only place that knows all the parts. It sees `policies.KINDS` only as an argument.
"""

import asyncio
import contextlib
import gc
import sys
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import uvloop

from proxy import __version__, descriptors
from proxy.accounts import Accounts
from proxy.activation import Activation
from proxy.admin import Admin
from proxy.admission import Admission
from proxy.chance import Chance
from proxy.clock import SystemClock
from proxy.deadlines import DRAIN, Sweep
from proxy.dispatch import Dispatch
from proxy.downstream.rules import REASONS
from proxy.edge import Edge
from proxy.errors import StateUnavailable
from proxy.guesses import Guesses
from proxy.health import Health, Healths
from proxy.herald import Herald
from proxy.memory import Memory, bounds
from proxy.overload import Overload
from proxy.pager import Pager
from proxy.pipeline import Pipeline
from proxy.policy.contract import Clause
from proxy.policy.document import PolicyFileError
from proxy.policy.policyset import UpstreamConfig
from proxy.policy.shelf import Shelf
from proxy.records import Records
from proxy.rejections import Rejections
from proxy.settings import Settings, SettingsError, cannot_listen, shown
from proxy.settlement import Settlement
from proxy.signals import stop_signals
from proxy.sinks import sinks_of
from proxy.spenders import Spenders
from proxy.standing import Standing
from proxy.state.sqlite import SqliteStore
from proxy.telemetry.faults import install, loop_handler
from proxy.telemetry.logs import Log
from proxy.telemetry.metrics import Metrics
from proxy.tokens import Tokenizer
from proxy.upstream.client import HttpUpstream
from proxy.upstream.tunnel import Proxies
from proxy.vigil import Vigil
from proxy.wire.headers import READ_OF_ANSWERS
from proxy.wire.surfaces import PASSTHROUGH, RECORDED, SOCKETS, SURFACES

if TYPE_CHECKING:  # both bring aiohttp, 13 MiB and 0.2 s, which only those pay who page or pretend
    from proxy.courier import Courier
    from proxy.pretend import Pretend

_SWITCH_S = (
    0.001  # a thread that compiles a policy file or counts tokens holds the loop up for so long, five times less than by default
)
# The collector looks at so many in about 2 ms; a larger figure saved nothing with 256 calls at once.
_YOUNG_OBJECTS = 10_000
_LAST_WORDS_S = 10.0  # for the last event of streams whose grace is over, and whose text may have to be counted before
_DEFAULT = Path(__file__).parent.parent / "policies" / "default.yaml"


class App:
    """One running proxy."""

    def __init__(
        self, settings: Settings, *, shelf: Shelf, log: Log, store: SqliteStore, pretend: "Pretend | None", proxies: Proxies
    ) -> None:
        loop = asyncio.get_running_loop()
        self.data_address = self.admin_address = ("", 0)
        self._background: list[asyncio.Task[None]] = []
        self.settings = settings
        self.shelf = shelf
        self.log = log
        self.store = store
        self.pretend = pretend
        self.clock = SystemClock()
        chance = Chance()
        surfaces = dict.fromkeys(s.name for s in (*SURFACES, *SOCKETS.values(), PASSTHROUGH, RECORDED))
        self.metrics = Metrics(version=__version__, clock=self.clock, surfaces=surfaces, rejections=REASONS)
        self.tokenizer = Tokenizer(on_fault=lambda said: log.event("tokens.unavailable", level="error", where=said))
        self.sweep = Sweep(loop)
        self.proxies = proxies
        self.upstreams: dict[tuple[str, str], HttpUpstream] = {}
        self.healths = Healths(lambda name: Health(name, clock=self.clock, log=log, metrics=self.metrics, pages=self.pager))
        self.courier: Courier | None = None
        spenders = Spenders(self.clock)
        self.standing = Standing(lambda: shelf.current, store, self.healths)
        self.pager = Pager(
            store,
            clock=self.clock,
            send=self._post,
            log=log,
            count=self._paged,
            random=chance,
            alarms=self.standing,
            top=spenders.top,
        )
        self.activation = Activation(
            shelf,
            highest=self.standing.highest,
            pager=self.pager,
            metrics=self.metrics,
            log=log,
            file=str(settings.policy or "default.yaml"),
        )
        accounts = self.accounts = Accounts(log=log, metrics=self.metrics, changed=store.changed, loop=loop)
        pseudonym = f"tollhouse-{chance(4).hex()}"
        most = descriptors.most_calls(descriptors.limit())
        memory = Memory(bounds(settings.memory_limit))
        self.metrics.memory_limit.set(memory.limit)
        self.overload = Overload(
            memory=memory,
            max_calls=settings.max_calls or most,
            now=loop.time,
            random=chance,
            log=log,
            shed=self.metrics.shed,
            gauge=self.metrics.overloaded,
        )
        self.herald = Herald(
            sinks=lambda: sinks_of(shelf.current.pages), send=self._post, clock=self.clock, log=log, count=self._paged
        )
        self.records = Records(clock=self.clock, random=chance, log=log, metrics=self.metrics, announce=self.herald.announce)
        self.settlement = Settlement(tokenizer=self.tokenizer, notify=self.pager.notify, spenders=spenders)
        self.pipeline = Pipeline(
            policies=lambda: shelf.current,
            admission=Admission(
                store=store,
                tokenizer=self.tokenizer,
                clock=self.clock,
                observer=accounts,
                guesses=Guesses(self.clock, counted=lambda code: self.metrics.wrong_keys.child(code).inc()),
                overload=self.overload,
                body_s=settings.body_s,
                pseudonym=pseudonym,
            ),
            dispatch=Dispatch(
                upstream=self._upstream,
                health=self.healths.of,
                pseudonym=pseudonym,
                clock=self.clock,
                random=chance,
                body_s=settings.body_s,
            ),
            settlement=self.settlement,
            sweep=self.sweep,
            clock=self.clock,
            random=chance,
            observer=accounts,
            overload=self.overload,
            recorder=self.records.desk,
        )
        self.rejections = Rejections(log=log, metrics=self.metrics, loop=loop)
        self.edge = Edge(self.pipeline, rejected=self.rejections.add, most_connections=settings.max_connections or most)
        self.admin = Admin(
            ready=lambda: not self.pipeline.draining,
            render=self.metrics.render,
            policies=lambda: shelf.current,
            token=settings.admin_token,
            wall_s=self.clock.wall_s,
        )
        self.vigil = Vigil(
            overload=self.overload,
            pipeline=self.pipeline,
            listeners=(self.edge.listener, self.admin.listener),
            store=store,
            log=log,
            healths=self.healths,
            header_s=settings.header_s,
            lag=self.metrics.loop_lag_seconds,
        )
        self.metrics.before_render(self.accounts.tell)
        self.metrics.before_render(self._collect)

    def __repr__(self) -> str:
        return f"<App {self.data_address} {self.pipeline!r} {self.shelf!r}>"

    @classmethod
    async def start(cls, settings: Settings, *, kinds: tuple[type[Clause], ...], log: Log, pretend: bool = False) -> "App":
        """Build it and open both ports. Errors: PolicyFileError, SettingsError, StateUnavailable; nothing is left running then."""
        try:
            proxies = Proxies.of(settings.env)
        except ValueError as error:
            raise SettingsError([str(error)]) from error
        async with contextlib.AsyncExitStack() as undo:
            model = None
            given = UpstreamConfig(base_url=settings.upstream_url, api_key=settings.openai_key) if settings.upstream_url else None
            if pretend:
                from proxy.pretend import Pretend

                model = Pretend()
                given = UpstreamConfig(base_url=await model.start())
                undo.push_async_callback(model.stop)
                log.event("pretend.serving", listen=given.base_url)
            shelf = Shelf(kinds=kinds, env=settings.env, upstream=given)
            policies = shelf.load(settings.policy or _DEFAULT)
            if pretend and given not in policies.upstreams.values():
                raise SettingsError(
                    ["--pretend: the policy file names upstreams of its own, so the pretend one would not be asked"]
                )
            store = await SqliteStore.open(settings.state_dir, SystemClock())
            undo.push_async_callback(store.close)
            app = cls(settings, shelf=shelf, log=log, store=store, pretend=model, proxies=proxies)
            undo.push_async_callback(app._stop)
            app._recovered()
            app.activation.tell(None)
            if settings.record_key is not None:
                await app.records.open(settings.state_dir, settings.record_key)
            app.data_address = await _opened(app.edge.listener.listen, settings.listen, flag="--listen")
            app.admin_address = await _opened(app.admin.listener.listen, settings.admin_listen, flag="--admin-listen")
            app._background = [
                asyncio.create_task(app.activation.run(), name="policies"),
                asyncio.create_task(app.vigil.run(), name="vigil"),
                asyncio.create_task(app.pager.run(), name="pager"),
            ]
            undo.pop_all()
        # What lives now lives on: the collector need not look at it again, and what a call leaves behind is freed by counting.
        gc.collect()
        gc.freeze()
        gc.enable()
        gc.set_threshold(_YOUNG_OBJECTS, 50, 100)
        log.event(
            "server.ready",
            version=__version__,
            listen=shown(app.data_address),
            admin_listen=shown(app.admin_address),
            policy_version=shelf.current.version,
        )
        return app

    async def drain(self, pressed: asyncio.Event) -> None:
        """No new calls; running ones finish within the grace, then end honestly; everything is settled. pressed: wait no longer."""
        self.pipeline.drain()
        self.log.event("server.draining", running=self.pipeline.inflight, grace_s=self.settings.drain_s)
        self.edge.listener.stop_accepting()
        waiting = {asyncio.ensure_future(self.pipeline.idle()), asyncio.ensure_future(pressed.wait())}
        await asyncio.wait(waiting, timeout=self.settings.drain_s, return_when=asyncio.FIRST_COMPLETED)
        self.sweep.expire_all(DRAIN)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_S):
                await self.pipeline.idle()
        for task in waiting:
            task.cancel()
        await self._stop()
        await self.store.close()
        if self.pretend is not None:
            await self.pretend.stop()
        self.log.event("server.stopped")

    async def _stop(self) -> None:
        await self.edge.listener.close()
        await self.settlement.finish()
        await self.records.close()
        await self.herald.close()
        self.accounts.tell()
        self.rejections.close()
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        await self.pager.close()
        if self.courier is not None:
            await self.courier.close()
        await self.admin.listener.close()
        self.sweep.close()
        await self.tokenizer.close()
        for upstream in self.upstreams.values():
            await upstream.close()

    def _upstream(self, name: str, config: UpstreamConfig) -> HttpUpstream:
        """The client for an upstream; one for each name and address, kept, since calls may still use one that a reload dropped."""
        known = self.upstreams.get((name, config.base_url))
        if known is None:
            known = self.upstreams[name, config.base_url] = HttpUpstream(
                name, base_url=config.base_url, fields=READ_OF_ANSWERS, tunnel=self.proxies.towards(config.base_url)
            )
        return known

    def _paged(self, kind: str, result: str) -> None:
        self.metrics.pages.child(kind, result).inc()

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> tuple[int, float | None]:
        """Send a page: see Courier.post. The first one loads what it takes, in a thread."""
        if self.courier is None:
            module = await asyncio.to_thread(import_module, "proxy.courier")
            self.courier = self.courier or module.Courier(self.clock)
        return await self.courier.post(url, headers, body)

    def _recovered(self) -> None:
        found = self.store.recovery
        if found.holds or found.damaged:
            self.log.event(
                "state.recovered",
                level="error" if found.damaged else "warning",
                holds=found.holds,
                held_nanousd=found.nanousd,
                journal_lines=found.lines,
                journal_damaged=found.damaged,
            )

    # ── what is measured now and then ────────────────────────────────────────────────────────────────────────────────

    def _collect(self) -> None:
        self.metrics.inflight_calls.set(self.pipeline.inflight)
        self.metrics.connections.child("data").set(self.edge.listener.connections)
        self.metrics.connections.child("admin").set(self.admin.listener.connections)
        self.metrics.log_dropped.value = self.log.dropped
        for name, config in self.shelf.current.upstreams.items():
            self.metrics.upstream_open.child(name).set(int(self.healths.shut(name, config)))
        self.metrics.state_failures.value = self.store.failures
        for policy, turns_s in self.standing.resets(self.clock.wall_s()):
            self.metrics.budget_reset.child(policy).set(turns_s)


def run_app(settings: Settings, *, kinds: tuple[type[Clause], ...], pretend: bool, on_ready: Callable[[App], None]) -> int:
    """Serve until a signal. Returns the process's exit code; mistakes of the operator go to standard error, in words."""
    sys.setswitchinterval(_SWITCH_S)
    descriptors.raise_limit()
    gc.disable()  # until all is built: what is built by then stays
    log = Log(sys.stdout.fileno(), clock=SystemClock(), level=settings.log_level, format=settings.log_format)
    undo = install(log)
    try:
        return uvloop.run(_serve(settings, kinds=kinds, log=log, pretend=pretend, on_ready=on_ready))
    finally:
        undo()
        log.close()


async def _serve(
    settings: Settings, *, kinds: tuple[type[Clause], ...], log: Log, pretend: bool, on_ready: Callable[[App], None]
) -> int:
    asyncio.get_running_loop().set_exception_handler(loop_handler(log))
    asked, pressed = stop_signals()  # before anything runs that would have to be ended in order
    try:
        app = await App.start(settings, kinds=kinds, log=log, pretend=pretend)
    except PolicyFileError as error:
        print(*error.mistakes, sep="\n", file=sys.stderr)
        return 2
    except SettingsError as error:
        print(*(f"tollhouse: {mistake}" for mistake in error.mistakes), sep="\n", file=sys.stderr)
        return 2
    except StateUnavailable as error:
        print(f"tollhouse: {error.detail or error.message}", file=sys.stderr)
        return 2
    on_ready(app)
    if app.shelf.current.counts():
        await app.tokenizer.load()  # rather before the first call than during it
    await asked.wait()
    try:
        await app.drain(pressed)
    except StateUnavailable as error:  # the journals have what the database could not be given, for the next start
        log.event("state.failed", level="error", operation="close")
        print(f"tollhouse: {error.detail or error.message}", file=sys.stderr)
        return 1
    return 0


async def _opened(
    listen: Callable[[str, int], Awaitable[tuple[str, int]]], address: tuple[str, int], *, flag: str
) -> tuple[str, int]:
    """Where a port was opened. Errors: SettingsError, which says why it was not."""
    try:
        return await listen(*address)
    except OSError as error:
        raise cannot_listen(flag, address, error) from error
