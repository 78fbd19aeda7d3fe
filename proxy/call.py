"""The values that travel through a request: who calls, what is asked, what it used, how it ended.

A Call is the one mutable value of the house: it is filled on its way in (edge, then the policies' `prepare`) and is not changed
after `upstream.open`. Everything else here is never changed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from proxy.timeouts import UNBOUNDED, Drain, Timeouts

# Output tokens of one choice that are held where not the worst but the usual case is, and billed where nobody knows any bound.
TYPICAL_OUTPUT = 256

_OPENAI_MODEL = re.compile(r"(?:openai/)?(?:gpt-(?!oss)|chatgpt-|o\d|ft:|codex-|computer-use)")

UsageSource = Literal["reported", "counted", "estimated"]
Ending = Literal["completed", "refused", "upstream_error", "upstream_broken", "client_gone", "timed_out", "drained"]


class Principal(NamedTuple):  # no dataclass: a frozen one takes twice as long to make and to find, and so for what every call makes
    """Who pays. `user` is the trusted user header's value, or the key's id where there is none."""

    key: str
    user: str
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Surface:
    """One metered path of the API.

    name: short word for logs and labels; path: canonical path below the root, `*` for one segment.
    caps: body fields that cap the output, the one to inject last; least_cap: smallest value the API accepts for a cap.
    default_cap: what the API applies when no cap is sent, or None for the model's own maximum.
    fanout: body fields that multiply the output. form: the body may be a form (multipart). default_model: for a body that names none.
    switches: the connection becomes a WebSocket, and what is metered goes over that.
    Source: facts on the OpenAI API, sections 1, 2, 4, 5.
    """

    name: str
    path: str
    methods: tuple[str, ...] = ("POST",)
    caps: tuple[str, ...] = ()
    least_cap: int = 1
    default_cap: int | None = None
    fanout: tuple[str, ...] = ()
    streams: bool = False
    has_output: bool = False
    metered: bool = True
    model_required: bool = True
    form: bool = False
    default_model: str | None = None
    switches: bool = False


@lru_cache(maxsize=1024)  # names come from clients, 256 characters at most
def _is_openais(model: str) -> bool:
    return _OPENAI_MODEL.match(model) is not None


# Before it is known who calls, and what.
NOBODY = Principal(key="", user="")
UNROUTED = Surface(name="unrouted", path="", methods=(), metered=False, model_required=False)


@dataclass(slots=True, unsafe_hash=True)
class Usage:
    """What one call used: tokens by class, whose totals include their subsets, as on the wire, and what is not sold by the token.

    input_tokens ⊇ cached_tokens + cache_write_tokens + audio_input_tokens + image_input_tokens;
    output_tokens ⊇ reasoning_tokens, audio_output_tokens, image_output_tokens. All ≥ 0.
    units: images, characters, or milliseconds of audio, as the surface has it.
    Never changed, and not frozen, because that takes four times as long to make.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    cache_write_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    reasoning_tokens: int = 0
    image_input_tokens: int = 0
    image_output_tokens: int = 0
    units: int = 0

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


AS_PLAIN = -1


