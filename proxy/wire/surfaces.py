"""Which paths there are, and the one spelling of each.

A path is either a metered surface of this table, or it is listed under `unmetered`, or it is refused. The rule a reader could break:
what is matched is what is sent upstream, so nothing is decoded or tidied up; an odd spelling is simply not found.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache

from proxy.call import Surface
from proxy.errors import InvalidCall

ROOT = "/v1"

SURFACES: tuple[Surface, ...] = (
    Surface(
        name="chat",
        path="/v1/chat/completions",
        caps=("max_tokens", "max_completion_tokens"),
        fanout=("n",),
        streams=True,
        has_output=True,
    ),
    Surface(
        name="completions",
        path="/v1/completions",
        caps=("max_tokens",),
        default_cap=16,
        fanout=("n", "best_of"),
        streams=True,
        has_output=True,
    ),
    Surface(
        name="responses",
        path="/v1/responses",
        caps=("max_output_tokens",),
        least_cap=16,
        streams=True,
        has_output=True,
        model_required=False,  # a stored prompt may name it
    ),
    Surface(name="compact", path="/v1/responses/compact", has_output=True, model_required=False),
    Surface(name="embeddings", path="/v1/embeddings"),
    Surface(name="moderations", path="/v1/moderations", model_required=False, default_model="omni-moderation-latest"),
    Surface(name="images", path="/v1/images/generations", fanout=("n",), streams=True, has_output=True, model_required=False),
    Surface(name="images", path="/v1/images/edits", fanout=("n",), streams=True, has_output=True, model_required=False, form=True),
    Surface(name="images", path="/v1/images/variations", fanout=("n",), has_output=True, model_required=False, form=True),
    Surface(name="speech", path="/v1/audio/speech", streams=True, has_output=True),
    Surface(name="transcriptions", path="/v1/audio/transcriptions", streams=True, has_output=True, form=True),
    Surface(name="transcriptions", path="/v1/audio/translations", has_output=True, form=True),
    # Free by nature: they show, count, end or delete what a metered call made.
    Surface(name="stored_responses", path="/v1/responses/input_tokens", metered=False, model_required=False),
    Surface(name="stored_responses", path="/v1/responses/*", methods=("GET", "DELETE"), metered=False, model_required=False),
    Surface(name="stored_responses", path="/v1/responses/*/cancel", metered=False, model_required=False),
    Surface(name="stored_responses", path="/v1/responses/*/input_items", methods=("GET",), metered=False, model_required=False),
    Surface(name="models", path="/v1/models", methods=("GET",), metered=False, model_required=False),
    Surface(name="models", path="/v1/models/*", methods=("GET",), metered=False, model_required=False),
)

# Opened as a WebSocket. Nothing is metered of the opening itself: what goes over the session is, turn by turn.
SOCKETS: Mapping[str, Surface] = {
    s.path: s
    for s in (
        Surface(name="realtime", path="/v1/realtime", methods=("GET",), metered=False, switches=True),
        Surface(name="realtime", path="/v1/responses", methods=("GET",), metered=False, model_required=False, switches=True),
    )
}
# One answer of a realtime model. The cap to add stands at both ends: it goes by the dialect, and not by the model's name.
TURN = Surface(
    name="realtime",
    path="/v1/realtime",
    methods=("GET",),
    caps=("max_output_tokens", "max_response_output_tokens", "max_output_tokens"),
    streams=True,
    has_output=True,
)
OLD_TURN = replace(TURN, caps=("max_response_output_tokens", "max_output_tokens", "max_response_output_tokens"))

# Why a path below these has no meter: what it costs cannot be told from the call.
_WHY: Mapping[str, str] = {
    "/v1/batches": "A batch is charged later, for what its file asks for, which the call does not show.",
    "/v1/files": "A file may be a batch or training data, and is charged for when it is used or kept.",
    "/v1/uploads": "A file may be a batch or training data, and is charged for when it is used or kept.",
    "/v1/fine_tuning": "A training job is charged later, for what its file holds and how often it is gone through.",
    "/v1/videos": "A video is charged by the second, after the call.",
    "/v1/realtime": (
        "A realtime session is metered only as a WebSocket that is opened at GET /v1/realtime; what a browser or a telephone is given a "
        "key or a call of its own for would go around this proxy."
    ),
    "/v1/vector_stores": "A vector store is charged by its size and by the day.",
    "/v1/containers": "A container is charged for as long as it lives.",
    "/v1/assistants": "What an assistant runs is charged after the call.",
    "/v1/threads": "What an assistant runs is charged after the call.",
    "/v1/evals": "A run of an eval is charged after the call.",
}

# What `unmetered` lets pass as bytes.
PASSTHROUGH = Surface(
    name="unmetered",
    path="*",
    methods=("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"),
    metered=False,
    model_required=False,
)

# What was recorded: the pages of a task, and answers that are given again. Nothing of it asks an upstream for anything.
TASKS = "/tasks"
RECORDED = Surface(name="recorded", path="/tasks/*", methods=("GET", "DELETE"), metered=False, model_required=False)

_EXACT = {s.path: s for s in SURFACES if "*" not in s.path}
_PATTERNS = tuple((re.compile(re.escape(s.path).replace(r"\*", "[^/]+") + r"\Z"), s) for s in SURFACES if "*" in s.path)

# The characters of RFC 3986's path that have one reading everywhere.
_SANE = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,=:@%-]+)+\Z")
# An upstream decodes what we do not, so only what cannot stand there itself may be encoded: a space, quotes, brackets and bars.
_TRICK = re.compile(r"%(?!20|22|3[CcEe]|5[BbDdEe]|60|7[BbCcDd])|/\.\.?(?:/|\Z)")
_QUERY = re.compile(r"[A-Za-z0-9._~!$&'()*+,=:@%/?\[\]-]*\Z")


@lru_cache(maxsize=256)  # apps use a handful of paths; a refused one is not remembered
def canonical(target: str) -> tuple[str, str]:
    """The path and the raw query of a request target, or InvalidCall("not_found") for every other spelling.

    target: as on the request line. Absolute-form is not accepted: a sidecar is not a forward proxy.
    """
    path, _, query = target.partition("?")
    odd = not _SANE.match(path) or _TRICK.search(path) or not _QUERY.match(query)
    if odd or (
        path not in _EXACT and path.lower() in _EXACT
    ):  # some servers do not mind the case, and a glob of `unmetered` might match
        raise InvalidCall("not_found", "There is no such path.")
    return path, query


def surface_of(path: str) -> Surface | None:
    """The metered surface of a canonical path."""
    found = _EXACT.get(path)
    if found is not None:
        return found
    return next((s for pattern, s in _PATTERNS if pattern.match(path)), None)


def why_unmetered(path: str) -> str:
    """A sentence on why a path has no meter, or "" where there is nothing to say."""
    return next((why for start, why in _WHY.items() if path == start or path.startswith(start + "/")), "")
