"""What programs and partners may say that is wrong or hostile, through both nodes."""

from __future__ import annotations

import re
import socket

from relaygate import ftprelay
from relaygate.addresses import HostPort
from relaygate.config.forward import ForwardConfig
from relaygate.test.farend import Ending, until
from relaygate.test.forwardnodes import EXIT, PARTNER, SPAN, STRANGER, ForwardCase
from relaygate.test.ftppeers import Line
from relaygate.test.test_forward_ftp import FTPForwardCase
from relaygate.test.test_forward_socks import HELLO, request
from relaygate.test.wire import lines, logged


def named(name: bytes, port: int = 80) -> bytes:
    """A request of SOCKS 5 for what is meant as a name, whatever it is."""
    return HELLO + b"\5\1\0\3" + bytes((len(name),)) + name + port.to_bytes(2)


class ProgramTests(ForwardCase):
    """Programs that ask for what is none, or for more than they may."""

    async def answer(self, entry: ForwardConfig, words: bytes) -> bytes:
        """What *entry* says to *words*, up to its end."""
        program = self.program(entry)
        program.send(words)
        await program.ended()
        program.close()
        return bytes(program.received)

    async def test_names(self) -> None:
        """Requirement 64: a name is a DNS name, or it is refused and nobody is asked about it."""
        entry = self.entry("socks5")
        partner = self.partner()
        await self.begin(entry, connect=["*:1-65535", f"{PARTNER}:1-65535"])
        for name in (
            b"a%00b.example",
            b"%31%32%37.0.0.1",
            b"fe80::1%eth0",
            b"::1",
            b"127.0.0.2:22",
            b"127.0.0.2/8",
            b"0300.0250.1.1",
            b"0xa9fea9fe",
            b"2852039166",
            b"1.2.3",
            b"1.2.3.4.5",
            b"-a.example",
            b"a b.example",
            b"user@partner.example",
            b"x" * 255,
            b".".join([b"x" * 63] * 3 + [b"x" * 63]),
            b".",
        ):
            self.assertEqual((await self.answer(entry, named(name)))[2:4], b"\5\2", name)
        for name in (b"a\0b.example", "m\u00fcnchen.example".encode(), b"a\n.example", b"\x7f"):
            self.assertEqual(await self.answer(entry, named(name)), b"", name)
        self.assertEqual(self.asked, [])
        # The ASCII form of such a name is one as any other.
        self.names["xn--mnchen-3ya.example"] = [PARTNER]
        program = self.program(entry)
        program.send(named(b"xn--mnchen-3ya.example", partner.port))
        await partner.peer()
        self.assertEqual(self.asked, ["xn--mnchen-3ya.example"])

    async def test_lengths(self) -> None:
        """Requirement 64: lengths that promise more than comes wait for it, and for no longer."""
        entry = self.entry("socks5")
        await self.begin(entry)
        for words, answer in (
            (b"\5\0", b"\5\xff"),
            (b"\5\xff\0", b""),
            (HELLO + b"\5\1\0\3\xff" + b"a" * 9, b"\5\0"),
            (HELLO + b"\5\1\0\4" + b"a" * 9, b"\5\0"),
            (b"\4\1\0\x16\0\0\0\1me", b""),
        ):
            program = self.program(entry)
            for place in range(len(words)):
                program.send(words[place : place + 1])
                await program.emptied()
            program.finish()
            await program.ended()
            self.assertEqual(bytes(program.received), answer, words)
            program.close()
        await self.all_over()

    async def test_authorities(self) -> None:
        """Requirement 68: where a CONNECT or a URL leads is said in one way, or refused."""
        entry = self.entry("http-connect")
        partner = self.partner()
        await self.begin(entry, connect=["*:1-65535", f"{PARTNER}:1-65535"])
        end = " HTTP/1.1\r\n\r\n"
        for target, status in (
            ("CONNECT [::1]:443", b"403"),
            ("CONNECT [::ffff:127.0.0.2]:443", b"403"),
            ("CONNECT [fe80::1%25eth0]:443", b"403"),
            ("CONNECT ::1:443", b"400"),
            ("CONNECT 127.0.0.2", b"400"),
            ("CONNECT 127.0.0.2:", b"400"),
            ("CONNECT 127.0.0.2:+22", b"400"),
            ("CONNECT 127.0.0.2:22:22", b"400"),
            ("CONNECT 127.0.0.2:22/", b"400"),
            ("CONNECT http://127.0.0.2:22", b"400"),
            ("CONNECT user@127.0.0.2:22", b"403"),
            ("CONNECT user:pw@127.0.0.2:22", b"400"),
            ("CONNECT 127.0.0.2%2e:22", b"403"),
            ("CONNECT 0x7f000002:22", b"403"),
            ("CONNECT 2130706434:22", b"403"),
            ("CONNECT *:22", b"403"),
            ("CONNECT \u0131.example:22", b"400"),
            ("CONNECT  127.0.0.2:22", b"400"),
            ("GET http://user:pw@127.0.0.2/", b"400"),
            ("GET http://127.0.0.2:80:80/", b"400"),
            ("GET http:///", b"400"),
            ("GET http://127.0.0.2\\@other.example/", b"400"),
            ("GET http://127.0.0.2:x/", b"400"),
            ("GET http://[::1]/", b"403"),
            ("GET http://0177.0.0.1/", b"403"),
            ("GET http://127.0.0.2%00/", b"403"),
            ("GET //127.0.0.2/", b"400"),
            ("GET https://127.0.0.2/", b"501"),
            ("GET http://127.0.0.2#@x/", b"400"),
        ):
            said = await self.answer(entry, (target + end).encode())
            self.assertEqual(said[9:12], status, target)
        self.assertEqual((self.asked, partner.peers), ([], []))

    async def test_smuggling(self) -> None:
        """Requirement 60: what follows a request goes where the request went, and nowhere else."""
        entry = self.entry("http-connect")
        partner, other = self.partner(), self.partner("127.0.0.8")
        await self.begin(entry, connect=[f"{PARTNER}:1-65535", "127.0.0.8:1-65535"])
        program = self.program(entry)
        url = f"http://{PARTNER}:{partner.port}/"
        second = f"GET http://127.0.0.8:{other.port}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        program.send(f"GET {url} HTTP/1.1\r\nContent-Length: 0\r\n\r\n".encode() + second)
        far = await partner.peer()
        await until(lambda: bytes(far.received).endswith(second), "all that was sent")
        head = bytes(far.received)[: -len(second)]
        self.assertIn(b"\r\nConnection: close\r\n\r\n", head)
        # A second connection of the same program is a second one at the partner's.
        again = self.program(entry)
        again.send(f"GET {url} HTTP/1.1\r\n\r\n".encode())
        await partner.peer()
        self.assertEqual((len(partner.peers), other.peers), (2, []))
        for each in (program, again):
            each.reset()
        await self.all_over()


