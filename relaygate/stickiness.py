"""
The cookie that leads a client back to its backend.

It holds no state of ours and names nothing inside: a short digest of the backend's address, and the
time until which it counts, under an authenticator.  The key is the same on all internal nodes that
publish the service, so each understands what another has set; who has not got it can neither make a
cookie nor find out which backend one is for.  What does not fit is ignored.
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence
from hashlib import sha256

COOKIE = b"relaygate"
_DIGEST = 9
_TIME = 6
_TAG = 18
# 33 bytes fill 44 characters without padding.
_VALUE = re.compile(rb"[A-Za-z0-9_-]{44}")


class StickyCookie:
    """
    The cookies of the service called *name*, by *key*, which count for *ttl_s* seconds.

    Backends go by their names.
    """

    def __init__(self, key: bytes, name: str, ttl_s: float, *, secure: bool) -> None:
        self._key = hmac.digest(key, b"relaygate cookie 1 " + name.encode(), sha256)
        self._ttl_s = int(ttl_s)
        self._secure = secure

    def value(self, backend: str, now: float) -> bytes:
        """A cookie's value for *backend*; *now* is in seconds since 1970."""
        body = self._digest(backend) + int(now + self._ttl_s).to_bytes(_TIME, "big")
        return urlsafe_b64encode(body + self._tag(body))

    def set_cookie(self, backend: str, now: float) -> bytes:
        """The same as the value of a Set-Cookie field (RFC 6265)."""
        secure = b"; Secure" if self._secure else b""
        return b"%b=%b; Path=/; Max-Age=%d; HttpOnly; SameSite=Lax%b" % (
            COOKIE,
            self.value(backend, now),
            self._ttl_s,
            secure,
        )

    def find(self, value: bytes, backends: Sequence[str], now: float) -> tuple[str | None, float]:
        """The one of *backends* that *value* is for, and for how many seconds it still counts."""
        if not _VALUE.fullmatch(value):
            return None, 0.0
        raw = urlsafe_b64decode(value)
        body, tag = raw[:-_TAG], raw[-_TAG:]
        left_s = int.from_bytes(body[_DIGEST:], "big") - now
        if not hmac.compare_digest(tag, self._tag(body)) or left_s <= 0:
            return None, 0.0
        for backend in backends:
            if body[:_DIGEST] == self._digest(backend):
                return backend, left_s
        return None, 0.0

    def fresh(self, left_s: float) -> bool:
        """Whether a cookie that counts for *left_s* seconds more needs no renewal yet."""
        return left_s > self._ttl_s / 2

    def _digest(self, backend: str) -> bytes:
        return hmac.digest(self._key, b"backend " + backend.encode(), sha256)[:_DIGEST]

    def _tag(self, body: bytes) -> bytes:
        return hmac.digest(self._key, b"cookie " + body, sha256)[:_TAG]
