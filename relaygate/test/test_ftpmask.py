"""Tests of what is changed in the backend's replies."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.ftp import Reply, ReplyReader
from relaygate.protocols.ftpfeat import adapt_features
from relaygate.protocols.ftpmask import Mask
from relaygate.test.properties import given, st

LINES = st.lists(
    st.lists(
        st.sampled_from([b"10.0.0.5", b"10,0,0,5", b"fd00::5", b".", b":", b"1", b" ", b"\xff"])
        | st.sampled_from([b"AUTH", b" EPSV", b"UTF8", b"211-", b";"]),
        max_size=8,
    ).map(b"".join),
    max_size=6,
)


def reply(code: int, inner: list[bytes]) -> Reply:
    """Make a reply of many lines."""
    return Reply(code, (b"%d-" % code, *(b" " + line for line in inner), b"%d " % code))


class MaskTests(SynchronousTestCase):
    """Addresses of the private network."""

    def setUp(self) -> None:
        self.mask = Mask(["10.0.0.5", "FD00::5%eth0"], "198.51.100.1")

    def shown(self, text: bytes, code: int = 220) -> bytes:
        """Return what is made of a text."""
        return self.mask.apply(Reply(code, (b"%d " % code + text,))).text

    def test_hidden(self) -> None:
        """An address is found in every form that servers write (Requirement 88)."""
        for text in (b"10.0.0.5", b"10,0,0,5", b"fd00::5", b"Fd00::5"):
            for before, after in (
                (b"", b""),
                (b"[", b"]"),
                (b"(", b":21)"),
                (b"a=", b"."),
                (b"::ffff:", b""),
            ):
                if b":" in text and b":" in before + after:
                    continue  # another address of IPv6
                self.assertEqual(
                    self.shown(before + text + after), before + b"198.51.100.1" + after
                )
        self.assertEqual(self.shown(b"(10,0,0,5,8,1)"), b"(198.51.100.1,8,1)")

    def test_others(self) -> None:
        """What only looks like one stays, and so does all that names files (Requirement 12)."""
        for text in (
            b"110.0.0.5",
            b"10.0.0.55",
            b"1.10.0.0.5",
            b"10.0.0.5.1",
            b"10.0.0.6",
            b"fd00::51",
        ):
            self.assertEqual(self.shown(text), text)
        for code in (213, 250, 257):
            self.assertEqual(self.shown(b'"/10.0.0.5"', code), b'"/10.0.0.5"')
        self.assertEqual(Mask().apply(Reply(220, (b"220 10.0.0.5",))).text, b"10.0.0.5")

    @given(LINES)
    def test_any_lines(self, inner: list[bytes]) -> None:
        """A changed reply is still one reply with as many lines, and changes no further."""
        before = reply(220, inner)
        after = self.mask.apply(before)
        self.assertEqual(len(after.lines), len(before.lines))
        self.assertEqual(ReplyReader().receive(bytes(after)), [after])


class FeatureTests(SynchronousTestCase):
    """The list of features."""

    @given(LINES, st.booleans())
    def test_any_lines(self, inner: list[bytes], tls: bool) -> None:
        """Whatever a backend lists, the gateway's own lines stand there once (Requirement 9)."""
        after = adapt_features(reply(211, inner), tls=tls)
        self.assertEqual(ReplyReader().receive(bytes(after)), [after])
        self.assertEqual(after.lines.count(b" EPSV"), 1)
        self.assertEqual(b" AUTH TLS" in after.lines, tls)
        for line in inner:
            if b"UTF8" in line and b"AUTH" not in line and b"EPSV" not in line:
                self.assertIn(b" " + line, after.lines)
