"""Tests of what is put where it does not belong: before TLS, into lines, and around replies."""

from __future__ import annotations

from relaygate.protocols.ftp import MAX_COMMAND, MAX_DROPPED, MAX_REPLY
from relaygate.test.farend import Ending, until
from relaygate.test.ftpnodes import FTPCase
from relaygate.test.ftppeers import Line
from relaygate.test.test_servicetls import client_context
from relaygate.test.wire import lines, logged


class InjectionCase(FTPCase):
    """Sessions that end because of what was sent."""

    async def goes_away(self, client: Line, *, told: bool = True) -> None:
        """Wait for the session's end: an orderly one, behind 421 if the client is *told*."""
        if told:
            await client.reply(421)
        await client.ended()
        self.assertEqual(client.unseen, b"")
        client.close()
        await self.all_over()


class BeforeTLSTests(InjectionCase):
    """Nothing that comes in clear counts as protected (CVE-2011-0411)."""

    async def test_passes(self) -> None:
        """A session without tricks works, in clear and under TLS, and QUIT ends both sides."""
        await self.begin("allow")
        for tls in (False, True):
            client, backend = await self.logged_in(tls=tls)
            await client.ask(b"TYPE I", 200)
            await client.ask(b"QUIT", 221)
            await self.is_over(client)
            await self.is_over(backend)
        await self.all_over()

    async def test_behind_auth(self) -> None:
        """What stands behind AUTH ends the session, and nobody acts on it (Requirement 30)."""
        await self.begin("allow")
        for tail in (b"FEAT\r\n", b"FEA", b"\r\n", b"\xff", b"USER x\r\nPASS y\r\n"):
            with logged() as events:
                client = self.client()
                await client.reply(220)
                client.send(b"AUTH TLS\r\n" + tail)
                await until(lambda: lines(events, " end: "), "the session's end")
            (line,) = [each for each in lines(events, " end: ") if "backend=" in each]
            self.assertIn("outcome=client/relay", line)
            self.assertIn("in clear behind", line)
            self.assertEqual(self.backend.controls[-1].commands, [])
            client.reset()
            await self.all_over()

    async def test_behind_the_answer(self) -> None:
        """What comes between the 234 and the ClientHello does not pass (Requirement 30)."""
        await self.begin("allow")
        client = self.client()
        await client.reply(220)
        await client.ask(b"AUTH TLS", 234)
        client.say(b"FEAT")
        await client.ended()
        self.assertNotIn(b"211", client.received)
        self.assertEqual(self.backend.controls[-1].commands, [])
        client.close()
        await self.all_over()

    async def test_login_in_clear_does_not_last(self) -> None:
        """Who has logged in before AUTH has to do it again (Requirement 30)."""
        await self.begin("allow")
        client, _ = await self.logged_in()
        await client.ask(b"AUTH TLS", 234)
        await client.secure()
        for command in (b"RETR x", b"EPSV", b"PWD"):
            await client.ask(command, 530)
        await client.ask(b"USER mina", 331)

    async def test_behind_a_backends_answer(self) -> None:
        """What a backend sends in clear behind its 234 ends the session (Requirement 31)."""
        await self.begin(backend_tls="explicit")
        for tail in (b"\r\n230 you are in", b"\r\n230 you", b"\r\n220 ready\r\n331 more"):
            self.backend.answers[b"AUTH"] = b"234 go" + tail
            with logged() as events:
                client = self.client()
                await self.goes_away(client)
            self.assertTrue(lines(events, "outcome=backend/relay"), lines(events))
            self.assertEqual(self.backend.controls[-1].commands, [b"AUTH TLS"])

    async def test_backend_without_tls(self) -> None:
        """A backend that goes on in clear, or refuses TLS, is not used (Requirement 33)."""
        await self.begin(backend_tls="explicit")
        for answer in (
            b"500 what",
            b"200 fine",
            b"334 more",
            b"234 go\r\n" + bytes(6),
        ):
            self.backend.answers[b"AUTH"] = answer
            await self.goes_away(self.client())
        self.assertEqual({line.commands[-1] for line in self.backend.controls}, {b"AUTH TLS"})

    async def test_implicit_backend_in_clear(self) -> None:
        """A greeting in clear where TLS is due ends the session (Requirement 31)."""
        await self.begin(backend_tls="on")
        self.backend._implicit = False
        await self.goes_away(self.client())

    async def test_implicit_client_in_clear(self) -> None:
        """Implicit TLS tells nothing in clear, and takes nothing (Requirement 42)."""
        await self.begin("require", protocol="ftps")
        client = self.client()
        client.say(b"USER mina")
        await client.ended()
        self.assertNotIn(b"220", client.received)
        client.close()
        await self.all_over()
        client = self.client()
        await client.secure()
        await client.reply(220)
        for command in (b"PBSZ 0", b"PROT P"):
            await client.ask(command, 200)