@dataclass(frozen=True, slots=True)
class Price:
    """US price of one model, in nanodollars per million tokens of each class (5.00 USD per million = 5_000_000_000).

    image_input, image_output: AS_PLAIN costs what the plain class costs. unit: nanodollars per million units of Usage, 0 where none
    are sold. call: nanodollars of each call, whatever it uses. long: the price of a whole call whose input is above `long_above`
    tokens. tiers: the prices by service tier, as answers name them, beside this one. also: what else the call may come to be billed
    at; held is the dearest of all.
    """

    input: int
    output: int
    cached_input: int
    cache_write: int
    audio_input: int
    audio_output: int
    image_input: int = AS_PLAIN
    image_output: int = AS_PLAIN
    unit: int = 0
    call: int = 0
    long: "Price | None" = None
    long_above: int = 0
    tiers: "Mapping[str, Price]" = field(default_factory=dict, hash=False)
    also: "tuple[Price, ...]" = ()
    dearest_input: int = field(init=False, repr=False, compare=False)  # of any class; likewise for output
    dearest_output: int = field(init=False, repr=False, compare=False)
    by_tokens: bool = field(init=False, repr=False, compare=False)  # some token costs something
    free: bool = field(init=False, repr=False, compare=False)  # nothing costs anything
    _plain: bool = field(init=False, repr=False, compare=False)  # tokens are all there is to it, at one price each

    def __post_init__(self) -> None:
        for name, plain in (("image_input", self.input), ("image_output", self.output)):
            if getattr(self, name) == AS_PLAIN:
                object.__setattr__(self, name, plain)
        inputs = (self.input, self.cached_input, self.cache_write, self.audio_input, self.image_input)
        object.__setattr__(self, "dearest_input", max(inputs))
        object.__setattr__(self, "dearest_output", max(self.output, self.audio_output, self.image_output))
        dearer = any(not price.free for price in (self.long, *self.also) if price is not None)
        object.__setattr__(self, "by_tokens", bool(self.dearest_input or self.dearest_output))
        object.__setattr__(self, "free", not (self.by_tokens or self.unit or self.call or dearer))
        object.__setattr__(self, "_plain", not (self.unit or self.call or self.long or self.also))

    def cost_nanousd(self, usage: Usage, *, tier: Any = None) -> int:
        """Integer nanodollars, rounded up once over the disjoint classes.

        tier: the service tier that the answer names, anything or nothing; one that has no price of its own costs what this one does.
        """
        if type(tier) is str and tier in self.tiers:
            return self.tiers[tier].cost_nanousd(usage)
        if not self._plain:
            if self.long is not None and usage.input_tokens > self.long_above:
                return self.long.cost_nanousd(usage)
        elif not (
            usage.cached_tokens
            or usage.cache_write_tokens
            or usage.audio_input_tokens
            or usage.audio_output_tokens
            or usage.image_input_tokens
            or usage.image_output_tokens
        ):
            return -(-(usage.input_tokens * self.input + usage.output_tokens * self.output) // 1_000_000)
        left = usage.input_tokens
        left -= (audio_in := min(usage.audio_input_tokens, left))
        left -= (image_in := min(usage.image_input_tokens, left))
        left -= (cached := min(usage.cached_tokens, left))
        left -= (written := min(usage.cache_write_tokens, left))
        audio_out = min(usage.audio_output_tokens, usage.output_tokens)
        image_out = min(usage.image_output_tokens, usage.output_tokens - audio_out)
        total = (
            left * self.input
            + cached * self.cached_input
            + written * self.cache_write
            + audio_in * self.audio_input
            + image_in * self.image_input
            + (usage.output_tokens - audio_out - image_out) * self.output
            + audio_out * self.audio_output
            + image_out * self.image_output
            + usage.units * self.unit
        )
        return -(-total // 1_000_000) + self.call

    def worst_nanousd(self, *, input_tokens: int, output_tokens: int, units: int = 0) -> int:
        """The most that so much can cost, whatever its classes and its tier."""
        total = input_tokens * self.dearest_input + output_tokens * self.dearest_output
        if self._plain:
            return -(-total // 1_000_000)
        others = (self.long, *self.also) if self.long is not None and input_tokens > self.long_above else self.also
        own = -(-(total + units * self.unit) // 1_000_000) + self.call
        each = (o.worst_nanousd(input_tokens=input_tokens, output_tokens=output_tokens, units=units) for o in others)
        return max(own, *each) if others else own

    def output_within(self, nanousd: int, *, input_tokens: int) -> int:
        """How many output tokens at the most so much money pays for, beside the input; below 0 where it does not pay for that.

        Asked of a price whose output costs something.
        """
        return (nanousd * 1_000_000 - input_tokens * self.dearest_input) // self.dearest_output


class Clamp(NamedTuple):
    """One cap that a policy lowered or added. before: None when the client sent none."""

    field: str
    before: int | None
    after: int

    def __str__(self) -> str:
        """As in the header `tollhouse-clamped` and in the log: `max_tokens=8000->1024`, `max_tokens=none->1024`."""
        return f"{self.field}={'none' if self.before is None else self.before}->{self.after}"


@dataclass(slots=True)
class Call:
    """One request through us.

    It begins with nothing but its id, and admission fills it in. path: canonical, without query.
    body: as received, b"" for none, for one whose parts are known, and
    once an upstream has answered; size: its bytes; parts: the body as it is sent, () where that is yet to be found out.
    fields: the parsed JSON body, read-only, or None where the path is passed as bytes. unread: the bytes of its messages, where `fields`
    has nothing for them: they are plain texts, and are read again when somebody asks.
    asked_caps: each cap field the client sent with a number. cap: output tokens of one choice after shaping, None = no cap is sent.
    uncapped: the same where no cap is known: what the model can write at most.
    choices: how many answers the upstream generates and bills (n, best_of, prompts). input_bound: tokens the input can be at most.
    units: of Usage, at most. tools: what a call of each hosted tool that the body offers costs, in nanodollars, by the tool's word;
    tool_calls: how many there can be at most.
    edits: top-level body fields to set before the body is sent; empty = the body is passed on byte for byte.
    price: of `model`, filled after shaping; None for a surface that costs nothing. drain: None = no policy says anything, so no reading on.
    """

    id: str
    method: str
    path: str = ""
    surface: Surface = UNROUTED
    principal: Principal = NOBODY
    body: bytes = b""
    size: int = 0
    parts: tuple[bytes | memoryview, ...] = ()
    fields: Mapping[str, Any] | None = None
    unread: memoryview | None = None
    model_asked: str | None = None
    model: str | None = None
    stream: bool = False
    asked_caps: dict[str, int] = field(default_factory=dict)
    cap: int | None = None
    choices: int = 1
    input_bound: int = 0
    edits: dict[str, Any] = field(default_factory=dict)
    clamps: dict[str, Clamp] = field(default_factory=dict)
    timeouts: Timeouts = UNBOUNDED
    price: Price | None = None
    drain: Drain | None = None
    heartbeat: float | None = None
    uncapped: int = 0
    units: int = 0
    tools: tuple[tuple[str, int], ...] = ()
    tool_calls: int = 0

    @property
    def asked_cap(self) -> int | None:
        """The largest cap the client named, before any policy; None when it named none."""
        return max(self.asked_caps.values()) if self.asked_caps else None

    @property
    def held_output(self) -> int:
        """The most output tokens of this call: every choice up to its cap."""
        return self.choices * (self.uncapped if self.cap is None else self.cap)

    @property
    def held_tokens(self) -> int:
        """The most tokens this call can use: input bound plus every choice up to its cap."""
        return self.input_bound + self.choices * (self.uncapped if self.cap is None else self.cap)

    @property
    def held_nanousd(self) -> int:
        """The most this call can cost."""
        if self.price is None:
            return 0
        output_tokens = self.choices * (self.uncapped if self.cap is None else self.cap)
        held = self.price.worst_nanousd(input_tokens=self.input_bound, output_tokens=output_tokens, units=self.units)
        return held + self.tool_calls * max(cost for _, cost in self.tools) if self.tools else held

    @property
    def typical_output(self) -> int:
        """Output tokens of all choices in the usual case, and never more than their caps allow."""
        each = self.uncapped if self.cap is None else self.cap
        return self.choices * (each if each < TYPICAL_OUTPUT else TYPICAL_OUTPUT)

    @property
    def typical_tokens(self) -> int:
        """The input bound, and output as is usual."""
        return self.input_bound + self.typical_output

    @property
    def typical_nanousd(self) -> int:
        """What the input costs at most, and output as is usual."""
        if self.price is None:
            return 0
        each = self.uncapped if self.cap is None else self.cap
        output_tokens = self.choices * (each if each < TYPICAL_OUTPUT else TYPICAL_OUTPUT)
        likely = self.price.worst_nanousd(input_tokens=self.input_bound, output_tokens=output_tokens, units=self.units)
        return likely + self.tool_calls * max(cost for _, cost in self.tools) if self.tools else likely

    @property
    def billed_output(self) -> int:
        """Output tokens of all choices where nobody saw how many were made: up to the caps, or as is usual where there are none."""
        return self.typical_output if self.cap is None else self.choices * self.cap

    def limit_output(self, cap: int) -> None:
        """Lower every output cap to `cap`, and add one where the client sent none. Any order of calls ends at the smallest."""
        surface = self.surface
        if not surface.caps:
            return
        if cap < surface.least_cap:
            cap = surface.least_cap
        asked_caps: Mapping[str, int | None] = self.asked_caps
        if not asked_caps:
            if surface.default_cap is not None:
                cap = min(cap, surface.default_cap)
            asked_caps = {self.added_cap: None}
        elif self.cap is not None and self.cap <= cap:
            return  # no cap is above the largest
        for name, asked in asked_caps.items():
            now = self.edits.get(name, asked)
            if now is None or now > cap:
                self.edits[name] = cap
                self.clamps[name] = Clamp(name, asked, cap)
        if self.cap is None or cap < self.cap:
            self.cap = cap

    @property
    def added_cap(self) -> str:
        """The cap field to add for a client that sent none.

        OpenAI's newer models refuse `max_tokens`, and several self-hosted servers know nothing else.
        """
        caps = self.surface.caps
        return caps[-1] if len(caps) > 1 and _is_openais(self.model or "") else caps[0]

    @property
    def clamped(self) -> str | None:
        """Every clamp, as in the header and in the log; None when nothing was clamped."""
        return _clamped(tuple(self.clamps.values())) if self.clamps else None

    def rename_model(self, model: str) -> None:
        """Send `model` upstream instead of the one asked."""
        added = None if self.asked_caps or not self.surface.caps else self.added_cap
        self.model = model
        self.edits["model"] = model
        if added in self.edits and added != self.added_cap:
            cap = self.edits.pop(added)
            self.clamps.pop(added)
            self.edits[self.added_cap] = cap
            self.clamps[self.added_cap] = Clamp(self.added_cap, None, cap)

    def scratch(self) -> "Call":
        """A copy that a shadowed policy may shape without the call noticing."""
        return replace(self, asked_caps=dict(self.asked_caps), edits=dict(self.edits), clamps=dict(self.clamps))


@lru_cache(maxsize=256)
def _clamped(clamps: tuple[Clamp, ...]) -> str:
    return ", ".join(map(str, clamps))


class Kind(NamedTuple):
    """What an ended call has in common with others: who asked for what, and how it ended.

    It decides every label of its metrics and most of its log line, so what is said of calls is remembered by it. The rule a reader
    could break: nothing in it belongs to one call, user or path, or what is remembered would never be met again.

    key: "" until it is known. surface: its name. model: the one sent upstream. status: what the client saw, 0 when nothing was sent.
    error: the code, None for a completed call; deadline: the one that passed. refused_by: (policy, clause). usage_source: None when the
    upstream was never asked to do anything. usage_nonsense: its usage block made no sense. price_version: None where nothing is paid for.
    """

    key: str
    surface: str
    model_asked: str | None
    model: str | None
    model_served: str | None
    upstream: str | None
    stream: bool
    status: int
    ending: Ending
    error: str | None
    deadline: str | None
    refused_by: tuple[str, str] | None
    clamps: tuple[Clamp, ...]
    usage_source: UsageSource | None
    usage_nonsense: bool
    price_version: str | None
    policy_version: str
