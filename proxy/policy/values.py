"""The words of the policy file: every kind of scalar there is, as a type for a dataclass field.

A field carries its kind by `typing.Annotated`: `total: Duration` is a float to the program and `2m` to whoever writes the file.
Units are resolved here: durations become seconds, sizes bytes, US dollars nanodollars.

The rule a reader could break: a parser is a pure function of the text, and its errors quote nothing that could be a secret.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, available_timezones

from proxy.policy.scalar import Kind, NotEmpty, Wrong, did_you_mean, nearest, quote

NANOUSD = 1_000_000_000
# The largest counts and sums: far beyond use, and every product with them still fits SQLite's 64-bit integers.
MOST_COUNT = 10**12
MOST_USD = 10**9
MOST_USD_PRICE = 10**6


def _whole(text: str, *, least: int, most: int) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text) or not least <= int(text) <= most:
        raise ValueError(text)
    return int(text)


def whole(*, least: int, most: int) -> Kind:
    """A whole number in a range."""
    span = f"a whole number ≥ {least}" if most == MOST_COUNT else f"a whole number from {least} to {most}"
    schema = {"type": "integer", "minimum": least, "maximum": most}
    return Kind(span, lambda text: _whole(text, least=least, most=most), schema)


def _usd(text: str, *, least: int, most: int) -> int:
    match = re.fullmatch(r"([0-9]{1,10})(?:\.([0-9]{1,9}))?", text)
    if match is None:
        raise ValueError(text)
    nanousd = int(match[1]) * NANOUSD + int((match[2] or "").ljust(9, "0"))
    if not least <= nanousd <= most * NANOUSD:
        raise ValueError(text)
    return nanousd


def _duration(text: str) -> float:
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h)", text)
    if match is None:
        raise ValueError(text)
    seconds = float(match[1]) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[match[2]]
    if not 0.001 <= seconds <= 7 * 86400:
        raise Wrong(f"expected a duration between 1ms and 168h, got {quote(text)}")
    return seconds


_SIZES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def byte_size(text: str) -> int:
    """Bytes. text: a number with its unit. Errors: ValueError for any other."""
    match = re.fullmatch(r"([0-9]{1,12})(B|[KMG]i?B)", text)
    if match is None:
        raise ValueError(text)
    return int(match[1]) * _SIZES[match[2]]


def _size(text: str) -> int:
    size = byte_size(text)
    if not 1 <= size <= 2**30:
        raise Wrong(f"expected a size between 1B and 1GiB, got {quote(text)}")
    return size


def _percent(text: str) -> int:
    return _whole(text.removesuffix("%"), least=1, most=1000)


def words(*known: str) -> Kind:
    """One of a few fixed words."""

    def parse(text: str) -> str:
        if text not in known:
            near = nearest(text, known)
            raise Wrong(f"expected {expects}, got {quote(text)}" + (f"; did you mean {near}?" if near else ""))
        return text

    expects = known[0] if len(known) == 1 else f"{', '.join(known[:-1])} or {known[-1]}"
    return Kind(expects, parse, {"enum": list(known)})


def _matching(pattern: str, text: str) -> str:
    if not re.fullmatch(pattern, text):
        raise ValueError(text)
    return text


def shaped(expects: str, pattern: str) -> Kind:
    """A text that matches a regular expression as a whole."""
    return Kind(expects, lambda text: _matching(pattern, text), {"type": "string", "pattern": f"^{pattern}$"}, text=True)


def _flag(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(text)
    return text == "true"


def _zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError):
        # A folder of the time zone database is an OSError, a name that leaves it a ValueError, an unknown one a KeyError.
        raise Wrong(f"expected {_ZONE}, got {quote(text)}{did_you_mean(text, sorted(available_timezones()))}") from None
    return text


_ZONE = "an IANA time zone such as UTC or Europe/Berlin"

# What never goes upstream or names a user: framing, hop-by-hop and credentials. RFC 9110 7.6.1, RFC 9112 6.
_RESERVED_HEADERS = frozenset(
    [
        "authorization",
        "api-key",
        "x-api-key",
        "cookie",
        "host",
        "content-length",
        "content-type",
        "content-encoding",
        "transfer-encoding",
        "connection",
        "keep-alive",
        "te",
        "trailer",
        "upgrade",
        "expect",
        "proxy-authorization",
        "proxy-connection",
        "accept-encoding",
    ]
)


def _header(text: str) -> str:
    name = _matching(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}", text).lower()
    if name in _RESERVED_HEADERS:
        raise Wrong(f"{quote(name)} is a header of the connection or of credentials and cannot be used here")
    return name


def _split(text: str) -> SplitResult:
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(text)
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
        raise ValueError(text)
    if parts.username is not None or parts.password is not None:
        raise Wrong("credentials do not belong in a URL")
    if parts.fragment:
        raise Wrong("a URL that is called has no #fragment")
    return parts


def _url(text: str) -> str:
    _split(text)
    return text


def base_url(text: str) -> str:
    """An upstream's base URL without a slash at its end. Errors: ValueError, Wrong; neither quotes the text."""
    parts = _split(text)
    if parts.query:
        raise Wrong("a base URL has no ?query")
    if parts.path.endswith(("/chat/completions", "/completions", "/responses", "/embeddings")):
        raise Wrong("a base URL ends before the path of a call, as in https://api.openai.com/v1")
    return text.rstrip("/")