class OtherProtocolTests(InjectionCase):
    """Clients of other protocols are not served (CVE-2021-3618)."""

    async def test_http(self) -> None:
        """An HTTP verb ends the session, and nothing behind it is read (Requirement 43)."""
        await self.begin("allow")
        for tls in (False, True):
            client = self.client()
            await client.reply(220)
            if tls:
                await client.ask(b"AUTH TLS", 234)
                await client.secure()
            client.say(b"POST / HTTP/1.1", b"USER mina", b"PASS sesame")
            await self.goes_away(client)
            self.assertEqual(self.backend.controls[-1].commands, [])

    async def test_alpn(self) -> None:
        """ALPN without FTP's name is refused, with it or without any it is not (Requirement 43)."""
        await self.begin("allow")
        for offered, taken in (([b"h2", b"http/1.1"], False), ([b"h2", b"ftp"], True)):
            context = client_context()
            context.set_alpn_protos(offered)
            client = self.client()
            await client.reply(220)
            await client.ask(b"AUTH TLS", 234)
            if taken:
                await client.secure(context)
                self.assertEqual(client.tls.get_alpn_proto_negotiated(), b"ftp")
                await client.ask(b"NOOP", 200)
                client.close()
            else:
                with self.assertRaises(AssertionError):
                    await client.secure(context)
                client.close()
            await self.all_over()


class LineTests(InjectionCase):
    """Lines that are none, on either side."""

    async def test_overlong_line(self) -> None:
        """One line too long is answered 500 and forgotten, a second one ends it (Requirement 3)."""
        await self.begin()
        client, backend = await self.logged_in()
        before = list(backend.commands)
        await client.ask(b"RETR " + b"x" * MAX_COMMAND, 500)
        await client.ask(b"NOOP", 200)
        self.assertEqual(backend.commands, [*before, b"NOOP"])
        client.say(b"STOR " + b"x" * MAX_COMMAND)
        await self.goes_away(client)

    async def test_line_without_end(self) -> None:
        """A line that never ends is bounded (Requirement 3)."""
        await self.begin()
        client, _ = await self.logged_in()
        client.send(b"x" * (MAX_DROPPED + 100))
        await client.reply(500)
        await self.goes_away(client)

    async def test_control_bytes(self) -> None:
        """CR and NUL inside a line never pass; the session goes on (Requirement 1)."""
        await self.begin()
        client, backend = await self.logged_in()
        for line in (b"DELE a\0b", b"DELE a\rPORT 1,2,3,4,5,6", b"DELE a\r\0b"):
            await client.ask(line, 501)
        client.send(b"NOOP\n")
        await client.reply(200)
        self.assertFalse([line for line in backend.commands if line.startswith(b"DELE")])

    async def test_telnet(self) -> None:
        """Telnet's signals go no further; a flood of them costs nothing (Requirement 2)."""
        await self.begin()
        self.backend.answers[b"ABOR"] = b"225 nothing to abort"
        client, backend = await self.logged_in()
        client.send(b"\xff\xf4\xff\xf2ABOR\r\n")
        await client.reply(225)
        await backend.heard(b"ABOR")
        client.send(b"\xff\xf4" * 100_000 + b"NOOP\r\n")
        await client.reply(200)
        await backend.heard(b"ABOR", b"NOOP")
        client.send(b"\xff\xfa" + b"x" * (MAX_COMMAND + 1))
        await self.goes_away(client)

    async def test_long_replies(self) -> None:
        """A long reply passes byte for byte, one without end does not (Requirement 4).

        CVE-2008-2541 is about those that trusted them to be short.
        """
        await self.begin()
        listing = b"".join(b"123 file %d\r\n" % number for number in range(50_000))
        self.assertGreater(MAX_REPLY, len(listing) + 100)
        client, backend = await self.logged_in()
        client.say(b"STAT dir")
        await backend.heard(b"STAT dir")
        backend.send(b"212-here\r\n" + listing + b"212 end\r\n")
        self.assertEqual(await client.reply(212), b"212-here\r\n" + listing + b"212 end\r\n")
        client.say(b"STAT dir")
        backend.send(b"212-here\r\n" + b" x\r\n" * (MAX_REPLY // 4))
        await self.goes_away(client)

    async def test_reply_line_without_end(self) -> None:
        """A reply of one line that never ends is bounded as well (Requirement 4)."""
        await self.begin()
        client, backend = await self.logged_in()
        client.say(b"SYST")
        await backend.heard(b"SYST")
        backend.send(b"215 " + b"x" * MAX_REPLY)
        await self.goes_away(client)

    async def test_replies_without_code(self) -> None:
        """What is no reply ends the session, and no byte of it is passed on (Requirement 4)."""
        await self.begin()
        for words in (b"hello", b"", b"999 what", b"20 short", b"2000 long", b"\x16\x03\x01"):
            client, backend = await self.logged_in()
            client.say(b"SYST")
            await backend.heard(b"SYST")
            backend.say(words)
            await self.goes_away(client)

    async def test_flood_of_replies(self) -> None:
        """Replies that nobody asked for go nowhere (Requirement 5)."""
        await self.begin()
        client, backend = await self.logged_in()
        backend.send(b"226 surplus\r\n" * 20_000)
        sent = len(client.received) + 13 * 20_000
        (relay,) = self.running
        await until(lambda: relay.bytes_out == sent, "all replies read")
        await until(lambda: not relay._backend._events, "all replies told")
        await client.ask(b"NOOP", 200)
        self.assertEqual(client.unseen, b"")
        self.assertIs(client.ending, None)

    async def test_last_words(self) -> None:
        """A line that is cut short by the end is no command (Requirement 1)."""
        await self.begin()
        client, backend = await self.logged_in()
        client.send(b"DELE fil")
        client.finish()
        self.assertIs(await client.ended(), Ending.END)
        await backend.ended()
        self.assertNotIn(b"DELE", b"".join(backend.commands))
