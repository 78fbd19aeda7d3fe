"""What seals recordings: AES-256-GCM, as the `cryptography` package has it, which is loaded here and only with a key.

Errors: SealMissing where the package is. The rule a reader could break: a nonce is used once; each seal takes 12 fresh random bytes.
"""

import hmac
from typing import Literal

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

NONCE_BYTES = 12
Part = Literal["facts", "content"]


class Seal:
    """key: the operator's, 32 bytes. From it come a key that seals and one that names."""

    __slots__ = ("_cipher", "_naming")

    def __init__(self, key: bytes) -> None:
        self._cipher = AESGCM(hmac.digest(key, b"tollhouse recordings: seal", "sha256"))
        self._naming = hmac.digest(key, b"tollhouse recordings: name", "sha256")

    def __repr__(self) -> str:
        return "<Seal>"

    def tag(self, id: str) -> bytes:
        """What a recording is found by on the disk: an id cannot be read off it."""
        return hmac.digest(self._naming, id.encode(), "sha256")

    def close(self, data: bytes, *, tag: bytes, part: Part, nonce: bytes) -> bytes:
        """Sealed, and bound to its place: facts are not taken for content, nor one recording's for another's."""
        return nonce + self._cipher.encrypt(nonce, data, tag + part.encode())

    def open(self, sealed: bytes, *, tag: bytes, part: Part) -> bytes | None:
        """None where it is not by this key, not of this place, or not as it was."""
        try:
            return self._cipher.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], tag + part.encode())
        except (InvalidTag, ValueError):
            return None
