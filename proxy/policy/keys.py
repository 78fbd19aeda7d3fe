"""Who calls: keys, of which only hashes are kept, and what a caller becomes by showing one.

No clock, no randomness and no HTTP here: a caller is what it presented, where it stands and a way to ask for a header. The rule a
reader could break: a user's name is believed only in the header that the caller's own key names.
"""

import hashlib
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import inf

from proxy.call import Principal
from proxy.errors import InvalidCall, NotAdmitted

_MOST_USER_CHARS = 128


@dataclass(frozen=True, slots=True)
class AccessKey:
    """One entry under `keys`. digest: SHA-256 of the key, None for callers without one. expires_s: epoch seconds, None = never."""

    id: str
    digest: bytes | None = field(repr=False)
    tags: tuple[str, ...] = ()
    user_header: str | None = None
    expires_s: float | None = None


class KeyRing:
    """All keys of a policy set. Ids and digests are unique, and at most one key is anonymous: the compiler has seen to that."""

    __slots__ = ("_anonymous", "_by_digest", "_expires_s", "_plain", "keys")

    def __init__(self, keys: Iterable[AccessKey]) -> None:
        self.keys = tuple(keys)
        self._by_digest = {key.digest: key for key in self.keys if key.digest is not None}
        self._anonymous = next((key for key in self.keys if key.digest is None), None)
        # A key without a user header always makes the same principal.
        self._plain = {key.id: Principal(key.id, key.id, key.tags) for key in self.keys}
        self._expires_s = {key.id: inf if key.expires_s is None else key.expires_s for key in self.keys}

    def __repr__(self) -> str:
        return f"<KeyRing {len(self._by_digest)} keys, anonymous={self._anonymous.id if self._anonymous else None}>"

    def identify(self, *, presented: str | None, header: Callable[[str], str | None], loopback: bool, now_s: float) -> Principal:
        """Who pays for this call.

        presented: the key that was sent, if any. header: a request header's value by lower-case name. now_s: epoch seconds.
        Errors: NotAdmitted; InvalidCall for a user name that no log line or counter should carry.
        """
        key = self._key(presented, loopback=loopback)
        if key.expires_s is not None and now_s >= key.expires_s:
            raise NotAdmitted("expired_api_key", "This key has expired. Ask the operator for a new one.")
        if key.user_header is None:
            return self._plain[key.id]
        user = (header(key.user_header) or "").strip()
        if not user:
            return self._plain[key.id]
        if len(user) > _MOST_USER_CHARS or not user.isascii() or not user.isprintable():
            raise InvalidCall(
                "bad_request",
                f"The user in the header '{key.user_header}' must be at most {_MOST_USER_CHARS} printable ASCII characters.",
                param=key.user_header,
            )
        return Principal(key.id, user, key.tags)

    def knows(self, digest: bytes) -> bool:
        """Whether a key of this digest is one of them."""
        return digest in self._by_digest

    def expires_s(self, id: str) -> float:
        """When the key of this id expires, in epoch seconds; inf for never."""
        return self._expires_s[id]

    def is_anonymous(self, id: str) -> bool:
        """Whether callers with the key of this id are known by where they stand alone."""
        return self._anonymous is not None and self._anonymous.id == id

    def declares(self, id: str) -> bool:
        return id in self._expires_s

    def _key(self, presented: str | None, *, loopback: bool) -> AccessKey:
        # SDKs always send some key: where the file knows none, what they send says nothing.
        if presented and self._by_digest:
            # Looking a digest up needs no constant time: whoever measures it learns about SHA-256 of a guess, and cannot steer that
            # towards a known digest byte by byte. Bytes that are no UTF-8 arrive as surrogates and match nothing.
            key = self._by_digest.get(hashlib.sha256(presented.encode("utf-8", "surrogatepass")).digest())
            if key is None:
                raise NotAdmitted("invalid_api_key", "This key is not known here.")
            return key
        if self._anonymous is not None and loopback:
            return self._anonymous
        if not self._by_digest:
            code = "invalid_api_key" if presented else "missing_api_key"
            raise NotAdmitted(code, "Only callers on the proxy's own machine are let in: its policy file has no keys for others.")
        if presented:
            raise NotAdmitted("invalid_api_key", "This key is not known here.")
        raise NotAdmitted("missing_api_key", "No key was sent. Send one as 'Authorization: Bearer KEY'.")


def hash_of(key: str) -> str:
    """What stands in the policy file for `key`."""
    return "sha256:" + hashlib.sha256(key.encode("utf-8")).hexdigest()


def new_key(random: Callable[[int], bytes]) -> str:
    """A key nobody can guess. random: that many random bytes; 32 make the hash as safe as the key."""
    return "th-" + urlsafe_b64encode(random(32)).decode("ascii").rstrip("=")
