"""What an app does, and what must come of it. Each scenario makes real calls with the official client and returns a note for the table.

The rule a reader could break: scenarios share nothing but the rig. Each may run alone, except that `drain` and what follows it come
last.
"""

import asyncio
import json
import math
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import openai
from checks import Failed, expect, same, until
from children import CONTEXT, MODEL
from openai import AuthenticationError, BadRequestError, PermissionDeniedError, RateLimitError
from rig import Mark, Rig

# Prices of policy.yaml, in nanodollars per token.
_INPUT, _CACHED, _OUTPUT = 1000, 100, 2000

# Greedy, and without what earlier calls left in the model server's cache: the same call gives the same answer.
GREEDY: Mapping[str, Any] = {"temperature": 0, "seed": 7, "extra_body": {"cache_prompt": False}}
# A base model may end its answer at once. This one goes on to its cap.
ENDLESS: Mapping[str, Any] = {"temperature": 0, "seed": 7, "extra_body": {"cache_prompt": False, "ignore_eos": True}}

# Bidirectional text, combining marks, a family joined by zero-width joiners, a flag and a character beyond 16 bits.
MANY_SCRIPTS = "שלום · مرحبا · e\u0301 · 👩‍👩‍👧 🇳🇱 · 𝄞 · \u200fאבג\u200e"

