"""Which paths there are, and the one spelling of each.

A path is either a metered surface of this table, or it is listed under `unmetered`, or it is refused. The rule a reader could break:
what is matched is what is sent upstream, so nothing is decoded or tidied up; an odd spelling is simply not found.
"""

import re
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
    Surface(name="embeddings", path="/v1/embeddings"),
    Surface(name="moderations", path="/v1/moderations", model_required=False),
    Surface(name="models", path="/v1/models", methods=("GET",), metered=False, model_required=False),
    Surface(name="models", path="/v1/models/*", methods=("GET",), metered=False, model_required=False),
)

# What `unmetered` lets pass as bytes.
PASSTHROUGH = Surface(
    name="unmetered",
    path="*",
    methods=("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD"),
    metered=False,
    model_required=False,
)

_EXACT = {s.path: s for s in SURFACES if not s.path.endswith("*")}
_PREFIX = tuple((s.path[:-1], s) for s in SURFACES if s.path.endswith("*"))

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
    return next((s for prefix, s in _PREFIX if path.startswith(prefix) and "/" not in path[len(prefix) :]), None)