def _secret(text: str) -> str:
    if not text or not text.isprintable() or text != text.strip():
        raise ValueError
    return text


def _credential(text: str) -> str:
    # It is sent in a header: what is not ASCII there is read differently by everyone.
    if not text.isascii() or " " in _secret(text):
        raise ValueError
    return text


def _key_hash(text: str) -> bytes:
    return bytes.fromhex(_matching(r"sha256:[0-9a-f]{64}", text).removeprefix("sha256:"))


def _signing_secret(text: str) -> str:
    try:
        size = len(base64.b64decode(text.removeprefix("whsec_"), validate=True))
    except binascii.Error:
        raise ValueError from None
    if not text.startswith("whsec_") or not 24 <= size <= 64:
        raise ValueError
    return text


def _date(text: str) -> date:
    return date.fromisoformat(_matching(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text))


def _string(**more: Any) -> dict[str, Any]:
    return {"type": "string", **more}


_URL = "a URL that starts with http:// or https://"
# Names stand in counters' subjects and metric labels, so `/`, `,` and `=` stay out of them.
_NAME = "a name of letters, digits, `.`, `_` and `-`, at most 64"
_MODEL = "a model's name without spaces"
_GLOB = "a model's name or pattern (`*` and `?` are wild)"
_PATH = "a path or pattern that starts with /v1/ (`*` and `?` are wild)"