_ABORT_S = 1.0
# A call without a stream that its client left: llama.cpp was seen to go on with some of them to their end, also when asked directly.
_ABANDONED_TOKENS = 150
_ABANDONED_S = 40
_PAGE_S = 10
_QUIET_S = 1.5


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the table."""

    name: str
    run: Callable[[Rig], Awaitable[str]]


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def models(rig: Rig) -> str:
    names = [model.id async for model in rig.client("app").models.list()]
    same("the models listed", names, [MODEL])
    return ""


async def chat(rig: Rig) -> str:
    mark = rig.mark()
    asked: dict[str, Any] = {"model": MODEL, "messages": rig.messages("Tell me about toll roads."), "max_tokens": 32, **ENDLESS}
    answer = await rig.client("app").chat.completions.with_raw_response.create(**asked)
    said = answer.parse()
    direct = await rig.direct().chat.completions.create(**asked)
    same("the answer, compared with the model server's own", said.choices[0].message, direct.choices[0].message)
    usage = said.usage
    assert usage is not None
    same("output tokens", usage.completion_tokens, 32)
    cost = _cost(usage.prompt_tokens, usage.completion_tokens, _cached(usage))
    same("tollhouse-cost-usd", answer.headers.get("tollhouse-cost-usd"), f"{cost / 1e9:.9f}".rstrip("0"))
    expect("admit;dur=" in answer.headers.get("server-timing", ""), "no admit stage in Server-Timing")
    line = (await rig.since(mark))[0]
    same("request_id in the log", line["request_id"], answer.headers.get("x-request-id"))
    wanted = {
        "key": "app",
        "path": "/v1/chat/completions",
        "model_asked": MODEL,
        "status": 200,
        "outcome": "completed",
        "usage_source": "reported",
        "input_tokens": usage.prompt_tokens,
        "output_tokens": usage.completion_tokens,
        "cost_nanousd": cost,
    }
    same("the log line", {name: line.get(name) for name in wanted}, wanted)
    return "as the model server answers; log and headers agree on tokens and cost"


async def stream(rig: Rig) -> str:
    mark = rig.mark()
    asked: dict[str, Any] = {
        "model": MODEL,
        "messages": rig.messages("Count the toll."),
        "max_tokens": 40,
        "stream": True,
        **ENDLESS,
    }
    began = time.monotonic()
    first_ms: float | None = None
    chunks = []
    async for chunk in await rig.client("app").chat.completions.create(**asked):
        chunks.append(chunk)
        if first_ms is None and chunk.choices and chunk.choices[0].delta.content:
            first_ms = (time.monotonic() - began) * 1000
    expect(all(chunk.choices for chunk in chunks), "a chunk without choices, which the app did not ask for")
    expect(all(chunk.usage is None for chunk in chunks), "a chunk with usage, which the app did not ask for")
    same("finish_reason", chunks[-1].choices[0].finish_reason, "length")
    line = (await rig.since(mark))[0]
    same("tokens out and their source in the log", (line["output_tokens"], line["usage_source"]), (40, "reported"))
    expect(
        first_ms is not None and line["first_token_ms"] <= first_ms,
        f"first token: logged {line['first_token_ms']}, seen {first_ms} ms",
    )

    counted = [c async for c in await rig.client("app").chat.completions.create(**asked, stream_options={"include_usage": True})]
    usage = counted[-1].usage
    expect(not counted[-1].choices and usage is not None, "an app that asks for usage gets none")
    assert usage is not None
    same("output tokens reported to the app", usage.completion_tokens, 40)
    same("the text of both streams", _text(counted), _text(chunks))
    return f"{len(chunks)} chunks; no usage chunk unless asked for"


async def json_schema(rig: Rig) -> str:
    toll = {
        "name": {"const": rig.secrets.canary},
        "lanes": {"type": "integer", "minimum": 1, "maximum": 9},
        "open": {"type": "boolean"},
        "payment": {"enum": ["cash", "card"]},
    }
    schema = {"type": "object", "properties": toll, "required": list(toll), "additionalProperties": False}
    answer = await rig.client("app").chat.completions.create(
        model=MODEL,
        messages=rig.messages("Describe a toll booth as JSON."),
        max_tokens=120,
        response_format={"type": "json_schema", "json_schema": {"name": "booth", "strict": True, "schema": schema}},
        temperature=0,
        seed=7,
    )
    booth = json.loads(answer.choices[0].message.content or "")
    same("the fields of the answer", sorted(booth), sorted(toll))
    same("the constant in the answer", booth["name"], rig.secrets.canary)
    expect(booth["payment"] in ("cash", "card") and booth["lanes"] in range(1, 10), f"not as the schema says: {booth}")
    return "valid by its schema"


async def embeddings(rig: Rig) -> str:
    asked: dict[str, Any] = {"model": MODEL, "input": [rig.prompt("toll"), rig.prompt(MANY_SCRIPTS)]}
    ours = await rig.client("app").embeddings.create(**asked)
    theirs = await rig.direct().embeddings.create(**asked)
    same("vectors", len(ours.data), 2)
    for a, b in zip(ours.data, theirs.data, strict=True):
        expect(_cosine(a.embedding, b.embedding) > 0.9999, "a vector differs from the model server's own")
    same("prompt tokens", ours.usage.prompt_tokens, theirs.usage.prompt_tokens)
    return f"2 vectors of {len(ours.data[0].embedding)}"


async def completions(rig: Rig) -> str:
    asked: dict[str, Any] = {"model": MODEL, "prompt": rig.prompt("Once upon a time"), "max_tokens": 24, **ENDLESS}
    ours = await rig.client("app").completions.create(**asked)
    theirs = await rig.direct().completions.create(**asked)
    same("the text", ours.choices[0].text, theirs.choices[0].text)
    parts = [part async for part in await rig.client("app").completions.create(**asked, stream=True)]
    same("the streamed text", "".join(part.choices[0].text for part in parts), theirs.choices[0].text)
    return "whole and streamed"


async def responses(rig: Rig) -> str:
    asked: dict[str, Any] = {
        "model": MODEL,
        "input": rig.prompt("Say hello."),
        "max_output_tokens": 24,
        "temperature": 0,
        "extra_body": ENDLESS["extra_body"],
    }
    try:
        theirs = await rig.direct().responses.create(**asked)
    except openai.NotFoundError:
        return "skipped: this model server has no Responses API"
    ours = await rig.client("app").responses.create(**asked)
    same("the text", ours.output_text, theirs.output_text)
    events = [event async for event in await rig.client("app").responses.create(**asked, stream=True)]
    same("the streamed text", "".join(e.delta for e in events if e.type == "response.output_text.delta"), theirs.output_text)
    expect(events[-1].type in ("response.completed", "response.incomplete"), f"the stream ends in {events[-1].type}")
    return f"whole and streamed, {len(events)} events"


async def many_scripts(rig: Rig) -> str:
    """Emoji and right-to-left text, byte for byte: forced by a grammar, so that it is known, and as the model goes on with it."""
    const = {"type": "object", "properties": {"text": {"const": MANY_SCRIPTS}}, "required": ["text"], "additionalProperties": False}
    forced: dict[str, Any] = {
        "model": MODEL,
        "messages": rig.messages(f"Repeat: {MANY_SCRIPTS}"),
        "max_tokens": 150,
        "response_format": {"type": "json_schema", "json_schema": {"name": "echo", "schema": const}},
        **GREEDY,
    }
    told = json.loads(_text([chunk async for chunk in await rig.client("app").chat.completions.create(**forced, stream=True)]))
    same("what was streamed", told["text"].encode(), MANY_SCRIPTS.encode())
    free: dict[str, Any] = {"model": MODEL, "messages": rig.messages(" ".join([MANY_SCRIPTS] * 3)), "max_tokens": 48, **ENDLESS}
    ours, theirs = await _stream_bytes(rig.client("app"), free), await _stream_bytes(rig.direct(), free)
    same("the bytes of the stream, but for ids and times", ours, theirs)
    return f"as forced by a grammar; {len(ours)} bytes of a stream equal to the model server's own"


async def upstream_explains(rig: Rig) -> str:
    long: dict[str, Any] = {"model": MODEL, "messages": rig.messages("toll " * (CONTEXT + 500)), "max_tokens": 8}
    error = await rig.refused(rig.client("app").chat.completions.create(**long), BadRequestError)
    expect("context" in error.message, f"the model server's explanation is missing: {error.message}")
    return "a prompt beyond the context: the upstream's own words"


# ── clients that leave ───────────────────────────────────────────────────────────────────────────────────────────────────


async def abort_stream(rig: Rig) -> str:
    mark = rig.mark()
    asked: dict[str, Any] = {"model": MODEL, "messages": rig.messages("Never stop."), "max_tokens": 1500, **ENDLESS}
    running = await rig.client("app").chat.completions.create(**asked, stream=True)
    seen = 0
    async for _ in running:
        seen += 1
        if seen == 5:
            break
    same("slots at work", await rig.busy_slots(), 1)
    await running.close()
    free_s = await rig.slots_free(within_s=_ABORT_S)
    await _left(rig, mark)
    return f"slot free after {free_s * 1000:.0f} ms"


async def abort_whole(rig: Rig) -> str:
    mark = rig.mark()
    asked: dict[str, Any] = {"model": MODEL, "messages": rig.messages("Never stop."), "max_tokens": _ABANDONED_TOKENS, **ENDLESS}
    waiting = asyncio.ensure_future(rig.client("app").chat.completions.create(**asked))

    async def at_work() -> bool | None:
        return True if await rig.busy_slots() == 1 else None

    await until("a slot at work", at_work, within_s=10)
    waiting.cancel()
    left_at = time.monotonic()
    await asyncio.gather(waiting, return_exceptions=True)
    await _left(rig, mark)
    noticed_s = time.monotonic() - left_at
    expect(noticed_s < _ABORT_S, f"Tollhouse noticed only {noticed_s:.1f} s after its client had left")
    await rig.slots_free(within_s=_ABANDONED_S)
    return f"noticed after {noticed_s * 1000:.0f} ms"


async def _left(rig: Rig, mark: Mark) -> None:
    """The call of a client that left is logged as that. It is not free: what the model did until then is known or guessed, never zero."""
    line = (await rig.since(mark))[0]
    same("outcome", line["outcome"], "client_gone")
    usage = {name: line[name] for name in ("usage_source", "input_tokens", "output_tokens", "cost_nanousd")}
    expect(usage["usage_source"] in ("counted", "estimated"), f"the client left, and the log says {usage}")
    expect(
        usage["input_tokens"] > 0 and usage["output_tokens"] > 0,
        f"the client left while the model was at work, and the log says {usage}",
    )


# ── policies ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def clamp(rig: Rig) -> str:
    app = rig.client("capped")
    chat, messages = app.chat.completions.with_raw_response, rig.messages("Tell a long story.")
    caps: tuple[tuple[dict[str, Any], str], ...] = (
        ({"max_tokens": 400}, "max_tokens=400->12"),
        ({"max_completion_tokens": 400}, "max_completion_tokens=400->12"),
        ({}, "max_tokens=none->12"),
    )
    for asked, told in caps:
        answer = await chat.create(model=MODEL, messages=messages, **asked, **ENDLESS)
        same("tollhouse-clamped", answer.headers.get("tollhouse-clamped"), told)
        choice, usage = answer.parse().choices[0], answer.parse().usage
        assert usage is not None
        same("finish_reason and output tokens", (choice.finish_reason, usage.completion_tokens), ("length", 12))
    text = await app.completions.with_raw_response.create(model=MODEL, prompt=rig.prompt("So"), max_tokens=400, **ENDLESS)
    same("tollhouse-clamped", text.headers.get("tollhouse-clamped"), "max_tokens=400->12")
    small = await chat.create(model=MODEL, messages=messages, max_tokens=5, **ENDLESS)
    same("tollhouse-clamped below the cap", small.headers.get("tollhouse-clamped"), None)
    return "400 → 12, by every name; said in tollhouse-clamped"


async def burst(rig: Rig) -> str:
    """Eleven calls at once: ten pass. The eleventh is told when to come back: not a second earlier, and then it passes."""
    ada, bob = {"x-user-id": "ada"}, {"x-user-id": "bob"}
    refusals: list[tuple[RateLimitError, float]] = []

    async def call(user: Mapping[str, str], *, max_retries: int = 0) -> None:
        app = rig.client("burst", max_retries=max_retries)
        await app.embeddings.create(model=MODEL, input=rig.prompt("toll"), extra_headers=user)

    async def one_of_many() -> None:
        try:
            await call(ada)
        except RateLimitError as error:
            refusals.append((error, time.monotonic()))

    async def refused() -> tuple[RateLimitError, float] | None:
        return refusals[0] if refusals else None

    # The ten go on while the eleventh waits: a slow model must not make its time pass unseen.
    running = asyncio.gather(*(one_of_many() for _ in range(11)), call(bob))
    (error, refused_at), _ = await until("a refusal among eleven calls at once", refused, within_s=10)
    same("code", error.code, "rate_limit_exceeded")
    for word in ("ten-a-minute", "10 requests per minute", "Try again in"):
        expect(word in error.message, f"the refusal does not say {word!r}: {error.message}")
    wait_s = _told_to_wait(error)
    expect(5 <= wait_s <= 6, f"10 a minute is one every 6 s, and the refusal says {wait_s} s")

    await asyncio.sleep(wait_s - 1 - (time.monotonic() - refused_at))
    early = await rig.refused(call(ada), RateLimitError, code="rate_limit_exceeded")
    expect(_told_to_wait(early) <= 1.1, f"a second before its time: told to wait {_told_to_wait(early)} s")
    await asyncio.sleep(_told_to_wait(early))

    mark, began = rig.mark(), time.monotonic()
    await asyncio.gather(call(ada, max_retries=2), call(ada, max_retries=2))
    same("requests for two calls, of which one passes at once and one when the SDK has waited", rig.sent_since(mark), 3)
    expect(time.monotonic() - began >= 5, "two calls within 5 s, where one is allowed every 6 s")
    await running
    same("refusals among eleven calls at once", len(refusals), 1)
    return f"refused, told {wait_s:.1f} s, then it passed; the SDK waits by itself; another user is not held up"


async def budget_page(rig: Rig) -> str:
    """Calls in parallel take the budget over its threshold, and beyond: one page."""
    before, mark = len(rig.receiver.received), rig.mark()
    asked: dict[str, Any] = {"model": MODEL, "prompt": rig.prompt("Spend"), "max_tokens": 16, **ENDLESS}
    first = await rig.client("spender").completions.create(**asked)
    assert first.usage is not None
    each = _cost(first.usage.prompt_tokens, first.usage.completion_tokens, _cached(first.usage))
    limit = 500_000
    few = limit // 2 // each - 1  # stays below the threshold with the first
    await asyncio.gather(*(rig.client("spender").completions.create(**asked) for _ in range(few - 1)))
    await asyncio.sleep(_QUIET_S)
    same("pages below the threshold", len(rig.receiver.received) - before, 0)
    await asyncio.gather(*(rig.client("spender").completions.create(**asked) for _ in range(6)))

    async def paged() -> bool | None:
        return True if len(rig.receiver.received) > before else None

    await until("a page", paged, within_s=_PAGE_S)
    await asyncio.sleep(_QUIET_S)
    same("pages for one threshold", len(rig.receiver.received) - before, 1)
    for event_name in ("budget.crossed", "page.delivered"):
        lines = [line for line in rig.tollhouse.events(event_name) if "/pocket-money/" in line["page"]]
        same(f"log lines {event_name}", len(lines), 1)
    page = rig.receiver.received[before]
    try:
        rig.client("app").webhooks.verify_signature(page.body, page.headers, secret=rig.secrets.signing)
    except openai.InvalidWebhookSignatureError as error:
        raise Failed(f"the page's signature: {error}") from None
    event = json.loads(page.body)
    facts = event["data"]
    same("the page", (event["type"], facts["policy"], facts["threshold_percent"]), ("budget.threshold_crossed", "pocket-money", 50))
    spent = round(float(facts["spent_usd"]) * 1e9)
    total = sum(line["cost_nanousd"] for line in await rig.since(mark))
    expect(limit // 2 <= spent <= total, f"the page says {spent} nanodollars are spent, the log {total}")
    return f"1 signed page: {facts['spent_usd']} of {facts['limit_usd']} USD"


async def budget_spent(rig: Rig) -> str:
    mark = rig.mark()
    call = rig.client("broke", max_retries=2).completions.create(model=MODEL, prompt=rig.prompt("Spend"), max_tokens=16)
    error = await rig.refused(call, RateLimitError, code="budget_exceeded")
    expect("empty-purse" in error.message and "USD" in error.message, f"neither policy nor limit: {error.message}")
    same("x-should-retry", error.response.headers.get("x-should-retry"), "false")
    same("requests of an SDK that would retry", rig.sent_since(mark), 1)
    return "refused once; the SDK does not try again"


async def unknown_model(rig: Rig) -> str:
    call = rig.client("app").chat.completions.create(model="no-such-model", messages=rig.messages("Hello"))
    error = await rig.refused(call, PermissionDeniedError, code="model_not_priced")
    return f"{error.status_code} {error.code}"


async def wrong_key(rig: Rig) -> str:
    call = rig.stranger().chat.completions.create(model=MODEL, messages=rig.messages("Hello"))
    error = await rig.refused(call, AuthenticationError, code="invalid_api_key")
    return f"{error.status_code} {error.code}"


async def unmetered_path(rig: Rig) -> str:
    async def files() -> None:
        await rig.client("app").files.list()

    error = await rig.refused(files(), PermissionDeniedError, code="path_not_metered")
    return f"{error.status_code} {error.code}"


# ── the end ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


async def metrics_agree(rig: Rig) -> str:
    """What the metrics count is what the log lines say."""
    metrics = _samples(await rig.publish())
    calls = rig.tollhouse.events("call.finished")
    for name, logged in (
        ("tollhouse_calls_total", len(calls)),
        ("tollhouse_tokens_total", sum(line["input_tokens"] + line["output_tokens"] for line in calls)),
        ("tollhouse_cost_usd_total", sum(line["cost_nanousd"] for line in calls) / 1e9),
        ("tollhouse_inflight_calls", 0),
    ):
        expect(
            math.isclose(metrics.get(name, -1), logged, rel_tol=1e-9, abs_tol=1e-12), f"{name}: {metrics.get(name)}, log: {logged}"
        )
    return f"{len(calls)} calls: the same tokens and cost as in the log"


async def drain(rig: Rig) -> str:
    """SIGTERM in the middle of a stream: not ready, and yet the stream goes on to its end, everything is settled, exit 0."""
    mark = rig.mark()
    asked: dict[str, Any] = {"model": MODEL, "messages": rig.messages("One more."), "max_tokens": 120, **ENDLESS}
    running = await rig.client("app").chat.completions.create(**asked, stream=True)
    chunks = [await anext(running) for _ in range(5)]
    expect(await rig.ready(), "/readyz says no before SIGTERM")
    rig.tollhouse.child.terminate()

    async def unready() -> bool | None:
        return None if await rig.ready() else True

    await until("/readyz saying no after SIGTERM", unready, within_s=1)
    chunks += [chunk async for chunk in running]
    same("finish_reason of the running stream", chunks[-1].choices[0].finish_reason, "length")
    await rig.leave(within_s=10)
    line = (await rig.since(mark))[0]
    same("the running stream's outcome", (line["outcome"], line["output_tokens"]), ("completed", 120))
    return "the running stream ended whole; exit 0"


async def restart(rig: Rig) -> str:
    """A new process on the same state: the day's spend is still known, and nobody is paged again."""
    paged, mark = len(rig.receiver.received), rig.mark()
    await rig.open_gate()
    await rig.client("spender").completions.create(model=MODEL, prompt=rig.prompt("Spend"), max_tokens=16, **ENDLESS)
    await rig.since(mark)
    spent = sum(line["cost_nanousd"] for line in rig.calls() if line.get("key") == "spender")
    await asyncio.sleep(_QUIET_S)
    same("pages after the restart", len(rig.receiver.received) - paged, 0)
    ratio = _labelled(await rig.publish(), "tollhouse_budget_spent_ratio", 'policy="pocket-money"')
    expect(math.isclose(ratio, spent / 500_000, rel_tol=1e-6), f"spent ratio after the restart: {ratio}, log: {spent / 500_000}")
    return f"{spent / 1e9:.6f} USD still on the books; no second page"


