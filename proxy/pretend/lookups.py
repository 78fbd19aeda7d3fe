"""The surfaces that generate nothing: embeddings, moderations and the list of models."""

import base64
import hashlib
import math
import struct
from typing import Any

import orjson

from proxy.pretend import fields as read

_VECTOR_SIZE = 1536
_CATEGORIES = (
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
)


def embeddings(fields: read.Fields) -> dict[str, Any]:
    """Vectors that depend on every byte of the input, and mean nothing."""
    model, inputs = read.model(fields), read.inputs(read.required(fields, "input", str, list))
    size = read.number(fields, "dimensions", least=1, most=_VECTOR_SIZE) or _VECTOR_SIZE
    as_base64 = fields.get("encoding_format") == "base64"
    vectors = [_vector(orjson.dumps(one), size) for one in inputs]
    entries = [
        {"object": "embedding", "index": i, "embedding": _base64(vector) if as_base64 else vector}
        for i, vector in enumerate(vectors)
    ]
    tokens = read.count_tokens(inputs)
    return {"object": "list", "data": entries, "model": model, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


def _vector(text: bytes, size: int) -> list[float]:
    """Of length 1, as the API's are."""
    raw = [byte - 127.5 for byte in hashlib.shake_128(text).digest(size)]
    length = math.hypot(*raw)
    return [x / length for x in raw]


def _base64(vector: list[float]) -> str:
    """Little-endian 32-bit floats: what the SDKs ask for unless told otherwise."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode()


def moderations(fields: read.Fields, *, id: str) -> dict[str, Any]:
    """Nothing is ever flagged. A list of strings is judged one by one, a list of content parts as a whole."""
    model, given = read.model(fields, default="omni-moderation-latest"), read.required(fields, "input", str, list)
    verdict = {
        "flagged": False,
        "categories": dict.fromkeys(_CATEGORIES, False),
        "category_scores": dict.fromkeys(_CATEGORIES, 0.0),
        "category_applied_input_types": {name: ["text"] for name in _CATEGORIES},
    }
    verdicts = len(given) if isinstance(given, list) and isinstance(given[0], str) else 1
    return {"id": f"modr-{id}", "model": model, "results": [verdict] * verdicts}


def models(*, created: int) -> dict[str, Any]:
    return {"object": "list", "data": [model_card(name, created=created) for name in read.MODELS]}


def model_card(name: str, *, created: int) -> dict[str, Any]:
    return {"id": read.model({"model": name}), "object": "model", "created": created, "owned_by": "tollhouse-pretend"}
