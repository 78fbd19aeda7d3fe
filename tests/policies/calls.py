"""A call as it stands when policies meet it: a chat call of one user, unless a test says otherwise."""

from typing import Any

from proxy.call import Call, Price, Principal
from proxy.wire.surfaces import SURFACES

SURFACE = {surface.path.removeprefix("/v1/"): surface for surface in SURFACES}
ADA = Principal(key="web", user="ada", tags=("interactive", "team-a"))
# 1 USD per million input tokens, 4 per million output tokens.
PRICE = Price(
    input=1_000_000_000,
    output=4_000_000_000,
    cached_input=100_000_000,
    cache_write=1_000_000_000,
    audio_input=1_000_000_000,
    audio_output=4_000_000_000,
)
FREE = Price(input=0, output=0, cached_input=0, cache_write=0, audio_input=0, audio_output=0)


def a_call(surface: str = "chat/completions", *, model: str | None = "gpt-4.1", **fields: Any) -> Call:
    """surface: a path below /v1. fields: of Call; `asked_caps` also sets the cap, as reading a body does."""
    caps = fields.get("asked_caps")
    values: dict[str, Any] = {
        "id": "req_1",
        "method": "POST",
        "path": f"/v1/{surface}",
        "surface": SURFACE[surface],
        "principal": ADA,
        "body": b"{}",
        "fields": {},
        "model_asked": model,
        "model": model,
        "cap": max(caps.values()) if caps else None,
        "input_bound": 100,
        "price": PRICE,
    }
    return Call(**{**values, **fields})
