"""What known clients say, word for word, and what no client should: dialogues on real sockets."""

from __future__ import annotations

import random
from typing import Final

from relaygate.protocols.ftp import MAX_REPLY
from relaygate.test.farend import Ending, payload, until
from relaygate.test.ftpnodes import BACKEND, CLIENT, SPAN, FTPCase
from relaygate.test.ftppeers import BackendLine, Door, Line

SESSIONS: Final = 80


def active(port: int, verb: bytes = b"PORT") -> bytes:
    """The command that names a port of the client's."""
    host = CLIENT.encode()
    if verb == b"EPRT":
        return b"EPRT |1|%s|%d|" % (host, port)
    return b"PORT %s,%d,%d" % (host.replace(b".", b","), port >> 8, port & 255)


class DialogueCase(FTPCase):
    """A client that listens, too."""

    def door(self) -> tuple[Door, list[Line]]:
        """A port of the client's, and who has come there."""
        came: list[Line] = []
        door = Door(CLIENT, lambda skt: came.append(Line(skt)))
        self.addCleanup(door.close)
        return door, came

    async def talk(self, client: Line, *pairs: tuple[bytes, int]) -> None:
        """Say each line, and get its code."""
        for line, code in pairs:
            await client.ask(line, code)

    async def actively(self, client: Line, command: bytes) -> tuple[Line, Line]:
        """Begin a transfer by PORT: the client's data connection, and the backend's."""
        self.backend.forget()
        door, came = self.door()
        await self.talk(client, (active(door.port), 200), (command, 150))
        await until(lambda: came, "the gateway's dial")
        door.close()
        return came[0], await self.backend.data()


class ClientTests(DialogueCase):
    """What known clients say."""

    async def test_windows(self) -> None:
        """ftp.exe: OPTS before USER, PORT for each transfer, ABOR in telnet's dress."""
        await self.begin()
        self.backend.answers |= {b"OPTS": b"501 no", b"NLST": b"150 here"}
        client = self.client()
        await client.reply(220)
        await self.talk(client, (b"OPTS UTF8 ON", 501), (b"USER mina", 331), (b"PASS sesame", 230))
        for command in (b"NLST", b"RETR x"):
            data, inner = await self.actively(client, command)
            inner.send(b"file.txt\r\n")
            inner.finish()
            await data.got(b"file.txt\r\n")
            data.close()
            self.backend.controls[-1].say(b"226 done")
            await client.reply(226)
        data, inner = await self.actively(client, b"RETR y")
        inner.send(b"some")
        await data.has(4)
        backend = self.backend.controls[-1]
        client.send(b"\xff\xf4\xff")
        client.send(b"\xf2ABOR\r\n")
        await backend.heard(b"ABOR")
        backend.say(b"426 aborted", b"226 done")
        await client.reply(426)
        await client.reply(226)
        self.assertIs(await data.ended(), Ending.RESET)
        await self.talk(client, (b"QUIT", 221))
        await self.is_over(client)
        await self.all_over()

    async def test_filezilla(self) -> None:
        """FEAT, CLNT, OPTS, MLSD by PASV, and NOOPs while a file moves (Requirement 5, 9)."""
        await self.begin("allow")
        self.backend.answers |= {
            b"FEAT": b"211-Has\r\n MLST size*;\r\n UTF8\r\n CLNT\r\n211 End",
            b"CLNT": b"200 noted",
            b"OPTS": b"200 done",
            b"SYST": b"215 UNIX Type: L8",
            b"PWD": b'257 "/"',
            b"MLSD": b"150 here",
        }
        client = self.client()
        await client.reply(220)
        await client.ask(b"AUTH TLS", 234)
        await client.secure()
        await self.talk(client, (b"USER mina", 331), (b"PASS sesame", 230), (b"SYST", 215))
        features = await client.ask(b"FEAT", 211)
        for line in (b" UTF8\r\n", b" AUTH TLS\r\n", b" PBSZ\r\n", b" PROT\r\n", b" EPSV\r\n"):
            self.assertIn(line, features)
        await self.talk(
            client,
            (b"CLNT FileZilla", 200),
            (b"OPTS UTF8 ON", 200),
            (b"PBSZ 0", 200),
            (b"PROT P", 200),
            (b"OPTS MLST size;modify;", 200),
            (b"PWD", 257),
            (b"TYPE I", 200),
        )
        data = self.connect(await self.passive(client, b"PASV"))
        await client.ask(b"MLSD", 150)
        client.secure_data(data)
        inner = await self.backend.data()
        client.say(b"NOOP", b"NOOP", b"PWD")
        listing = b"size=1; x\r\n" * 20_000
        inner.send(listing)
        inner.finish()
        await data.got(listing)
        data.finish()
        self.backend.controls[-1].say(b"226 done")
        for code in (226, 200, 200, 257):
            await client.reply(code)
        data.close()
        await self.talk(client, (b"QUIT", 221))
        client.close()
        await self.all_over()

    async def test_ccc(self) -> None:
        """What --ftp-ssl-ccc of curl asks for is refused; it goes on under TLS (Requirement 41)."""
        await self.begin("allow")
        client, backend = await self.logged_in(tls=True)
        await self.talk(client, (b"CCC", 534), (b"NOOP", 200))
        self.assertNotIn(b"CCC", backend.commands)
        data, inner = await self.transfer(client, b"STOR x")
        data.send(payload(50_000))
        data.finish()
        await inner.got(payload(50_000))
        backend.say(b"226 done")
        await client.reply(226)
        await self.talk(client, (b"QUIT", 221))

    async def test_old_ones(self) -> None:
        """wget, ncftp and browsers ask much in front of a file, and some at once."""
        await self.begin()
        self.backend.answers |= {
            b"SYST": b"215 UNIX Type: L8",
            b"PWD": b'257 "/"',
            b"CWD": b"250 there",
            b"SIZE": b"213 4",
            b"MDTM": b"213 20260101000000",
            b"REST": b"350 go on",
            b"ALLO": b"202 not needed",
            b"LANG": b"504 no",
            b"SITE": b"200 done",
            b"MACB": b"500 what",
            b"STAT": b"213-x\r\n213 end",
        }
        client, _ = await self.logged_in()
        client.say(b"SYST", b"PWD", b"TYPE I", b"CWD sub", b"MACB E", b"SITE UMASK", b"LANG en")
        client.say(b"ALLO 4", b"SIZE x", b"MDTM x", b"STAT x", b"REST 0")
        for code in (215, 257, 200, 250, 500, 200, 504, 202, 213, 213, 213, 350):
            await client.reply(code)
        data, inner = await self.transfer(client, b"RETR \xe9\xff\xffx")
        client.say(b"SIZE x", b"MDTM x")
        inner.send(b"four")
        inner.finish()
        await data.got(b"four")
        data.close()
        backend = self.backend.controls[-1]
        self.assertEqual(backend.commands[-1], b"RETR \xe9\xffx")
        backend.say(b"226 done")
        for code in (226, 213, 213):
            await client.reply(code)
        await self.talk(client, (b"QUIT", 221))
        await self.is_over(client)
        await self.all_over()