async def silence(rig: Rig) -> str:
    """Neither prompts nor keys nor where the upstream lives stand anywhere that others read; and nothing went wrong unseen."""
    if rig.up:
        rig.tollhouse.child.terminate()
        await rig.leave(within_s=10)
    for name in ("fault.caught", "state.failed", "page.failed", "log.dropped", "library.logged"):
        same(f"log lines {name}", [line for tollhouse in rig.processes() for line in tollhouse.events(name)], [])
    said = [line for tollhouse in rig.processes() for line in tollhouse.child.lines]
    same("lines that are not JSON", [line for line in said if not line.startswith("{")], [])
    secrets = rig.secrets
    hidden = {
        "a prompt": secrets.canary,
        "the upstream's key": secrets.upstream_key,
        "the signing secret": secrets.signing,
        "the unknown key": secrets.wrong_key,
        "the upstream's address": rig.llama.address,
        **{f"the key {id}": key for id, key in secrets.keys.items()},
    }
    places = {
        "the log": "\n".join(said),
        "metrics or policy page": "\n".join(rig.published),
        "a page": "\n".join(f"{dict(p.headers)} {p.body.decode()}" for p in rig.receiver.received),
        "a refusal": "\n".join(rig.shown),
        "the state folder": "\n".join(f.read_bytes().decode("latin-1") for f in sorted(rig.state.rglob("*")) if f.is_file()),
    }
    found = [f"{what} in {where}" for what, needle in hidden.items() for where, text in places.items() if needle in text]
    expect(not found, "; ".join(found))
    size = sum(len(text) for text in places.values())
    return f"{len(hidden)} secrets sought in {size // 1000} kB of log, metrics, pages, refusals and state"


