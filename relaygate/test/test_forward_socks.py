"""Tests of the SOCKS entry, through both nodes."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address
from pathlib import Path

from relaygate import entrytalk
from relaygate.config.forward import UserConfig
from relaygate.test.farend import Ending
from relaygate.test.forwardnodes import EXIT, PARTNER, SPAN, STRANGER, ForwardCase, rules
from relaygate.test.ftppeers import Line
from relaygate.test.programs import new_folder
from relaygate.test.wire import lines, logged

HELLO = b"\5\1\0"


def request(host: str, port: int, command: int = 1) -> bytes:
    """A request of SOCKS 5 for a name, or for an IPv4 address."""
    try:
        address = b"\1" + IPv4Address(host).packed
    except ValueError:
        address = bytes((3, len(host))) + host.encode()
    return bytes((5, command, 0)) + address + port.to_bytes(2)


class SocksTests(ForwardCase):
    """CONNECT and BIND, as programs say them."""

    async def test_connect(self) -> None:
        """Requirement 64: byte by byte or all at once, the destination is reached from the DMZ."""
        entry = self.entry("socks5")
        partner = self.partner()
        await self.begin(entry)
        for whole in (True, False):
            program = self.program(entry)
            words = HELLO + request(PARTNER, partner.port)
            for piece in [words] if whole else [words[i : i + 1] for i in range(len(words))]:
                program.send(piece)
                await program.emptied()
            await program.has(12)
            far = await partner.peer()
            self.assertEqual(program.received[:6], b"\5\0\5\0\0\1")
            # BND is the DMZ's own end, as the partner sees it.
            self.assertEqual(socket.inet_ntoa(bytes(program.received[6:10])), EXIT)
            self.assertEqual(partner.sources[-1][0], EXIT)
            self.assertEqual(int.from_bytes(program.received[10:12]), partner.sources[-1][1])
            await self.echoes(program, far)
        await self.all_over()

    async def test_early_bytes(self) -> None:
        """Requirement 83: what a program sends behind its request goes first, and whole."""
        entry = self.entry("socks5")
        partner = self.partner()
        await self.begin(entry)
        program = self.program(entry)
        program.send(HELLO + request(PARTNER, partner.port) + b"x" * 300_000)
        program.finish()
        far = await partner.peer()
        await far.got(b"x" * 300_000)

    async def test_names_are_resolved_in_the_dmz(self) -> None:
        """A name goes to the DMZ as it is, and is resolved there once."""
        entry = self.entry("socks5")
        partner = self.partner()
        await self.begin(entry)
        self.names["sftp.partner.example"] = [PARTNER]
        program = self.program(entry)
        program.send(HELLO + request("SFTP.partner.example", partner.port))
        await self.echoes(program, await partner.peer())
        self.assertEqual(self.asked, ["sftp.partner.example"])

    async def test_socks_4a(self) -> None:
        """Old clients speak version 4, with an address or with a name."""
        entry = self.entry("socks5")
        partner = self.partner()
        await self.begin(entry)
        self.names["sftp.partner.example"] = [PARTNER]
        start = b"\4\1" + partner.port.to_bytes(2)
        for words in (
            start + socket.inet_aton(PARTNER) + b"me\0",
            start + b"\0\0\0\1me\0sftp.partner.example\0",
        ):
            program = self.program(entry)
            program.send(words)
            far = await partner.peer()
            await program.has(8)
            self.assertEqual(program.received[:2], b"\0\x5a")
            await self.echoes(program, far)

    async def test_replies(self) -> None:
        """Requirement 64: each failure has its own reply code."""
        entry = self.entry("socks5")
        await self.begin(entry)
        closed = self.partner()
        closed.close()
        self.names["far.partner.example"] = ["203.0.113.9"]
        for host, port, code in (
            (PARTNER, closed.port, 5),
            ("no.partner.example", 22, 4),
            ("far.partner.example", 22, 2),
            ("127.0.0.9", 22, 2),
        ):
            program = self.program(entry)
            program.send(HELLO + request(host, port))
            await program.ended()
            self.assertEqual(program.received[:4], bytes((5, 0, 5, code)), host)
        await self.all_over()

    async def test_unknown_commands(self) -> None:
        """Requirement 65: UDP is refused with 07, and so is BIND where it is off."""
        entry = self.entry("socks5")
        await self.begin(entry)
        for command in (2, 3, 9):
            program = self.program(entry)
            program.send(HELLO + request(PARTNER, 22, command))
            await program.ended()
            self.assertEqual(program.received[:4], b"\5\0\5\7")

    async def test_bind(self) -> None:
        """Requirement 65: two replies, a port of the DMZ's, open to the one who is named."""
        entry = self.entry("socks5", bind_ports=SPAN)
        await self.begin(entry)
        program = self.program(entry)
        program.send(HELLO + request(PARTNER, 0, 2))
        await program.has(12)
        self.assertEqual(program.received[2:6], b"\5\0\0\1")
        self.assertEqual(socket.inet_ntoa(bytes(program.received[6:10])), EXIT)
        port = int.from_bytes(program.received[10:12])
        self.assertTrue(SPAN[0] <= port <= SPAN[1])
        stranger = Line(socket.create_connection((EXIT, port), 5, (STRANGER, 0)))
        self.addCleanup(stranger.close)
        await stranger.ended()
        self.assertEqual(program.count, 12)
        skt = socket.create_connection((EXIT, port), 5, (PARTNER, 0))
        far = Line(skt)
        self.addCleanup(far.close)
        await program.has(22)
        self.assertEqual(socket.inet_ntoa(bytes(program.received[16:20])), PARTNER)
        self.assertEqual(int.from_bytes(program.received[20:22]), skt.getsockname()[1])
        await self.echoes(program, far)
        await self.all_over()

    async def test_bind_is_bounded_by_the_policy(self) -> None:
        """Requirement 65: nobody may be waited for who may not be dialled."""
        entry = self.entry("socks5", bind_ports=SPAN)
        await self.begin(entry)
        program = self.program(entry)
        program.send(HELLO + request("127.0.0.9", 0, 2))
        await program.ended()
        self.assertEqual(program.received[2:4], b"\5\2")
        await self.all_over()

    async def test_what_is_not_socks(self) -> None:
        """Requirement 64: what is none is let go, and a method that is not offered hears FF."""
        entry = self.entry("socks5")
        await self.begin(entry)
        for words, answer in (
            (b"GET / HTTP/1.1\r\n\r\n", b""),
            (b"\5\1\1", b"\5\xff"),
            (HELLO + b"\5\1\0\5\1", b""),
            (HELLO + request("a\0b", 22), b""),
            (HELLO + request("", 22), b""),
        ):
            program = self.program(entry)
            program.send(words)
            await program.ended()
            self.assertEqual(bytes(program.received), answer, words)
        await self.all_over()

    async def test_who_says_nothing(self) -> None:
        """Requirement 86: who drips bytes has no longer than who says nothing."""
        self.patch(entrytalk, "WISH_LIMIT_S", 0.5)
        entry = self.entry("socks5")
        await self.begin(entry)
        program = self.program(entry)
        program.send(b"\5")
        await program.ended()
        await self.all_over()

    async def test_others_are_not_let_in(self) -> None:
        """Requirement 71: an entry serves who is on its list, and nobody else."""
        entry = self.entry("socks5", allow=("127.0.0.4/32",))
        partner = self.partner()
        await self.begin(entry)
        stranger = self.program(entry, STRANGER)
        stranger.send(HELLO)
        await stranger.ended()
        self.assertEqual(stranger.count, 0)
        program = self.program(entry)
        program.send(HELLO + request(PARTNER, partner.port))
        await self.echoes(program, await partner.peer())

    async def test_caps(self) -> None:
        """An entry has no more sessions than it may."""
        entry = self.entry("socks5", max_sessions=1)
        partner = self.partner()
        await self.begin(entry)
        first = self.program(entry)
        first.send(HELLO + request(PARTNER, partner.port))
        far = await partner.peer()
        second = self.program(entry)
        await second.ended()
        await self.echoes(first, far)
        await self.all_over()

    async def test_caps_of_the_dmz(self) -> None:
        """The DMZ bounds what one address gets of it."""
        entry = self.entry("socks5")
        partner = self.partner()
        await self.begin(entry, policy={"max_forwards_per_address": 1})
        first = self.program(entry)
        first.send(HELLO + request(PARTNER, partner.port))
        far = await partner.peer()
        await first.has(12)
        second = self.program(entry)
        second.send(HELLO + request(PARTNER, partner.port))
        await second.ended()
        self.assertEqual(second.received[2:4], b"\5\1")
        await self.echoes(first, far)
        await self.all_over()

    async def test_both_logs_have_the_session(self) -> None:
        """A session has one id, and a line at its start and its end, on both nodes."""
        entry = self.entry("socks5")
        partner = self.partner()
        with logged() as events:
            await self.begin(entry)
            program = self.program(entry)
            program.send(HELLO + request(PARTNER, partner.port))
            await self.echoes(program, await partner.peer())
            await self.all_over()
        opened = [line for line in lines(events, " open: entry=") if line.startswith("session ")]
        ended = [line for line in lines(events, " end: entry=") if "outcome=done/relay" in line]
        self.assertEqual((len(opened), len(ended)), (2, 2), lines(events))
        self.assertEqual(len({line.split()[1] for line in (*opened, *ended)}), 1)
        for line in ended:
            self.assertIn("bytes_in=60000 bytes_out=50004", line)
            self.assertIn(f"destination={PARTNER}:{partner.port}", line)
        # The DMZ is not told who has come.
        self.assertEqual([line for line in opened if "node=" in line and "client=" in line], [])

    async def test_reset(self) -> None:
        """Requirement 28: a partner's reset is a reset to the program, and the other way round."""
        entry = self.entry("socks5")
        partner = self.partner()
        await self.begin(entry)
        for breaks_near in (False, True):
            program = self.program(entry)
            program.send(HELLO + request(PARTNER, partner.port))
            far = await partner.peer()
            await program.has(12)
            broken, other = (program, far) if breaks_near else (far, program)
            broken.reset()
            self.assertIs(await other.ended(), Ending.RESET)
        await self.all_over()