class AttackTests(DialogueCase):
    """What no client should say, and no server."""

    async def test_drip(self) -> None:
        """Byte by byte on all four connections nothing is lost or misread (Requirement 1, 4)."""
        await self.begin()

        async def drip(peer: Line, data: bytes) -> None:
            for number in range(len(data)):
                peer.send(data[number : number + 1])
                await peer.emptied()

        self.backend.answers.pop(b"USER")
        client = self.client()
        await client.reply(220)
        backend = await self.backend.control()
        await drip(client, b"\xff\xfb\x01USER mi\xff\xffna\r\n")
        await backend.heard(b"USER mi\xffna")
        await drip(backend, b"331-a\r\n330 b\r\n331 c\r\n")
        self.assertEqual(await client.reply(331), b"331-a\r\n330 b\r\n331 c\r\n")
        await self.talk(client, (b"PASS sesame", 230))
        for upload in (False, True):
            data, inner = await self.transfer(client, b"STOR x" if upload else b"RETR x")
            source, sink = (data, inner) if upload else (inner, data)
            await drip(source, payload(100))
            source.finish()
            await sink.got(payload(100))
            sink.close()
            await drip(backend, b"226 done\r\n")
            await client.reply(226)
        client.reset()
        await self.all_over()

    async def test_range_used_up(self) -> None:
        """Who holds all ports keeps others from none for longer: 425 at once (Requirement 21)."""
        await self.begin()
        # One port for all of them.
        here = Door(BACKEND, lambda skt: self.backend.arrived.append(Line(skt)))
        self.addCleanup(here.close)
        self.backend.answers[b"EPSV"] = b"229 here (|||%d|)" % here.port
        many = [(await self.logged_in())[0] for _ in range(SPAN[0], SPAN[1] + 1)]
        for client in many:
            client.say(b"EPSV")
        for client in many:
            await client.reply(229)
        self.assertEqual(len(self.bound), len(many))
        last, _ = await self.logged_in()
        await self.talk(last, (b"EPSV", 425), (b"PASV", 425), (b"NOOP", 200))
        many[0].reset()
        await until(lambda: len(self.bound) < len(many), "a port given back")
        await self.talk(last, (b"EPSV", 229))
        for client in (*many, last):
            client.reset()
        await self.all_over()

    async def test_telnet_storm(self) -> None:
        """Telnet's words without end are no command, and cost no memory (Requirement 2)."""
        await self.begin()
        client, backend = await self.logged_in()
        client.send(b"\xff\xf4\xff\xf2\xff\xfb\x01\xff\xfe\x22" * 100, 200)
        await self.talk(client, (b"NOOP", 200))
        self.assertEqual(backend.commands[-1], b"NOOP")
        client.reset()
        await self.all_over()

    async def test_abort_storm(self) -> None:
        """A hundred ABORs have a hundred answers and more, in a transfer and outside of it."""
        await self.begin()
        self.backend.answers[b"ABOR"] = b"226 nothing to do"
        client, backend = await self.logged_in()
        data, inner = await self.transfer(client, b"RETR x")
        self.backend.answers[b"ABOR"] = b"426 aborted\r\n226 done"
        client.say(b"ABOR")
        await client.reply(426)
        await client.reply(226)
        self.backend.answers[b"ABOR"] = b"226 nothing to do"
        client.say(*[b"ABOR"] * 99, b"NOOP")
        for _ in range(99):
            await client.reply(226)
        await client.reply(200)
        for peer in (data, inner):
            self.assertIs(await peer.ended(), Ending.RESET)
        self.assertEqual(backend.commands.count(b"ABOR"), 100)
        client.reset()
        await self.all_over()

    async def test_endless_reply(self) -> None:
        """A reply without end is cut off, and told as 421 (Requirement 4)."""
        await self.begin()
        client, backend = await self.logged_in()
        client.say(b"SYST")
        await backend.heard(b"SYST")
        backend.send(b"215-x\r\n" + b"214 no end\r\n" * 1000, MAX_REPLY // 10_000)
        await client.reply(421)
        await self.is_over(client)
        await self.all_over()

    async def test_active_by_chance(self) -> None:
        """Active sessions with random words, dials and ends leave nothing (Requirement 24, 25)."""
        await self.begin()
        self.backend.answers |= {
            b"ABOR": b"226 aborted",
            b"REST": b"350 go on",
            b"SITE": b"200 done",
            b"APPE": b"150 there",
            b"STOU": b"150 FILE: a",
            b"REIN": b"502 no",
        }
        draw = random.Random(11)
        for _ in range(SESSIONS):
            client, backend = await self.logged_in()
            await self.at_random(client, backend, draw)
            draw.choice((client.reset, client.close, backend.reset))()
            for peer in (client, *self.backend.controls, *self.backend.arrived):
                peer.reset()
            await self.all_over()
            self.backend.controls.clear()
            self.backend.arrived.clear()
            self.backend.forget()

    async def at_random(self, client: Line, backend: BackendLine, draw: random.Random) -> None:
        """Some steps of a session that means no good."""
        door, came = self.door()
        deaf, _ = self.door()
        deaf.close()
        lines = [
            *[active(door.port), active(door.port, b"EPRT"), active(deaf.port)] * 2,
            active(22),
            b"PORT 127,0,0,9,200,1",
            b"EPRT |2|::1|4000|",
            b"PORT 1,2,3",
            b"EPSV",
            b"PASV",
            *[b"RETR x", b"STOR x", b"LIST", b"APPE x", b"STOU"],
            *[b"ABOR", b"REST 5", b"NOOP", b"SITE x", b"REIN"],
        ]
        for _ in range(draw.randrange(1, 8)):
            client.say(*draw.sample(lines, draw.randrange(1, 4)))
            await until(lambda: True, "a turn")
            peer = draw.choice([*came, *self.backend.arrived, client])
            if peer is not client:
                draw.choice((peer.reset, peer.close, peer.finish, lambda: None))()
            if draw.random() < 0.3:
                backend.say(draw.choice((b"226 done", b"426 broken", b"550 no", b"150 again")))
        door.close()
        for peer in came:
            self.addCleanup(peer.close)
