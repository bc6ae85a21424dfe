"""Tests of the cookie that leads a client back to its backend."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relaygate.stickiness import StickyCookie
from relaygate.test.properties import given, st

KEY = b"k" * 32
NAMES = ("10.0.0.5:8080", "10.0.0.6:8080")
NOW = 1_900_000_000.0


class CookieTests(SynchronousTestCase):
    """Requirement 88: opaque, authenticated, and ignored where it does not fit."""

    def setUp(self) -> None:
        self.cookie = StickyCookie(KEY, "web", 300.0, secure=True)

    def test_found(self) -> None:
        """A node with the same key finds the backend, without sharing anything else."""
        value = self.cookie.value(NAMES[1], NOW)
        other = StickyCookie(KEY, "web", 300.0, secure=True)
        self.assertEqual(other.find(value, NAMES, NOW + 100), (NAMES[1], 200.0))

    def test_ends(self) -> None:
        """It counts for its time, and is renewed in the second half."""
        value = self.cookie.value(NAMES[0], NOW)
        self.assertEqual(self.cookie.find(value, NAMES, NOW + 300), (None, 0.0))
        self.assertTrue(self.cookie.fresh(200.0))
        self.assertFalse(self.cookie.fresh(100.0))

    def test_of_another(self) -> None:
        """Another key, another service, a backend that is gone: nothing is found."""
        value = self.cookie.value(NAMES[0], NOW)
        for other in (
            StickyCookie(b"x" * 32, "web", 300.0, secure=True),
            StickyCookie(KEY, "shop", 300.0, secure=True),
        ):
            self.assertEqual(other.find(value, NAMES, NOW), (None, 0.0))
        self.assertEqual(self.cookie.find(value, NAMES[1:], NOW), (None, 0.0))

    def test_says_nothing(self) -> None:
        """No address stands in it, and it is nothing but letters for a header."""
        said = self.cookie.set_cookie(NAMES[0], NOW)
        self.assertNotIn(b"10.0.0", said)
        self.assertRegex(
            said,
            rb"^relaygate=[A-Za-z0-9_-]{44}; Path=/; Max-Age=300; HttpOnly; SameSite=Lax; Secure$",
        )
        clear = StickyCookie(KEY, "web", 300.0, secure=False)
        self.assertNotIn(b"Secure", clear.set_cookie(NAMES[0], NOW))

    @given(st.binary(max_size=60), st.integers(0, 43), st.integers(1, 255))
    def test_forged(self, data: bytes, at: int, change: int) -> None:
        """Whatever is not one, or is changed in one place, is ignored."""
        self.assertEqual(self.cookie.find(data, NAMES, NOW), (None, 0.0))
        value = bytearray(self.cookie.value(NAMES[0], NOW))
        value[at] ^= change
        self.assertEqual(self.cookie.find(bytes(value), NAMES, NOW), (None, 0.0))