SCENARIOS = (
    Scenario("models", models),
    Scenario("chat", chat),
    Scenario("chat, streamed", stream),
    Scenario("JSON by a schema", json_schema),
    Scenario("embeddings", embeddings),
    Scenario("completions", completions),
    Scenario("responses", responses),
    Scenario("emoji, right-to-left", many_scripts),
    Scenario("upstream's 400", upstream_explains),
    Scenario("abort in mid-stream", abort_stream),
    Scenario("abort before the answer", abort_whole),
    Scenario("clamp", clamp),
    Scenario("11th call of a burst", burst),
    Scenario("budget crosses 50 %", budget_page),
    Scenario("budget spent", budget_spent),
    Scenario("unknown model", unknown_model),
    Scenario("wrong key", wrong_key),
    Scenario("path without a meter", unmetered_path),
    Scenario("metrics", metrics_agree),
    Scenario("SIGTERM in mid-stream", drain),
    Scenario("restart", restart),
    Scenario("silence", silence),
)


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _cost(input_tokens: int, output_tokens: int, cached_tokens: int) -> int:
    """Nanodollars, by the prices of policy.yaml."""
    return (input_tokens - cached_tokens) * _INPUT + cached_tokens * _CACHED + output_tokens * _OUTPUT


def _cached(usage: Any) -> int:
    details = usage.prompt_tokens_details
    return (details.cached_tokens or 0) if details is not None else 0