class PartnerTests(ForwardCase):
    """Partners, and those who would like to be one."""

    async def bound(self) -> tuple[Line, int]:
        """A program that has asked for BIND, and the port that waits for its partner."""
        entry = self.entry("socks5", bind_ports=SPAN)
        await self.begin(entry)
        program = self.program(entry)
        program.send(HELLO + request(PARTNER, 0, 2))
        await program.has(12)
        return program, int.from_bytes(program.received[10:12])

    async def test_bind_is_not_taken_over(self) -> None:
        """Requirement 65: strangers that come first get nothing, and who comes second neither."""
        program, port = await self.bound()
        for number in range(50):
            source = (STRANGER, EXIT, "127.0.0.9")[number % 3]
            stranger = Line(socket.create_connection((EXIT, port), 5, (source, 0)))
            await stranger.ended()
            self.assertEqual(stranger.count, 0)
            stranger.close()
        far = Line(socket.create_connection((EXIT, port), 5, (PARTNER, 0)))
        self.addCleanup(far.close)
        await program.has(22)
        # The port is the first one's; nothing listens there any more.
        self.assertRaises(OSError, socket.create_connection, (EXIT, port), 5, (PARTNER, 0))
        await self.echoes(program, far)
        await self.all_over()

    async def test_bind_reset(self) -> None:
        """A partner that comes and goes at once is a reset to the program, and nothing stays."""
        program, port = await self.bound()
        far = Line(socket.create_connection((EXIT, port), 5, (PARTNER, 0)))
        far.reset()
        await program.ended()
        program.close()
        await self.all_over()

    async def test_mute_partner(self) -> None:
        """Lesson 19: a partner that accepts and never speaks is left when the entry says so."""
        partner = self.partner()
        entry = self.entry(
            "tcp", target=HostPort(PARTNER, partner.port), idle_timeout_s=0.4, name="tcp"
        )
        await self.begin(entry)
        program = self.program(entry)
        with logged() as events:
            await partner.peer()
            self.assertIs(await program.ended(), Ending.RESET)
            await self.all_over()
        self.assertTrue(lines(events, "outcome=timeout/relay"))


