"""Helm writes its records, which are Secrets, in Kubernetes' protobuf: as much of that as such a Secret has.

Source: generated.proto of k8s.io/apimachinery (runtime: Unknown, meta/v1: ObjectMeta) and of k8s.io/api (core/v1: Secret).
The rule a reader could break: everything else a client may send as JSON, and then it should.
"""

import base64
from collections.abc import Iterator
from typing import Any

MAGIC = b"k8s\x00"
_TYPE, _LABELS, _NAME, _META, _DATA, _RAW = 3, 11, 1, 1, 2, 2


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 0x80:
            return value, at


def _fields(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number, bytes) of the fields that have a length; numbers are passed over."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        value, at = _varint(data, at)
        if tag & 7 == 2:
            yield tag >> 3, data[at : at + value]
            at += value


def _first(data: bytes, number: int) -> bytes:
    return next((value for found, value in _fields(data) if found == number), b"")


def _map(data: bytes, number: int) -> dict[str, bytes]:
    return {_first(entry, 1).decode(): _first(entry, 2) for found, entry in _fields(data) if found == number}


def secret(data: bytes) -> dict[str, Any]:
    """A Secret as JSON would have it."""
    raw = _first(data.removeprefix(MAGIC), _RAW)
    meta = _first(raw, _META)
    labels = {name: value.decode() for name, value in _map(meta, _LABELS).items()}
    held = {name: base64.b64encode(value).decode() for name, value in _map(raw, _DATA).items()}
    return {"metadata": {"name": _first(meta, _NAME).decode(), "labels": labels}, "type": _first(raw, _TYPE).decode(), "data": held}
