"""The opening of a WebSocket: what its head must say, which key its subprotocols carry, and what of it is passed on.

The rule a reader could break: a browser can set no other header, so a subprotocol may hold a key. That key is looked at here and goes
nowhere: neither to the upstream nor back to the client. Source: RFC 6455, sections 4.2.1 and 11.3.4; facts on the OpenAI API, section 6.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from proxy.errors import InvalidCall
from proxy.wire.request import RequestHead

REALTIME = "realtime"  # the one subprotocol that is spoken
_KEY = "openai-insecure-api-key."
_BETA = re.compile(r"openai-beta\.[A-Za-z0-9=._-]{1,64}\Z")
_MOST_PROTOCOLS = 16
# Sessions that another call has opened or that only listen: what they use cannot be told from what passes here.
_NOT_ASKED = ("call_id", "intent")


class Query(NamedTuple):
    """What the query of an opening says. model: as asked for, None where it names none. pairs: all of it, decoded."""

    model: str | None
    pairs: tuple[tuple[str, str], ...]

    def target(self, path: str, model: str | None) -> str:
        """Path and query with the model that is sent."""
        pairs = [(name, model if name == "model" and model is not None else value) for name, value in self.pairs]
        return f"{path}?{urlencode(pairs)}" if pairs else path


def is_opening(head: RequestHead) -> bool:
    """Whether a request asks for a WebSocket, in the one way that there is."""
    headers = head.headers
    connection = {word.strip().lower() for word in headers.get("connection", "").split(",")}
    return (
        head.method == "GET"
        and head.modern
        and "upgrade" in connection
        and headers.get("upgrade", "").strip().lower() == "websocket"
        and headers.get("sec-websocket-version", "").strip() == "13"
        and "transfer-encoding" not in headers
        and _is_nonce(headers.get("sec-websocket-key", "").strip())
    )


def _is_nonce(text: str) -> bool:
    try:
        return len(base64.b64decode(text.encode(), validate=True)) == 16
    except (binascii.Error, UnicodeEncodeError):
        return False


def protocols_of(headers: Mapping[str, str]) -> tuple[str, ...]:
    """The subprotocols that an opening offers. Errors: InvalidCall for more than anybody needs."""
    offered = tuple(word.strip() for word in headers.get("sec-websocket-protocol", "").split(",") if word.strip())
    if len(offered) > _MOST_PROTOCOLS:
        raise InvalidCall("bad_request", f"An opening may offer {_MOST_PROTOCOLS} subprotocols.", close=True)
    return offered


def key_among(protocols: tuple[str, ...], presented: str | None) -> str | None:
    """The key that an opening shows. presented: in a header, if any. Errors: InvalidCall for two of them."""
    keys = [word[len(_KEY) :] for word in protocols if word.lower().startswith(_KEY)]
    if len(keys) + (presented is not None) > 1:
        raise InvalidCall("ambiguous_credentials", "More than one key was sent, in headers or subprotocols; send one of them.")
    return keys[0] if keys else presented


def passed_on(protocols: tuple[str, ...]) -> tuple[str, ...]:
    """Of the subprotocols those that an upstream is offered: an allow-list, as for headers."""
    return tuple(dict.fromkeys(word for word in protocols if word == REALTIME or _BETA.match(word)))


def is_beta(headers: Mapping[str, str]) -> bool:
    """Whether the client speaks the dialect in which a cap was called `max_response_output_tokens`."""
    return "realtime=v1" in headers.get("openai-beta", "") or "openai-beta.realtime-v1" in protocols_of(headers)


def read_query(query: str, *, model_required: bool) -> Query:
    """Errors: InvalidCall for a query that we and an upstream might read differently."""
    pairs = tuple(parse_qsl(query, keep_blank_values=True))
    names = [name.lower() for name, _ in pairs]
    for name in _NOT_ASKED:
        if model_required and name in names:
            raise InvalidCall("invalid_value", f"The query parameter '{name}' is not accepted here.", param=name)
    if names.count("model") > 1 or any(name.lower() == "model" != name for name, _ in pairs):
        raise InvalidCall("duplicate_field", "The query names the model twice, or in another spelling.", param="model")
    model = dict(pairs).get("model")
    if model is None:
        if model_required:
            raise InvalidCall("missing_field", "The query parameter 'model' is missing.", param="model")
    elif not 0 < len(model) <= 256 or not model.isprintable():
        raise InvalidCall("invalid_type", "The model must be a printable string of 1 to 256 characters.", param="model")
    return Query(model, pairs)