class UserTests(ForwardCase):
    """RFC 1929."""

    def user(self, name: str, password: str, *destinations: str) -> UserConfig:
        """A user, whose password is in a file."""
        file = new_folder(self) / name
        file.touch(0o600)
        file.write_text(f"{password}\n")
        return UserConfig(name, Path(file), rules(*destinations) if destinations else None)

    async def test_users(self) -> None:
        """Requirement 64: a wrong password is answered with a failure, and closed."""
        partner = self.partner()
        users = (
            self.user("batch", "open sesame"),
            self.user("other", "a:b", f"{PARTNER}:1"),
        )
        entry = self.entry("socks5", users=users)
        with logged() as events:
            await self.begin(entry)
            for user, password, answer in (
                (b"batch", b"open sesame", b"\5\2\1\0\5\0"),
                (b"batch", b"open", b"\5\2\1\1"),
                (b"nobody", b"", b"\5\2\1\1"),
                (b"other", b"a:b", b"\5\2\1\0\5\2"),
            ):
                program = self.program(entry)
                login = b"\1%c%s%c%s" % (len(user), user, len(password), password)
                program.send(b"\5\2\0\2" + login + request(PARTNER, partner.port))
                await program.has(len(answer))
                self.assertEqual(program.received[: len(answer)], answer)
                program.reset()
            for words, answer in (
                (HELLO, b"\5\xff"),
                (b"\4\1\0\x16\x7f\0\0\1me\0", b"\0\x5b"),
            ):
                program = self.program(entry)
                program.send(words)
                await program.ended()
                self.assertEqual(program.received[:2], answer)
            await self.all_over()
        text = "\n".join(lines(events))
        self.assertIn("user=batch", text)
        self.assertEqual(len([1 for line in lines(events, "refused: entry=")]), 5)
        self.assertNotIn("sesame", text)