Flag = Annotated[bool, Kind("true or false", _flag, {"type": "boolean"}, truth=True)]
Version = Annotated[Literal[1], Kind("1", lambda text: _whole(text, least=1, most=1), {"const": 1})]
Count = Annotated[int, whole(least=1, most=MOST_COUNT)]
Attempts = Annotated[int, whole(least=1, most=10)]
Failures = Annotated[int, whole(least=0, most=1000)]
Duration = Annotated[
    float, Kind("a duration with its unit, such as 100ms, 5s, 2m or 1h", _duration, _string(pattern=r"^[0-9.]+(ms|s|m|h)$"))
]
Size = Annotated[int, Kind("a size with its unit, such as 512KiB or 4MB", _size, _string(pattern=r"^[0-9]+(B|[KMG]i?B)$"))]
Percent = Annotated[
    int,
    Kind(
        "a percentage from 1 to 1000",
        _percent,
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 1000}, _string(pattern="^[0-9]+%$")]},
    ),
]
Share = Annotated[
    int,
    Kind(
        "a percentage from 1 to 100",
        lambda text: _whole(text.removesuffix("%"), least=1, most=100),
        {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 100}, _string(pattern="^[0-9]+%$")]},
    ),
]
Usd = Annotated[
    int,
    Kind(
        "an amount of US dollars above 0, such as 50 or 0.25",
        lambda text: _usd(text, least=1, most=MOST_USD),
        {"type": "number", "exclusiveMinimum": 0, "maximum": MOST_USD},
    ),
]
UsdPrice = Annotated[
    int,
    Kind(
        "US dollars per million tokens, such as 2.50 or 0",
        lambda text: _usd(text, least=0, most=MOST_USD_PRICE),
        {"type": "number", "minimum": 0, "maximum": MOST_USD_PRICE},
    ),
]
UsdEach = Annotated[
    int,
    Kind(
        "US dollars for each, such as 0.04 or 0",
        lambda text: _usd(text, least=0, most=MOST_USD_PRICE),
        {"type": "number", "minimum": 0, "maximum": MOST_USD_PRICE},
    ),
]
Tier = Annotated[str, shaped("a word of lower-case letters, digits and `_`, at most 32", r"[a-z][a-z0-9_]{0,31}")]
Name = Annotated[str, shaped(_NAME, r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")]
Model = Annotated[str, shaped(_MODEL, r"[!-)+->@-~]{1,200}")]
Glob = Annotated[str, shaped(_GLOB, r"[!-Z\\^-~]{1,200}")]
PathGlob = Annotated[str, shaped(_PATH, r"/v1/[!-Z\\^-~]{1,200}")]
Header = Annotated[str, Kind("a header's name", _header, _string(), text=True)]
Url = Annotated[str, Kind(_URL, _url, _string(pattern="^https?://"), text=True, secret=True)]
BaseUrl = Annotated[str, Kind(_URL, base_url, _string(pattern="^https?://"), text=True, secret=True)]
Credential = Annotated[
    str, Kind("a key in printable ASCII, without spaces", _credential, _string(minLength=1), text=True, secret=True)
]
RoutingKey = Annotated[
    str,
    Kind(
        "a PagerDuty routing key: 32 letters and digits",
        lambda text: _matching(r"[A-Za-z0-9]{32}", text),
        _string(pattern="^[A-Za-z0-9]{32}$"),
        text=True,
        secret=True,
    ),
]
SigningSecret = Annotated[
    str,
    Kind(
        "`whsec_` and the base64 of 24 to 64 random bytes (`openssl rand -base64 32`)",
        _signing_secret,
        _string(pattern="^whsec_"),
        text=True,
        secret=True,
    ),
]
KeyHash = Annotated[
    bytes,
    Kind(
        "`sha256:` and 64 hexadecimal digits, as `tollhouse keys new` prints it; never the key itself",
        _key_hash,
        _string(pattern="^sha256:[0-9a-f]{64}$"),
        text=True,
        secret=True,
    ),
]
Day = Annotated[date, Kind("a date such as 2027-01-31", _date, _string(format="date"))]
Zone = Annotated[str, Kind(_ZONE, _zone, _string(), text=True)]

Mode = Annotated[Literal["enforce", "shadow"], words("enforce", "shadow")]
RatePeriod = Annotated[Literal["second", "minute", "hour", "day"], words("second", "minute", "hour", "day")]
Window = Annotated[Literal["minute", "hour", "day", "week", "month"], words("minute", "hour", "day", "week", "month")]
ByWord = Annotated[Literal["user", "key", "tag", "model", "everyone"], words("user", "key", "tag", "model", "everyone")]
Holds = Annotated[Literal["strict", "optimistic"], words("strict", "optimistic")]
By = Annotated[tuple[ByWord, ...], NotEmpty("everyone makes one limit for all")]


def epoch_s(day: date) -> float:
    """When a day begins in UTC, in seconds since the epoch."""
    return datetime.combine(day, time(), UTC).timestamp()


PERIOD_S: Mapping[str, int] = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}


def check_by(by: tuple[str, ...]) -> None:
    """One limit for everyone cannot be one per user as well. Errors: Wrong."""
    if "everyone" in by and len(by) > 1:
        raise Wrong("everyone stands alone: with another word it would say nothing", field="by")
