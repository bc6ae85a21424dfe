"""Tests of the checks that backends are asked by, on paper."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.healthchecks import (
    MAX_ANSWER,
    CheckFailed,
    FTPCheck,
    HealthCheck,
    HTTPCheck,
    SSHCheck,
)
from relaygate.test.properties import given, st


def http() -> HTTPCheck:
    """A check that is content with 200 and 204."""
    return HTTPCheck("a.example", "/health?x=1", (200, 204))


GOOD = (
    (SSHCheck, b"SSH-2.0-OpenSSH_9.2\r\n"),
    (SSHCheck, b"be welcome\r\nSSH-1.99-x\n"),
    (FTPCheck, b"220 ready\r\n"),
    (FTPCheck, b"220-one\r\n 220 not yet\r\n220 ready\r\n"),
    (FTPCheck, b"120 wait\r\n220 ready\r\n"),
    (http, b"HTTP/1.1 200 OK\r\n"),
    (http, b"HTTP/1.0 204 \n"),
    (http, b"HTTP/1.1 200\r\n"),
)
BAD = (
    (SSHCheck, b"SSH-1.5-old\r\n"),
    (FTPCheck, b"421 too many\r\n"),
    (FTPCheck, b"530 no\n"),
    (http, b"HTTP/1.1 503 no\r\n"),
    (http, b"HTTP/2 200\r\n"),
    (http, b"SSH-2.0-x\r\n"),
)


class CheckTests(SynchronousTestCase):
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
            self.assertRaises(CheckFailed, make().receive, answer)
            pieces = make()
            with self.assertRaises(CheckFailed):
                for at in range(len(answer)):
                    pieces.receive(answer[at : at + 1])

    def test_endless(self) -> None:
        """No answer may go on for ever."""
        for make in (SSHCheck, FTPCheck, http):
            check = make()
            with self.assertRaises(CheckFailed):
                for _ in range(MAX_ANSWER):
                    check.receive(b"xxxxxxxx")

    def test_connect(self) -> None:
        """To be reached is enough for the simplest one."""
        self.assertTrue(HealthCheck().content)
        self.assertEqual(HealthCheck().first + HealthCheck().leave, b"")

    def test_words(self) -> None:
        """Each says who it is, and leaves in the protocol's words."""
        self.assertEqual(
            http().first,
            b"GET /health?x=1 HTTP/1.1\r\nHost: a.example\r\nUser-Agent: relaygate-check\r\n"
            b"Accept: */*\r\nConnection: close\r\n\r\n",
        )
        self.assertEqual(FTPCheck.leave, b"QUIT\r\n")
        line, _, packet = SSHCheck.leave.partition(b"\r\n")
        self.assertTrue(line.startswith(b"SSH-2.0-relaygate"))
        # RFC 4253 section 6: the whole is a multiple of 8, with 4 to 255 bytes of padding.
        self.assertEqual(len(packet) % 8, 0)
        self.assertEqual(int.from_bytes(packet[:4]), len(packet) - 4)
        self.assertTrue(4 <= packet[4] <= 255)
        self.assertEqual(packet[5], 1)

    @given(st.sampled_from([SSHCheck, FTPCheck, http]), st.lists(st.binary(max_size=50)))
    def test_any_bytes(self, make: type[SSHCheck], pieces: list[bytes]) -> None:
        """Whatever comes is good, not yet, or a failure of the check; pieces change nothing."""

        def verdict(data: list[bytes]) -> str:
            check = make()
            for piece in data:
                try:
                    if check.receive(piece):
                        return "good"
                except CheckFailed:
                    return "bad"
            return "open"

        self.assertEqual(verdict(pieces), verdict([b"".join(pieces)]))