def _text(chunks: list[Any]) -> str:
    return "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)


# What differs between two runs of one call: ids, the time, and how long the model took.
_FLEETING = re.compile(rb'"(?:id":"[^"]*"|created":\d+|timings":\{[^}]*\})')


async def _stream_bytes(client: openai.AsyncOpenAI, asked: Mapping[str, Any]) -> bytes:
    """The body of a stream as the client's transport hands it over, without what is fleeting."""
    create = client.chat.completions.with_streaming_response.create
    async with create(**asked, stream=True, stream_options={"include_usage": True}) as answer:
        body = b"".join([chunk async for chunk in answer.iter_bytes()])
    expect(body.endswith(b"data: [DONE]\n\n"), f"a stream ends in {body[-40:]!r}")
    return _FLEETING.sub(b"", body)


def _cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def _told_to_wait(error: RateLimitError) -> float:
    """Seconds, from the header in milliseconds; the one in seconds must not promise less."""
    headers = error.response.headers
    told_s = int(headers["retry-after-ms"]) / 1000
    same("retry-after", int(headers["retry-after"]), math.ceil(told_s))
    return told_s


def _samples(metrics: str) -> dict[str, float]:
    """Each metric summed over its labels."""
    sums: dict[str, float] = {}
    for line in metrics.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            name = name.partition("{")[0]
            sums[name] = sums.get(name, 0.0) + float(value)
    return sums


def _labelled(metrics: str, name: str, label: str) -> float:
    values = [line.rpartition(" ")[2] for line in metrics.splitlines() if line.startswith(f"{name}{{") and label in line]
    same(f"samples of {name} with {label}", len(values), 1)
    return float(values[0])
