"""Tests of what FTP sessions leave in the log, and of what clients do not get to see."""

from __future__ import annotations

from twisted.logger import formatEvent

from relaygate.test.farend import payload
from relaygate.test.ftpnodes import BACKEND, CLIENT, GATE, INSIDE, FTPCase
from relaygate.test.wire import lines, logged

SECRETS = ("sesame", "opensesame", "ledger")


class AuditTests(FTPCase):
    """The lines."""

    async def test_logins(self) -> None:
        """Who logged in, and who tried to, is a line each (Requirement 87)."""
        await self.begin()
        with logged() as events:
            client, _ = await self.logged_in()
            self.backend.answers[b"PASS"] = b"530 no"
            await client.ask(b"USER eve user=root", 331)
            await client.ask(b"PASS opensesame", 530)
            await client.ask(b"USER \x1b[2J\xff", 331)
            await client.ask(b"PASS opensesame", 530)
        good, *bad = lines(events, " login: ")
        self.assertIn("user=mina result=ok code=230", good)
        self.assertIn("user='eve user=root' result=refused code=530", bad[0])
        self.assertIn(f"client={CLIENT}:", bad[0])
        self.assertEqual(len(bad), 2)

    async def test_transfers(self) -> None:
        """Each transfer is a line: what, where, how much, how long, and its end."""
        await self.begin("allow")
        with logged() as events:
            for tls in (False, True):
                client, backend = await self.logged_in(tls=tls)
                for command, code in ((b"RETR a b", 226), (b"STOR c", 226), (b"STOR d", 452)):
                    data, inner = await self.transfer(client, command)
                    source, sink = (inner, data) if command == b"RETR a b" else (data, inner)
                    source.send(payload(123_456))
                    source.finish()
                    await sink.got(payload(123_456))
                    sink.finish()
                    backend.say(b"%d that is it" % code)
                    await client.reply(code)
                    data.close()
                self.backend.answers[b"LIST"] = b"550 no"
                await self.passive(client)
                await client.ask(b"LIST secret", 550)
                client.close()
                await self.all_over()
        found = lines(events, " transfer: ")
        self.assertEqual(len(found), 8)
        for number, line in enumerate(found):
            tls = number >= 4
            self.assertRegex(line, r" seconds=\d+\.?\d* ")
            self.assertIn(f"mode=passive client_tls={tls} backend_tls=False", line)
            self.assertIn(f"backend={BACKEND}:", line)
        for first in (0, 4):
            self.assertIn("verb=RETR path='a b' direction=download bytes=123456 ", found[first])
            self.assertIn("verb=STOR path=c direction=upload bytes=123456 ", found[first + 1])
            self.assertIn("result=226", found[first + 1])
            self.assertIn("result=452", found[first + 2])
            self.assertIn("verb=LIST path=secret direction=download bytes=0 ", found[first + 3])
            self.assertIn("result=550", found[first + 3])

    async def test_broken_transfer(self) -> None:
        """A transfer that broke has its bytes in the line, and what the client was told."""
        await self.begin()
        with logged() as events:
            client, backend = await self.logged_in()
            data, inner = await self.transfer(client, b"STOR x")
            data.send(b"half")
            await inner.has(4)
            data.reset()
            await inner.ended()
            backend.say(b"226 done")
            await client.reply(426)
        (line,) = lines(events, " transfer: ")
        self.assertIn("bytes=4 ", line)
        self.assertIn("result=426", line)

    async def test_no_passwords(self) -> None:
        """No argument of PASS or ACCT is anywhere in the log, at any level (Requirement 11, 90)."""
        await self.begin("allow", backend_tls="explicit")
        self.backend.answers |= {b"ACCT": b"230 thanks", b"PASS": b"332 account"}
        self.backend.answers[b"PASSOPENSESAME"] = b"500 what"
        with logged() as events:
            for ending in (b"QUIT", b"PASS \0opensesame", b"PASS " + b"opensesame" * 1000):
                client = self.client()
                await client.reply(220)
                await client.ask(b"USER mina", 331)
                await client.ask(b"PASS sesame", 332)
                await client.ask(b"ACCT ledger", 230)
                await client.ask(b"pass\topensesame")
                await client.ask(b"PASSopensesame")
                await client.ask(ending)
                client.reset()
                await self.all_over()
        self.assertTrue(events)
        for event in events:
            text = formatEvent(event) + repr({key: str(each) for key, each in event.items()})
            for secret in SECRETS:
                self.assertNotIn(secret, text)


class HiddenTests(FTPCase):
    """What a client sees."""

    async def test_no_private_addresses(self) -> None:
        """No reply tells who is behind the gateway, in any form (Requirement 19, 88)."""
        await self.begin()
        inside, backend_host = INSIDE.encode(), BACKEND.encode()
        self.backend.greeting = b"220-this is " + backend_host + b"\r\n220 (vsFTPd 3.0.3)"
        self.backend.answers |= {
            b"STAT": b"211-Connected to "
            + inside
            + b"\r\n from ["
            + backend_host
            + b"]:21\r\n211 x",
            b"SITE": b"200 PASV is " + backend_host.replace(b".", b",") + b",4,5",
            b"SYST": b"227 Entering (" + backend_host.replace(b".", b",") + b",4,5)",
            b"HELP": b"229 (|||4000|)",
            b"RETR": b"150 to " + inside + b":1234",
            b"QUIT": b"221 bye " + inside,
        }
        client, backend = await self.logged_in()
        for command in (b"STAT", b"SITE x", b"SYST", b"HELP"):
            await client.ask(command)
        data, inner = await self.transfer(client, b"RETR x")
        inner.finish()
        await data.got(b"")
        data.close()
        backend.say(b"226 done with " + inside)
        await client.reply(226)
        port = await self.passive(client, b"PASV")
        self.assertIn(port, range(1024, 65536))
        self.backend.answers[b"RETR"] = b"425 cannot connect to " + inside
        await client.ask(b"RETR x", 425)
        await client.ask(b"QUIT", 221)
        for host in (INSIDE, BACKEND):
            for form in (host, host.replace(".", ",")):
                self.assertNotIn(form.encode(), client.received)
        self.assertIn(GATE.encode(), client.received)
        self.assertIn(b"vsFTPd 3.0.3", client.received)

    async def test_public_address(self) -> None:
        """What is advertised is the gateway's own, by its name (Requirement 19; Lesson 20)."""
        await self.begin(public_addresses={"dmz": "203.0.113.7", "": "203.0.113.8"})
        self.backend.answers[b"STAT"] = b"211 at " + BACKEND.encode()
        client, _ = await self.logged_in()
        self.assertIn(b"(203,0,113,7,", await client.ask(b"PASV", 227))
        self.assertRegex(await client.ask(b"EPSV", 229), rb"\(\|\|\|\d+\|\)")
        self.assertIn(b"203.0.113.7", await client.ask(b"STAT", 211))