class FTPPartnerTests(FTPForwardCase):
    """Partners of a fixed forward of FTP that break, at each step."""

    async def over(self, program: Line) -> None:
        """Show that the program has heard of the end, and that nothing is left."""
        await program.ended()
        self.assertRegex(bytes(program.unseen), rb"\A(42[156] [^\r\n]*\r\n)*\Z")
        program.close()
        self.server.arrived.clear()
        await self.all_over()

    async def test_resets(self) -> None:
        """Requirement 28: a partner that resets at any step leaves an end, and no whole file."""
        entry = await self.start()
        program = self.program(entry)
        await program.reply(220)
        self.server.controls[-1].reset()
        await self.over(program)
        program, control = await self.logged_in(entry)
        control.reset()
        await self.over(program)
        program, control = await self.logged_in(entry)
        await self.passive(program)
        control.reset()
        await self.over(program)
        for resets_data in (True, False):
            program, control = await self.logged_in(entry)
            data = self.connect(entry.listen.host, await self.passive(program))
            await program.ask(b"RETR file", 150)
            far = await self.server.data()
            far.send(b"half of it" * 1_000)
            await data.has(10_000)
            (far if resets_data else control).reset()
            self.assertIs(await data.ended(), Ending.RESET)
            data.close()
            if resets_data:
                control.say(b"426 broken")
                await program.reply(426)
                control.reset()
            await self.over(program)

    async def test_mute(self) -> None:
        """Requirement 86: a partner that never greets is left in time, and the program is told."""
        self.patch(ftprelay, "LOGIN_LIMIT_S", 0.5)
        entry = await self.start()
        self.server.greeting = None
        program = self.program(entry)
        self.assertRegex(await program.reply(421), rb"\A421 ")
        await self.over(program)

    async def test_active_answers(self) -> None:
        """Requirement 16: a 227 or 229 of any form, turned round; what is none is 425, no dial."""
        entry = await self.start()
        inside = self.partner("127.0.0.8")
        program, _ = await self.logged_in(entry)
        self.server.answers[b"EPSV"] = b"500 no"
        for text in (
            b"227 (1216,256,2,127,4,51)",
            b"227 nothing",
            b"227 (127,0,0,8,0,0)",
            b"229 (|||99999|)",
            b"229 (|2|::1|80|)",
        ):
            self.server.answers[b"PASV"] = text
            reply = await program.ask(b"PASV")
            if reply.startswith(b"227"):
                reply = await program.ask(b"LIST")
            self.assertTrue(reply.startswith(b"425"), (text, reply))
        self.assertEqual(inside.peers, [])
        # Requirement 18: any delimiter, and the code decides whatever was asked.
        port = self.server.listen()
        self.server.answers[b"PASV"] = b"229 here (!!!%d!)" % port
        reply = await program.ask(b"PASV", 227)
        numbers = [int(each) for each in re.findall(rb"\d+", reply[4:])]
        # Requirement 19: the entry's own address, whatever the partner has said.
        self.assertEqual(".".join(map(str, numbers[:4])), entry.listen.host)
        data = self.connect(entry.listen.host, numbers[4] * 256 + numbers[5])
        await program.ask(b"LIST", 150)
        far = await self.server.data()
        far.send(b"a list")
        far.finish()
        await data.got(b"a list")

    async def test_user_at_host(self) -> None:
        """Requirement 70: a program cannot name another server, in none of proxies' old ways."""
        entry = await self.start()
        inside = self.partner("127.0.0.8")
        for command in (
            b"USER mina@127.0.0.8",
            b"USER mina@127.0.0.8:%d" % inside.port,
            b"SITE 127.0.0.8",
            b"OPEN 127.0.0.8",
        ):
            verb = command.split()[0]
            self.server.answers[verb] = b"331 password" if verb == b"USER" else b"500 no"
            program = self.program(entry)
            await program.reply(220)
            self.assertIn((await program.ask(command))[:3], (b"331", b"500", b"530"))
            # To the partner it is a user's name or a command as any other, if it comes there.
            self.assertIn(self.server.controls[-1].commands, ([], [command]))
            program.reset()
        self.assertEqual(inside.peers, [])
