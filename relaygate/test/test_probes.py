"""Tests of the probes that backends are asked by, on paper."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.probes import (
    MAX_ANSWER,
    FTPProbe,
    HTTPProbe,
    Probe,
    ProbeFailed,
    SSHProbe,
)
from relaygate.test.properties import given, st


def http() -> HTTPProbe:
    """A probe that is content with 200 and 204."""
    return HTTPProbe("a.example", "/health?x=1", (200, 204))


GOOD = (
    (SSHProbe, b"SSH-2.0-OpenSSH_9.2\r\n"),
    (SSHProbe, b"be welcome\r\nSSH-1.99-x\n"),
    (FTPProbe, b"220 ready\r\n"),
    (FTPProbe, b"220-one\r\n 220 not yet\r\n220 ready\r\n"),
    (FTPProbe, b"120 wait\r\n220 ready\r\n"),
    (http, b"HTTP/1.1 200 OK\r\n"),
    (http, b"HTTP/1.0 204 \n"),
    (http, b"HTTP/1.1 200\r\n"),
)
BAD = (
    (SSHProbe, b"SSH-1.5-old\r\n"),
    (FTPProbe, b"421 too many\r\n"),
    (FTPProbe, b"530 no\n"),
    (http, b"HTTP/1.1 503 no\r\n"),
    (http, b"HTTP/2 200\r\n"),
    (http, b"SSH-2.0-x\r\n"),
)


class ProbeTests(SynchronousTestCase):
    """What answers mean (Requirement 47)."""

    def test_good(self) -> None:
        """A good answer is known as soon as it is whole, in whatever pieces it comes."""
        for make, answer in GOOD:
            whole = make()
            self.assertFalse(whole.content)
            self.assertTrue(whole.receive(answer), answer)
            pieces = make()
            for at in range(len(answer) - 1):
                self.assertFalse(pieces.receive(answer[at : at + 1]), answer)
            self.assertTrue(pieces.receive(answer[-1:]), answer)

    def test_bad(self) -> None:
        """A bad answer says what is wrong with it, in whatever pieces it comes."""
        for make, answer in BAD:
            self.assertRaises(ProbeFailed, make().receive, answer)
            pieces = make()
            with self.assertRaises(ProbeFailed):
                for at in range(len(answer)):
                    pieces.receive(answer[at : at + 1])

    def test_endless(self) -> None:
        """No answer may go on for ever."""
        for make in (SSHProbe, FTPProbe, http):
            probe = make()
            with self.assertRaises(ProbeFailed):
                for _ in range(MAX_ANSWER):
                    probe.receive(b"xxxxxxxx")

    def test_connect(self) -> None:
        """To be reached is enough for the simplest one."""
        self.assertTrue(Probe().content)
        self.assertEqual(Probe().first + Probe().leave, b"")

    def test_words(self) -> None:
        """Each says who it is, and leaves in the protocol's words."""
        self.assertEqual(
            http().first,
            b"GET /health?x=1 HTTP/1.1\r\nHost: a.example\r\nUser-Agent: relaygate-check\r\n"
            b"Accept: */*\r\nConnection: close\r\n\r\n",
        )
        self.assertEqual(FTPProbe.leave, b"QUIT\r\n")
        line, _, packet = SSHProbe.leave.partition(b"\r\n")
        self.assertTrue(line.startswith(b"SSH-2.0-relaygate"))
        # RFC 4253 section 6: the whole is a multiple of 8, with 4 to 255 bytes of padding.
        self.assertEqual(len(packet) % 8, 0)
        self.assertEqual(int.from_bytes(packet[:4]), len(packet) - 4)
        self.assertTrue(4 <= packet[4] <= 255)
        self.assertEqual(packet[5], 1)

    @given(st.sampled_from([SSHProbe, FTPProbe, http]), st.lists(st.binary(max_size=50)))
    def test_any_bytes(self, make: type[SSHProbe], pieces: list[bytes]) -> None:
        """Whatever comes is good, not yet, or a failure of the probe; pieces change nothing."""

        def verdict(data: list[bytes]) -> str:
            probe = make()
            for piece in data:
                try:
                    if probe.receive(piece):
                        return "good"
                except ProbeFailed:
                    return "bad"
            return "open"

        self.assertEqual(verdict(pieces), verdict([b"".join(pieces)]))
